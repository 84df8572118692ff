"""How many webhooks there may be: one save must not become any number of calls.

Counted when a webhook is written rather than under a lock: two that are
created at the same moment may exceed a bound by one, which is no matter.
"""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from .. import config
from ..model import Webhook


def check_owner(context: Any, webhook: Any) -> None:
    """Refuse what makes more webhooks of one user than there may be.

    :param webhook: it is in the session, and is counted
    :raises ValidationError: there are too many; all is rolled back
    """
    most = config.max_per_user()
    if _may_exceed(context, most):
        return
    model.Session.flush()
    if _count(Webhook.user_id == webhook.user_id) <= most:
        return
    _refuse(
        "message",
        tk._(
            "You have %d webhooks, and there may not be more of one user: delete one that is not"
            " needed (webhook_list shows them), let one serve several topics, or ask for a higher"
            " ckanext.webhooks.max_per_user"
        )
        % most,
    )


def check_host(context: Any, webhook: Any) -> None:
    """Refuse what makes more webhooks call one host than there may be; likewise.

    Those that are disabled call nobody. They are counted when they are
    enabled.
    """
    most = config.max_per_host()
    if _may_exceed(context, most):
        return
    model.Session.flush()
    model.Session.refresh(webhook, ["host"])  # PostgreSQL's
    if _count(sa.and_(Webhook.host == webhook.host, Webhook.state != "disabled")) <= most:
        return
    _refuse(
        "address",
        tk._(
            "%d webhooks call %s already, and there may not be more for one host: let one serve"
            " several topics, or ask for a higher ckanext.webhooks.max_per_host"
        )
        % (most, webhook.host),
    )


def _may_exceed(context: Any, most: int) -> bool:
    """Tell whether there is no bound, or the caller is who may set it."""
    caller = model.User.get(context["user"]) if context.get("user") else None
    return most <= 0 or (caller is not None and bool(caller.sysadmin))


def _count(condition: Any) -> int:
    query = sa.select(sa.func.count()).select_from(Webhook.__table__).where(condition)
    return int(model.Session.execute(query).scalar_one())


def _refuse(field: str, why: str) -> None:
    model.Session.rollback()
    raise tk.ValidationError({field: [why]})
