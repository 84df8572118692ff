"""What an ``id`` names, for those who may have it."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
from ckan import model

from ..model import Delivery, Webhook
from . import schema


def webhook(auth: str, context: Any, data_dict: dict[str, Any]) -> Any:
    """Give the webhook that ``id`` names.

    :raises ValidationError: there is no id, or it is not text
    :raises NotAuthorized: the caller may not, or there is none (which only
        sysadmins are told, by NotFound)
    """
    schema.validate({"id": data_dict.get("id")}, schema.only_id(), context)
    tk.check_access(auth, context, data_dict)
    found = Webhook.get(data_dict["id"])
    if found is None:
        raise tk.ObjectNotFound(tk._("There is no webhook %s") % data_dict["id"])
    return found


def delivery(auth: str, context: Any, data_dict: dict[str, Any]) -> Any:
    """Give the delivery that ``id`` names; likewise, by a number."""
    data = schema.validate({"id": data_dict.get("id")}, schema.only_number(), context)
    tk.check_access(auth, context, data)
    # Workers change it while a session may have it.
    found = model.Session.get(Delivery, data["id"], populate_existing=True)
    if found is None:
        raise tk.ObjectNotFound(tk._("There is no delivery %d") % data["id"])
    return found
