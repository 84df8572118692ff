"""Stage 2, in the worker: event → deliveries.

One dispatcher works at a time, under a lock that ends with its transaction:
so the sequence is in the order of commit, and nothing that commits later is
numbered below what was already told.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from . import difference, owners
from .model import Event, State, WebhookState, transaction
from .visibility import may_see, told

log = logging.getLogger(__name__)

# Any number that no other extension uses: "webhooks" on a telephone's keys.
LOCK_KEY = 93246657

# A set is bounded by count and by content, so that a worker's memory is.
MAX_EVENTS = 200
MAX_STORED_BYTES = 8 * 1024 * 1024
# Rows of event × owner that go into one statement.
MAX_PAIRS = 20_000

_TABLE = Event.__table__


def dispatch() -> int:
    """Number what was captured and write its deliveries, one set of events.

    :returns: how many captured changes the set held; 0 when none waits
    """
    with transaction() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        changes = connection.execute(
            _WAITING, {"events": MAX_EVENTS, "bytes": MAX_STORED_BYTES}
        ).all()
        if not changes:
            return 0
        events = [event for change in changes for event in _events_or_fewer(change)]
        _number(connection, events)
        _write_events(connection, events)
        _write_deliveries(connection, events)
        return len(changes)


@dataclass
class _Told:
    """An event as the subscribers' decision needs it.

    :ivar row: columns of its row
    :ivar is_new: the row is still to be inserted
    """

    row: dict[str, Any]
    is_new: bool

    @property
    def differs(self) -> bool:
        return self.row["changed"] is None or bool(self.row["changed"])


_WAITING = sa.text(
    """
    WITH waiting AS (
        SELECT id, sum(coalesce(pg_column_size(content), 0)) OVER (ORDER BY position)
                   - coalesce(pg_column_size(content), 0) AS bytes_before
        FROM (SELECT id, position, content FROM webhooks_event
              WHERE sequence IS NULL ORDER BY position LIMIT :events) oldest)
    SELECT e.id, e.dataset_id, e.state, e.occurred_at, e.captured_at, e.labels_before, e.labels,
           e.facets_before, e.facets, e.content, e.first_sight,
           previous.content AS content_before
    FROM waiting JOIN webhooks_event e USING (id)
    LEFT JOIN webhooks_event previous
        ON previous.dataset_id = e.dataset_id AND previous.version = e.version - 1
    WHERE waiting.bytes_before < :bytes
    ORDER BY e.position
    """
)


def _events_or_fewer(change: Any) -> list[_Told]:
    """Give a change's events; of one that cannot be compared, the dataset's alone.

    Everything that commits later waits behind it, so it must not stay.
    """
    try:
        return list(_events_of(change))
    except Exception:
        log.exception(
            "webhooks [%s]: event %s of dataset %s could not be compared; it is told without its"
            " resources and without what changed. Please report this with the lines below.",
            uuid.uuid4(),
            change.id,
            change.dataset_id,
        )
        return [_dataset_event(change, None)]


def _events_of(change: Any) -> Iterator[_Told]:
    """Give the dataset's event and those of its resources that matter."""
    before = _seen(change.content_before) if change.labels_before is not None else None
    after = _seen(change.content) if change.labels is not None else None
    yield _dataset_event(change, _changed(change, before, after))
    # Where what is seen of the dataset changes for somebody, so it does of
    # each of its resources; else only those count that differ.
    moves = (change.labels_before, change.facets_before) != (change.labels, change.facets)
    for found in _resources(change, before, after):
        if moves or not (found.before and found.after) or found.changed != []:
            yield _Told(_resource_row(change, found, before), is_new=True)


def _dataset_event(change: Any, changed: list[str] | None) -> _Told:
    row = {
        "id": change.id,
        "entity_type": "dataset",
        "entity_id": change.dataset_id,
        "state": change.state,
        "labels_before": change.labels_before,
        "labels": change.labels,
        "facets_before": change.facets_before,
        "facets": change.facets,
        "occurred_at": change.occurred_at,
        "captured_at": change.captured_at,
        "changed": changed,
    }
    return _Told(row, is_new=False)


def _seen(content: str | None) -> dict[str, Any] | None:
    return json.loads(content) if content is not None else None


