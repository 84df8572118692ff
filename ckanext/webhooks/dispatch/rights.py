"""Under which labels each owner is told, and when these are not those of now any more.

What that means for datasets that did not change, ``moves`` tells.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from .. import logs, owners, quarantine
from ..apart import apart
from ..model import Kind, connected, in_transaction
from ..model.base import BEGIN, may_be_of_one
from ..visibility import OwnerLabels, common, owner_labels, stored_labels
from . import write

Result = TypeVar("Result")

log = logs.logger(__name__)


@dataclass(frozen=True)
class Serving:
    """Under which labels owners are told.

    :param labels: by user id; those that an owner is being moved to
    :param held_back: somebody gained rights that are not given yet
    :param is_moving: somebody is being moved
    """

    labels: dict[str, OwnerLabels]
    held_back: bool
    is_moving: bool


@dataclass(frozen=True)
class Reading:
    """What the owners of webhooks may see, as it was read before the lock was taken.

    A labels plugin may take its time, or fail: nobody waits for it under the lock, or in
    a transaction. What has changed since the reading, the lock's holder is told by the
    tables.

    :param standing: of the owners who may have webhooks, by user id
    :param owners: the ids of all who have active webhooks; the sweep pauses those of the others
    :param served: the rows of ``webhooks_served`` as they were, by user id
    :param notes: the ids of the changes of rights that were noted and had no number
    :param number: the highest number of the others
    """

    standing: Mapping[str, owners.Owner]
    owners: frozenset[str]
    served: Mapping[str, Any]
    notes: Sequence[int]
    number: int


class _Owner(NamedTuple):
    """A row of ``webhooks_served``, of somebody who has active webhooks.

    :param is_served: there is one
    :param is_noted: the user's rights may have changed since they were read
    """

    user_id: str
    labels: Any
    next_labels: Any
    is_served: bool
    is_noted: bool


class _Outdated(Exception):
    """Somebody has webhooks who had none when rights were read."""


def under_reading(work: Callable[[Reading], Result]) -> Result:
    """Read what owners may see, and do a work of one transaction with that.

    :param work: may raise what :func:`notice` raises where it has to be done anew
    """
    while True:
        notes, rows = _ask(always=True)
        try:
            return work(_read(notes, rows))
        except _Outdated:
            pass


def if_something_waits(work: Callable[[Reading], Result]) -> Result | None:
    """Do so, unless nothing waits to be told: that is asked much more often than it is so."""
    notes, rows = _ask(always=False)
    if not notes.is_waiting:
        return None
    try:
        return work(_read(notes, rows))
    except _Outdated:
        return under_reading(work)


def _ask(always: bool) -> tuple[Any, Sequence[Any]]:
    """Give what was noted, and the owners.

    :param always: the owners also where nothing waits to be told
    """
    with connected() as connection:
        values = {"always": always, "known_up_to": owners.known_up_to()}
        rows = connection.execute(_NOTES_AND_OWNERS, values).all()
    notes = next(row for row in rows if row.user_id is None)
    return notes, [row for row in rows if row.user_id is not None]


def _read(notes: Any, rows: Sequence[Any]) -> Reading:
    """Ask CKAN what owners may see: what is noted from now on may not be known to its answers."""
    served = {row.user_id: (row.labels, row.next_labels) for row in rows}
    standing = owners.standing(served, notes.noted or ())
    # Another worker may have asked CKAN later than this one.
    changed = [
        row.user_id
        for row in rows
        if row.next_labels is None
        and row.labels is not None
        and (labels := standing[row.user_id].labels) is not None
        and stored_labels(labels) != row.labels
    ]
    standing.update(owners.standing_now(changed))
    # Owners who may not subscribe any more are paused by the sweep; until
    # then nothing is written for them, and that is noted.
    subscribing = {id_: owner for id_, owner in standing.items() if owner.may_subscribe}
    return Reading(subscribing, frozenset(served), served, notes.ids or [], notes.number)


def _under_reading_apart(work: Callable[[Reading], None]) -> None:
    """Do so; where it fails for owners who cannot be served, without these."""
    try:
        under_reading(work)
    except Exception as error:
        if not may_be_of_one(error) or not put_aside_unservable():
            raise
        under_reading(work)


def put_aside_unservable() -> bool:
    """Put aside all webhooks of owners whose rows of ``webhooks_served`` are what fails.

    What these miss is told when they go on, under the labels of then.

    :returns: whether there were such owners
    """
    found: list[str] = []

    def put_aside(user_id: str, error: Exception) -> None:
        found.append(user_id)
        values = {"user_id": user_id}
        # Under the lock, so that it is known what they were told before it.
        with connected() as connection, in_transaction(connection, _WEBHOOKS_OF, values) as rows:
            for row in rows:
                quarantine.put_aside(connection, Kind.WEBHOOK, row.id, error)

    with connected() as connection:
        user_ids = connection.execute(_USERS).scalars().all()
    apart(user_ids, try_to_serve, put_aside, may_be_of_one)
    return bool(found)


def try_to_serve(user_ids: Sequence[str]) -> None:
    """See whether the rows of some owners can be read and written, and leave them as they are.

    :raises Exception: that of one cannot be
    """
    with connected() as connection:
        for row in connection.execute(_TRY, {"user_ids": list(user_ids)}).all():
            owner_labels(row.labels)
            if row.is_moving:
                owner_labels(row.next_labels)
        connection.exec_driver_sql("ROLLBACK")


def notice_rights() -> None:
    """Begin to move the owners whose labels are not those they were told under."""
    _under_reading_apart(_notice_rights)


def _notice_rights(reading: Reading) -> None:
    values = {"notes": list(reading.notes)}
    with connected() as connection, in_transaction(connection, _NUMBER_UNDER_LOCK, values):
        notice_again(connection, reading)


def notice_noted() -> None:
    """Do so, and give the changes of rights that were noted their number, if there are any."""
    with connected() as connection:
        is_noted = connection.execute(_IS_UNNUMBERED).scalar_one()
    if is_noted:
        _under_reading_apart(_notice_noted)


def _notice_noted(reading: Reading) -> None:
    values = {"notes": list(reading.notes)}
    with connected() as connection, in_transaction(connection, _NUMBER_UNDER_LOCK, values) as noted:
        if any(row.has_webhooks for row in noted):
            notice_again(connection, reading)


def notice_again(connection: Connection, reading: Reading) -> Serving:
    """Ask who the owners are and whether something waits, and begin the moves that are due."""
    found = connection.execute(_OWNERS, asked(reading)).scalar_one()
    return notice(connection, reading, found, not connection.execute(_IS_WAITING).scalar_one())


def asked(reading: Reading) -> dict[str, Any]:
    """Give the values for :data:`OWNERS`."""
    return {"notes": list(reading.notes), "number": reading.number}


def note_missed(reading: Reading) -> None:
    """Note that those miss from now on what is told whose webhooks the sweep has yet to pause."""
    apart(
        sorted(reading.owners - reading.standing.keys()), _note_missed, _log_missed, may_be_of_one
    )


def _note_missed(user_ids: Sequence[str]) -> None:
    with connected() as connection:
        connection.execute(_NOTE_MISSED, {"user_ids": list(user_ids)})
        # What they could see of that when it was told nobody knows; they stand anew later.
        connection.execute(_FORGET, {"user_ids": list(user_ids)})


def _log_missed(user_id: str, error: Exception) -> None:
    log.error(
        "webhooks [%s]: that user %s may not have webhooks any more cannot be noted on these. Until"
        " the sweep pauses them, they miss what is told. Look at the error below, and at these"
        " rows of the table webhooks.",
        uuid.uuid4(),
        user_id,
        exc_info=error,
    )


def notice(connection: Connection, reading: Reading, found: Any, all_told: bool) -> Serving:
    """Begin the moves that are due.

    Who has gained a right may not be told what was captured before: that may have
    been mended first, in order to be shown. So while something waits to be told,
    rights are taken alone, and given when everything is told.

    Whose labels could not be read, or may be others than when they were, is told under
    those of before: whether that may be sent is asked again then. Of whom no webhook goes on
    is told what it means for them when one does.

    :param found: what :data:`OWNERS` has given under the lock
    :param all_told: nothing waits
    :raises _Outdated: somebody is not in the reading
    """
    all_ = [_Owner(*row) for row in found["owners"] or ()]
    if found["some_are_aside"]:
        aside = set(connection.execute(_ASIDE).scalars())
        all_ = [row for row in all_ if row.user_id not in aside]
    if not reading.owners >= {row.user_id for row in all_}:
        raise _Outdated
    rows = [row for row in all_ if row.user_id in reading.standing]
    served = {
        row.user_id: owner_labels(row.labels if row.next_labels is None else row.next_labels)
        for row in rows
        if row.is_served
    }
    now = {
        row.user_id: labels
        for row in rows
        if (labels := reading.standing[row.user_id].labels) is not None
    }
    stand = {id_: labels for id_, labels in now.items() if id_ not in served}
    move = {
        row.user_id: now[row.user_id]
        for row in rows
        if row.user_id in served
        and row.user_id in now
        and row.next_labels is None
        and not row.is_noted
        and reading.served[row.user_id] == (row.labels, row.next_labels)
        and served[row.user_id] != now[row.user_id]
    }
    given = move if all_told else {id_: common(served[id_], move[id_]) for id_ in move}
    _stand(connection, stand)
    begun = {id_: labels for id_, labels in given.items() if labels != served[id_]}
    _begin(connection, begun)
    is_moving = bool(begun) or any(row.next_labels is not None for row in rows)
    return Serving({**served, **stand, **given}, given != move, is_moving)


def _stand(connection: Connection, labels: Mapping[str, OwnerLabels]) -> None:
    """Note what owners see who were told nothing so far."""
    if labels:
        connection.execute(
            _STAND,
            {
                "user_ids": list(labels),
                "labels": [json.dumps(stored_labels(of_owner)) for of_owner in labels.values()],
            },
        )


def _begin(connection: Connection, moves: Mapping[str, OwnerLabels]) -> None:
    for user_id, labels in moves.items():
        connection.execute(_BEGIN, {"user_id": user_id, "labels": stored_labels(labels)})


# That something waits to be told, as SQL.
_WAITS = f"""EXISTS (
    SELECT FROM webhooks_event e WHERE sequence IS NULL AND {quarantine.DATASET_GOES_ON})"""
_IS_WAITING = sa.text(f"SELECT {_WAITS}")
# That somebody's rights may have changed, and no number says yet after which events, as SQL.
IS_UNNUMBERED = "EXISTS (SELECT FROM webhooks_right WHERE sequence IS NULL)"
_IS_UNNUMBERED = sa.text(f"SELECT {IS_UNNUMBERED}")
# One number for all, higher than that of any event which was captured so far: an event with a
# higher one was not there before the right. So while something waits, there is none yet. What
# was noted since rights were read gets its own, and is read before that.
_NUMBER_UNDER_LOCK = sa.text(
    f"""{BEGIN} {write.LOCK}
    WITH number AS MATERIALIZED (SELECT nextval('webhooks_event_order') AS next
                                 WHERE {IS_UNNUMBERED} AND NOT {_WAITS})
    UPDATE webhooks_right r SET sequence = number.next FROM number
    WHERE r.sequence IS NULL AND r.id = ANY(CAST(:notes AS bigint[]))
    RETURNING r.user_id IS NULL OR EXISTS (
        SELECT FROM webhooks w WHERE w.user_id = r.user_id AND w.state = 'active') AS has_webhooks
    """
)
_OF_OWNERS = """
    SELECT user_id, s.labels, s.next_labels, s.user_id IS NOT NULL AS is_served
    FROM (SELECT DISTINCT user_id FROM webhooks WHERE state = 'active') w
        LEFT JOIN webhooks_served s USING (user_id)
