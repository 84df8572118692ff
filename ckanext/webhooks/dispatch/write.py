"""Numbering events, and writing them and their deliveries."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import model, quarantine, wellformed
from ..apart import apart
from ..model import Kind
from ..model.base import COMMIT, LOCK_DISPATCH, array, may_be_of_one
from ..visibility import told
from .events import Event

# Rows of event × owner that go into one statement.
MAX_PAIRS = 20_000

_TABLE = model.Event.__table__


# Keeps other dispatchers out until the end of the transaction. There is room for
# 100,000 webhooks in one join: only one process at a time takes it.
LOCK = f"{LOCK_DISPATCH} SET LOCAL work_mem = '64MB';"


@dataclass
class Numbers:
    """Where the numbers of events go on, which the lock lets nobody else give.

    :ivar last: the last one that was given
    :ivar now: when those that are numbered now are dispatched
    """

    last: int
    now: datetime.datetime

    def give(self, events: Iterable[Event]) -> None:
        for event in events:
            self.last += 1
            event.row["sequence"] = self.last
            event.row["dispatched_at"] = self.now


# What :class:`Numbers` takes, as one row.
NUMBERS = """(SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END AS last_number,
                   clock_timestamp() AS now FROM webhooks_event_order) numbers"""


def numbers(connection: Connection) -> Numbers:
    row = connection.execute(sa.text(f"SELECT * FROM {NUMBERS}")).one()
    return Numbers(row.last_number, row.now)


def write_events(connection: Connection, events: Sequence[Event]) -> None:
    """Write what was numbered, and that it was."""
    _write_new(connection, events)
    connection.execute(_NUMBER, _numbered(events))


def _write_new(connection: Connection, events: Sequence[Event]) -> None:
    if new := [e.row for e in events if e.is_new]:
        connection.execute(sa.insert(_TABLE), new)


def _numbered(events: Sequence[Event]) -> dict[str, Any]:
    """Give what :data:`_NUMBER` writes.

    A number that was taken is not taken again, even if this transaction fails.
    """
    captured = [e.row for e in events if not e.is_new]
    return {
        "ids": array(row["id"] for row in captured),
        "numbers": array(row["sequence"] for row in captured),
        "at": events[0].row["dispatched_at"],
        "due": [row.get("due_at") for row in captured],
        # Not an array of arrays: in PostgreSQL these are all of one length.
        "changed": array(wellformed.dumps(row["changed"]) for row in captured),
        "last": events[-1].row["sequence"],
    }


_NUMBER = sa.text(
    """
    WITH numbered AS (
        UPDATE webhooks_event e
        SET sequence = o.number, dispatched_at = :at, due_at = o.due,
            changed = CASE WHEN o.changed <> 'null'
                THEN ARRAY(SELECT jsonb_array_elements_text(CAST(o.changed AS jsonb))) END
        FROM unnest(CAST(:ids AS text[]), CAST(:numbers AS bigint[]),
                    CAST(:due AS timestamptz[]), CAST(:changed AS text[]))
            AS o(id, number, due, changed)
        WHERE e.id = o.id)
    SELECT setval('webhooks_event_order', :last)
    """
)


def pair(event: Event, user_id: str, before: bool, after: bool) -> dict[str, Any] | None:
    """Say what one owner's webhooks are told of an event.

    That depends on whether a webhook's filters match the state before and
    the state after, so there is an answer for each case.

    :param before, after: the owner could see the entity before; can after
    """
    if not before and not after:
        return None
    return {
        "event_id": event.row["id"],
        "user_id": user_id,
        "when_both": told(before, after, event.differs),
        "when_left": told(before, False, event.differs),
        "when_entered": told(False, after, event.differs),
    }


def hold_from(connection: Connection, dataset_id: str, number: int) -> None:
    """Say of what waited behind something put aside that it is older than its number will be."""
    connection.execute(_HOLD_FROM, {"dataset_id": dataset_id, "number": number})


_HOLD_FROM = sa.text(
    """
    UPDATE webhooks_event SET held_from = coalesce(held_from, :number)
    WHERE dataset_id = :dataset_id AND sequence IS NULL
    """
)


Writing = Callable[[Connection, Sequence[Event], Iterable[dict[str, Any]], bool], None]


def write(
    connection: Connection,
    events: Sequence[Event],
    pairs: Iterable[dict[str, Any]],
    is_last: bool = False,
) -> None:
    """Write what was numbered, that it was, and what the owners' webhooks are told of it.

    :param is_last: that ends the transaction, if it is not too much for one statement
    """
    rows = iter(pairs)
    batch = list(itertools.islice(rows, MAX_PAIRS))
    if not batch:
        write_events(connection, events)
        return
    _write_new(connection, events)
    several = _are_several(batch)
    ends = is_last and len(batch) < MAX_PAIRS
    connection.execute(_TELL[several, ends], {**_numbered(events), **_columns(batch)})
    while batch := list(itertools.islice(rows, MAX_PAIRS)):
        connection.execute(_INSERT[_are_several(batch)], _columns(batch))


def _are_several(pairs: Sequence[dict[str, Any]]) -> bool:
    return any(row["event_id"] != pairs[0]["event_id"] for row in pairs)


def write_apart(
    connection: Connection,
    events: Sequence[Event],
    pairs: Iterable[dict[str, Any]],
    is_last: bool = False,
) -> None:
    """Do so for each webhook for which it can be done, and put the others aside.

    :param is_last: is of no account here
    :raises Exception: it can be done for none, so that it is not the webhooks' fault
    """
    write_events(connection, events)
    rows = list(pairs)
    if not rows:
        return  # it is told to nobody
    values = _columns(rows)
    webhooks = connection.execute(_WEBHOOKS_OF, {"user_id": values["user_id"]}).scalars().all()
    sequences = {"ids": values["event_id"]}
    before = connection.execute(_NUMBER_BEFORE, sequences).scalar_one()

    def write_some(some: Sequence[str]) -> None:
        connection.exec_driver_sql("SAVEPOINT told")
        try:
            write_for(connection, some, rows)
        except Exception:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT told")
            raise
        connection.exec_driver_sql("RELEASE SAVEPOINT told")

    failed: dict[str, Exception] = {}
    apart(webhooks, write_some, failed.__setitem__, may_be_of_one)
    if failed and len(failed) == len(webhooks):
        raise next(iter(failed.values()))
    for webhook_id, error in failed.items():
        quarantine.put_aside(connection, Kind.WEBHOOK, webhook_id, error, sequence=before)


def write_for(
    connection: Connection, webhook_ids: Iterable[str], pairs: Sequence[dict[str, Any]]
) -> None:
    """Write what some of the owners' webhooks are told."""
    if pairs:
        connection.execute(_INSERT_FOR, {**_columns(pairs), "webhooks": list(webhook_ids)})


