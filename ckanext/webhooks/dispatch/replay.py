"""What was told, told once more to one webhook, whose owner asks for it.

The deliveries are written held back, so that a replay of 100,000 events
stands in nobody's way: see ``model.delivery``. What is waiting already is
not written again, so that who repeats a call gets nothing twice.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import Delivery, when
from ..model import Event as EventRow
from ..visibility import OwnerLabels, may_see
from . import write
from .events import Event

# Deliveries of one call: a second's work, and a few MB of one process.
MOST = 20_000
# Ended deliveries among which one call looks for those that failed: a tenth of that.
_LOOKED_AT = 100_000
# Rows that are written while the webhook's row is locked: what was sent to it is
# settled after that, together with what was sent to others.
AT_ONCE = 500


@dataclass(frozen=True)
class Page:
    """Some of what is to be told again.

    :param found: what :func:`tell` or :func:`tell_failed` takes
    :param cursor: where the next page begins, None where there is none
    """

    found: list[Any]
    cursor: int | None


def events(
    connection: Connection,
    webhook: Any,
    labels: OwnerLabels,
    since: datetime.datetime,
    until: datetime.datetime | None,
    cursor: int | None,
) -> Page:
    """Look through the log for what a webhook's owner may see.

    Datasets that were there before the log are told as well: from the
    start, a replay gives all there is.

    :param labels: the owner's
    :param since, until: of when it was told
    """
    table = EventRow.__table__
    first, end = when.bounds(connection, table.c.sequence, table.c.dispatched_at, since, until)
    rows = connection.execute(
        _EVENTS,
        {
            "first": max(first, cursor or 0),
            "end": end,
            "user_id": webhook.user_id,
            "since": since,
            "until": until,
            "most": MOST,
        },
    ).all()
    waiting = _waiting(connection, webhook.id, [row.sequence for row in rows])
    return Page(
        [
            pair
            for row in rows
            if row.is_meant and row.id not in waiting
            for pair in _pair(row, webhook.user_id, labels)
        ],
        rows[-1].sequence + 1 if len(rows) == MOST else None,
    )


def failed(
    connection: Connection,
    webhook_id: str,
    since: datetime.datetime | None,
    until: datetime.datetime | None,
    cursor: int | None,
) -> Page:
    """Look for what a webhook was not told in the end, and has not been told since.

    :param since, until: of when it was to be told
    """
    table = Delivery.__table__
    first, end = when.bounds(connection, table.c.id, table.c.created_at, since, until)
    rows = connection.execute(
        _FAILED,
        {
            "first": max(first, cursor or 0),
            "end": end,
            "webhook_id": webhook_id,
            "since": since,
            "until": until,
            "looked_at": _LOOKED_AT,
            "most": MOST,
        },
    ).all()
    # There is one row at least: it says how far was looked.
    reached, found = rows[0].reached, [row for row in rows if row.id is not None]
    if len(found) == MOST:
        reached = found[-1].id
    later = _told_later(connection, webhook_id, found)
    waiting = _waiting(connection, webhook_id, [row.sequence for row in found])
    return Page(
        [
            row.id
            for row in found
            if row.event_id not in waiting and later.get(row.event_id, 0) <= row.id
        ],
        None if reached is None else reached + 1,
    )


def tell(connection: Connection, webhook_id: str, pairs: Sequence[dict[str, Any]]) -> int | None:
    """Tell a webhook what :func:`events` found, and give how many that were.

    :param pairs: at most :data:`AT_ONCE`
    :returns: None where the webhook is not active
    """
    if not _hold_back(connection, webhook_id):
        return None
    return write.write_again(connection, webhook_id, pairs)


def tell_failed(
    connection: Connection, webhook_id: str, delivery_ids: Sequence[int]
) -> list[int] | None:
    """Tell a webhook again what deliveries told it, and give the ids of the new ones.

    :param delivery_ids: at most :data:`AT_ONCE`; one whose event is no longer
        in the log is left out
    :returns: None where the webhook is not active
    """
    if not _hold_back(connection, webhook_id):
        return None
    return list(connection.execute(_AGAIN, {"ids": list(delivery_ids)}).scalars())


def _pair(row: Any, user_id: str, labels: OwnerLabels) -> Iterator[dict[str, Any]]:
    if row.user_id is not None:  # it was made for this user
        before, after = row.labels_before is not None, row.labels is not None
    else:
        before, after = may_see(row.labels_before, labels), may_see(row.labels, labels)
    event = Event({"id": row.id, "changed": row.changed}, is_new=False)
    pair = write.pair(event, user_id, before, after)
    if pair is not None:
        yield pair


def _waiting(connection: Connection, webhook_id: str, sequences: Sequence[int]) -> set[str]:
    """Give the events among some that a webhook is still to be told."""
    if not sequences:
        return set()
    values = {"webhook_id": webhook_id, "lowest": min(sequences), "highest": max(sequences)}
    return set(connection.execute(_WAITING, values).scalars())


def _told_later(connection: Connection, webhook_id: str, rows: Sequence[Any]) -> dict[str, int]:
    """Give the last ended delivery of each event that some deliveries are about."""
    if not rows:
        return {}
    values = {
        "webhook_id": webhook_id,
        "event_ids": [row.event_id for row in rows],
        "sequences": [row.sequence for row in rows],
        "first": rows[0].id,
    }
    return {row.event_id: row.id for row in connection.execute(_LATER, values)}


def _hold_back(connection: Connection, webhook_id: str) -> bool:
    """Lock a webhook's row, and make it say that something is held back; False if not active."""
    return connection.execute(_HOLD_BACK, {"webhook_id": webhook_id}).rowcount > 0


