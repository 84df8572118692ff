"""A lease on deliveries, and what a delivery under lease is: a row with its webhook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model.base import HASTILY

# What is needed to send a delivery, and to say whether it has a place. In a condition
# the time is statement_timestamp(): an index is not asked for what is another at each
# row, as clock_timestamp() is.
COLUMNS = """
    d.id, d.webhook_id, d.event_id, d.topic, d.sequence, d.address, d.format, d.tries,
    d.created_at, d.coalesced,
    w.user_id, w.host, w.address AS url, w.state, w.challenge, w.headers, w.secret,
    CASE WHEN w.previous_secret_until > statement_timestamp() THEN w.previous_secret END
        AS previous_secret,
    coalesce(w.failures = 0 AND w.last_success_at IS NOT NULL, true) AS is_proven,
    coalesce(w.state = 'active' AND w.circuit = 'closed' AND w.failures = 0
             AND w.failing_since IS NULL
             AND w.last_success_at > statement_timestamp() - interval '10 seconds', false)
        AS is_well,
    coalesce(octet_length(coalesce(e.content, source.content)), 0) AS size
"""
# Beside a delivery: its webhook, which may be gone, and where the content of its event is.
BESIDE = """
    LEFT JOIN webhooks w ON w.id = d.webhook_id
    LEFT JOIN webhooks_event e ON e.id = d.event_id
    LEFT JOIN webhooks_event source ON source.id = e.source_id
"""


@dataclass(frozen=True)
class Leased:
    """Deliveries that nobody else sends until their lease ends.

    :param until: by delivery id, when that is, as PostgreSQL writes it
    :param epoch: PostgreSQL's time when it was taken, seconds since 1970
    """

    until: dict[int, str] = field(default_factory=dict)
    epoch: float = 0.0


def lease(connection: Connection, ids: Sequence[int], seconds: float) -> Leased:
    """Take those that are still due or held back, and that nobody else is taking."""
    if not ids:
        return Leased()
    rows = connection.execute(_LEASE, {"ids": ids, "lease": seconds}).all()
    return Leased({row.id: row.until for row in rows}, float(rows[0].epoch) if rows else 0.0)


# By the rows' addresses: what was locked is not looked for a second time.
_LEASE = sa.text(
    f"""{HASTILY}
    UPDATE webhooks_delivery
    SET due_at = statement_timestamp() + :lease * interval '1 second'
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM webhooks_delivery
        WHERE id = ANY(CAST(:ids AS bigint[])) AND status = 'pending'
            -- Due or held back; written so that no other index than that of ids fits.
            AND (due_at <= statement_timestamp()) IS NOT FALSE
        FOR UPDATE SKIP LOCKED))
    RETURNING id, CAST(due_at AS text) AS until,
              extract(epoch FROM statement_timestamp()) AS epoch
    """
)


def rows_of(connection: Connection, ids: Sequence[int]) -> list[Any]:
    """Read deliveries by their ids."""
    return list(connection.execute(_ROWS, {"ids": ids}).all())


_ROWS = sa.text(
    f"""
    SELECT {COLUMNS} FROM webhooks_delivery d {BESIDE}
    WHERE d.id = ANY(CAST(:ids AS bigint[]))
    """
)