def write_again(connection: Connection, webhook_id: str, pairs: Sequence[dict[str, Any]]) -> int:
    """Write what a webhook is told when it asks for it, held back; gives how many.

    :param webhook_id: the caller has locked its row, and made it say that
        something is held back
    """
    values = _columns(pairs)
    return int(connection.execute(_INSERT_AGAIN, {**values, "webhook_id": webhook_id}).rowcount)


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {key: array(row[key] for row in rows) for key in rows[0]}


# Filters: each facet that a webhook names must have one of the values named.
_MATCHES = """NOT EXISTS (
    SELECT FROM jsonb_each(w.filters) f
    WHERE NOT coalesce({facets} -> f.key, '[]')
        ?| ARRAY(SELECT jsonb_array_elements_text(f.value)))"""


def _inserting(webhooks: str, due_at: str, created_at: str) -> str:
    """Write the statement that gives events to the webhooks that they are for.

    :param webhooks: which of an owner's webhooks may get them
    """
    return f"""
    INSERT INTO webhooks_delivery
        (webhook_id, event_id, topic, sequence, address, format, due_at, created_at)
    SELECT webhook_id, event_id, topic, sequence, address, format, due_at, created_at
    FROM (
        SELECT w.id AS webhook_id, e.id AS event_id, e.sequence, w.address,
               {due_at} AS due_at, {created_at} AS created_at,
               w.format, w.topics, e.entity_type, e.entity_type || '/' || CASE
                   WHEN w.filters = '{{}}' THEN p.when_both
                   WHEN {_MATCHES.format(facets="e.facets_before")} THEN
                       CASE WHEN {_MATCHES.format(facets="e.facets")}
                           THEN p.when_both ELSE p.when_left END
                   WHEN {_MATCHES.format(facets="e.facets")} THEN p.when_entered
               END AS topic
        FROM unnest(CAST(:event_id AS text[]), CAST(:user_id AS text[]),
                    CAST(:when_both AS text[]), CAST(:when_left AS text[]),
                    CAST(:when_entered AS text[]))
             AS p(event_id, user_id, when_both, when_left, when_entered)
        JOIN webhooks_event e ON e.id = p.event_id
        JOIN webhooks w ON w.user_id = p.user_id AND w.state = 'active' AND {webhooks}
        -- A fence: the filters are matched once for each webhook, not once for each use.
        OFFSET 0) told
    WHERE topic IS NOT NULL
        AND ('*' = ANY(topics) OR topic = ANY(topics) OR entity_type || '/*' = ANY(topics))
    """


