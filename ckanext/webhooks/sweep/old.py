"""What goes when it is old, or is needed no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from .. import config
from ..model import Event, transaction, when
from ..quarantine import LIVE

# Rows per statement: a lock is held for milliseconds, and autovacuum keeps up.
BATCH = 1000


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


def forget_put_aside() -> None:
    """Forget that something was put aside of which nothing is left to do."""
    with transaction() as connection:
        connection.execute(_FORGET_PUT_ASIDE)


def drop_old() -> Iterator[int]:
    """Do what :func:`prune` and :func:`trim_log` do, and give at each step how many rows went."""
    yield from _pruned()
    yield from _trimmed()


def prune() -> int:
    """Drop deliveries that ended, and events, that are older than the retention.

    The newest event of a dataset stays for as long as the dataset, and so
    does one that a delivery still waits for.

    :returns: how many rows went
    """
    return sum(_pruned())


def trim_log() -> int:
    """Drop the oldest events where the log is larger than ``log_max_size``.

    What :func:`prune` keeps whatever its age, this keeps too.

    :returns: how many rows went
    """
    return sum(_trimmed())


def _pruned() -> Iterator[int]:
    days = config.retention_days()
    yield from _in_batches(_PRUNE_DELIVERIES, days=days)
    yield from _in_batches(_PRUNE_RIGHTS, days=days)
    yield from _prune_events(days, cut=0)


def _trimmed() -> Iterator[int]:
    limit = config.log_max_size() * 1024 * 1024
    with transaction() as connection:
        # Costs nothing, and is never less than the content.
        size = connection.execute(
            sa.text("SELECT pg_total_relation_size('webhooks_event')")
        ).scalar_one()
        cut = connection.execute(_CUT, {"limit": limit}).scalar() if size > limit else None
    if cut is not None:
        yield from _prune_events(config.retention_days(), cut)


def _prune_events(days: float, cut: int) -> Iterator[int]:
    """:param cut: up to this number, events go whatever their age"""
    table = Event.__table__
    with transaction() as connection:
        oldest = connection.execute(_OLDEST, {"days": days}).scalar_one()
        _first, end = when.bounds(connection, table.c.sequence, table.c.dispatched_at, None, oldest)
    # Without the end the whole log would be read each time, to find that nothing is old.
    yield from _in_batches(_PRUNE_EVENTS, days=days, cut=cut, end=max(end, cut + 1))


def _in_batches(statement: Any, **values: Any) -> Iterator[int]:
    found = BATCH
    while found == BATCH:
        with transaction() as connection:
            found = connection.execute(statement, {**values, "batch": BATCH}).scalar_one()
        yield found


# The newest event of those that have no room.
_CUT = sa.text(
    """
    SELECT max(sequence) FROM (
        SELECT sequence, sum(pg_column_size(content)) OVER (ORDER BY sequence DESC) AS size
        FROM webhooks_event WHERE sequence IS NOT NULL AND content IS NOT NULL) newest_first
    WHERE size > :limit
    """
)
_OLDEST = sa.text("SELECT clock_timestamp() - :days * interval '1 day'")
_PRUNE_DELIVERIES = sa.text(
    """
    WITH old AS (
        SELECT id FROM webhooks_delivery
        WHERE ended_at < statement_timestamp() - :days * interval '1 day'
        ORDER BY ended_at LIMIT :batch FOR UPDATE SKIP LOCKED),
    attempts AS (DELETE FROM webhooks_attempt a USING old WHERE a.delivery_id = old.id),
    deliveries AS (DELETE FROM webhooks_delivery d USING old WHERE d.id = old.id RETURNING 1)
    SELECT count(*) FROM deliveries
    """
)
# What is older is in the log only where it is a dataset's newest.
_PRUNE_RIGHTS = sa.text(
    """
    WITH old AS (
        SELECT id FROM webhooks_right
        WHERE noted_at < statement_timestamp() - :days * interval '1 day'
            AND sequence IS NOT NULL
        ORDER BY sequence LIMIT :batch FOR UPDATE SKIP LOCKED),
    gone AS (DELETE FROM webhooks_right r USING old WHERE r.id = old.id RETURNING 1)
    SELECT count(*) FROM gone
    """
)
# Not before it may have been tried again: if that fails, its pause is to go on growing.
_FORGET_PUT_ASIDE = sa.text(
    f"""
    DELETE FROM webhooks_quarantine q
    WHERE q.due_at < statement_timestamp() - interval '1 hour' AND NOT {LIVE}
    """
)
_PRUNE_EVENTS = sa.text(
    """
    WITH old AS (
        SELECT e.id FROM webhooks_event e
        WHERE e.sequence < :end
            AND (e.dispatched_at < statement_timestamp() - :days * interval '1 day'
                OR e.sequence <= :cut)
            AND NOT EXISTS (
                SELECT FROM webhooks_delivery d WHERE d.sequence = e.sequence
                    AND (d.status = 'pending' OR e.sequence > :cut))
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
