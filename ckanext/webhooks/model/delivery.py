"""Table ``webhooks_delivery``: one event for one webhook.

There are no foreign keys: a check per row would double the cost of telling
one event to 100,000 webhooks, and the deliveries of a deleted webhook stay
on record until they are old. For the same reason there are few indexes;
that an event reaches a webhook as one delivery, dispatch sees to.

A delivery is due at its time, or it is held back (``due_at`` is NULL) until
its webhook takes more: while the circuit is open, above its pace, or behind
others of its own. What is held back stands in nobody's way. It is written
under dispatch's lock or the lock of the webhook's row, and under both a
webhook that holds nothing back any more is made to say so (``next_at``).
"""

from __future__ import annotations

import enum
import uuid
from typing import Any

import sqlalchemy as sa

from ..topics import PING
from .base import Base


class Status(str, enum.Enum):
    """Where a delivery stands. All but pending are final."""

    PENDING = "pending"  # to be tried when it is due
    DELIVERED = "delivered"  # the endpoint answered 2xx
    FAILED = "failed"  # the last try failed
    CANCELLED = "cancelled"  # it is not to be sent any more; the reason says why


class Delivery(Base):
    """One event for one webhook, and what became of it.

    :ivar topic: what this subscriber is told; another may be told another
    :ivar sequence: of the event
    :ivar address, format: of the webhook when it was told: the body says
        the same on every retry
    :ivar due_at: when to try next, NULL while it is held back. A claim
        pushes it forward by the lease, so that a worker that dies leaves a
        row that comes due again; its value is what the claimer knows the
        lease by
    :ivar tries: how many attempts ended
    :ivar reason: of the last failure, or of the cancellation
    :ivar coalesced: how many older ones it stands for, NULL for none
    """

    __tablename__ = "webhooks_delivery"

    id = sa.Column(sa.BigInteger, sa.Identity(), primary_key=True)
    webhook_id = sa.Column(sa.Text, nullable=False)
    event_id = sa.Column(sa.Text, nullable=False)
    topic = sa.Column(sa.Text, nullable=False)
    sequence = sa.Column(sa.BigInteger, nullable=False)
    address = sa.Column(sa.Text, nullable=False)
    format = sa.Column(sa.Text, nullable=False)
    status = sa.Column(sa.Text, nullable=False, server_default=Status.PENDING.value)
    reason = sa.Column(sa.Text)
    tries = sa.Column(sa.Integer, nullable=False, server_default="0")
    due_at = sa.Column(sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp())
    created_at = sa.Column(
        sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()
    )
    ended_at = sa.Column(sa.DateTime(timezone=True))
    coalesced = sa.Column(sa.Integer)

    __table_args__ = (
        # Those of an event.
        sa.Index("webhooks_delivery_sequence_idx", "sequence"),
        # What is due, oldest first. With the webhook, so that looking for one's need not
        # look up the rows of all others.
        sa.Index(
            "webhooks_delivery_due_idx",
            "due_at",
            "id",
            "webhook_id",
            postgresql_where=sa.text("status = 'pending' AND due_at IS NOT NULL"),
        ),
        # What is held back of one webhook, oldest first.
        sa.Index(
            "webhooks_delivery_held_idx",
            "webhook_id",
            "id",
            postgresql_where=sa.text("status = 'pending' AND due_at IS NULL"),
        ),
        # What became of one webhook's deliveries, newest first. Not of all of them:
        # each claim would have to write it again.
        sa.Index(
            "webhooks_delivery_webhook_idx",
            "webhook_id",
            "id",
            postgresql_where=sa.text("ended_at IS NOT NULL"),
        ),
        # What is old.
        sa.Index(
            "webhooks_delivery_ended_idx",
            "ended_at",
            postgresql_where=sa.text("ended_at IS NOT NULL"),
        ),
    )


def ping_row(webhook: Any) -> dict[str, Any]:
    """Give the columns of a ping, which is due at once. There is no event behind it."""
    return {
        "webhook_id": webhook.id,
        "event_id": f"ping_{uuid.uuid4()}",
        "topic": PING,
        "sequence": 0,
        "address": webhook.address,
        "format": webhook.format,
    }


# Of a delivery `d` that is one of a set of ids. PostgreSQL takes half of all rows to be so, and
# finds them by their ids. What it makes of `status = 'pending'` is what the statistics said at
# another moment: that may be one row, and each of the set would be looked for among all.
STILL_PENDING = "CASE d.status WHEN 'pending' THEN true ELSE false END"


def pending_of(webhook: str) -> str:
    """Write the query for the ids of all that is pending of a webhook.

    By the index for each kind: of what is pending alone there is none, and PostgreSQL
    would read the whole table.

    :param webhook: its id, in SQL
    """
    of_kind = f"""
        SELECT id FROM webhooks_delivery
        WHERE webhook_id = {webhook} AND status = 'pending' AND due_at IS"""
    return f"{of_kind} NULL UNION ALL {of_kind} NOT NULL"


def missed_from(webhook: str) -> str:
    """Write from when on a webhook is not told of all, if what is pending of it is cancelled now.

    That is when the first of it was told, of which a replay is to begin with, or else now: that is
    after what was told last, since what another worker is about to tell may be a moment old.

    :param webhook: its id, in SQL
    """
    return f"""
        least((
            SELECT dispatched_at FROM webhooks_event
            WHERE sequence >= (
                SELECT min(sequence) FROM webhooks_delivery
                WHERE id = ANY(ARRAY({pending_of(webhook)})) AND topic <> 'ping')
            ORDER BY sequence LIMIT 1),
        greatest(clock_timestamp() - interval '1 minute', (
            SELECT dispatched_at + interval '1 microsecond' FROM webhooks_event
            WHERE sequence IS NOT NULL ORDER BY sequence DESC LIMIT 1)))
    """
