"""What an ``id`` names, for those who may have it."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
from ckan import model

from ..model import Delivery, Webhook
from . import schema


def webhook(auth: str, context: Any, data_dict: dict[str, Any]) -> Any:
    """Give the webhook that ``id`` names.

    :raises NotAuthorized: the caller is not logged in, or may see the webhook but not do this
    :raises ValidationError: there is no id, or it is not text
    :raises ObjectNotFound: there is none, or the caller may not see it
    """
    require_login(context)
    schema.validate({"id": data_dict.get("id")}, schema.only_id(), context)
    found = Webhook.get(data_dict["id"])
    if found is None or not _may("webhook_show", context, data_dict):
        raise tk.ObjectNotFound(tk._("There is no webhook %s") % data_dict["id"])
    tk.check_access(auth, context, data_dict)
    return found


def delivery(auth: str, context: Any, data_dict: dict[str, Any]) -> Any:
    """Give the delivery that ``id`` names; likewise, by a number."""
    require_login(context)
    data = schema.validate({"id": data_dict.get("id")}, schema.only_number(), context)
    # Workers change it while a session may have it.
    found = model.Session.get(Delivery, data["id"], populate_existing=True)
    if found is None or not _may("webhook_delivery_show", context, data):
        raise tk.ObjectNotFound(tk._("There is no delivery %d") % data["id"])
    tk.check_access(auth, context, data)
    return found


def require_login(context: Any) -> None:
    """Refuse who is not logged in, before anything is said of what was asked for.

    :raises NotAuthorized: the caller is not logged in
    """
    tk.check_access("webhook_topic_list", context, {})


def _may(auth: str, context: Any, data_dict: dict[str, Any]) -> bool:
    try:
        tk.check_access(auth, context, data_dict)
    except tk.NotAuthorized:
        return False
    return True
