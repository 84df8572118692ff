"""Table ``webhooks``: who wants to be told what, and where.

The columns id, address, topic, user_id and created_at are those of the 2015
extension, whose rows the migration adopts.
"""

from __future__ import annotations

import enum
from typing import Any

import sqlalchemy as sa
from ckan import model
from ckan.model.types import make_uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from .. import config, encryption
from .base import Base


class WebhookState(str, enum.Enum):
    """Whether a webhook is told anything."""

    ACTIVE = "active"  # it is
    PAUSED = "paused"  # its owner no longer meets minimum_auth; comes back by itself
    DISABLED = "disabled"  # by a person, or because the endpoint said 410


class Format(str, enum.Enum):
    """How the body is laid out."""

    CLASSIC = "classic"  # the six keys of 2015 and what was added to them
    STANDARD = "standard"  # type, timestamp, data: Standard Webhooks
    CLOUDEVENTS = "cloudevents"  # CloudEvents 1.0, structured JSON


class Webhook(Base):
    """One subscription of one user.

    :ivar topic: the topics as one text, as the 2015 extension reads them
    :ivar topics: topics and patterns of them
    :ivar user_id: the owner: only what that user may see is told
    :ivar state: a :class:`WebhookState`
    :ivar state_reason: why it is not active, in words
    :ivar filters: facet → accepted values; see ``difference.facets``
    :ivar headers: custom headers, a JSON object, encrypted
    :ivar secret: signing secret, encrypted
    :ivar previous_secret: the one before the last rotation, encrypted; it
        signs too until ``previous_secret_until``
    :ivar failing_since: the first failure after the last success
    """

    __tablename__ = "webhooks"

    id = sa.Column(sa.UnicodeText, primary_key=True, default=make_uuid)
    address = sa.Column(sa.UnicodeText, nullable=False)
    topic = sa.Column(sa.UnicodeText, nullable=False)
    user_id = sa.Column(sa.UnicodeText, nullable=False)
    # UTC without a zone, as in 2015.
    created_at = sa.Column(
        sa.DateTime, nullable=False, server_default=sa.text("timezone('utc', clock_timestamp())")
    )
    updated_at = sa.Column(
        sa.DateTime, nullable=False, server_default=sa.text("timezone('utc', clock_timestamp())")
    )
    topics = sa.Column(ARRAY(sa.Text), nullable=False)
    state = sa.Column(sa.Text, nullable=False, server_default=WebhookState.ACTIVE.value)
    state_reason = sa.Column(sa.Text)
    description = sa.Column(sa.Text)
    filters = sa.Column(JSONB, nullable=False, server_default=sa.text("'{}'"))
    format = sa.Column(sa.Text, nullable=False, server_default=Format.CLASSIC.value)
    headers = sa.Column(sa.Text)
    secret = sa.Column(sa.Text, nullable=False)
    previous_secret = sa.Column(sa.Text)
    previous_secret_until = sa.Column(sa.DateTime(timezone=True))
    failing_since = sa.Column(sa.DateTime(timezone=True))
    last_success_at = sa.Column(sa.DateTime(timezone=True))
    last_failure_at = sa.Column(sa.DateTime(timezone=True))

    __table_args__ = (
        # webhook_list: one owner's webhooks; dispatch: the owners, and their rows.
        sa.Index("webhooks_user_id_idx", "user_id", "created_at"),
        sa.Index("webhooks_active_idx", "user_id", postgresql_where=sa.text("state = 'active'")),
    )

    @classmethod
    def get(cls, id_: str) -> Any:
        """Give the webhook with this id, or None."""
        return model.Session.get(cls, id_)

    def set_secret(self, secret: str) -> None:
        self.secret = encryption.encrypt(secret, config.secret_keys())

    def signing_secret(self) -> str:
        """:raises encryption.UnreadableSecret: the key is not configured"""
        return encryption.decrypt(self.secret, config.secret_keys())
