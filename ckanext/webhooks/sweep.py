"""What keeps the tables true and small, beside the stream of events.

What was lost on the way needs no search: an event without a sequence and a
delivery whose lease ran out are due by themselves, and every tick of the
worker takes what is due. Here is what time alone makes necessary.
"""

from __future__ import annotations

import sqlalchemy as sa

from . import config, owners
from .model import WebhookState, transaction

# Rows per statement: a lock is held for milliseconds, and autovacuum keeps up.
BATCH = 1000

_PAUSED_REASON = "its owner does not have the role of ckanext.webhooks.minimum_auth"


def sweep() -> None:
    """Do all of it. Two workers may do so at the same time."""
    pause_and_resume()
    forget_old_secrets()
    forget_unserved()
    prune()


def pause_and_resume() -> None:
    """Pause the webhooks of owners who may not have any, and undo it when they may."""
    with transaction() as connection:
        rows = connection.execute(
            sa.text("SELECT DISTINCT user_id, state FROM webhooks WHERE state <> 'disabled'")
        ).all()
    standing = owners.standing({row.user_id for row in rows})
    pause = sorted(
        {
            r.user_id
            for r in rows
            if r.state == WebhookState.ACTIVE and not standing[r.user_id].may_subscribe
        }
    )
    resume = sorted(
        {
            r.user_id
            for r in rows
            if r.state == WebhookState.PAUSED and standing[r.user_id].may_subscribe
        }
    )
    if not pause and not resume:
        return
    with transaction() as connection:
        connection.execute(_PAUSE, {"user_ids": pause, "reason": _PAUSED_REASON})
        connection.execute(_RESUME, {"user_ids": resume})


_PAUSE = sa.text(
    """
    WITH paused AS (
        UPDATE webhooks SET state = 'paused', state_reason = :reason
        WHERE user_id = ANY(CAST(:user_ids AS text[])) AND state = 'active' RETURNING id)
    UPDATE webhooks_delivery d
    SET status = 'cancelled', reason = 'paused', ended_at = clock_timestamp()
    FROM paused WHERE d.webhook_id = paused.id AND d.status = 'pending'
    """
)
_RESUME = sa.text(
    "UPDATE webhooks SET state = 'active', state_reason = NULL"
    " WHERE user_id = ANY(CAST(:user_ids AS text[])) AND state = 'paused'"
)


def forget_old_secrets() -> None:
    """Forget secrets that were rotated out and sign nothing any more."""
    with transaction() as connection:
        connection.execute(
            sa.text(
                "UPDATE webhooks SET previous_secret = NULL, previous_secret_until = NULL"
                " WHERE previous_secret_until <= clock_timestamp()"
            )
        )


def forget_unserved() -> None:
    """Forget what those owners were served under to whom nothing is told any more."""
    with transaction() as connection:
        connection.execute(
            sa.text(
                "DELETE FROM webhooks_served s WHERE NOT EXISTS ("
                "SELECT FROM webhooks w WHERE w.user_id = s.user_id AND w.state = 'active')"
            )
        )


def prune() -> int:
    """Drop deliveries that ended, and events, that are older than the retention.

    The newest event of a dataset stays for as long as the dataset, and so
    does one that a delivery still waits for.

    :returns: how many rows went
    """
    dropped = 0
    for statement in (_PRUNE_DELIVERIES, _PRUNE_EVENTS):
        while True:
            with transaction() as connection:
                found = connection.execute(
                    statement, {"days": config.retention_days(), "batch": BATCH}
                ).scalar_one()
            dropped += found
            if found < BATCH:
                break
    return dropped


_PRUNE_DELIVERIES = sa.text(
    """
    WITH old AS (
        SELECT id FROM webhooks_delivery
        WHERE ended_at < clock_timestamp() - :days * interval '1 day'
        ORDER BY ended_at LIMIT :batch FOR UPDATE SKIP LOCKED),
    attempts AS (DELETE FROM webhooks_attempt a USING old WHERE a.delivery_id = old.id),
    deliveries AS (DELETE FROM webhooks_delivery d USING old WHERE d.id = old.id RETURNING 1)
    SELECT count(*) FROM deliveries
    """
)
_PRUNE_EVENTS = sa.text(
    """
    WITH old AS (
        SELECT e.id FROM webhooks_event e
        WHERE e.sequence IS NOT NULL
            AND e.dispatched_at < clock_timestamp() - :days * interval '1 day'
            AND NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.event_id = e.id)
            AND NOT EXISTS (SELECT FROM webhooks_event r WHERE r.source_id = e.id)
            AND (e.version IS NULL OR EXISTS (
                SELECT FROM webhooks_event newer
                WHERE newer.dataset_id = e.dataset_id AND newer.version > e.version
                    AND newer.sequence IS NOT NULL)
                -- The last of all: before that, it says that the others are not to be sent.
                OR (e.state = 'purged' AND NOT EXISTS (
                    SELECT FROM webhooks_event older
                    WHERE older.dataset_id = e.dataset_id AND older.version < e.version)))
        ORDER BY e.sequence LIMIT :batch FOR UPDATE SKIP LOCKED),
    events AS (DELETE FROM webhooks_event e USING old WHERE e.id = old.id RETURNING 1)
    SELECT count(*) FROM events
    """
)