"""
# A row of what was noted so far; a number is given under the lock. Then one for each owner.
_NOTES_AND_OWNERS = sa.text(
    f"""
    WITH notes AS MATERIALIZED (
        SELECT array_agg(id) FILTER (WHERE sequence IS NULL) AS ids,
               coalesce((SELECT max(sequence) FROM webhooks_right), 0) AS number,
               {_WAITS} AS is_waiting
        FROM webhooks_right WHERE sequence IS NULL)
    SELECT ids, number, is_waiting, CASE WHEN :always OR is_waiting THEN (SELECT
               json_agg(json_build_array(user_id, sequence, id)) {owners.NOTED}) END AS noted,
           NULL AS user_id, NULL AS labels, NULL AS next_labels FROM notes
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, user_id, labels, next_labels FROM ({_OF_OWNERS}) owner
    WHERE :always OR (SELECT is_waiting FROM notes)
    """
)
# All owners as one value, and whether anything was noted since; which of them are put aside is
# asked where something is: PostgreSQL would plan that each time.
OWNERS = f"""(
    WITH noted AS MATERIALIZED (
        SELECT user_id FROM webhooks_right
        WHERE (sequence IS NULL OR sequence > :number)
            AND id <> ALL(CAST(:notes AS bigint[])))
    SELECT json_build_object(
        'some_are_aside', EXISTS (SELECT FROM webhooks_quarantine WHERE kind = 'webhook'),
        'owners', json_agg(json_build_array(user_id, labels, next_labels, is_served, EXISTS (
            SELECT FROM noted WHERE noted.user_id = owner.user_id OR noted.user_id IS NULL))))
    FROM ({_OF_OWNERS}) owner)"""
_OWNERS = sa.text(f"SELECT {OWNERS}")
_ASIDE = sa.text(quarantine.OWNERS_ASIDE)
# Webhooks are locked in one order everywhere.
_NOTE_MISSED = sa.text(
    """
    WITH found AS (
        SELECT id FROM webhooks
        WHERE user_id = ANY(CAST(:user_ids AS text[])) AND state = 'active'
            AND missed_since IS NULL
        ORDER BY id FOR NO KEY UPDATE)
    UPDATE webhooks w SET missed_since = clock_timestamp() FROM found WHERE w.id = found.id
    """
)
_FORGET = sa.text("DELETE FROM webhooks_served WHERE user_id = ANY(CAST(:user_ids AS text[]))")
_STAND = sa.text(
    """
    INSERT INTO webhooks_served (user_id, labels)
    SELECT user_id, CAST(labels AS jsonb)
    FROM unnest(CAST(:user_ids AS text[]), CAST(:labels AS text[])) AS new(user_id, labels)
    ON CONFLICT (user_id) DO NOTHING
    """
)
_USERS = sa.text(
    f"""
    SELECT DISTINCT user_id FROM webhooks w WHERE {quarantine.WEBHOOK_GOES_ON} ORDER BY user_id
    """
)
_WEBHOOKS_OF = sa.text(
    f"""{BEGIN} {write.LOCK}
    SELECT id FROM webhooks w WHERE user_id = :user_id AND {quarantine.WEBHOOK_GOES_ON} ORDER BY id
    """
)
# Written as owners begin to be served, and to be moved; read as it was before that. Under the
# lock nobody else has these rows.
_TRY = sa.text(
    f"""{BEGIN} {write.LOCK}
    WITH asked AS MATERIALIZED (SELECT unnest(CAST(:user_ids AS text[])) AS user_id),
    begun AS (
        INSERT INTO webhooks_served (user_id, labels)
        SELECT user_id, '[]' FROM asked WHERE user_id NOT IN (SELECT user_id FROM webhooks_served)
        ON CONFLICT (user_id) DO NOTHING),
    moved AS (
        UPDATE webhooks_served s SET next_labels = labels, since = 0, cursor = ''
        FROM asked WHERE s.user_id = asked.user_id)
    SELECT labels, next_labels, next_labels IS NOT NULL AS is_moving
    FROM webhooks_served JOIN asked USING (user_id)
    """
)
_BEGIN = sa.text(
    """
    UPDATE webhooks_served
    SET next_labels = :labels, cursor = '',
        since = (SELECT coalesce(max(sequence), 0) FROM webhooks_event)
    WHERE user_id = :user_id
    """
).bindparams(sa.bindparam("labels", type_=JSONB))
