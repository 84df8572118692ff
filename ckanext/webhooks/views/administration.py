"""For sysadmins: how the portal's deliveries go, everybody's webhooks, and switching many off."""

from __future__ import annotations

import time
from typing import Any

import ckan.plugins.toolkit as tk
import flask
from ckan import model

from .. import doctor
from ..model import WebhookState
from .calling import call, reasons

# As many as one screen holds.
_ON_A_PAGE = 50
_FAILING = 25
_PUT_ASIDE = 25
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
    aside = call("webhook_quarantine_list", limit=_PUT_ASIDE + 1)
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
            "aside": aside[:_PUT_ASIDE],
            "more_aside": len(aside) > _PUT_ASIDE,
            "names": _names(_users(*found, *failing, *aside)),
            "datasets": _datasets(aside),
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


def retry(number: int) -> Any:
    """Try at once what is put aside."""
    return _retry(id=number)


def retry_all() -> Any:
    """Try at once all that is put aside."""
    return _retry()


def _retry(**which: int) -> Any:
    _sysadmins_only()
    if _unless_gone("webhook_quarantine_retry", **which) is not None:
        tk.h.flash_success(
            tk._("It is due now, for a worker to try within seconds; what fails again stays here")
        )
    return tk.redirect_to("webhooks.overview")


def give_up(number: int) -> Any:
    """Give up what is put aside; ask first."""
    _sysadmins_only()
    if flask.request.method == "POST":
        if _unless_gone("webhook_quarantine_give_up", id=number) is not None:
            tk.h.flash_success(tk._("It is given up: nothing waits for it any more"))
        return tk.redirect_to("webhooks.overview")
    found = [row for row in call("webhook_quarantine_list", limit=1000) if row["id"] == number]
    if not found:
        return tk.abort(
            404,
            tk._("Nothing is put aside under the number %d: it went through, or was given up")
            % number,
        )
    return tk.render(
        "webhooks/give_up.html",
        {"row": found[0], "names": _names(_users(*found)), "datasets": _datasets(found)},
    )


def _unless_gone(action: str, **data: Any) -> Any:
    """Call an action: None where it refuses, as a worker was quicker, and the page says so."""
    try:
        return tk.get_action(action)({"user": tk.current_user.name}, data)
    except tk.ObjectNotFound as error:
        tk.h.flash_notice(str(error))
    except tk.ValidationError as error:
        tk.h.flash_error(reasons(error))
    return None


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


def _users(*rows: dict[str, Any]) -> set[str]:
    return {row["user_id"] for row in rows if row["user_id"] is not None}


def _names(user_ids: set[str]) -> dict[str, str]:
    """Name users by their ids; an owner who was purged has no name."""
    query = model.Session.query(model.User.id, model.User.name)
    return {row.id: row.name for row in query.filter(model.User.id.in_(sorted(user_ids)))}


def _datasets(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Name the datasets that wait, by their ids; one that was purged has no name."""
    ids = sorted({row["dataset_id"] for row in rows if row["dataset_id"] is not None})
    query = model.Session.query(model.Package.id, model.Package.name)
    return {row.id: row.name for row in query.filter(model.Package.id.in_(ids))}


def _sysadmins_only() -> None:
    if not tk.current_user.sysadmin:
        tk.abort(403, tk._("Need to be system administrator to administer"))


PAGES = (
    ("/ckan-admin/webhooks", "overview", overview, ["GET"]),
    ("/ckan-admin/webhooks/check", "check", check, ["GET"]),
    ("/ckan-admin/webhooks/disable", "disable", disable, ["GET", "POST"]),
    ("/ckan-admin/webhooks/quarantine/retry", "retry_all", retry_all, ["POST"]),
    ("/ckan-admin/webhooks/quarantine/<int:number>/retry", "retry", retry, ["POST"]),
    ("/ckan-admin/webhooks/quarantine/<int:number>/give-up", "give_up", give_up, ["GET", "POST"]),
)
