"""Table ``webhooks_right``: that what users may see may have changed, and when.

The save that changes a membership, or whatever else CKAN's labels of a user come
from, says so in its own transaction. What those users may see is then read anew by
every process, and dispatch tells those who have webhooks what that adds and takes.
"""

from __future__ import annotations

import sqlalchemy as sa

from .base import Base


class Right(Base):
    """One user of one transaction, whose rights may be others since.

    :ivar user_id: NULL where it may be anybody's, as when organizations change
    :ivar sequence: its place in the order of commit, given by dispatch when nothing waits
        to be told: what was captured before it has a lower number
    """

    __tablename__ = "webhooks_right"

    id = sa.Column(sa.BigInteger, sa.Identity(), primary_key=True)
    user_id = sa.Column(sa.Text)
    noted_at = sa.Column(
        sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")
    )
    sequence = sa.Column(sa.BigInteger)

    __table_args__ = (
        # What is new to a worker: what has no number yet, and what has a higher one.
        sa.Index("webhooks_right_sequence_idx", "sequence"),
        # When a user's rights changed last.
        sa.Index("webhooks_right_user_id_idx", "user_id", "sequence"),
    )
