"""What each action takes."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
from ckan import model
from ckan.logic.schema import validator_args

from .. import topics
from ..model import Format, Status, WebhookState

# A page of a listing: enough for a screen, and bounded for the server.
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
# PostgreSQL's largest.
MAX_OFFSET = 2**63 - 1
MAX_DESCRIPTION = 1000
# What a page draws.
MAX_IDS, MAX_DAYS, MAX_STEPS = 100, 31, 96
# A year: longer than anything is kept where nothing else is said.
MAX_HOURS = 366 * 24


def validate(
    data_dict: dict[str, Any], schema_: Any, context: Any, are_all: bool = True
) -> dict[str, Any]:
    """Give what an action was given, as its schema has it.

    :param are_all: what is not given is missing, or has its default; else it is left out
    :raises ValidationError: with each field, the reason, and what would be right
    """
    # Missing keys of other people's schemas would be dropped in silence.
    unknown = sorted(set(data_dict) - set(schema_) - {"__extras", "__junk"})
    wanted = schema_ if are_all else {name: schema_[name] for name in schema_ if name in data_dict}
    data, errors = tk.navl_validate(data_dict, wanted, context)
    for name in unknown:
        errors[name] = [tk._("Unknown parameter: choose from %s") % ", ".join(sorted(schema_))]
    for name in schema_:
        if _is_list_of_objects(data_dict.get(name)):
            errors[name] = [tk._("Must not be a list of objects")]
    if errors:
        model.Session.rollback()
        raise tk.ValidationError(errors)
    return dict(data)


def _is_list_of_objects(value: Any) -> bool:
    """Tell what CKAN takes for fields within a field, and 2.10 and 2.11 drop in silence."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


@validator_args
def webhook_create(
    not_empty: Any,
    ignore_missing: Any,
    ignore_empty: Any,
    default: Any,
    one_of: Any,
    webhooks_text: Any,
    webhooks_topics: Any,
    webhooks_address: Any,
    webhooks_filters: Any,
    webhooks_headers: Any,
    webhooks_secret: Any,
    webhooks_max_length: Any,
    webhooks_max_rate: Any,
    webhooks_flag: Any,
) -> dict[str, Any]:
    return {
        "topic": [not_empty, webhooks_topics],
        "address": [not_empty, webhooks_address],
        "description": [ignore_empty, webhooks_text, webhooks_max_length(MAX_DESCRIPTION)],
        "filters": [ignore_empty, webhooks_filters],
        "format": [default(Format.CLASSIC.value), one_of([f.value for f in Format])],
        "headers": [ignore_empty, webhooks_headers],
        "max_rate": [ignore_missing, webhooks_max_rate],
        "coalesce": [default(False), webhooks_flag],
        "secret": [ignore_missing, webhooks_secret],
    }


@validator_args
def webhook_update(
    not_empty: Any, webhooks_text: Any, default: Any, one_of: Any, empty: Any
) -> dict[str, Any]:
    states = [WebhookState.ACTIVE.value, WebhookState.DISABLED.value]
    schema = webhook_create()
    # webhook_secret_rotate changes it, so that the old one signs for a while.
    schema["secret"] = [empty]
    return {
        **schema,
        "id": [not_empty, webhooks_text],
        "state": [default(WebhookState.ACTIVE.value), one_of(states)],
    }


@validator_args
def only_id(not_empty: Any, webhooks_text: Any) -> dict[str, Any]:
    return {"id": [not_empty, webhooks_text]}


@validator_args
def webhook_verify(not_empty: Any, webhooks_text: Any) -> dict[str, Any]:
    return {"id": [not_empty, webhooks_text], "challenge": [not_empty, webhooks_text]}


@validator_args
def webhook_list(
    ignore_empty: Any,
    ignore_missing: Any,
    one_of: Any,
    default: Any,
    natural_number_validator: Any,
    webhooks_text: Any,
    webhooks_topic: Any,
    webhooks_at_most: Any,
    webhooks_flag: Any,
) -> dict[str, Any]:
    return {
        "user": [ignore_empty, webhooks_text],
        "state": [ignore_empty, one_of([s.value for s in WebhookState])],
        "topic": [ignore_empty, webhooks_topic],
        "host": [ignore_empty, webhooks_text],
        "failing": [ignore_missing, webhooks_flag],
        "limit": [
            default(DEFAULT_LIMIT),
            natural_number_validator,
            webhooks_at_most(MAX_LIMIT),
        ],
        "offset": [default(0), natural_number_validator, webhooks_at_most(MAX_OFFSET)],
    }


