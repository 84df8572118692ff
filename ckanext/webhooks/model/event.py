"""Table ``webhooks_event``: the log of what was committed.

A change of a dataset is one row with its content, written by capture in the
transaction of the change. Dispatch numbers it and adds a row for each of its
resources that somebody may be told of; these point to the dataset's row and
hold content of their own only where that one lacks it.
"""

from __future__ import annotations

import enum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from .base import Base


class State(str, enum.Enum):
    """What the transaction left of the entity."""

    ACTIVE = "active"  # it can be seen by those who meet the labels
    HIDDEN = "hidden"  # it still exists, but is no longer active: a draft
    DELETED = "deleted"  # by CKAN's delete; what it was is told
    PURGED = "purged"  # gone from the database; only that is told


class Origin(str, enum.Enum):
    """Why there is an event."""

    CHANGE = "change"  # a dataset changed; also one that was found to have changed
    SEED = "seed"  # the dataset was there before the log: it is told to nobody
    RIGHTS = "rights"  # what one user may see changed, while the dataset did not


class Event(Base):
    """One committed change of one dataset or one resource.

    :ivar id: the ``webhook-id`` header, the same on every retry
    :ivar position: order in which rows were written; of one dataset it is
        the order of commit, since capture locks the dataset
    :ivar sequence: order of commit over everything, given at dispatch
    :ivar origin: an :class:`Origin`
    :ivar user_id: the only user whom it concerns, NULL where it is for all
    :ivar source_id: the dataset's row that has the content, where this is
        not it
    :ivar version: on a dataset's row, 1, 2, 3… of that dataset
    :ivar transaction_id: of PostgreSQL; with ``occurred_at`` it tells the
        row of a transaction's own from one that was restored from a backup
    :ivar occurred_at: when the transaction began
    :ivar captured_at: when the row was written
    :ivar labels_before, labels: permission labels of the dataset, NULL where
        it (or the resource) could not be seen by anybody
    :ivar facets_before, facets: see ``difference.facets``
    :ivar content: the dataset as ``package_show`` gives it, as JSON text; of
        a deleted one, as it last was; NULL where it may not be told
    :ivar digest: of the content, by ``difference.digest``
    :ivar metadata_modified: of the dataset, as its row has it: who edits it
        from an older state has not seen this event
    :ivar held_from: the number that it would have had, if it had not waited behind what was
        put aside: who was given rights after that could not see it then. NULL for most
    :ivar due_at: from when it is told, NULL where that is at once; see
        ``dispatch.loops``
    :ivar first_sight: where the log knew nothing of a dataset that existed:
        ids of resources by what was done to them in this transaction
    :ivar changed: keys that differ, NULL where unknown
    """

    __tablename__ = "webhooks_event"

    id = sa.Column(sa.Text, primary_key=True)
    position = sa.Column(sa.BigInteger, sa.Identity(), nullable=False)
    sequence = sa.Column(sa.BigInteger)
    entity_type = sa.Column(sa.Text, nullable=False)
    entity_id = sa.Column(sa.Text, nullable=False)
    dataset_id = sa.Column(sa.Text, nullable=False)
    origin = sa.Column(sa.Text, nullable=False, server_default=Origin.CHANGE.value)
    user_id = sa.Column(sa.Text)
    source_id = sa.Column(sa.Text)
    version = sa.Column(sa.Integer)
    transaction_id = sa.Column(sa.BigInteger)
    occurred_at = sa.Column(sa.DateTime(timezone=True), nullable=False)
    captured_at = sa.Column(sa.DateTime(timezone=True), nullable=False)
    dispatched_at = sa.Column(sa.DateTime(timezone=True))
    due_at = sa.Column(sa.DateTime(timezone=True))
    state = sa.Column(sa.Text, nullable=False)
    labels_before = sa.Column(ARRAY(sa.Text))
    labels = sa.Column(ARRAY(sa.Text))
    facets_before = sa.Column(JSONB)
    facets = sa.Column(JSONB)
    content = sa.Column(sa.Text)
    digest = sa.Column(sa.Text)
    metadata_modified = sa.Column(sa.DateTime)
    first_sight = sa.Column(JSONB)
    changed = sa.Column(ARRAY(sa.Text))
    held_from = sa.Column(sa.BigInteger)

    __table_args__ = (
        # The newest row of a dataset: capture, and before each send.
        sa.Index(
            "webhooks_event_version_key",
            "dataset_id",
            "version",
            unique=True,
            postgresql_where=sa.text("version IS NOT NULL"),
        ),
        # What is to be dispatched; holds a handful of rows.
        sa.Index(
            "webhooks_event_waiting_idx",
            "position",
            postgresql_where=sa.text("sequence IS NULL"),
        ),
        # The feed, and what is old.
        sa.Index("webhooks_event_sequence_key", "sequence", unique=True),
        # The rows that go with their source.
        sa.Index(
            "webhooks_event_source_id_idx",
            "source_id",
            postgresql_where=sa.text("source_id IS NOT NULL"),
        ),
    )
