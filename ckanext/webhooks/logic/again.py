"""What was told, told again: one delivery, or all since a time."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from .. import queue
from ..dispatch import replay
from ..model import Event, Status, Webhook, WebhookState
from ..phrases import translated
from ..topics import PING
from . import find, schema, sight
from .saving import commit


def webhook_redeliver(context: Any, data_dict: dict[str, Any]) -> int:
    """Tell a webhook once more what a delivery told it, or failed to.

    It is the same event and so has the same ``webhook-id``; its receiver may
    drop it as one that it has had. It is sent for what the webhook's owner
    may see then. You must own the webhook, or be a sysadmin.

    :param id: of a delivery that ended, see :func:`webhook_delivery_list`
    :type id: int

    :returns: the id of the new delivery
    :rtype: int
    """
    delivery = find.delivery("webhook_redeliver", context, data_dict)
    webhook = Webhook.get(delivery.webhook_id)
    reason = _refusal(delivery, webhook)
    if reason is not None:
        raise tk.ValidationError({"id": [reason]})
    told = replay.tell_failed(model.Session.connection(), webhook.id, [delivery.id])
    if not told:
        model.Session.rollback()
        raise tk.ValidationError({"id": [tk._("The webhook changed a moment ago: ask again")]})
    commit(context)
    queue.nudge()
    return told[0]


def webhook_replay(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Tell a webhook again what happened since a time.

    That is all in the log that its topics, its filters and what its owner may
    see now let through, also what was told before and what happened before
    the webhook was there; a long time ago it begins with each dataset there
    is. What is waiting already is not told twice. It waits behind what
    waits, so that nobody else notices. You must own the webhook, or be a
    sysadmin.

    :param id: of the webhook
    :type id: string
    :param since: all that was to be told at this time or later, as in
        ``2026-11-24T18:27:56Z`` (optional where the webhook has
        ``missed_since``, which is forgotten then, and with ``failed_only``)
    :type since: string
    :param until: and before this time (optional)
    :type until: string
    :param failed_only: only what failed, or was cancelled while nothing else
        says it, and was not told since (default false)
    :type failed_only: bool
    :param dry_run: only count: nothing is told, and nothing is changed (default
        false)
    :type dry_run: bool
    :param cursor: where to go on (optional)
    :type cursor: int

    :returns: ``deliveries``: how many are to be sent now, or would be; and
        ``cursor``: there may be more, call again with it and all else as
        before; none where that was all
    :rtype: dictionary
    """
    webhook = find.webhook("webhook_replay", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_replay(), context)
    if webhook.state != WebhookState.ACTIVE.value:
        raise tk.ValidationError({"id": [_not_active(webhook)]})
    since = data.get("since") or (None if data["failed_only"] else webhook.missed_since)
    if since is None and not data["failed_only"]:
        why = tk._("Missing value: the webhook missed nothing by itself, so say since when")
        raise tk.ValidationError({"since": [why]})
    deliveries, cursor = _replay(context, webhook, {**data, "since": since})
    if data["dry_run"]:
        return {"deliveries": deliveries, "cursor": cursor}
    is_whole = cursor is None and not data["failed_only"] and data.get("until") is None
    if is_whole:
        model.Session.execute(_MISSED_NOTHING, {"id": webhook.id, "since": since})
        commit(context)
    queue.nudge()
    return {"deliveries": deliveries, "cursor": cursor}


def _replay(context: Any, webhook: Any, data: dict[str, Any]) -> tuple[int, int | None]:
    """Write a page of what is to be told again, some of it at a time."""
    webhook_id = webhook.id
    asked = (data["since"], data.get("until"), data.get("cursor"))
    connection = model.Session.connection()
    if data["failed_only"]:
        page = replay.failed(connection, webhook_id, *asked)
    else:
        labels = sight.labels_of(webhook.user_id)
        page = replay.events(connection, webhook, labels, *asked)
    count = 0
    for first in range(0, len(page.found), replay.AT_ONCE):
        some = page.found[first : first + replay.AT_ONCE]
        told = (_count if data["dry_run"] else _tell)(webhook_id, some, data["failed_only"])
        if told is None:
            model.Session.rollback()
            raise tk.ValidationError({"id": [_not_active(Webhook.get(webhook_id))]})
        count += told
        if not data["dry_run"]:
            commit(context)
    return count, page.cursor


def _count(webhook_id: str, some: list[Any], failed_only: bool) -> int | None:
    """Count what would be told: by telling it and taking that back, so that no rule differs."""
    with model.Session.connection().begin_nested() as taken_back:
        told = _tell(webhook_id, some, failed_only)
        taken_back.rollback()
    return told


def _tell(webhook_id: str, some: list[Any], failed_only: bool) -> int | None:
    connection = model.Session.connection()
    if not failed_only:
        return replay.tell(connection, webhook_id, some)
    told = replay.tell_failed(connection, webhook_id, some)
    return None if told is None else len(told)


def _refusal(delivery: Any, webhook: Any) -> str | None:
    """Say why a delivery cannot be made again, or None."""
    if delivery.status == Status.PENDING.value:
        return tk._("It is still to be sent, and has not ended")
    if delivery.topic == PING:
        return tk._("It was a ping: webhook_ping sends another")
    if webhook is None or webhook.state != WebhookState.ACTIVE.value:
        return _not_active(webhook)
    if model.Session.query(Event.id).filter(Event.id == delivery.event_id).first() is None:
        return tk._("The event is not in the log any more, which keeps it for some time only")
    return None


def _not_active(webhook: Any) -> str:
    if webhook is None:
        return tk._("The webhook was deleted")
    return tk._("The webhook is %s, not active: %s") % (
        tk._(webhook.state),
        translated(webhook.state_reason or webhook.state),
    )


_MISSED_NOTHING = sa.text(
    "UPDATE webhooks SET missed_since = NULL WHERE id = :id AND missed_since >= :since"
)
