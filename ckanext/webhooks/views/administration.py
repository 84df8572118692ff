"""For sysadmins: how the portal's deliveries go, everybody's webhooks, and switching many off."""

from __future__ import annotations

import time
from typing import Any

import ckan.plugins.toolkit as tk
import flask
from ckan import model

from .. import doctor
from ..model import WebhookState
from .calling import call

# As many as one screen holds.
_ON_A_PAGE = 50
_FAILING = 25
# What can be looked back on: a day, a week, and what is kept where nothing else is said.
_HOURS = (24, 168, 720)
# As many steps as a plot of one screen shows apart.
_STEPS = 48
# Seconds after which disabling many asks to be continued, before a proxy gives up.
_DISABLES_FOR = 5.0
_ON = (WebhookState.ACTIVE, WebhookState.PAUSED, WebhookState.UNVERIFIED)


def overview() -> Any:
    """Whether all is well, in one look."""
    _sysadmins_only()
    hours = flask.request.args.get("hours", _HOURS[0], int)
    hours = hours if hours in _HOURS else _HOURS[0]
    load = call("webhook_load", hours=hours, steps=_STEPS)
    wanted = _wanted(flask.request.args)
    offset = min(max(flask.request.args.get("offset", 0, int), 0), 2**31)
    failing = call("webhook_list", failing=True, limit=_FAILING)
    found, errors = _found(wanted, offset)
    return tk.render(
        "webhooks/administration.html",
        {
            "waiting": call("webhook_stats", hours=1)["waiting"],
            "load": load,
            "minutes": hours * 60 / _STEPS,
            "hours": hours,
            "choices": _HOURS,
            "failing": failing,
            "webhooks": found[:_ON_A_PAGE],
            "names": _names({webhook["user_id"] for webhook in (*found, *failing)}),
            "states": [state.value for state in WebhookState],
            "wanted": wanted,
            "errors": errors,
            "previous": max(offset - _ON_A_PAGE, 0) if offset else None,
            "next": offset + _ON_A_PAGE if len(found) > _ON_A_PAGE else None,
        },
    )


def _found(wanted: dict[str, str], offset: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Give the webhooks that are wanted, one more than a page holds, and what was wrong."""
    user = wanted.get("user")
    if user and model.User.get(user) is None:
        return [], {"user": [tk._("There is no user %s") % user]}
    try:
        return call("webhook_list", limit=_ON_A_PAGE + 1, offset=offset, **wanted), {}
    except tk.ValidationError as error:
        return [], error.error_dict


def check() -> Any:
    """What deliveries depend on, which workers are there, and what to do. It takes some seconds."""
    _sysadmins_only()
    return tk.render("webhooks/check.html", {"findings": list(doctor.findings())})


def disable() -> Any:
    """Switch off all webhooks of one owner, or to one host; ask first."""
    _sysadmins_only()
    wanted = {k: v for k, v in _wanted(flask.request.values).items() if k in ("user", "host")}
    if not wanted:
        return tk.abort(400, tk._("Say whose webhooks, or to which host"))
    found = _enabled(wanted)
    if flask.request.method == "POST":
        refused = _disable(found)
        found = _enabled(wanted)
        if len(found) == refused:
            _say(refused)
            return tk.redirect_to("webhooks.overview", **wanted)
    return tk.render("webhooks/disable.html", {"wanted": wanted, "count": len(found)})


def _disable(found: list[dict[str, Any]]) -> int:
    """Switch off as many as a request has time for; gives how many cannot be."""
    until, refused = time.monotonic() + _DISABLES_FOR, 0
    for webhook in found:
        try:
            call("webhook_patch", id=webhook["id"], state=WebhookState.DISABLED.value)
        except tk.ValidationError:  # what it was registered with is not allowed any more
            refused += 1
        if time.monotonic() > until:
            break
    return refused


def _say(refused: int) -> None:
    if refused:
        tk.h.flash_error(
            tk.ungettext(
                "{count} webhook cannot be changed as it is: delete it",
                "{count} webhooks cannot be changed as they are: delete them",
                refused,
            ).format(count=refused)
        )
    else:
        tk.h.flash_success(tk._("All of them are disabled"))


def _enabled(wanted: dict[str, str]) -> list[dict[str, Any]]:
    pages = (call("webhook_list", state=state.value, limit=1000, **wanted) for state in _ON)
    return [webhook for page in pages for webhook in page]


def _wanted(given: Any) -> dict[str, str]:
    names = ("user", "host", "state")
    return {name: given[name].strip() for name in names if given.get(name, "").strip()}


def _names(user_ids: set[str]) -> dict[str, str]:
    """Name users by their ids; an owner who was purged has no name."""
    query = model.Session.query(model.User.id, model.User.name)
    return {row.id: row.name for row in query.filter(model.User.id.in_(sorted(user_ids)))}


def _sysadmins_only() -> None:
    if not tk.current_user.sysadmin:
        tk.abort(403, tk._("Need to be system administrator to administer"))


PAGES = (
    ("/ckan-admin/webhooks", "overview", overview, ["GET"]),
    ("/ckan-admin/webhooks/check", "check", check, ["GET"]),
    ("/ckan-admin/webhooks/disable", "disable", disable, ["GET", "POST"]),
)
