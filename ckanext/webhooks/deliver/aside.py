"""Putting deliveries aside that fail before they are sent, through no fault of an endpoint."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from .. import quarantine
from ..apart import apart
from ..model import STILL_PENDING, Kind, connected, in_transaction
from ..model.base import BEGIN, may_be_of_one

# What its owner reads.
REASON = "the portal could not send it and tries again; its administrators see why"


def put_aside(delivery_id: int, error: Exception) -> None:
    """Put a delivery aside: it is due when it is to be tried again."""
    key = str(delivery_id)
    try:
        with connected() as connection, in_transaction(connection, _BEGIN):
            quarantine.note(connection, Kind.DELIVERY, key, error)
            connection.execute(_PUSH, {"id": delivery_id, "key": key, "reason": REASON})
    except Exception as still:
        if not may_be_of_one(still):
            raise
        with connected() as connection:
            quarantine.note(connection, Kind.DELIVERY, key, error, is_stuck=True)
    quarantine.say(Kind.DELIVERY, key, error)


def put_aside_unwritable(count: int) -> bool:
    """Put aside what cannot be leased of what comes first, so that no claim can be made.

    :param count: so many of what is due, and so many of what is held back, come first
    :returns: whether there was such a delivery
    """
    found: list[int] = []

    def put_one_aside(delivery_id: int, error: Exception) -> None:
        found.append(delivery_id)
        put_aside(delivery_id, error)

    with connected() as connection:
        ids = connection.execute(_FIRST, {"count": count}).scalars().all()
    apart(ids, _touch, put_one_aside, may_be_of_one)
    return bool(found)


def wait_for_changes(delivery_ids: Collection[int]) -> None:
    """Have deliveries wait for changes of their datasets that were put aside, for as long as these.

    A change that is dispatched at any moment lets them wait for their leases.
    """
    if delivery_ids:
        with connected() as connection:
            connection.execute(_WAIT, {"ids": list(delivery_ids)})


def _touch(delivery_ids: Sequence[int]) -> None:
    with connected() as connection:
        connection.execute(_TOUCH, {"ids": list(delivery_ids)})


_WAIT = sa.text(
    f"""
    UPDATE webhooks_delivery d SET due_at = greatest(d.due_at, aside.due_at)
    FROM webhooks_event e JOIN (
        SELECT dataset_id, max(due_at) AS due_at FROM webhooks_quarantine
        WHERE kind = 'event' GROUP BY dataset_id) aside USING (dataset_id)
    WHERE d.id = ANY(CAST(:ids AS bigint[])) AND e.id = d.event_id AND {STILL_PENDING}
    """
)
_BEGIN = sa.text(f"{BEGIN} SELECT 1")
_PUSH = sa.text(
    f"""
    UPDATE webhooks_delivery d SET due_at = q.due_at, reason = :reason
    FROM webhooks_quarantine q
    WHERE d.id = :id AND {STILL_PENDING} AND q.kind = 'delivery' AND q.key = :key
    """
)
# What another worker is at, it can write.
_TOUCH = sa.text(
    """
    UPDATE webhooks_delivery SET due_at = due_at WHERE id IN (
        SELECT id FROM webhooks_delivery
        WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE SKIP LOCKED)
    """
)
# Of what is due, and of what each webhook that takes something has held back.
_FIRST = sa.text(
    f"""
    (SELECT id FROM webhooks_delivery d
     WHERE status = 'pending' AND due_at <= statement_timestamp() AND {quarantine.DELIVERY_GOES_ON}
     ORDER BY due_at, id LIMIT :count)
    UNION ALL
    (SELECT first.id
     FROM (SELECT id FROM webhooks WHERE next_at <= statement_timestamp() AND state = 'active'
           ORDER BY next_at LIMIT :count) w CROSS JOIN LATERAL (
         SELECT id FROM webhooks_delivery d
         WHERE webhook_id = w.id AND status = 'pending' AND due_at IS NULL
             AND {quarantine.DELIVERY_GOES_ON}
         ORDER BY id LIMIT :count) first
     LIMIT :count)
    """
)
