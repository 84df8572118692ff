"""The ``webhook_*`` actions, called by who is logged in."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk


def call(action: str, /, **data: Any) -> Any:
    """Call an action; where it refuses, that is the page.

    :raises ValidationError: what was given is not right
    """
    try:
        return tk.get_action(action)({"user": tk.current_user.name}, data)
    except tk.ObjectNotFound as error:
        return tk.abort(404, str(error))
    except tk.NotAuthorized as error:
        return tk.abort(403, str(error))


def show(action: str, /, **data: Any) -> Any:
    """Call an action that shows what an address names; what cannot be a name is not found."""
    try:
        return call(action, **data)
    except tk.ValidationError as error:
        return tk.abort(404, reasons(error))


def attempt(action: str, /, **data: Any) -> Any:
    """Call an action for who pressed a button: None where it refuses, and the page says why."""
    try:
        return call(action, **data)
    except tk.ValidationError as error:
        tk.h.flash_error(reasons(error))
        return None


def may(auth: str, **data: Any) -> bool:
    """Tell whether who is logged in may do something."""
    return bool(tk.h.check_access(auth, data))


def reasons(error: Any) -> str:
    """Say in one line why an action refused."""
    given = error.error_dict.values()
    return " ".join(str(r) for some in given for r in (some if isinstance(some, list) else [some]))
