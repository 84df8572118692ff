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

# Deliveries of one transaction: under the lock, the newest states of so many datasets are read.
_AT_ONCE = 50


def tell_newest(delivery_ids: Sequence[int]) -> Collection[int]:
    """Tell webhooks how what some deliveries are about is now, unless something newer told it.

    :param delivery_ids: deliveries whose content may not be published to their owners any more
    :returns: those that may end now; of the others, a change waits to be dispatched
    """
    with connected() as connection:
        found = _seen_by_owners(connection, delivery_ids)
    seen = [row.id for row, _ in found]
    waiting: set[int] = set()
    for first in range(0, len(seen), _AT_ONCE):
        waiting |= _tell(seen[first : first + _AT_ONCE])
    return set(delivery_ids) - waiting


def _tell(delivery_ids: Sequence[int]) -> set[int]:
    """:returns: those of which a change waits to be dispatched"""
    with connected() as connection, in_transaction(connection, _LOCK):
        found = _seen_by_owners(connection, delivery_ids)
        seen = [(row, state) for row, state in found if not row.is_waiting]
        told = _told_since(connection, [row for row, _ in seen])
        numbers = write.numbers(connection)
        for (user_id, entity, verb), (state, webhooks) in _untold(seen, told).items():
            before = verb == "update"
            event = moves.event(state, entity, user_id, numbers.now, before, after=True)
            numbers.give([event])
            write.write_events(connection, [event])
            pair = write.pair(event, user_id, before, after=True)
            write.write_for(connection, webhooks, [pair] if pair else [])
    return {row.id for row, _ in found if row.is_waiting}


_Seen = list[tuple[Any, Any]]


def _seen_by_owners(connection: Connection, delivery_ids: Sequence[int]) -> _Seen:
    """Give rows of ``_ABOUT`` with the newest state of the dataset, where the owner sees it.

    Who is being moved, and sees it before or after that alone, is told by the move.
    """
    rows = connection.execute(_ABOUT, {"ids": list(delivery_ids)}).all()
    newest = moves.newest(connection, {row.dataset_id for row in rows})
    entities = {id_: frozenset(moves.entities(state)) for id_, state in newest.items()}
    return [
        (row, state)
        for row in rows
        if (state := newest.get(row.dataset_id))
        and _entity(row) in entities[row.dataset_id]
        and all(may_see(state.labels, owner_labels(labels)) for labels in row.served)
    ]


def _entity(row: Any) -> tuple[str, str]:
    return row.entity_type, row.entity_id


def _untold(
    seen: _Seen, told: Collection[int]
) -> dict[tuple[str, tuple[str, str], str], tuple[Any, set[str]]]:
    """Give the webhooks that are to be told, by user, entity and verb, with the state.

    :param told: ids of the deliveries after which something newer was told
    """
    found: dict[tuple[str, tuple[str, str], str], tuple[Any, set[str]]] = {}
    for row, state in seen:
        if row.id not in told:
            key = (row.user_id, _entity(row), row.topic.split("/")[1])
            found.setdefault(key, (state, set()))[1].add(row.webhook_id)
    return found


def _told_since(connection: Connection, rows: Sequence[Any]) -> set[int]:
    """Give the ids of those of which the webhook was told something newer, or waits for it."""
    values = {
        "ids": [row.id for row in rows],
        "webhooks": [row.webhook_id for row in rows],
        "entities": [row.entity_id for row in rows],
        "datasets": [row.dataset_id for row in rows],
        "sequences": [row.sequence for row in rows],
    }
    return set(connection.execute(_TOLD_SINCE, values).scalars())


_LOCK = sa.text(f"{BEGIN} {write.LOCK} SELECT 1")
_ABOUT = sa.text(
    """
    SELECT d.id, d.webhook_id, d.topic, d.sequence, w.user_id,
           e.entity_type, e.entity_id, e.dataset_id,
           CASE WHEN s.next_labels IS NULL THEN jsonb_build_array(s.labels)
                ELSE jsonb_build_array(s.labels, s.next_labels) END AS served,
           EXISTS (SELECT FROM webhooks_event newer
                   WHERE newer.dataset_id = e.dataset_id AND newer.version IS NOT NULL
                       AND newer.sequence IS NULL) AS is_waiting
    FROM webhooks_delivery d JOIN webhooks_event e ON e.id = d.event_id
        JOIN webhooks w ON w.id = d.webhook_id JOIN webhooks_served s ON s.user_id = w.user_id
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
                             CAST(:sequences AS bigint[]))
            AS about(id, webhook_id, entity_id, dataset_id, sequence)),
    version AS MATERIALIZED (
        SELECT e.id, e.entity_id, e.sequence
        FROM webhooks_event e JOIN (SELECT DISTINCT dataset_id FROM about) asked
            ON e.dataset_id = asked.dataset_id AND e.version IS NOT NULL),
    event AS (
        SELECT entity_id, sequence FROM version
        UNION ALL
        SELECT e.entity_id, e.sequence
        FROM webhooks_event e JOIN version ON e.source_id = version.id)
    SELECT DISTINCT about.id
    FROM about JOIN event USING (entity_id) JOIN webhooks_delivery d USING (webhook_id)
    WHERE event.sequence > about.sequence AND d.sequence = event.sequence
    """
)
