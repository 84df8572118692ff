"""A captured change → the events that it amounts to: no I/O but a log line."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import difference, logs, wellformed
from ..model import State

log = logs.logger(__name__)


@dataclass
class Event:
    """An event as the subscribers' decision needs it.

    :ivar row: columns of its row
    :ivar is_new: the row is still to be inserted
    """

    row: dict[str, Any]
    is_new: bool

    @property
    def differs(self) -> bool:
        return self.row["changed"] is None or bool(self.row["changed"])


def events_or_fewer(change: Any) -> list[Event]:
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


def _events_of(change: Any) -> Iterator[Event]:
    """Give the dataset's event and those of its resources that matter."""
    before = _seen(change.content_before) if change.labels_before is not None else None
    after = _seen(change.content) if change.labels is not None else None
    yield _dataset_event(change, _changed(change, before, after))
    # Where what is seen of the dataset changes for somebody, so it does of
    # each of its resources; else only those count that differ.
    moves = (change.labels_before, change.facets_before) != (change.labels, change.facets)
    for found in _resources(change, before, after):
        if moves or not (found.before and found.after) or found.changed != []:
            yield Event(_resource_row(change, found, before), is_new=True)


def _dataset_event(change: Any, changed: list[str] | None) -> Event:
    row = {
        "id": change.id,
        "origin": change.origin,
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
    return Event(row, is_new=False)


def _seen(content: str | None) -> dict[str, Any] | None:
    # An earlier version kept what CKAN has as it came.
    return wellformed.loads(content) if content is not None else None


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
    old = difference.resources(before) if before else []
    new = difference.resources(after) if after else []
    if change.first_sight is None or change.labels_before is None:
        return difference.resource_differences(old, new)
    return _resources_at_first_sight(change.first_sight, new)


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
        "origin": change.origin,
        "user_id": None,
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
        "held_from": change.held_from,
        "changed": found.changed,
        "content": _resource_json(before, found.id) if removed else None,
    }


def _resource_json(dataset: dict[str, Any] | None, id_: str) -> str | None:
    for resource in difference.resources(dataset) if dataset else []:
        if resource["id"] == id_:
            return wellformed.dumps(resource)
    return None
