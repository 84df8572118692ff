"""What becomes of a webhook when somebody enables, disables or moves it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from ckan import model
from sqlalchemy.dialects.postgresql import JSONB

from .. import queue
from ..model import BY_A_PERSON, Circuit, Webhook, WebhookState, missed_from, pending_of
from ..visibility import stored_labels
from . import sight, verification


def make_active(webhook: Any) -> None:
    """Let a webhook be told; or first, where that is asked for, be verified."""
    if verification.is_open(webhook):
        model.Session.flush()
        verification.ask(webhook)
        model.Session.flush()
        return
    _begin_to_serve(webhook.user_id)
    webhook.challenge = None
    webhook.state = WebhookState.ACTIVE.value
    webhook.state_reason = None
    model.Session.flush()


def disable(webhook: Any, reason: str = BY_A_PERSON) -> None:
    webhook.state = WebhookState.DISABLED.value
    webhook.state_reason = reason
    _miss_what_waits(webhook)
    model.Session.flush()
    cancel_pending(webhook.id, "disabled")


def _miss_what_waits(webhook: Any) -> None:
    first = sa.literal_column(missed_from("webhooks.id"))
    webhook.missed_since = sa.func.least(Webhook.missed_since, first)


def forget_trouble(webhook: Any) -> None:
    """Trust an endpoint as a new one: of what was there before, it says nothing."""
    webhook.circuit = Circuit.CLOSED.value
    webhook.failures = 0
    webhook.failing_since = None
    webhook.mailed = None
    # What is held back may go; where nothing is, that stays so.
    webhook.next_at = sa.case((Webhook.next_at.isnot(None), sa.func.clock_timestamp()))


def nudge_to_verify(webhook: Any) -> None:
    if webhook.state == WebhookState.UNVERIFIED.value:
        queue.nudge()


def _begin_to_serve(user_id: str) -> None:
    """Note what an owner may see, where it is the only active webhook from now on.

    What was in sight before is not told as new.
    """
    labels = stored_labels(sight.labels_of(user_id))
    model.Session.execute(_BEGIN_TO_SERVE, {"user_id": user_id, "labels": labels})


_BEGIN_TO_SERVE = sa.text(
    """
    INSERT INTO webhooks_served (user_id, labels)
    SELECT CAST(:user_id AS text), CAST(:labels AS jsonb) WHERE NOT EXISTS (
        SELECT FROM webhooks WHERE user_id = :user_id AND state = 'active')
    ON CONFLICT (user_id) DO UPDATE
    SET labels = excluded.labels, next_labels = NULL, since = NULL, cursor = NULL
    """
).bindparams(sa.bindparam("labels", type_=JSONB))


def enable(webhook: Any, was: str, moved: bool) -> None:
    """Make a webhook active, or leave it as it is where that is what it was left as.

    :param was: its state before
    """
    if was == WebhookState.DISABLED.value:
        forget_trouble(webhook)
    if was == WebhookState.UNVERIFIED.value and verification.is_open(webhook) and not moved:
        return
    if was == WebhookState.ACTIVE.value and verification.is_open(webhook):
        _miss_what_waits(webhook)
        model.Session.flush()
        cancel_pending(webhook.id, "the address changed and is not verified yet")
    if was != WebhookState.ACTIVE.value or verification.is_open(webhook):
        make_active(webhook)


def cancel_pending(webhook_id: str, reason: str) -> None:
    model.Session.execute(_CANCEL_PENDING, {"id": webhook_id, "reason": reason})


_CANCEL_PENDING = sa.text(
    f"""
    UPDATE webhooks_delivery
    SET status = 'cancelled', reason = :reason, ended_at = clock_timestamp()
    WHERE status = 'pending' AND id = ANY(ARRAY({pending_of(":id")}))
    """
)


def settable(webhook: Any) -> str:
    # A paused webhook is one that its owner left active.
    disabled = webhook.state == WebhookState.DISABLED.value
    return (WebhookState.DISABLED if disabled else WebhookState.ACTIVE).value