@validator_args
def webhook_secret_rotate(
    not_empty: Any, ignore_missing: Any, webhooks_text: Any, webhooks_secret: Any
) -> dict[str, Any]:
    return {"id": [not_empty, webhooks_text], "secret": [ignore_missing, webhooks_secret]}


@validator_args
def webhook_event_list(
    ignore_empty: Any,
    default: Any,
    natural_number_validator: Any,
    is_positive_integer: Any,
    webhooks_topic: Any,
    webhooks_at_most: Any,
) -> dict[str, Any]:
    return {
        "after": [default(0), natural_number_validator, webhooks_at_most(MAX_OFFSET)],
        "topic": [ignore_empty, webhooks_topic],
        "limit": [default(DEFAULT_LIMIT), is_positive_integer, webhooks_at_most(MAX_LIMIT)],
    }


@validator_args
def only_number(
    not_empty: Any, natural_number_validator: Any, webhooks_at_most: Any
) -> dict[str, Any]:
    return {"id": [not_empty, natural_number_validator, webhooks_at_most(MAX_OFFSET)]}


@validator_args
def maybe_number(
    ignore_empty: Any, natural_number_validator: Any, webhooks_at_most: Any
) -> dict[str, Any]:
    return {"id": [ignore_empty, natural_number_validator, webhooks_at_most(MAX_OFFSET)]}


@validator_args
def webhook_quarantine_list(
    default: Any, is_positive_integer: Any, webhooks_at_most: Any
) -> dict[str, Any]:
    return {"limit": [default(DEFAULT_LIMIT), is_positive_integer, webhooks_at_most(MAX_LIMIT)]}


@validator_args
def webhook_delivery_list(
    ignore_empty: Any,
    default: Any,
    one_of: Any,
    is_positive_integer: Any,
    natural_number_validator: Any,
    webhooks_at_most: Any,
    webhooks_moment: Any,
) -> dict[str, Any]:
    return {
        **only_id(),
        "status": [ignore_empty, one_of([s.value for s in Status])],
        "topic": [ignore_empty, one_of([*topics.TOPICS, *topics.PATTERNS, topics.PING])],
        "since": [ignore_empty, webhooks_moment],
        "until": [ignore_empty, webhooks_moment],
        "cursor": [ignore_empty, natural_number_validator, webhooks_at_most(MAX_OFFSET)],
        "limit": [default(DEFAULT_LIMIT), is_positive_integer, webhooks_at_most(MAX_LIMIT)],
    }


@validator_args
def webhook_replay(
    ignore_empty: Any,
    default: Any,
    natural_number_validator: Any,
    webhooks_at_most: Any,
    webhooks_flag: Any,
    webhooks_moment: Any,
) -> dict[str, Any]:
    return {
        **only_id(),
        "since": [ignore_empty, webhooks_moment],
        "until": [ignore_empty, webhooks_moment],
        "failed_only": [default(False), webhooks_flag],
        "dry_run": [default(False), webhooks_flag],
        "cursor": [ignore_empty, natural_number_validator, webhooks_at_most(MAX_OFFSET)],
    }


@validator_args
def webhook_stats(
    ignore_empty: Any,
    default: Any,
    is_positive_integer: Any,
    webhooks_at_most: Any,
    webhooks_text: Any,
) -> dict[str, Any]:
    return {
        "id": [ignore_empty, webhooks_text],
        "hours": [default(24), is_positive_integer, webhooks_at_most(MAX_HOURS)],
    }


@validator_args
def webhook_history(
    not_empty: Any,
    default: Any,
    is_positive_integer: Any,
    webhooks_at_most: Any,
    webhooks_ids: Any,
) -> dict[str, Any]:
    return {
        "ids": [not_empty, webhooks_ids(MAX_IDS)],
        "days": [default(14), is_positive_integer, webhooks_at_most(MAX_DAYS)],
    }


@validator_args
def webhook_dataset_told(
    default: Any, is_positive_integer: Any, natural_number_validator: Any, webhooks_at_most: Any
) -> dict[str, Any]:
    return {
        **only_id(),
        "before": [default(MAX_OFFSET), natural_number_validator, webhooks_at_most(MAX_OFFSET)],
        "limit": [default(20), is_positive_integer, webhooks_at_most(100)],
    }


@validator_args
def webhook_load(default: Any, is_positive_integer: Any, webhooks_at_most: Any) -> dict[str, Any]:
    return {
        "hours": [default(24), is_positive_integer, webhooks_at_most(MAX_HOURS)],
        "steps": [default(48), is_positive_integer, webhooks_at_most(MAX_STEPS)],
    }
