"""Taking a lease on what is due, with all that is needed to send it.

A claim pushes ``due_at`` forward and commits before anything is sent: when
the worker dies, the row comes due again and another sends it. Two workers
never hold the same row, since rows that another one is claiming are skipped.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..model import transaction
from .logged import Logged, logged

# A lease outlives the attempt by this much: time for settling it. A worker
# that was killed delays what it held by no more than timeout + margin.
LEASE_MARGIN = 5.0
# How many of the oldest due rows are looked at in order to find some of
# webhooks that are not busy.
_WINDOW = 1000


@dataclass(frozen=True)
class Claimed:
    """A set of deliveries under lease, and the rows they refer to.

    :param deliveries: rows; ``due_at`` is the lease
    :param webhooks: rows by id
    :param events: by id
    :param served: by user id, the labels of :class:`~..model.Served`
    :param epoch: PostgreSQL's time of the claim, seconds since 1970
    :param monotonic: this process's clock at that moment
    """

    deliveries: list[Any]
    webhooks: dict[str, Any]
    events: dict[str, Logged]
    served: dict[str, Any]
    epoch: float
    monotonic: float

    def now(self) -> float:
        """Give PostgreSQL's time, whatever this machine's clock says."""
        return self.epoch + time.monotonic() - self.monotonic


_CLAIM = sa.text(
    """
    WITH due AS (
        SELECT id FROM webhooks_delivery
        WHERE status = 'pending' AND due_at <= clock_timestamp() AND id IN (
            SELECT id FROM (
                SELECT id, due_at, row_number() OVER (PARTITION BY webhook_id ORDER BY due_at, id)
                    AS place
                FROM (
                    SELECT id, webhook_id, due_at FROM webhooks_delivery
                    WHERE status = 'pending' AND due_at <= clock_timestamp()
                        AND NOT webhook_id = ANY(CAST(:busy AS text[]))
                    ORDER BY due_at, id LIMIT :window) oldest) placed
            WHERE place <= :per_webhook ORDER BY due_at, id LIMIT :count)
        FOR UPDATE SKIP LOCKED)
    UPDATE webhooks_delivery d SET due_at = clock_timestamp() + :lease * interval '1 second'
    FROM due WHERE d.id = due.id
    RETURNING d.id, d.webhook_id, d.event_id, d.topic, d.sequence, d.address, d.format,
              d.tries, d.due_at, extract(epoch FROM clock_timestamp()) AS epoch
    """
)
_WEBHOOKS = sa.text(
    """
    SELECT id, user_id, address, headers, secret, previous_secret,
           coalesce(previous_secret_until > clock_timestamp(), false) AS previous_is_valid
    FROM webhooks WHERE id = ANY(CAST(:ids AS text[])) AND state = 'active'
    """
)
_SERVED = sa.text(
    """
    SELECT user_id, coalesce(next_labels, labels) AS labels FROM webhooks_served
    WHERE user_id = ANY(CAST(:ids AS text[]))
    """
)


def claim(count: int, per_webhook: int, busy: Collection[str], timeout: float) -> Claimed | None:
    """Lease up to ``count`` deliveries that are due, the oldest first.

    :param per_webhook: at most so many of one webhook
    :param busy: ids of webhooks of which none is wanted now
    :param timeout: seconds that an attempt may take
    :returns: None where nothing is due
    """
    with transaction() as connection:
        monotonic = time.monotonic()
        deliveries = connection.execute(
            _CLAIM,
            {
                "count": count,
                "per_webhook": per_webhook,
                "busy": list(busy),
                "lease": timeout + LEASE_MARGIN,
                "window": _WINDOW,
            },
        ).all()
        if not deliveries:
            return None
        webhooks = connection.execute(
            _WEBHOOKS, {"ids": list({d.webhook_id for d in deliveries})}
        ).all()
        events = logged(connection, {d.event_id for d in deliveries})
        served = connection.execute(_SERVED, {"ids": list({w.user_id for w in webhooks})}).all()
    return Claimed(
        sorted(deliveries, key=lambda d: (d.sequence, d.id)),
        {row.id: row for row in webhooks},
        events,
        {row.user_id: row.labels for row in served},
        float(deliveries[0].epoch),
        monotonic,
    )
