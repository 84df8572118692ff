"""Calling actions as somebody, with that person's rights."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action

from .. import owners

ADDRESS = "http://example.com/callback"


def context(user: dict[str, Any] | None) -> dict[str, Any]:
    """Give a context in which CKAN asks what ``user`` may; None is anonymous."""
    return {"user": user["name"] if user else "", "ignore_auth": False}


def call(caller: dict[str, Any] | None, action: str, /, **data: Any) -> Any:
    return call_action(action, context(caller), **data)


def create(caller: dict[str, Any] | None, /, **data: Any) -> str:
    """Register a webhook; what is not given is what anybody may have."""
    return str(call(caller, "webhook_create", **{"topic": "*", "address": ADDRESS, **data}))


def join(organization: dict[str, Any], user: dict[str, Any], role: str = "member") -> None:
    call(
        factories.Sysadmin(),
        "organization_member_create",
        id=organization["id"],
        username=user["name"],
        role=role,
    )
    owners.forget()


def leave(organization: dict[str, Any], user: dict[str, Any]) -> None:
    call(
        factories.Sysadmin(),
        "organization_member_delete",
        id=organization["id"],
        username=user["name"],
    )
    owners.forget()


def execute(statement: str, **values: Any) -> list[Any] | None:
    """Run SQL and commit; gives the rows, of what returns any."""
    result = model.Session.execute(sa.text(statement), values)
    found = list(result.all()) if result.returns_rows else None
    model.Session.commit()
    return found


def stored(table: str = "webhooks") -> list[Any]:
    """Give the rows of a table, as another connection would see them."""
    model.Session.commit()
    return list(model.Session.execute(sa.text(f"SELECT * FROM {table} ORDER BY id")).all())


def days_pass(days: int) -> None:
    """Have all that events, deliveries and webhooks say of times be so much longer ago."""
    for table, columns in (
        ("webhooks_event", ("occurred_at", "captured_at", "dispatched_at")),
        ("webhooks_delivery", ("created_at", "due_at", "ended_at")),
        ("webhooks", ("created_at", "updated_at", "missed_since")),
    ):
        earlier = ", ".join(f"{name} = {name} - :days * interval '1 day'" for name in columns)
        execute(f"UPDATE {table} SET {earlier}", days=days)
