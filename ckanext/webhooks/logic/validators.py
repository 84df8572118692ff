"""What values may be, with errors that say what would be right."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from typing import Any

import ckan.plugins.toolkit as tk
from ckan import model

from .. import config, encryption, topics
from ..deliver import addresses, is_own
from ..phrases import translated

# Token of RFC 9110, section 5.6.2.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
# Visible ASCII, and spaces between: what every server takes (RFC 9110, 5.5).
_HEADER_VALUE = re.compile(r"[!-~]([ -~]{0,3998}[!-~])?")
_MAX_HEADERS = 20
# What this software or the connection sets, or what would make the request say
# something else than it is. Together with the prefixes: the framing and hop-by-hop
# fields of RFC 9110 (sections 6.6, 7.2, 7.6.1, 10.1) and RFC 7540 (3.2.1), the
# forbidden request-headers of Fetch (https://fetch.spec.whatwg.org/#forbidden-request-header),
# what proxies say of where a request comes from (RFC 7239, RFC 9110 7.6.3), and the
# headers by which clouds tell that a request to their metadata is meant.
_OWN_HEADERS = frozenset(
    {
        "accept-charset",
        "accept-encoding",
        "alt-used",
        "close",
        "connection",
        "cookie",
        "cookie2",
        "date",
        "dnt",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "metadata",
        "metadata-flavor",
        "origin",
        "referer",
        "set-cookie",
        "set-cookie2",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
        "x-google-metadata-request",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-real-ip",
    }
)
_OWN_PREFIXES = (
    "access-control-",
    "content-",
    "proxy-",
    "sec-",
    "webhook-",
    "x-aws-ec2-metadata-",
    "x-forwarded-",
)
_MAX_FILTER_VALUES = 100
# A thousand a second, which is more than one endpoint is sent in any case.
MAX_RATE = 60_000
# What PostgreSQL cannot hold, and what is half a character in JSON.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def validators() -> dict[str, Callable[..., Any]]:
    """Give the validators by the names under which schemas ask for them."""
    return {
        "webhooks_address": address,
        "webhooks_at_most": at_most,
        "webhooks_filters": filters,
        "webhooks_flag": flag,
        "webhooks_headers": headers,
        "webhooks_ids": ids,
        "webhooks_max_length": max_length,
        "webhooks_max_rate": max_rate,
        "webhooks_moment": moment,
        "webhooks_secret": secret,
        "webhooks_text": text,
        "webhooks_topic": topic,
        "webhooks_topics": topic_list,
    }


def text(value: Any) -> str:
    """Accept text alone: an id that is a number or a list is a mistake."""
    if not isinstance(value, str):
        raise tk.Invalid(tk._("Must be text"))
    if _UNSTORABLE.search(value):
        raise tk.Invalid(tk._("Must not contain NUL or half characters"))
    return value


# CKAN calls every validator of a field, also after one has refused the value:
# these two may meet what is neither text nor a number.


def max_length(limit: int) -> Callable[[str], str]:
    def check(value: str) -> str:
        if isinstance(value, str) and len(value) > limit:
            raise tk.Invalid(tk._("Must not be longer than %d characters") % limit)
        return value

    return check


def at_most(limit: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if isinstance(value, int) and value > limit:
            raise tk.Invalid(tk._("Must not be more than %d") % limit)
        return value

    return check


def ids(most: int) -> Callable[[Any], list[str]]:
    def check(value: Any) -> list[str]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)) or len(values) > most:
            raise tk.Invalid(tk._("Must be a list of at most %d ids") % most)
        return list(dict.fromkeys(text(each) for each in values))

    return check


def flag(value: Any) -> bool:
    """Accept a yes or a no. CKAN's own takes whatever it does not know for a no."""
    found = _FLAGS.get(str(value).strip().lower())
    if found is None:
        raise tk.Invalid(tk._("Must be true or false"))
    return found


_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def max_rate(value: Any) -> int:
    """Accept a number of deliveries a minute."""
    text_ = str(value).strip()
    is_number = not isinstance(value, bool) and re.fullmatch("[0-9]{1,9}", text_)
    if not is_number or not 1 <= int(text_) <= MAX_RATE:
        raise tk.Invalid(
            tk._("Must be a whole number of deliveries a minute, from 1 to %d") % MAX_RATE
        )
    return int(text_)


def moment(value: Any) -> datetime.datetime:
    """Accept a time as the actions give them; without an offset it is UTC."""
    try:
        # Python 3.10 reads no Z.
        found = datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text(value).strip()))
    except ValueError:
        raise tk.Invalid(tk._("Must be a time, as in 2026-11-24T18:27:56Z")) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.timezone.utc)
    try:
        found = found.astimezone(datetime.timezone.utc)
    except OverflowError:  # in UTC it is of the year before the first, or after the last
        found = _FIRST_MOMENT if found.year == 1 else _LAST_MOMENT
    return min(max(found, _FIRST_MOMENT), _LAST_MOMENT)


