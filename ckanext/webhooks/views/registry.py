"""My webhooks: which there are, a form for one, its secret, on and off, and away."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
import flask

from .. import config, helpers
from ..model import Format, WebhookState
from ..topics import PATTERNS, TOPICS
from . import form
from .calling import attempt, call, may, show

# As many as one screen holds; of each, some hundreds of deliveries are read.
_ON_A_PAGE = 25
# As many as webhook_list gives at once, ten times what one user may have.
_MOST = 1000


def index() -> Any:
    """My webhooks, the most urgent first."""
    found = call("webhook_list", user=tk.current_user.id, limit=_MOST)
    found.sort(key=helpers.urgency)  # keeps the newest first of each urgency
    pages = max(1, -(-len(found) // _ON_A_PAGE))
    number = min(max(flask.request.args.get("page", 1, int), 1), pages)
    shown = found[(number - 1) * _ON_A_PAGE : number * _ON_A_PAGE]
    return tk.render(
        "webhooks/index.html",
        {
            "webhooks": shown,
            "history": call("webhook_history", ids=[w["id"] for w in shown]) if shown else {},
            "may_create": may("webhook_create"),
            "page_number": number,
            "pages": pages,
        },
    )


def new() -> Any:
    """A form for a new webhook."""
    if not may("webhook_create"):
        call("webhook_create")  # says why
    if flask.request.method == "GET":
        return _form(form.empty())
    return _sent(None)


def edit(id_: str) -> Any:
    """The same, of one that there is."""
    webhook = show("webhook_show", id=id_)
    if flask.request.method == "GET":
        return _form(form.of(webhook), webhook=webhook)
    return _sent(webhook)


def _sent(webhook: dict[str, Any] | None) -> Any:
    """Do as the form says; where that is not right, show it again."""
    fields = form.sent(flask.request.form)
    if webhook is not None:
        fields["names"] = webhook["headers"]
    if "example" in flask.request.form:
        return _form(fields, webhook=webhook)
    try:
        data = form.data(fields, is_new=webhook is None)
        if webhook is None:
            id_ = call("webhook_create", **data)
            return tk.redirect_to("webhooks.secret", id_=id_, new="yes")
        call("webhook_patch", id=webhook["id"], **data)
    except tk.ValidationError as error:
        return _form(fields, form.in_words(error.error_dict), webhook)
    tk.h.flash_success(tk._("The webhook was changed"))
    return tk.redirect_to("webhooks.read", id_=webhook["id"])


def _form(
    fields: dict[str, Any],
    errors: dict[str, Any] | None = None,
    webhook: dict[str, Any] | None = None,
) -> Any:
    return tk.render(
        "webhooks/form.html",
        {
            "data": fields,
            "errors": errors or {},
            "webhook": webhook,
            "topics": [*PATTERNS, *TOPICS],
            "formats": [format_.value for format_ in Format],
            "facets": form.FACETS,
            "example": _example(fields),
        },
    )


def example() -> Any:
    """The example alone, for the script that keeps it up to date."""
    return flask.Response(_example(form.sent(flask.request.form)), mimetype="text/plain")


def _example(fields: dict[str, Any]) -> str:
    return helpers.pretty(form.example(fields, config.site_url(), tk.current_user.id))


def secret(id_: str) -> Any:
    """The secret, with receivers that know it."""
    webhook = show("webhook_show", id=id_)
    secrets = attempt("webhook_secret_show", id=id_) or {}
    page = tk.render(
        "webhooks/secret.html",
        {
            "webhook": webhook,
            "secrets": secrets,
            "is_new": "new" in flask.request.args,
        },
    )
    answer = flask.make_response(page)
    answer.headers["Cache-Control"] = "no-store"
    return answer


def rotate(id_: str) -> Any:
    if attempt("webhook_secret_rotate", id=id_):
        tk.h.flash_success(tk._("There is a new secret. The old one signs too for 24 hours."))
    return tk.redirect_to("webhooks.secret", id_=id_)


def switch(id_: str) -> Any:
    """Disable or enable."""
    is_on = flask.request.form.get("state") == WebhookState.ACTIVE.value
    state = WebhookState.ACTIVE if is_on else WebhookState.DISABLED
    if attempt("webhook_patch", id=id_, state=state.value):
        tk.h.flash_success(tk._("It is told again") if is_on else tk._("It is told nothing more"))
    return tk.redirect_to("webhooks.read", id_=id_)


def delete(id_: str) -> Any:
    """Ask first."""
    webhook = show("webhook_show", id=id_)
    if flask.request.method == "GET":
        return tk.render("webhooks/delete.html", {"webhook": webhook})
    call("webhook_delete", id=id_)
    tk.h.flash_success(tk._("The webhook was deleted"))
    return tk.redirect_to("webhooks.index")


PAGES = (
    ("/dashboard/webhooks", "index", index, ["GET"]),
    ("/webhook/new", "new", new, ["GET", "POST"]),
    ("/webhook/example", "example", example, ["POST"]),
    ("/webhook/<id_>/edit", "edit", edit, ["GET", "POST"]),
    ("/webhook/<id_>/secret", "secret", secret, ["GET"]),
    ("/webhook/<id_>/rotate", "rotate", rotate, ["POST"]),
    ("/webhook/<id_>/switch", "switch", switch, ["POST"]),
    ("/webhook/<id_>/delete", "delete", delete, ["GET", "POST"]),
)
