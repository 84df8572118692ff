"""A lease on deliveries, and what a delivery under lease is: a row with its webhook."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import STILL_PENDING
from ..model.base import HASTILY, array


class Due(NamedTuple):
    """A delivery with its webhook: what is needed to send it, and to say whether it has a place.

    :ivar url: the webhook's address now
    :ivar state: of the webhook; None, as all that is the webhook's, where that is gone
    :ivar previous_secret: as long as it signs, too
    :ivar is_proven: the last attempt at the webhook succeeded
    :ivar is_well: there is nothing to be noted of the webhook if this one succeeds
    :ivar size: bytes of the content
    :ivar is_gated: the webhook takes what it gets by a clock of its own
    """

    id: int
    webhook_id: str
    event_id: str
    topic: str
    sequence: int
    address: str
    format: str
    tries: int
    created_at: datetime.datetime
    coalesced: int | None
    user_id: str
    host: str | None
    url: str
    state: str | None
    challenge: str | None
    headers: str | None
    secret: str
    previous_secret: str | None
    is_proven: bool
    is_well: bool
    size: int
    is_gated: bool


# In a condition the time is statement_timestamp(): an index is not asked for what is
# another at each row, as clock_timestamp() is.
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
    coalesce(octet_length(coalesce(e.content, source.content)), 0) AS size,
    coalesce(w.next_at IS NOT NULL OR w.circuit <> 'closed' OR w.max_rate IS NOT NULL
             OR w.newest_only, false) AS is_gated
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
    rows = connection.execute(_LEASE, {"ids": array(ids), "lease": seconds}).all()
    return Leased({row.id: row.until for row in rows}, rows[0].epoch if rows else 0.0)


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
              CAST(extract(epoch FROM statement_timestamp()) AS float) AS epoch
    """
)


def give_back(
    connection: Connection, ids: Iterable[int], was: Iterable[str | None], until: str
) -> None:
    """Put deliveries that were leased for nothing back to where they were in the line.

    :param was: for each id, when it was due, None where it was held back
    :param until: their lease
    """
    values = {"ids": array(ids), "was": array(was), "until": until}
    connection.execute(_GIVE_BACK, values)


_GIVE_BACK = sa.text(
    f"""{HASTILY}
    UPDATE webhooks_delivery d SET due_at = o.was
    FROM unnest(CAST(:ids AS bigint[]), CAST(:was AS timestamptz[])) AS o(id, was)
    WHERE d.id = o.id
        AND CASE d.due_at WHEN CAST(:until AS timestamptz) THEN {STILL_PENDING} ELSE false END
    """
)


def rows_of(connection: Connection, ids: Sequence[int]) -> list[Due]:
    """Read deliveries by their ids."""
    return [Due._make(row) for row in connection.execute(_ROWS, {"ids": array(ids)})]


_ROWS = sa.text(
    f"""
    SELECT {COLUMNS} FROM webhooks_delivery d {BESIDE}
    WHERE d.id = ANY(CAST(:ids AS bigint[]))
    """
)