# A day from Python's ends: hours are added to a time, and taken from it. Nothing was told then.
_FIRST_MOMENT = datetime.datetime(1, 1, 2, tzinfo=datetime.timezone.utc)
_LAST_MOMENT = datetime.datetime(9999, 12, 30, tzinfo=datetime.timezone.utc)


def topic(value: Any) -> str:
    """Accept one topic or pattern."""
    if not isinstance(value, str) or not topics.is_subscribable(value):
        raise tk.Invalid(
            tk._("Unknown topic %r: choose from %s")
            % (value, ", ".join((*topics.TOPICS, *topics.PATTERNS)))
        )
    return value


def topic_list(value: Any) -> list[str]:
    """Accept one topic or several, and give them as a list without repeats.

    The column of the 2015 extension, several separated by commas, is read
    too: ``webhook_show`` gives it, and it may be sent back.
    """
    values = value.split(",") if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not values:
        raise tk.Invalid(tk._("Must be a topic or a list of topics"))
    return list(dict.fromkeys(topic(v.strip() if isinstance(v, str) else v) for v in values))


def address(value: Any) -> str:
    """Accept a URL that may be called, as far as it shows before it is resolved."""
    if not isinstance(value, str):
        raise tk.Invalid(tk._("Must be a URL, as in https://example.com/callback"))
    value = value.strip()
    try:
        addresses.check_url(value, config.allowed_networks(), is_own)
    except addresses.RefusedAddress as error:
        raise tk.Invalid(tk._("The address is refused: %s") % translated(str(error))) from None
    return value


def filters(value: Any) -> dict[str, list[str]]:
    """Accept facets with the values they may have, and give ids for names."""
    value = _json_object(value, "filters")
    unknown = sorted(str(k) for k in value if k not in _FACETS)
    if unknown:
        raise tk.Invalid(
            tk._("Unknown filter %s: choose from %s")
            % (", ".join(unknown), ", ".join(sorted(_FACETS)))
        )
    found: dict[str, list[str]] = {}
    for facet, given in value.items():
        values = [given] if isinstance(given, str) else given
        if (
            not isinstance(values, list)
            or not 0 < len(values) <= _MAX_FILTER_VALUES
            or not all(isinstance(v, str) and v for v in values)
        ):
            raise tk.Invalid(
                tk._("Filter %s must be text or a list of 1 to %d texts")
                % (facet, _MAX_FILTER_VALUES)
            )
        found[facet] = sorted({_FACETS[facet](text(v)) for v in values})
    return found


def headers(value: Any) -> dict[str, str]:
    """Accept custom headers that leave the software's own alone."""
    value = _json_object(value, "headers")
    if len(value) > _MAX_HEADERS:
        raise tk.Invalid(tk._("Must not be more than %d headers") % _MAX_HEADERS)
    for name, content in value.items():
        lowered = str(name).lower()
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise tk.Invalid(tk._("%r is not the name of a header") % name)
        if lowered in _OWN_HEADERS or lowered.startswith(_OWN_PREFIXES):
            raise tk.Invalid(tk._("Header %s is set by the software itself") % name)
        if not isinstance(content, str) or not _HEADER_VALUE.fullmatch(content):
            # The value stays unsaid: it may be a credential.
            raise tk.Invalid(
                tk._("The value of header %s must be 1 to 4000 visible ASCII characters") % name
            )
    return {str(name): str(content) for name, content in value.items()}


def secret(value: Any) -> str:
    """Accept a signing secret in the form of Standard Webhooks."""
    try:
        encryption.secret_bytes(text(value))
    except ValueError as error:
        raise tk.Invalid(tk._("The secret %s") % error) from None
    return str(value)


def _json_object(value: Any, what: str) -> dict[Any, Any]:
    """Read an object, or the JSON text of one, as a form or curl may send it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    if not isinstance(value, dict):
        raise tk.Invalid(tk._("%s must be an object of names and values") % what)
    return value


def _organization(value: str) -> str:
    group = model.Group.get(value)
    if group is None or not group.is_organization:
        raise tk.Invalid(tk._("There is no organization %s") % value)
    return str(group.id)


def _group(value: str) -> str:
    group = model.Group.get(value)
    if group is None or group.is_organization:
        raise tk.Invalid(tk._("There is no group %s") % value)
    return str(group.id)


def _as_given(value: str) -> str:
    return value


# A dataset is not looked up: whether a private one exists is not for everyone
# to know, and one that is still to come may be waited for by its name.
_FACETS: dict[str, Callable[[str], str]] = {
    "dataset": _as_given,
    "group": _group,
    "organization": _organization,
    "tag": _as_given,
    "type": _as_given,
}
