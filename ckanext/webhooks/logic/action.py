"""The ``webhook_*`` actions."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model
from sqlalchemy.exc import ProgrammingError

from .. import config, encryption, topics
from ..model import Webhook, WebhookState
from ..model.base import HOW_TO_MIGRATE, is_missing_table
from . import bounds, find, schema, states, verification
from .again import webhook_redeliver, webhook_replay
from .deliveries import webhook_delivery_list, webhook_delivery_show
from .feed import webhook_event_list
from .history import webhook_history, webhook_load
from .ping import webhook_ping
from .quarantine import (
    webhook_quarantine_give_up,
    webhook_quarantine_list,
    webhook_quarantine_retry,
)
from .saving import commit
from .secret import webhook_secret_rotate, webhook_secret_show
from .shown import dictized
from .stats import webhook_stats
from .told import webhook_dataset_told


def actions() -> dict[str, Callable[..., Any]]:
    """Give the actions by name."""
    functions = (
        webhook_create,
        webhook_show,
        webhook_list,
        webhook_update,
        webhook_patch,
        webhook_delete,
        webhook_secret_show,
        webhook_secret_rotate,
        webhook_verify,
        webhook_ping,
        webhook_delivery_list,
        webhook_delivery_show,
        webhook_redeliver,
        webhook_replay,
        webhook_topic_list,
        webhook_event_list,
        webhook_stats,
        webhook_history,
        webhook_load,
        webhook_dataset_told,
        webhook_quarantine_list,
        webhook_quarantine_retry,
        webhook_quarantine_give_up,
    )
    return {function.__name__: _saying_what_is_missing(function) for function in functions}


def _saying_what_is_missing(action: Callable[..., Any]) -> Callable[..., Any]:
    """Let an action say how to make the tables, rather than that a statement failed."""

    @functools.wraps(action)
    def checked(context: Any, data_dict: dict[str, Any]) -> Any:
        try:
            return action(context, data_dict)
        except ProgrammingError as error:
            if not is_missing_table(error):
                raise
            model.Session.rollback()
            message = tk._("The tables of the webhooks plugin are missing: %s") % HOW_TO_MIGRATE
            raise tk.ValidationError({"message": [message]}) from None

    return checked


def webhook_create(context: Any, data_dict: dict[str, Any]) -> str:
    """Register an address to be called when datasets or resources change.

    Its owner is the caller, and it is told what the caller may see. You must
    have the role that ``ckanext.webhooks.minimum_auth`` asks for.

    :param topic: what to be told of: a topic, or a list of them; see
        :func:`webhook_topic_list`
    :type topic: string or list of strings
    :param address: the URL to call, ``http://`` or ``https://``
    :type address: string
    :param description: for yourself (optional)
    :type description: string
    :param filters: tell only of datasets that match all of these: any of
        ``organization``, ``group``, ``dataset`` (each id or name), ``tag``
        and ``type``, with a value or a list of values (optional)
    :type filters: dictionary
    :param format: how the body is laid out: ``classic`` (default),
        ``standard`` (Standard Webhooks) or ``cloudevents`` (CloudEvents 1.0)
    :type format: string
    :param headers: headers to send along, for example ``Authorization``;
        they are stored encrypted and never shown again (optional)
    :type headers: dictionary
    :param max_rate: at most so many deliveries a minute; what is more waits
        (optional)
    :type max_rate: int
    :param coalesce: of what waits, tell only the newest state of each dataset
        and resource (default false)
    :type coalesce: bool
    :param secret: the signing secret, ``whsec_`` and the base64 of 24 to 64
        bytes (optional, one is made)
    :type secret: string

    :returns: the id of the new webhook
    :rtype: string
    """
    tk.check_access("webhook_create", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_create(), context)
    webhook = Webhook(user_id=_user_id(context))
    _assign(webhook, {**data, "headers": _encrypted(data.get("headers"))})
    webhook.set_secret(data.get("secret") or encryption.new_secret())
    verification.demand(webhook)
    model.Session.add(webhook)
    states.make_active(webhook)
    bounds.check_owner(context, webhook)
    bounds.check_host(context, webhook)
    commit(context)
    states.nudge_to_verify(webhook)
    return str(webhook.id)


@tk.side_effect_free
def webhook_show(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Show a webhook. You must own it, or be a sysadmin.

    :param id: of the webhook
    :type id: string

    :returns: id, topic, topics, address, user_id, created_at, state,
        state_reason, description, filters, format, max_rate, coalesce, the
        names of its custom headers, and health; never the secret. ``health``
        has state_reason, ``circuit`` (``open`` while all waits for a probe at
        ``next_try``), ``failures`` in a row, ``failing_since``,
        ``last_success_at``, ``last_failure_at``, and ``missed_since``, from
        when on it was not told
    :rtype: dictionary
    """
    return dictized(find.webhook("webhook_show", context, data_dict))


