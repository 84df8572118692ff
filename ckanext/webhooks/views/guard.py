"""What holds for every page: somebody is logged in, and a change was meant."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
import flask

from .calling import reasons


def log_in() -> Any:
    """Send who is not logged in to do so, as CKAN's dashboard does."""
    if tk.current_user.is_anonymous:
        tk.h.flash_error(tk._("Log in to see webhooks"))
        return tk.redirect_to("user.login", came_from=flask.request.full_path)
    return None


def say(error: Any) -> Any:
    """Say what keeps a page from being made, as where the tables are missing."""
    page = tk.render("error_document_template.html", {"code": 500, "content": reasons(error)})
    return page, 500


def require_token() -> None:
    """Refuse a change that no form of this site sent.

    CKAN 2.10 and 2.11 ask no plugin's form for its token as they are shipped
    (``ckan.csrf_protection.ignore_extensions``), and 2.12 does not ask again
    where a view was once called with an API token.
    """
    if flask.current_app.config["WTF_CSRF_ENABLED"]:
        flask.current_app.extensions["csrf"].protect()
