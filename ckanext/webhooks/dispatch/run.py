"""What was captured, a set at a time: compared, numbered, told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import config
from ..model import Origin, State, connected, in_transaction
from ..model.base import BEGIN
from ..visibility import OwnerLabels, may_see
from . import loops, rights, write
from .events import Event, events_or_fewer

# A set is bounded by count and by content, so that a worker's memory is.
MAX_EVENTS = 200
MAX_STORED_BYTES = 8 * 1024 * 1024


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


def dispatch() -> Dispatched | None:
    """Number what was captured and write its deliveries, one set of events.

    :returns: None where nothing waited
    """
    bounds = {"events": MAX_EVENTS, "bytes": MAX_STORED_BYTES, "bound": config.loop_bound()}
    with (
        connected() as connection,
        in_transaction(connection, _WAITING, bounds) as changes,
    ):
        if not changes:
            return None
        numbers = write.Numbers(changes[0].last_number, changes[0].now)
        datasets = sorted({change.dataset_id for change in changes})
        serving = rights.settle(connection, datasets, numbers)
        events = [event for change in changes for event in events_or_fewer(change)]
        numbers.give(events)
        _slow_down(changes, events)
        write.write_events(connection, events)
        write.write_deliveries(connection, _pairs(events, serving.labels))
        _blank(connection, [c.dataset_id for c in changes if c.state == State.PURGED])
        if serving.held_back:
            serving = rights.notice(connection, rights.is_all_told(connection))
        is_moving = serving.is_moving or changes[0].is_noted
        return Dispatched(len(changes), int(changes[0].known) - len(changes), is_moving)


_WAITING = sa.text(
    f"""{BEGIN} {write.LOCK}
    WITH waiting AS (
        SELECT id, sum(coalesce(pg_column_size(content), 0)) OVER (ORDER BY position)
                   - coalesce(pg_column_size(content), 0) AS bytes_before
        FROM (SELECT id, position, content FROM webhooks_event
              -- One more than a set holds, to know whether to go on.
              WHERE sequence IS NULL ORDER BY position LIMIT :events + 1) oldest)
    SELECT e.id, e.dataset_id, e.state, e.occurred_at, e.captured_at, e.labels_before, e.labels,
           e.facets_before, e.facets, e.content, e.first_sight, e.origin,
           previous.due_at AS due_before, earlier.captured_at AS bound_at,
           previous.content AS content_before, (SELECT count(*) FROM waiting) AS known,
           {rights.IS_NOTED} AS is_noted, numbers.*
    FROM waiting JOIN webhooks_event e USING (id) CROSS JOIN {write.NUMBERS}
    LEFT JOIN webhooks_event previous
        ON previous.dataset_id = e.dataset_id AND previous.version = e.version - 1
    LEFT JOIN webhooks_event earlier
        ON earlier.dataset_id = e.dataset_id AND earlier.version = e.version - :bound
    WHERE waiting.bytes_before < :bytes
    ORDER BY e.position LIMIT :events
    """
)


def _slow_down(changes: Sequence[Any], events: Sequence[Event]) -> None:
    now = events[0].row["dispatched_at"]
    later = loops.due_times(changes, now, config.loop_bound(), config.loop_pause())
    for event in events:
        event.row["due_at"] = later.get(event.row.get("source_id") or event.row["id"])


def _pairs(events: Sequence[Event], owners: Mapping[str, OwnerLabels]) -> Iterator[dict[str, Any]]:
    for event in events:
        if event.row["origin"] == Origin.SEED:
            continue
        for user_id, labels in owners.items():
            before = may_see(event.row["labels_before"], labels)
            after = may_see(event.row["labels"], labels)
            found = write.pair(event, user_id, before, after)
            if found:
                yield found


def _blank(connection: Connection, dataset_ids: Sequence[str]) -> None:
    """Forget what purged datasets held, also where endpoints sent it back."""
    if dataset_ids:
        connection.execute(_BLANK_CONTENT, {"ids": dataset_ids})
        connection.execute(_BLANK_ANSWERS, {"ids": dataset_ids})


# Datasets' own rows by their index, and by another the rows that have them as their source.
_ROWS_OF = """
    WITH own AS MATERIALIZED (
        SELECT id FROM webhooks_event
        WHERE dataset_id = ANY(CAST(:ids AS text[])) AND version IS NOT NULL)
    SELECT id FROM own
    UNION SELECT e.id FROM own JOIN webhooks_event e ON e.source_id = own.id
"""


def _without_tags(facets: str) -> str:
    # It may be NULL, and JSON's null.
    return f"""CASE WHEN {facets} ? 'tag' THEN {facets} || '{{"tag": []}}' ELSE {facets} END"""


# What it was called stays: without that, nobody could be told what is gone.
_BLANK_CONTENT = sa.text(
    f"""
    UPDATE webhooks_event
    SET content = NULL, facets = {_without_tags("facets")},
        facets_before = {_without_tags("facets_before")}
    WHERE id = ANY(ARRAY({_ROWS_OF})) AND (
        content IS NOT NULL OR facets -> 'tag' <> '[]' OR facets_before -> 'tag' <> '[]')
    """
)
_BLANK_ANSWERS = sa.text(
    f"""
    UPDATE webhooks_attempt a SET answer = NULL
    FROM webhooks_event e JOIN webhooks_delivery d ON d.sequence = e.sequence
    WHERE e.id = ANY(ARRAY({_ROWS_OF})) AND a.delivery_id = d.id AND a.answer IS NOT NULL
    """
)