@tk.side_effect_free
def webhook_list(context: Any, data_dict: dict[str, Any]) -> list[dict[str, Any]]:
    """List webhooks, the newest first. Sysadmins see everyone's, others their own.

    :param user: id or name of the owner (optional)
    :type user: string
    :param state: ``active``, ``paused``, ``disabled`` or ``unverified`` (optional)
    :type state: string
    :param topic: only those that are told of this topic (optional)
    :type topic: string
    :param host: only those that call this host, as their addresses name it (optional)
    :type host: string
    :param failing: only active ones that fail, or that do not (optional)
    :type failing: bool
    :param limit: at most so many (default 100, at most 1000)
    :type limit: int
    :param offset: skip so many (default 0)
    :type offset: int

    :returns: as :func:`webhook_show` gives them
    :rtype: list of dictionaries
    """
    tk.check_access("webhook_list", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_list(), context)
    query = model.Session.query(Webhook)
    owner_id = _wanted_owner(context, data.get("user"))
    if owner_id is not None:
        query = query.filter(Webhook.user_id == owner_id)
    if "state" in data:
        query = query.filter(Webhook.state == data["state"])
    if "topic" in data:
        query = query.filter(Webhook.topics.overlap(list(topics.matching(data["topic"]))))
    if "host" in data:
        query = query.filter(Webhook.host == data["host"].lower())
    if "failing" in data:
        fails = sa.and_(Webhook.state == "active", Webhook.failing_since.isnot(None))
        query = query.filter(fails if data["failing"] else sa.not_(fails))
    page = query.order_by(Webhook.created_at.desc(), Webhook.id)
    page = page.limit(data["limit"]).offset(data["offset"])
    return [dictized(webhook) for webhook in page]


