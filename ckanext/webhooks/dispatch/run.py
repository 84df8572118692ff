"""What was captured, a set at a time: compared, numbered, told.

What fails is tried in halves, until the change that cannot be dispatched stands alone. It is
put aside, and with it the later ones of its dataset; all others go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import config, quarantine
from ..apart import apart
from ..model import Kind, Origin, State, connected, in_transaction
from ..model.base import BEGIN, may_be_of_one
from ..visibility import Audience
from . import loops, moves, purged, rights, write
from .events import Event, events_or_fewer

# A set is bounded by count and by content (what it is unpacked), so that a worker's memory is.
MAX_EVENTS = 200
MAX_BYTES = 4 * 1024 * 1024
# And by what is written under the lock, for which every other worker waits: some 100 ms for so
# many events with their resources and so many pairs of event and owner. `bin/bench --lock`
# measures it. One change is never divided.
MAX_ROWS = 250
MAX_TOLD = 1_000


@dataclass(frozen=True)
class Dispatched:
    """What one set was.

    :param changes: how many captured changes it was of
    :param left: how many are known to wait still
    :param is_moving: whether somebody's rights have changed, or may have
    """

    changes: int
    left: int
    is_moving: bool


@dataclass(frozen=True)
class _Changes:
    """Some captured changes with the events that they amount to."""

    rows: Sequence[Any]
    events: Sequence[Event]


def dispatch() -> Dispatched | None:
    """Number what was captured and write its deliveries, one set of events.

    :returns: None where nothing waited
    """
    try:
        return rights.if_something_waits(_dispatch)
    except Exception as error:
        if not may_be_of_one(error):
            raise
    if rights.put_aside_unservable():
        return Dispatched(0, left=1, is_moving=True)
    return _dispatch_apart()


def _dispatch(
    reading: rights.Reading, only: Sequence[str] | None = None, writing: write.Writing = write.write
) -> Dispatched | None:
    """:param only: the ids of the changes among which the set is, None for all"""
    rights.note_missed(reading)
    bounds = {"events": MAX_EVENTS, "bytes": MAX_BYTES, "bound": config.loop_bound()}
    values = {**bounds, **rights.asked(reading), "only": only}
    with connected() as connection, in_transaction(connection, _WAITING, values) as waiting:
        if not waiting:
            return None
        numbers = write.Numbers(waiting[0].last_number, waiting[0].now)
        serving = rights.notice(connection, reading, waiting[0].owners, all_told=False)
        audience = Audience(serving.labels)
        changes = _some(waiting, audience)
        datasets = sorted({change.dataset_id for change in changes.rows})
        moves.settle(connection, serving, datasets, numbers)
        _lift(connection, changes.rows)
        numbers.give(changes.events)
        _slow_down(changes.rows, changes.events)
        gone = [c.dataset_id for c in changes.rows if c.state == State.PURGED]
        is_last = not gone and not serving.held_back
        writing(connection, changes.events, _pairs(changes.events, audience), is_last)
        purged.blank(connection, gone)
        if serving.held_back:
            serving = rights.notice_again(connection, reading)
        is_moving = serving.is_moving or waiting[0].is_noted
        left = int(waiting[0].known) - len(changes.rows)
        return Dispatched(len(changes.rows), left, is_moving)


def _dispatch_apart() -> Dispatched | None:
    """Dispatch a set that failed as a whole, and put aside what cannot be."""
    with connected() as connection:
        ids = connection.execute(_OLDEST, {"events": MAX_EVENTS}).scalars().all()

    def dispatch_some(some: Sequence[str]) -> None:
        rights.under_reading(partial(_dispatch, only=list(some)))

    apart(ids, dispatch_some, _dispatch_alone, may_be_of_one)
    return Dispatched(len(ids), left=1, is_moving=True) if ids else None


def _dispatch_alone(change_id: str, error: Exception) -> None:
    """Dispatch a change that failed alone without the webhooks that fail, or put it aside."""
    try:
        rights.under_reading(partial(_dispatch, only=[change_id], writing=write.write_apart))
    except Exception as still:
        if not may_be_of_one(still):
            raise
        with connected() as connection:
            dataset_id = connection.execute(_DATASET_OF, {"id": change_id}).scalar()
            if dataset_id is not None:
                quarantine.put_aside(
                    connection, Kind.EVENT, change_id, error, dataset_id=dataset_id
                )


_ASIDE = "FROM webhooks_quarantine aside WHERE aside.kind = 'event' AND aside.key = e.id"
# Subqueries rather than joins, of which PostgreSQL would look for the best order: it plans this
# for each event, which takes longer than to run it.
_WAITING = sa.text(
    f"""{BEGIN} {write.LOCK}
    WITH waiting AS (
        SELECT id, sum(coalesce(octet_length(content), 0)) OVER (ORDER BY position)
                   - coalesce(octet_length(content), 0) AS bytes_before
        FROM (SELECT id, position, content FROM webhooks_event e
              WHERE sequence IS NULL AND {quarantine.DATASET_GOES_ON}
                  AND (CAST(:only AS text[]) IS NULL OR id = ANY(CAST(:only AS text[])))
              -- One more than a set holds, to know whether to go on.
              ORDER BY position LIMIT :events + 1) oldest)
    SELECT e.id, e.dataset_id, e.state, e.occurred_at, e.captured_at, e.labels_before, e.labels,
           e.facets_before, e.facets, e.content, e.first_sight, e.origin,
           coalesce(e.held_from, (SELECT sequence {_ASIDE})) AS held_from,
           EXISTS (SELECT {_ASIDE}) AS is_lifted,
           previous.due_at AS due_before, (
               SELECT captured_at FROM webhooks_event earlier
               WHERE earlier.dataset_id = e.dataset_id AND earlier.version = e.version - :bound
           ) AS bound_at,
           previous.content AS content_before, (SELECT count(*) FROM waiting) AS known,
           {rights.IS_UNNUMBERED} AS is_noted, numbers.*,
           CASE WHEN row_number() OVER (ORDER BY e.position) = 1 THEN {rights.OWNERS} END AS owners
    FROM waiting JOIN webhooks_event e USING (id) CROSS JOIN {write.NUMBERS}
    LEFT JOIN webhooks_event previous
        ON previous.dataset_id = e.dataset_id AND previous.version = e.version - 1
    WHERE waiting.bytes_before < :bytes
    ORDER BY e.position LIMIT :events
    """
)
# Without what may be what fails.
_OLDEST = sa.text(
    f"""
    SELECT id FROM webhooks_event e WHERE sequence IS NULL AND {quarantine.DATASET_GOES_ON}
    ORDER BY position LIMIT :events
    """
)
_DATASET_OF = sa.text("SELECT dataset_id FROM webhooks_event WHERE id = :id AND sequence IS NULL")


def _some(waiting: Sequence[Any], audience: Audience) -> _Changes:
    """Give the first of what waits, as much as is written under the lock."""
    events: list[Event] = []
    pairs = taken = 0
    for change in waiting:
        if taken and (len(events) >= MAX_ROWS or pairs >= MAX_TOLD):
            break
        found = events_or_fewer(change)
        events += found
        pairs += sum(len(_seeing(event, audience)) for event in found)
        taken += 1
    return _Changes(waiting[:taken], events)


def _lift(connection: Connection, changes: Sequence[Any]) -> None:
    """End the quarantine of changes; those that waited behind them are as old as they are."""
    lifted = [change for change in changes if change.is_lifted]
    for change in lifted:
        write.hold_from(connection, change.dataset_id, change.held_from)
    if lifted:
        connection.execute(_LIFT, {"keys": [change.id for change in lifted]})


_LIFT = sa.text(
    "DELETE FROM webhooks_quarantine WHERE kind = 'event' AND key = ANY(CAST(:keys AS text[]))"
)


def _slow_down(changes: Sequence[Any], events: Sequence[Event]) -> None:
    now = events[0].row["dispatched_at"]
    later = loops.due_times(changes, now, config.loop_bound(), config.loop_pause())
    for event in events:
        event.row["due_at"] = later.get(event.row.get("source_id") or event.row["id"])


def _pairs(events: Sequence[Event], audience: Audience) -> Iterator[dict[str, Any]]:
    for event in events:
        before = audience.seeing(event.row["labels_before"])
        after = audience.seeing(event.row["labels"])
        for user_id in _seeing(event, audience):
            found = write.pair(event, user_id, user_id in before, user_id in after)
            if found:
                yield found


def _seeing(event: Event, audience: Audience) -> frozenset[str]:
    """Give the owners who could see an entity before or after its event."""
    if event.row["origin"] == Origin.SEED:
        return frozenset()
    return audience.seeing(event.row["labels_before"]) | audience.seeing(event.row["labels"])
