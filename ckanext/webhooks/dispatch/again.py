"""What was put aside, tried again: what a move means for a dataset, and what a webhook missed.

An event needs no trying: ``run`` lets it in again when its time has come.
"""

from __future__ import annotations

import datetime
from typing import Any

import sqlalchemy as sa

from .. import owners, quarantine
from ..model import Kind, WebhookState, connected, in_transaction
from ..model.base import BEGIN, may_be_of_one
from . import moves, replay, rights, write

# A try takes less (seconds); a worker that dies in its midst delays the next by that.
_LEASE = 60
# The log's times go with its numbers, but for what waited to be committed.
_BEFORE = datetime.timedelta(days=1)


def try_again() -> int:
    """Try what is due of what dispatch put aside, and put it further aside where it still fails.

    :returns: how much of it is told now
    """
    with connected() as connection:
        due = connection.execute(_CLAIM, {"lease": _LEASE}).all()
    return sum(_try(aside) for aside in due)


def _try(aside: Any) -> bool:
    try:
        if aside.kind == Kind.RIGHTS:
            moves.tell_aside(aside)
        else:
            _tell_missed(aside)
    except Exception as error:
        if not may_be_of_one(error):
            raise
        with connected() as connection:
            quarantine.put_aside(connection, Kind(aside.kind), aside.key, error)
        return False
    return True


def _tell_missed(aside: Any) -> None:
    """Tell a webhook what it has missed since it was put aside, which ends with that."""
    with connected() as connection:
        webhook = connection.execute(_WEBHOOK, {"id": aside.key}).one_or_none()
    # What one that is not active misses, it is told by a replay of its own.
    labels = None
    if webhook is not None:
        rights.try_to_serve([webhook.user_id])
    if webhook is not None and webhook.state == WebhookState.ACTIVE:
        labels = owners.standing_now([webhook.user_id])[webhook.user_id].labels
        if labels is None:
            return  # not known now; the lease keeps it until the next look
    cursor: int | None = aside.sequence + 1
    while cursor is not None:
        # Under the lock, so that nothing is told between the last page and the end.
        with connected() as connection, in_transaction(connection, _LOCK):
            page = replay.Page([], None)
            if labels is not None:
                since = aside.put_aside_at - _BEFORE
                page = replay.events(connection, webhook, labels, since, None, cursor)
            for first in range(0, len(page.found), replay.AT_ONCE):
                replay.tell(connection, aside.key, page.found[first : first + replay.AT_ONCE])
            if page.cursor is None:
                if webhook is not None:
                    moves.take_in(connection, webhook.user_id)
                quarantine.release(connection, [aside.id])
        cursor = page.cursor


_CLAIM = sa.text(
    """
    UPDATE webhooks_quarantine SET due_at = clock_timestamp() + :lease * interval '1 second'
    WHERE id IN (
        SELECT id FROM webhooks_quarantine
        WHERE kind IN ('rights', 'webhook') AND due_at <= clock_timestamp()
        ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED)
    RETURNING id, kind, key, dataset_id, user_id, labels, sequence, put_aside_at
    """
)
_WEBHOOK = sa.text("SELECT id, user_id, state FROM webhooks WHERE id = :id")
_LOCK = sa.text(f"{BEGIN} {write.LOCK} SELECT 1")