def webhook_update(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Replace what a webhook was registered with. You must own it, or be a sysadmin.

    What is left out goes back to its default; :func:`webhook_patch` keeps
    it. Takes what :func:`webhook_create` takes, but no secret (see
    :func:`webhook_secret_rotate`), and:

    :param id: of the webhook
    :type id: string
    :param state: ``active`` (default), or ``disabled``: then what waits is
        cancelled, and nothing is told until it is active again
    :type state: string

    :returns: the webhook as :func:`webhook_show` gives it
    :rtype: dictionary
    """
    webhook = find.webhook("webhook_update", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_update(), context)
    return _update(context, webhook, {**data, "headers": _encrypted(data.get("headers"))})


def webhook_patch(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Change some of what a webhook was registered with.

    Takes what :func:`webhook_update` takes; only ``id`` is required, and
    what is left out stays as it is, whatever has become of it: only what is
    given is looked at, and, where that makes the webhook active again, where
    it is to be told what.

    :returns: the webhook as :func:`webhook_show` gives it
    :rtype: dictionary
    """
    webhook = find.webhook("webhook_patch", context, data_dict)
    kept = {
        "topic": webhook.topics,
        "address": webhook.address,
        "description": webhook.description,
        "filters": webhook.filters,
        "format": webhook.format,
        "max_rate": webhook.max_rate,
        "coalesce": webhook.newest_only,
        "headers": webhook.headers,
        "state": states.settable(webhook),
    }
    given = dict(data_dict)
    if given.get("state") == WebhookState.ACTIVE.value != kept["state"]:
        given = {"topic": kept["topic"], "address": kept["address"], **given}
    data = schema.validate(given, schema.webhook_update(), context, are_all=False)
    if "headers" in given:
        data["headers"] = _encrypted(data.get("headers"))
    # What is given empty has gone from what was validated.
    return _update(context, webhook, {**kept, **dict.fromkeys(given), **data})


def webhook_delete(context: Any, data_dict: dict[str, Any]) -> str:
    """Delete a webhook; what waits for it is cancelled. You must own it, or be a sysadmin.

    :param id: of the webhook
    :type id: string

    :returns: the id
    :rtype: string
    """
    webhook = find.webhook("webhook_delete", context, data_dict)
    model.Session.delete(webhook)
    model.Session.flush()
    states.cancel_pending(webhook.id, "the webhook was deleted")
    commit(context)
    return str(webhook.id)


def webhook_verify(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Confirm with the challenge that an endpoint received that it may be called.

    Only where ``ckanext.webhooks.verify`` is on, and for an endpoint that
    does not answer the ping with the challenge by itself. You must own the
    webhook, or be a sysadmin.

    :param id: of the webhook
    :type id: string
    :param challenge: as the endpoint received it in the last ping
    :type challenge: string

    :returns: the webhook as :func:`webhook_show` gives it
    :rtype: dictionary
    """
    webhook = find.webhook("webhook_verify", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_verify(), context)
    if webhook.state != WebhookState.UNVERIFIED.value:
        raise tk.ValidationError({"id": [tk._("It is %s, not unverified") % webhook.state]})
    if not verification.is_answered(webhook, data["challenge"]):
        message = tk._("This is not the challenge; webhook_ping sends it once more")
        raise tk.ValidationError({"challenge": [message]})
    webhook.challenge = None
    states.make_active(webhook)
    commit(context)
    model.Session.refresh(webhook)
    return dictized(webhook)


@tk.side_effect_free
def webhook_topic_list(context: Any, data_dict: dict[str, Any]) -> list[dict[str, str]]:
    """List the topics that can be subscribed to.

    ``dataset/*``, ``resource/*`` and ``*`` stand for several.

    :returns: ``topic`` and ``description`` of each
    :rtype: list of dictionaries
    """
    tk.check_access("webhook_topic_list", context, data_dict)
    return [{"topic": name, "description": tk._(text)} for name, text in topics.TOPICS.items()]


def _assign(webhook: Any, data: dict[str, Any]) -> None:
    webhook.topics = data["topic"]
    webhook.topic = topics.column_text(data["topic"])
    webhook.address = data["address"]
    webhook.description = data.get("description")
    webhook.filters = data.get("filters") or {}
    webhook.format = data["format"]
    webhook.max_rate = data.get("max_rate")
    webhook.newest_only = data["coalesce"]
    webhook.headers = data["headers"]


def _encrypted(headers: dict[str, str] | None) -> str | None:
    return encryption.encrypt(json.dumps(headers), config.secret_keys()) if headers else None


def _update(context: Any, webhook: Any, data: dict[str, Any]) -> dict[str, Any]:
    """:param data: of all that a webhook is registered with; its headers are encrypted"""
    was, moved = webhook.state, webhook.address != data["address"]
    _assign(webhook, data)
    webhook.updated_at = sa.text("timezone('utc', clock_timestamp())")
    if moved:
        verification.demand(webhook)
        states.forget_trouble(webhook)
    if data["state"] == WebhookState.DISABLED.value:
        if was != WebhookState.DISABLED.value:
            states.disable(webhook)
    else:
        states.enable(webhook, was, moved)
        if moved or was == WebhookState.DISABLED.value:
            bounds.check_host(context, webhook)
    commit(context)
    states.nudge_to_verify(webhook)
    model.Session.refresh(webhook)
    return dictized(webhook)


def _user_id(context: Any) -> str:
    user = model.User.get(context["user"])
    if user is None:  # auth was ignored, and a webhook is told what its owner may see
        raise tk.NotAuthorized(tk._("A webhook needs an owner: log in, or send an API token"))
    return str(user.id)


def _wanted_owner(context: Any, user: str | None) -> str | None:
    """Give the id of the owner whose webhooks are wanted, None for everyone's."""
    if user:
        found = model.User.get(user)
        if found is None:
            raise tk.ObjectNotFound(tk._("There is no user %s") % user)
        return str(found.id)
    caller = model.User.get(context["user"])
    return None if caller is None or caller.sysadmin else str(caller.id)
