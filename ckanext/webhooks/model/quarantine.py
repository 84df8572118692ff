"""Table ``webhooks_quarantine``: what failed alone, and was put aside so that all else goes on.

Each row is one member of a set that a stage worked on, with its reason. It is tried again
after pauses that grow, so that whatever mends the cause needs nobody; a sysadmin may have it
tried at once, or give it up. Mostly the table is empty.
"""

from __future__ import annotations

import enum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from .base import Base


class Kind(str, enum.Enum):
    """What is put aside, and what waits behind it."""

    EVENT = "event"  # a captured change: so do all later ones of its dataset
    RIGHTS = "rights"  # what new rights of a user mean for a dataset: as with an event
    DELIVERY = "delivery"  # nothing waits behind it
    # It is told nothing new; what it misses is told when it goes on. All of an owner where it is
    # the row of ``webhooks_served`` that fails.
    WEBHOOK = "webhook"


class Quarantined(Base):
    """One thing that was put aside.

    :ivar kind: a :class:`Kind`
    :ivar key: the id of the event, delivery or webhook; of rights, those of the user and
        of the dataset with a space between them
    :ivar dataset_id: the dataset that waits, NULL where none does
    :ivar user_id: of rights, whose they are
    :ivar labels: of rights, the labels under which the user was told before
    :ivar sequence: the number of the last event that was told when it was put aside
    :ivar reason: the error, for a person
    :ivar tries: how often it failed
    :ivar is_stuck: a delivery's own row cannot be written, so that claims leave it out by
        this row; else its ``due_at`` does that
    :ivar due_at: when it is tried again. A delivery is put aside for as long as its own
        is the same
    """

    __tablename__ = "webhooks_quarantine"

    id = sa.Column(sa.BigInteger, sa.Identity(), primary_key=True)
    kind = sa.Column(sa.Text, nullable=False)
    key = sa.Column(sa.Text, nullable=False)
    dataset_id = sa.Column(sa.Text)
    user_id = sa.Column(sa.Text)
    labels = sa.Column(JSONB(none_as_null=True))
    sequence = sa.Column(sa.BigInteger, nullable=False)
    reason = sa.Column(sa.Text, nullable=False)
    tries = sa.Column(sa.Integer, nullable=False, server_default="1")
    is_stuck = sa.Column(sa.Boolean, nullable=False, server_default=sa.false())
    put_aside_at = sa.Column(
        sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()
    )
    due_at = sa.Column(sa.DateTime(timezone=True), nullable=False)

    __table_args__ = (
        sa.Index("webhooks_quarantine_key", "kind", "key", unique=True),
        # What waits behind it.
        sa.Index(
            "webhooks_quarantine_dataset_id_idx",
            "dataset_id",
            postgresql_where=sa.text("dataset_id IS NOT NULL"),
        ),
    )
