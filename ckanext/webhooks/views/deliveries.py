"""One webhook with what it was told; one delivery; and telling it again."""

from __future__ import annotations

import time
from typing import Any

import ckan.plugins.toolkit as tk
import flask

from ..deliver.message import CONTENT_TYPES
from ..model import Status
from ..topics import PING, TOPICS
from .calling import attempt, call, may, show

# As many as one screen holds.
_ON_A_PAGE = 25
# Seconds after which a replay that goes on asks to be continued, before a proxy gives up.
_REPLAYS_FOR = 5.0
_FILTERS = ("status", "topic", "since", "until")


def read(id_: str) -> Any:
    """One webhook: how it is, and its deliveries."""
    webhook = show("webhook_show", id=id_)
    given = {name: flask.request.args.get(name, "").strip() for name in (*_FILTERS, "cursor")}
    try:
        page = call("webhook_delivery_list", id=id_, limit=_ON_A_PAGE, **_given(given))
        errors: dict[str, Any] = {}
    except tk.ValidationError as error:
        page, errors = {"deliveries": [], "cursor": None}, error.error_dict
    return tk.render(
        "webhooks/read.html",
        {
            "webhook": webhook,
            "days": call("webhook_history", ids=[id_])[id_],
            "deliveries": page["deliveries"],
            "cursor": page["cursor"],
            "wanted": given,
            "filters": {name: given[name] for name in _FILTERS if given[name]},
            "errors": errors,
            "statuses": [status.value for status in Status],
            "topics": [*TOPICS, PING],
            "may_update": may("webhook_update", id=id_),
        },
    )


def ping(id_: str) -> Any:
    """Send a test, and show what came of it."""
    sent = attempt("webhook_ping", id=id_)
    if sent is None:
        return tk.redirect_to("webhooks.read", id_=id_)
    if sent["error"] is None and sent["http_status"] < 300:
        tk.h.flash_success(tk._("The endpoint answered"))
    else:
        tk.h.flash_error(tk._("The test did not succeed"))
    return tk.redirect_to("webhooks.delivery", number=sent["delivery_id"])


def replay(id_: str) -> Any:
    """Tell again what happened since a time, once it was said how much that is.

    A long replay is continued by the form.
    """
    webhook = show("webhook_show", id=id_)
    if flask.request.method == "GET":
        return _replay_form(webhook, {"since": webhook["health"]["missed_since"]}, {})
    given = {name: flask.request.form.get(name, "").strip() for name in ("since", "cursor")}
    wanted = {**given, "failed_only": "failed_only" in flask.request.form}
    # What is asked for may have been changed after it was counted.
    is_counted = flask.request.form.get("counted") == _asked(wanted)
    if not is_counted:
        wanted["cursor"] = ""
    try:
        count, cursor = _replay(id_, {**_given(wanted), "dry_run": not is_counted})
    except tk.ValidationError as error:
        return _replay_form(webhook, wanted, error.error_dict)
    if not is_counted:
        counted = {"counted": _asked(wanted), "would_be": count, "is_more": cursor is not None}
        return _replay_form(webhook, {**wanted, **counted}, {})
    if cursor is not None:
        goes_on = {"counted": _asked(wanted), "cursor": cursor, "told": count}
        return _replay_form(webhook, {**wanted, **goes_on}, {})
    tk.h.flash_success(
        tk.ungettext(
            "{count} delivery is to be sent again", "{count} deliveries are to be sent again", count
        ).format(count=count)
    )
    return tk.redirect_to("webhooks.read", id_=id_)


def _replay(id_: str, data: dict[str, Any]) -> tuple[int, int | None]:
    """Replay for some seconds; give how many deliveries that makes, and where to go on."""
    count, until = 0, time.monotonic() + _REPLAYS_FOR
    while True:
        told = call("webhook_replay", id=id_, **data)
        count += told["deliveries"]
        data["cursor"] = told["cursor"]
        if told["cursor"] is None or time.monotonic() > until:
            return count, told["cursor"]


def _asked(wanted: dict[str, Any]) -> str:
    return f"{wanted['since']} {wanted['failed_only']}"


def _replay_form(webhook: Any, wanted: Any, errors: Any) -> Any:
    return tk.render(
        "webhooks/replay.html", {"webhook": webhook, "wanted": wanted, "errors": errors}
    )


def delivery(number: int) -> Any:
    """One delivery: its request, and each attempt."""
    found = show("webhook_delivery_show", id=number)
    longest = max((each["duration"] for each in found["attempts"]), default=0.0)
    return tk.render(
        "webhooks/delivery.html",
        {
            "delivery": found,
            # It may have been deleted, of which sysadmins are told.
            "webhook": _webhook_of(found),
            "longest": longest,
        },
    )


def body(number: int) -> Any:
    """The body of a delivery, to be saved as a file."""
    found = show("webhook_delivery_show", id=number)
    text = found["request"]["body"]
    if text is None:
        return tk.abort(404, found["request"]["body_note"])
    answer = flask.Response(text, mimetype=_type_of(found["request"]["headers"]))
    answer.headers["Content-Disposition"] = f"attachment; filename=delivery-{number}.json"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer


def redeliver(number: int) -> Any:
    """Tell a webhook once more what a delivery told it."""
    again = attempt("webhook_redeliver", id=number)
    if again is not None:
        tk.h.flash_success(tk._("It is to be sent again: this is the new delivery"))
    return tk.redirect_to("webhooks.delivery", number=again or number)


def _given(texts: dict[str, Any]) -> dict[str, Any]:
    return {name: text for name, text in texts.items() if text}


def _webhook_of(found: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return dict(
            tk.get_action("webhook_show")(
                {"user": tk.current_user.name}, {"id": found["webhook_id"]}
            )
        )
    except tk.ObjectNotFound:
        return None


def _type_of(headers: dict[str, str]) -> str:
    sent = headers["Content-Type"]
    return sent if sent in CONTENT_TYPES.values() else "application/json"


PAGES = (
    ("/webhook/<id_>", "read", read, ["GET"]),
    ("/webhook/<id_>/ping", "ping", ping, ["POST"]),
    ("/webhook/<id_>/replay", "replay", replay, ["GET", "POST"]),
    ("/webhook/delivery/<int:number>", "delivery", delivery, ["GET"]),
    ("/webhook/delivery/<int:number>/body", "body", body, ["GET"]),
    ("/webhook/delivery/<int:number>/redeliver", "redeliver", redeliver, ["POST"]),
)
