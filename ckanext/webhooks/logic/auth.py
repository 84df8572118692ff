"""Who may do what: the owner of a webhook, and sysadmins.

To everyone else a webhook that exists and one that does not look the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ckan.plugins.toolkit as tk
from ckan import model

from .. import config, owners
from ..model import Delivery, Webhook

AuthResult = dict[str, Any]


def auth_functions() -> dict[str, Callable[..., AuthResult]]:
    return {
        "webhook_create": webhook_create,
        "webhook_show": webhook_show,
        "webhook_list": webhook_list,
        "webhook_update": webhook_update,
        "webhook_patch": webhook_update,
        "webhook_delete": webhook_show,
        "webhook_secret_show": webhook_show,
        "webhook_secret_rotate": webhook_show,
        "webhook_verify": webhook_show,
        "webhook_ping": webhook_show,
        "webhook_delivery_list": webhook_show,
        "webhook_delivery_show": webhook_delivery_show,
        "webhook_redeliver": webhook_delivery_show,
        "webhook_replay": webhook_show,
        "webhook_stats": webhook_stats,
        "webhook_history": webhook_show,
        "webhook_load": webhook_load,
        "webhook_dataset_told": webhook_dataset_told,
        "webhook_quarantine_list": webhook_quarantine,
        "webhook_quarantine_retry": webhook_quarantine,
        "webhook_quarantine_give_up": webhook_quarantine,
        "webhook_topic_list": webhook_topic_list,
        "webhook_event_list": webhook_event_list,
    }


def webhook_create(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """A logged-in user with the role of ``ckanext.webhooks.minimum_auth``."""
    user = _caller(context)
    if user is None:
        return _anonymous()
    if owners.meets_minimum_auth(user):
        return {"success": True}
    return {
        "success": False,
        "msg": tk._("Webhooks take the role %s in an organization") % config.minimum_auth(),
    }


def webhook_update(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """The owner, who must still have the role that creating takes; sysadmins."""
    owned = webhook_show(context, data_dict)
    return webhook_create(context, data_dict) if owned["success"] else owned


def webhook_show(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """The owner, and sysadmins."""
    user = _caller(context)
    if user is None:
        return _anonymous()
    id_ = data_dict.get("id")
    webhook = Webhook.get(id_) if isinstance(id_, str) else None
    if user.sysadmin or (webhook is not None and webhook.user_id == user.id):
        return {"success": True}
    return {"success": False, "msg": tk._("None of your webhooks has the id %s") % id_}


def webhook_delivery_show(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """The owner of the delivery's webhook, and sysadmins."""
    user = _caller(context)
    if user is None:
        return _anonymous()
    id_ = data_dict.get("id")
    if user.sysadmin or _owns_delivery(user, id_):
        return {"success": True}
    return {"success": False, "msg": tk._("None of your webhooks has a delivery %s") % id_}


def webhook_stats(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """Of one webhook, the owner; of the whole portal, sysadmins alone."""
    user = _caller(context)
    if user is not None and not user.sysadmin and not data_dict.get("id"):
        return {"success": False, "msg": tk._("Name one of your webhooks by its id")}
    return webhook_show(context, data_dict)


def webhook_load(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """Sysadmins alone, to whom everything is allowed before this is asked."""
    if _caller(context) is None:
        return _anonymous()
    return {"success": False, "msg": tk._("Only sysadmins see the portal's load")}


def webhook_quarantine(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """Sysadmins alone, to whom everything is allowed before this is asked."""
    if _caller(context) is None:
        return _anonymous()
    return {"success": False, "msg": tk._("Only sysadmins see and judge what is put aside")}


def webhook_dataset_told(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """Who may edit the dataset."""
    if _caller(context) is None:
        return _anonymous()
    try:
        tk.check_access("package_update", context, {"id": data_dict.get("id")})
    except tk.NotAuthorized as error:
        return {"success": False, "msg": str(error)}
    return {"success": True}


def webhook_list(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """Any logged-in user, their own; sysadmins, everyone's."""
    user = _caller(context)
    if user is None:
        return _anonymous()
    wanted = data_dict.get("user")
    if user.sysadmin or not wanted or wanted in (user.id, user.name):
        return {"success": True}
    return {"success": False, "msg": tk._("Only your own webhooks can be listed")}


def webhook_topic_list(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """Any logged-in user."""
    return {"success": True} if _caller(context) else _anonymous()


def webhook_event_list(context: Any, data_dict: dict[str, Any]) -> AuthResult:
    """Any logged-in user, what that user may see."""
    return {"success": True} if _caller(context) else _anonymous()


def _owns_delivery(user: Any, id_: Any) -> bool:
    delivery = model.Session.get(Delivery, id_) if isinstance(id_, int) else None
    webhook = Webhook.get(delivery.webhook_id) if delivery is not None else None
    return webhook is not None and webhook.user_id == user.id


def _caller(context: Any) -> Any:
    """Give the active user who calls, or None for an anonymous caller."""
    user = model.User.get(context["user"]) if context.get("user") else None
    return user if user is not None and user.state == model.State.ACTIVE else None


def _anonymous() -> AuthResult:
    return {"success": False, "msg": tk._("Log in, or send an API token, to use webhooks")}