# Nothing else writes what is told for the first time, and it does so in the transaction
# that numbers it: none is written twice, without the database looking for each.
# Later, for which see loops; or behind what is held back of its webhook.
_DUE_AT = "coalesce(e.due_at, CASE WHEN w.next_at IS NULL THEN e.dispatched_at END)"
_TELLING = _inserting(
    # What was committed before a webhook was there is not its; and one that was put aside is
    # told what it misses when it goes on.
    webhooks=f"w.created_at <= timezone('utc', e.captured_at) AND {quarantine.WEBHOOK_GOES_ON}",
    due_at=_DUE_AT,
    created_at="e.dispatched_at",
)
_INSERT_FOR = sa.text(
    _inserting(
        webhooks="w.created_at <= timezone('utc', e.captured_at)"
        f" AND {quarantine.WEBHOOK_GOES_ON} AND w.id = ANY(CAST(:webhooks AS text[]))",
        due_at=_DUE_AT,
        created_at="e.dispatched_at",
    )
    + "ORDER BY sequence"
)
_WEBHOOKS_OF = sa.text(
    f"""
    SELECT id FROM webhooks w
    WHERE user_id = ANY(CAST(:user_id AS text[])) AND state = 'active'
        AND {quarantine.WEBHOOK_GOES_ON}
    ORDER BY id
    """
)
_NUMBER_BEFORE = sa.text(
    "SELECT min(sequence) - 1 FROM webhooks_event WHERE id = ANY(CAST(:ids AS text[]))"
)
# By whether they are of several events: one for very many webhooks is not sorted for nothing.
_INSERT = {False: sa.text(_TELLING), True: sa.text(_TELLING + "ORDER BY sequence")}
# And by whether the transaction ends with it. Mostly it does: one round trip rather than three.
_TELL = {
    (several, ends): sa.text(f"{_NUMBER};{insert};{COMMIT if ends else ''}")
    for several, insert in _INSERT.items()
    for ends in (False, True)
}
# What is held back goes in the order in which it was written.
_INSERT_AGAIN = sa.text(
    _inserting(
        webhooks="w.id = :webhook_id",
        due_at="CAST(NULL AS timestamptz)",
        created_at="clock_timestamp()",
    )
    + "ORDER BY sequence"
)
