"""Table ``webhooks``: who wants to be told what, and where.

The columns id, address, topic, user_id and created_at are those of the 2015
extension, whose rows the migration adopts.
"""

from __future__ import annotations

import enum
import json
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
    DISABLED = "disabled"  # by a person, or because the endpoint is gone or failed for days
    UNVERIFIED = "unverified"  # nothing yet: its endpoint has still to answer the challenge


# The ``state_reason`` of a webhook that a person disabled: that is no incident.
BY_A_PERSON = "by a person"
# That of one that is not told anything yet.
UNVERIFIED = (
    "its endpoint has still to answer a ping with the challenge in it, or its owner to confirm"
    " that by webhook_verify"
)


class Circuit(str, enum.Enum):
    """Whether an endpoint is trusted with what waits for it.

    In the table, so that all workers agree.
    """

    CLOSED = "closed"  # it is
    OPEN = "open"  # it failed again and again: all waits for ``next_at``
    HALF_OPEN = "half-open"  # one delivery is on its way, as a probe


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
    :ivar host: of the address
    :ivar circuit: a :class:`Circuit`
    :ivar failures: attempts that failed since the last success, while the
        circuit was closed; then one more with each failed probe
    :ivar next_at: not NULL while deliveries are held back for this webhook:
        the time from which some of them may go. See ``model.delivery``
    :ivar max_rate: deliveries a minute, NULL for any number
    :ivar newest_only: whether of what waits only the newest state of each
        entity is told
    :ivar mailed: what its owner was last told by mail of the present
        incident; NULL where there is none
    :ivar missed_since: when it stopped being told, until that was replayed
    :ivar challenge: what an endpoint must answer before anything is told
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
    host = sa.Column(
        sa.Text,
        sa.Computed(
            r"lower(substring(address from '://(\[[^]]*\]|[^/:?#]*)'))",
            persisted=True,
        ),
    )
    circuit = sa.Column(sa.Text, nullable=False, server_default=Circuit.CLOSED.value)
    failures = sa.Column(sa.Integer, nullable=False, server_default="0")
    next_at = sa.Column(sa.DateTime(timezone=True))
    max_rate = sa.Column(sa.Integer)
    newest_only = sa.Column(sa.Boolean, nullable=False, server_default=sa.false())
    mailed = sa.Column(sa.Text)
    missed_since = sa.Column(sa.DateTime(timezone=True))
    challenge = sa.Column(sa.Text)

    __table_args__ = (
        # webhook_list: one owner's webhooks; dispatch: the owners, and their rows.
        sa.Index("webhooks_user_id_idx", "user_id", "created_at"),
        sa.Index("webhooks_active_idx", "user_id", postgresql_where=sa.text("state = 'active'")),
        # How many call one host.
        sa.Index("webhooks_host_idx", "host"),
        # Those with deliveries held back.
        sa.Index("webhooks_next_idx", "next_at", postgresql_where=sa.text("next_at IS NOT NULL")),
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

    def custom_headers(self) -> dict[str, str]:
        """:raises encryption.UnreadableSecret: the key is not configured"""
        if self.headers is None:
            return {}
        found: dict[str, str] = json.loads(encryption.decrypt(self.headers, config.secret_keys()))
        return found

    @classmethod
    def unreadable(cls) -> str | None:
        """Say why the secret that was stored last cannot be read here, None where it can.

        Where another process stores what this one cannot read, their keys differ.
        """
        newest = model.Session.query(cls).order_by(cls.created_at.desc(), cls.id).first()
        try:
            if newest is not None:
                newest.signing_secret()
        except (encryption.UnreadableSecret, ValueError) as error:
            return str(error)
        return None

    @classmethod
    def all_unreadable(cls) -> list[str]:
        """Name the webhooks of which something that is stored encrypted cannot be read here."""
        columns = (cls.id, cls.secret, cls.previous_secret, cls.headers)
        keys = config.secret_keys()
        return [
            id_
            for id_, *tokens in model.Session.query(*columns).order_by(cls.id)
            if not all(encryption.is_readable(token, keys) for token in tokens if token)
        ]

    def header_names(self) -> list[str] | None:
        """Name the custom headers; None where they cannot be read."""
        try:
            return sorted(self.custom_headers())
        except encryption.UnreadableSecret:
            return None
