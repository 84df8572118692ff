"""Whose labels a change may move: noted by the save, read by every worker.

By CKAN's own rules. Where a plugin takes a user's labels from elsewhere, that is found
when what the user may see is compared with what it was.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from ckan import model
from sqlalchemy.engine import Connection

from . import bounds

# In the place of a user's id.
EVERYBODY = None
# A user or an organization is written to for many reasons; these count.
COUNTS = {
    "user": frozenset({"state", "sysadmin"}),
    "group": frozenset({"state", "type", "is_organization"}),
}
# What is mapped to the tables from which CKAN takes a user's labels.
MOVING = (model.Member, model.PackageMember, model.User, model.Group)
# Within a save, of whatever connection.
NOTE = f"""{bounds.BEGIN}
    INSERT INTO webhooks_right (user_id) SELECT unnest(CAST(%(ids)s AS text[]));
    {bounds.END}
"""


def users_of(instance: Any, operation: str) -> set[str | None]:
    """Give the users whose labels a mapped object, which is about to be flushed, may move.

    :param operation: created, updated or deleted
    """
    if isinstance(instance, model.Member):
        return users_of_member(instance.table_name, instance.table_id)
    if isinstance(instance, model.PackageMember):
        return {instance.user_id}
    if isinstance(instance, model.User):
        return {_id(instance)} if _counts(instance, operation) else set()
    if isinstance(instance, model.Group):
        return {EVERYBODY} if _counts(instance, operation) else set()
    return set()


def users_of_member(table_name: str, table_id: str) -> set[str | None]:
    """:param table_name, table_id: of a row of CKAN's table ``member``"""
    if table_name == "user":
        return {table_id}
    # A role in an organization may reach those below it.
    return {EVERYBODY} if table_name == "group" else set()


def note(connection: Connection, user_ids: Collection[str | None]) -> None:
    """Say within a transaction that what some users may see is other than before.

    :raises Exception: whatever the database raises; the transaction is as it was before
    """
    try:
        connection.exec_driver_sql(NOTE, {"ids": list(user_ids)})
    except Exception:
        connection.exec_driver_sql(bounds.UNDO)
        raise


def _counts(instance: Any, operation: str) -> bool:
    """Tell whether a user or a group changes in what counts."""
    if operation == "created":
        return bool(getattr(instance, "sysadmin", False))
    attributes = sa.inspect(instance).attrs
    names = COUNTS["user" if isinstance(instance, model.User) else "group"]
    changed = (attributes[name].history.has_changes() for name in names)
    return operation == "deleted" or any(changed)


def _id(user: Any) -> str:
    if user.id is None:
        # The default would give one only while flushing.
        user.id = model.types.make_uuid()
    return str(user.id)
