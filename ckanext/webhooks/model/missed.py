"""Table ``webhooks_missed``: the datasets of which a change could not be captured.

The save that missed something says so in its own transaction, so that neither a broker
nor a process can lose it. A worker captures what the catalogue has then, and deletes the
row. Mostly it is empty.
"""

from __future__ import annotations

import sqlalchemy as sa

from .base import Base


class Missed(Base):
    """One dataset of one transaction, of which the log has nothing.

    :ivar missed_at: when the transaction began
    :ivar due_at: when a worker looks next; pushed forward before it does
    """

    __tablename__ = "webhooks_missed"

    id = sa.Column(sa.BigInteger, sa.Identity(), primary_key=True)
    dataset_id = sa.Column(sa.Text, nullable=False)
    missed_at = sa.Column(
        sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")
    )
    due_at = sa.Column(sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()"))