_EVENTS = sa.text(
    """
    SELECT id, sequence, user_id, labels_before, labels, changed,
           (user_id IS NULL OR user_id = :user_id) AND dispatched_at >= :since
               AND (CAST(:until AS timestamptz) IS NULL OR dispatched_at < :until) AS is_meant
    FROM webhooks_event WHERE sequence >= :first AND sequence < :end
    ORDER BY sequence LIMIT :most
    """
)
# What was cancelled was given up, too, unless it is said by what came after it.
_FAILED = sa.text(
    """
    WITH looked_at AS (
        SELECT id, event_id, sequence, topic, status, reason, created_at FROM webhooks_delivery
        -- Pairs, for which see logic.deliveries.
        WHERE (webhook_id, id) >= (:webhook_id, :first) AND (webhook_id, id) < (:webhook_id, :end)
            AND ended_at IS NOT NULL
        ORDER BY webhook_id, id LIMIT :looked_at)
    SELECT reached.reached, given_up.*
    FROM (SELECT CASE WHEN count(*) = :looked_at THEN max(id) END AS reached
          FROM looked_at) reached
        LEFT JOIN LATERAL (
            SELECT id, event_id, sequence FROM looked_at
            WHERE (status = 'failed' OR status = 'cancelled'
                    AND reason NOT IN ('superseded', 'coalesced'))
                AND topic <> 'ping'
                AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since)
                AND (CAST(:until AS timestamptz) IS NULL OR created_at < :until)
            ORDER BY id LIMIT :most) given_up ON true
    ORDER BY id
    """
)
_LATER = sa.text(
    """
    SELECT d.event_id, max(d.id) AS id
    FROM webhooks_delivery d
        -- By the number, too, which has an index: else all that came later is looked at.
        JOIN unnest(CAST(:event_ids AS text[]), CAST(:sequences AS bigint[]))
            AS asked(event_id, sequence) USING (event_id, sequence)
    WHERE d.webhook_id = :webhook_id AND d.ended_at IS NOT NULL AND d.id >= :first
    GROUP BY d.event_id
    """
)
_WAITING = sa.text(
    """
    SELECT event_id FROM webhooks_delivery
    WHERE webhook_id = :webhook_id AND status = 'pending' AND due_at IS NULL
        AND sequence BETWEEN :lowest AND :highest
    UNION ALL
    SELECT event_id FROM webhooks_delivery
    WHERE webhook_id = :webhook_id AND status = 'pending' AND due_at IS NOT NULL
        AND sequence BETWEEN :lowest AND :highest
    """
)
_HOLD_BACK = sa.text(
    """
    UPDATE webhooks SET next_at = coalesce(next_at, clock_timestamp())
    WHERE id = :webhook_id AND state = 'active'
    """
)
_AGAIN = sa.text(
    """
    INSERT INTO webhooks_delivery
        (webhook_id, event_id, topic, sequence, address, format, coalesced, due_at)
    SELECT d.webhook_id, d.event_id, d.topic, d.sequence, w.address, w.format, d.coalesced, NULL
    FROM webhooks_delivery d JOIN webhooks w ON w.id = d.webhook_id
        JOIN webhooks_event e ON e.id = d.event_id
    WHERE d.id = ANY(CAST(:ids AS bigint[]))
    ORDER BY d.sequence, d.id
    RETURNING id
    """
)
