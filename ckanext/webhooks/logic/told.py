"""What was told about a dataset, for those who may edit it."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from ..model import Status
from . import find, schema

# Deliveries of one event that are counted: an editor need not know more exactly.
MOST = 1000


@tk.side_effect_free
def webhook_dataset_told(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Say what was told about a dataset and its resources, the newest first.

    You must be allowed to edit the dataset. To whom it was told you see of
    your own webhooks alone, or as a sysadmin.

    :param id: id or name of the dataset
    :type id: string
    :param before: only what has a lower sequence (optional)
    :type before: int
    :param limit: at most so many events (default 20, at most 100)
    :type limit: int

    :returns: ``events``, each with event_id, ``entity_type``, ``entity_id``,
        occurred_at, sequence, ``changed``, ``webhooks`` (how many it was
        told, of which 1000 stand for more), how many of these are
        ``delivered``, ``failed``, ``pending`` and ``cancelled``, and
        ``deliveries``: of the newest 1000 those you may see, with id,
        webhook_id, address, topic and status; and ``before``, for what is
        older, none where that was all
    :rtype: dictionary
    """
    find.require_login(context)
    data = schema.validate(data_dict, schema.webhook_dataset_told(), context)
    tk.check_access("webhook_dataset_told", context, data)
    dataset = model.Package.get(data["id"])
    if dataset is None:
        raise tk.ObjectNotFound(tk._("There is no dataset %s") % data["id"])
    caller = model.User.get(context.get("user"))
    events = model.Session.execute(
        _EVENTS,
        {"dataset_id": dataset.id, "before": data["before"], "limit": data["limit"]},
    ).all()
    told = {event.sequence: _event(event) for event in events}
    deliveries = model.Session.execute(_DELIVERIES, {"sequences": list(told), "most": MOST})
    for row in deliveries:
        event = told[row.sequence]
        event["webhooks"] += 1
        event[row.status] += 1
        if caller is not None and (caller.sysadmin or row.user_id == caller.id):
            names = ("id", "webhook_id", "address", "topic", "status")
            event["deliveries"].append({name: getattr(row, name) for name in names})
    return {
        "events": list(told.values()),
        "before": events[-1].sequence if len(events) == data["limit"] else None,
    }


def _event(row: Any) -> dict[str, Any]:
    return {
        "event_id": row.id,
        "entity_type": row.entity_type,
        "entity_id": row.entity_id,
        "occurred_at": row.occurred_at.isoformat(),
        "sequence": row.sequence,
        "changed": row.changed,
        "webhooks": 0,
        **dict.fromkeys((status.value for status in Status), 0),
        "deliveries": [],
    }


# The dataset's rows by their index, and by another the rows that have them as their source.
_EVENTS = sa.text(
    """
    WITH own AS MATERIALIZED (
        SELECT id FROM webhooks_event WHERE dataset_id = :dataset_id AND version IS NOT NULL),
    found AS (
        SELECT id FROM own UNION SELECT e.id FROM own JOIN webhooks_event e ON e.source_id = own.id)
    SELECT e.id, e.entity_type, e.entity_id, e.occurred_at, e.sequence, e.changed
    FROM found JOIN webhooks_event e USING (id)
    WHERE e.sequence < :before AND e.origin = 'change'
    ORDER BY e.sequence DESC LIMIT :limit
    """
)
_DELIVERIES = sa.text(
    """
    SELECT told.*, webhooks.user_id
    FROM unnest(CAST(:sequences AS bigint[])) asked (sequence)
        CROSS JOIN LATERAL (
            SELECT id, webhook_id, address, topic, status, sequence FROM webhooks_delivery
            WHERE webhooks_delivery.sequence = asked.sequence LIMIT :most) told
        LEFT JOIN webhooks ON webhooks.id = told.webhook_id
    ORDER BY told.id DESC
    """
)
