"""An endpoint that has still to show that it wants to be called.

With ``ckanext.webhooks.verify`` a new webhook, and one whose address
changed, is told nothing but a ping with a challenge in it. Its endpoint
answers with that, or its owner, who can read what the endpoint received,
confirms it. ``webhooks.challenge`` is there for as long as that is open.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any

import sqlalchemy as sa
from ckan import model

from .. import config
from ..model import UNVERIFIED, Delivery, WebhookState, ping_row

# As random as a signing secret: nobody guesses it.
_CHALLENGE_BYTES = 32


def is_open(webhook: Any) -> bool:
    return config.verify() and webhook.challenge is not None


def demand(webhook: Any) -> None:
    """Have the endpoint of an address that is new shown to be willing, where that is asked for."""
    webhook.challenge = secrets.token_urlsafe(_CHALLENGE_BYTES) if config.verify() else None


def ask(webhook: Any) -> None:
    """Tell a webhook nothing but a ping with its challenge.

    :param webhook: it was flushed: its id is known
    """
    webhook.state = WebhookState.UNVERIFIED.value
    webhook.state_reason = UNVERIFIED
    model.Session.execute(sa.insert(Delivery.__table__).values(ping_row(webhook)))


def is_answered(webhook: Any, challenge: str) -> bool:
    return webhook.challenge is not None and hmac.compare_digest(
        webhook.challenge.encode(), challenge.encode()
    )
