"""What waited too long to be published: the newest state is told, where nothing else tells it.

A dataset of an organization is made public while its create waits for an endpoint, and the
owner leaves the organization. What the create says is not for the owner any more. That the
dataset changed is told by an update; its resources did not change, so of those nothing is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import connected, in_transaction
from ..model.base import BEGIN
from ..visibility import may_see, owner_labels
from . import moves, write


def tell_newest(delivery_ids: Sequence[int]) -> Collection[int]:
    """Tell webhooks how what some deliveries are about is now, unless something newer told it.

    :param delivery_ids: deliveries whose content may not be published to their owners any more
    :returns: those that may end now; of the others, a change waits to be dispatched
    """
    # What was told is told for ever, so that only the others are for the lock.
    with connected() as connection:
        untold = _untold(connection, delivery_ids)
    waiting = _tell([row.id for row, _ in untold]) if untold else set()
    return set(delivery_ids) - waiting


def _tell(delivery_ids: Sequence[int]) -> set[int]:
    """:returns: those of which a change waits to be dispatched"""
    with connected() as connection, in_transaction(connection, _LOCK):
        untold = _untold(connection, delivery_ids)
        numbers = write.numbers(connection)
        for (user_id, entity, verb), (state, webhooks) in _by_event(untold).items():
            before = verb == "update"
            event = moves.event(state, entity, user_id, numbers.now, before, after=True)
            numbers.give([event])
            write.write_events(connection, [event])
            pair = write.pair(event, user_id, before, after=True)
            write.write_for(connection, webhooks, [pair] if pair else [])
    return {row.id for row, _ in untold if row.is_waiting}


_Untold = list[tuple[Any, Any]]


def _untold(connection: Connection, delivery_ids: Sequence[int]) -> _Untold:
    """Give rows of ``_ABOUT`` with the newest state, where the owner sees it and nothing tells it.

    Who is being moved, and sees it before or after that alone, is told by the move.
    """
    rows = connection.execute(_ABOUT, {"ids": list(delivery_ids)}).all()
    newest = moves.newest(connection, {row.dataset_id for row in rows})
    entities = {id_: frozenset(moves.entities(state)) for id_, state in newest.items()}
    seen = [
        row
        for row in rows
        if (state := newest.get(row.dataset_id))
        and _entity(row) in entities[row.dataset_id]
        and all(may_see(state.labels, owner_labels(labels)) for labels in row.served)
    ]
    told = _told_since(connection, seen)
    return [(row, newest[row.dataset_id]) for row in seen if row.id not in told]


def _entity(row: Any) -> tuple[str, str]:
    return row.entity_type, row.entity_id


def _by_event(untold: _Untold) -> dict[tuple[str, tuple[str, str], str], tuple[Any, set[str]]]:
    """Give the webhooks that are to be told now, by user, entity and verb, with the state."""
    found: dict[tuple[str, tuple[str, str], str], tuple[Any, set[str]]] = {}
    for row, state in untold:
        if not row.is_waiting:
            key = (row.user_id, _entity(row), row.topic.split("/")[1])
            found.setdefault(key, (state, set()))[1].add(row.webhook_id)
    return found


def _told_since(connection: Connection, rows: Sequence[Any]) -> set[int]:
    """Give the ids of those about whose entity there is a newer delivery to the webhook.

    Whatever became of that: one that was superseded, too, was followed by what is to be known.
    """
    if not rows:
        return set()
    values = {
        "ids": [row.id for row in rows],
        "webhooks": [row.webhook_id for row in rows],
        "entities": [row.entity_id for row in rows],
        "datasets": [row.dataset_id for row in rows],
        "sequences": [row.sequence for row in rows],
        "versions": [row.version for row in rows],
    }
    return set(connection.execute(_TOLD_SINCE, values).scalars())


_LOCK = sa.text(f"{BEGIN} {write.LOCK} SELECT 1")
_ABOUT = sa.text(
    """
    SELECT d.id, d.webhook_id, d.topic, d.sequence, w.user_id,
           e.entity_type, e.entity_id, e.dataset_id,
           coalesce(e.version, source.version) AS version,
           CASE WHEN s.user_id IS NULL THEN '[]'
                WHEN s.next_labels IS NULL THEN jsonb_build_array(s.labels)
                ELSE jsonb_build_array(s.labels, s.next_labels) END AS served,
           -- Who is told nothing yet stands anew with the next event or look.
           s.user_id IS NULL OR EXISTS (SELECT FROM webhooks_event newer
                   WHERE newer.dataset_id = e.dataset_id AND newer.version IS NOT NULL
                       AND newer.sequence IS NULL) AS is_waiting
    FROM webhooks_delivery d JOIN webhooks_event e ON e.id = d.event_id
        LEFT JOIN webhooks_event source ON source.id = e.source_id
        JOIN webhooks w ON w.id = d.webhook_id LEFT JOIN webhooks_served s ON s.user_id = w.user_id
    WHERE d.id = ANY(CAST(:ids AS bigint[]))
        AND (d.topic LIKE '%/create' OR d.topic LIKE '%/update')
    ORDER BY d.sequence, d.id
    """
)
_TOLD_SINCE = sa.text(
    """
    WITH about AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:webhooks AS text[]),
                             CAST(:entities AS text[]), CAST(:datasets AS text[]),
                             CAST(:sequences AS bigint[]), CAST(:versions AS bigint[]))
            AS about(id, webhook_id, entity_id, dataset_id, sequence, version)),
    version AS MATERIALIZED (
        SELECT e.id, e.entity_id, e.sequence
        FROM webhooks_event e
            JOIN (SELECT dataset_id, min(version) AS version FROM about GROUP BY dataset_id) oldest
            ON e.dataset_id = oldest.dataset_id AND e.version >= oldest.version),
    event AS MATERIALIZED (
        SELECT entity_id, sequence FROM version
        UNION ALL
        SELECT e.entity_id, e.sequence
        FROM webhooks_event e JOIN version ON e.source_id = version.id)
    SELECT about.id FROM about WHERE EXISTS (
        SELECT FROM event JOIN webhooks_delivery d ON d.sequence = event.sequence
        WHERE event.entity_id = about.entity_id AND event.sequence > about.sequence
            AND d.webhook_id = about.webhook_id)
    """
)