def _changed(
    change: Any, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> list[str] | None:
    if change.labels_before is None or change.labels is None:
        return []
    if before is None or after is None:
        return None
    return difference.changed_keys(difference.comparable(before), difference.comparable(after))


def _resources(
    change: Any, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> list[difference.ResourceDifference]:
    if change.first_sight is None or change.labels_before is None:
        return difference.resource_differences(
            before["resources"] if before else [], after["resources"] if after else []
        )
    return _resources_at_first_sight(change.first_sight, after["resources"] if after else [])


def _resources_at_first_sight(
    operations: dict[str, str], after: list[dict[str, Any]]
) -> list[difference.ResourceDifference]:
    """Say what is known of the resources of a dataset that the log met just now."""
    found = [
        difference.ResourceDifference(
            r["id"],
            operations.get(r["id"]) != "created",
            True,
            None if operations.get(r["id"]) == "updated" else [],
        )
        for r in after
    ]
    here = {r["id"] for r in after}
    found += [
        difference.ResourceDifference(id_, True, False, [])
        for id_, operation in operations.items()
        if operation == "deleted" and id_ not in here
    ]
    return found


def _resource_row(
    change: Any, found: difference.ResourceDifference, before: dict[str, Any] | None
) -> dict[str, Any]:
    # Gone from a dataset that is still seen: the dataset's content lacks it.
    removed = change.labels is not None and not found.after
    return {
        "id": str(uuid.uuid4()),
        "entity_type": "resource",
        "entity_id": found.id,
        "dataset_id": change.dataset_id,
        "source_id": change.id,
        "state": State.DELETED.value if removed else change.state,
        "labels_before": change.labels_before if found.before else None,
        "labels": change.labels if found.after else None,
        "facets_before": change.facets_before,
        "facets": change.facets,
        "occurred_at": change.occurred_at,
        "captured_at": change.captured_at,
        "changed": found.changed,
        "content": _resource_json(before, found.id) if removed else None,
    }


def _resource_json(dataset: dict[str, Any] | None, id_: str) -> str | None:
    for resource in dataset["resources"] if dataset else []:
        if resource["id"] == id_:
            return json.dumps(resource)
    return None


def _number(connection: Connection, events: Sequence[_Told]) -> None:
    numbers = connection.execute(
        sa.text(
            "SELECT nextval('webhooks_event_order'), clock_timestamp()"
            " FROM generate_series(1, :count)"
        ),
        {"count": len(events)},
    ).all()
    for event, (sequence, now) in zip(events, numbers, strict=True):
        event.row["sequence"] = sequence
        event.row["dispatched_at"] = now


def _write_events(connection: Connection, events: Sequence[_Told]) -> None:
    connection.execute(
        sa.update(_TABLE)
        .where(_TABLE.c.id == sa.bindparam("event_id"))
        .values(
            sequence=sa.bindparam("number"),
            dispatched_at=sa.bindparam("at"),
            changed=sa.bindparam("keys"),
        ),
        [
            {
                "event_id": e.row["id"],
                "number": e.row["sequence"],
                "at": e.row["dispatched_at"],
                "keys": e.row["changed"],
            }
            for e in events
            if not e.is_new
        ],
    )
    new = [e.row for e in events if e.is_new]
    if new:
        connection.execute(sa.insert(_TABLE), new)


def _write_deliveries(connection: Connection, events: Sequence[_Told]) -> None:
    user_ids = connection.execute(
        sa.text("SELECT DISTINCT user_id FROM webhooks WHERE state = :active"),
        {"active": WebhookState.ACTIVE.value},
    ).scalars()
    # Owners who may not subscribe any more are paused by the sweep; until
    # then nothing is written for them.
    by_id = {k: o for k, o in owners.standing(user_ids).items() if o.may_subscribe}
    pairs: list[dict[str, Any]] = []
    for event in events:
        for user_id, owner in by_id.items():
            pair = _pair(event, user_id, owner)
            if pair:
                pairs.append(pair)
        if len(pairs) >= MAX_PAIRS:
            _insert(connection, pairs)
            pairs = []
    if pairs:
        _insert(connection, pairs)


def _pair(event: _Told, user_id: str, owner: owners.Owner) -> dict[str, Any] | None:
    """Say what one owner's webhooks are told of an event.

    That depends on whether a webhook's filters match the state before and
    the state after, so there is an answer for each case.
    """
    before = may_see(event.row["labels_before"], owner.labels)
    after = may_see(event.row["labels"], owner.labels)
    if not before and not after:
        return None
    return {
        "event_id": event.row["id"],
        "user_id": user_id,
        "when_both": told(before, after, event.differs),
        "when_left": told(before, False, event.differs),
        "when_entered": told(False, after, event.differs),
    }


# Filters: each facet that a webhook names must have one of the values named.
_MATCHES = """NOT EXISTS (
    SELECT FROM jsonb_each(w.filters) f
    WHERE NOT coalesce({facets} -> f.key, '[]')
        ?| ARRAY(SELECT jsonb_array_elements_text(f.value)))"""

_INSERT = sa.text(
    f"""
    INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format)
    SELECT webhook_id, event_id, topic, sequence, address, format FROM (
        SELECT w.id AS webhook_id, e.id AS event_id, e.sequence, w.address, w.format, w.topics,
               e.entity_type, e.entity_type || '/' || CASE
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
        JOIN webhooks w ON w.user_id = p.user_id AND w.state = 'active'
            -- What was committed before a webhook was there is not its.
            AND w.created_at <= timezone('utc', e.captured_at)
    ) told
    WHERE topic IS NOT NULL AND topics && ARRAY[topic, entity_type || '/*', '*']
    ORDER BY sequence
    ON CONFLICT (event_id, webhook_id) DO NOTHING
    """
)


def _insert(connection: Connection, pairs: Sequence[dict[str, Any]]) -> None:
    connection.execute(_INSERT, {key: [pair[key] for pair in pairs] for key in pairs[0]})
