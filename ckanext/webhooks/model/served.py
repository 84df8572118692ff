"""Table ``webhooks_served``: the rights under which each owner was last told.

An owner's rights change without any dataset changing. What that means is
told by comparing the labels kept here with those that CKAN gives now.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from .base import Base


class Served(Base):
    """What one owner's webhooks have been told of.

    :ivar labels: permission labels, or ``"all"`` for a sysadmin
    :ivar next_labels: those that the owner is being moved to, NULL when none
    :ivar since: the last sequence before the move began, or went on after its owner was
        put aside: a dataset with an event above it has been moved already
    :ivar cursor: datasets up to this id have been moved already
    """

    __tablename__ = "webhooks_served"

    user_id = sa.Column(sa.Text, primary_key=True)
    labels = sa.Column(JSONB, nullable=False)
    next_labels = sa.Column(JSONB(none_as_null=True))
    since = sa.Column(sa.BigInteger)
    cursor = sa.Column(sa.Text)
