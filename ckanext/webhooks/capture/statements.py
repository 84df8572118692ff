"""UPDATE and DELETE statements, which change datasets past the unit of work.

CKAN 2.10 and 2.11 hide, publish and delete whole sets of datasets so, and
take those of an organization that is deleted out of it. What a statement will
hit is read by its own criteria before it runs. Only statements that go
through the session are heard: neither SQL as text nor what a connection
executes by itself; these are found when the sweep compares log and catalogue.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from ckan import model
from sqlalchemy.engine import Connection
from sqlalchemy.sql.expression import Delete, Update

from . import rights, touched

# The column by which the rows of a table belong to a dataset. CKAN 2.12 has no
# table of extras.
_DATASET_ID = {
    name: getattr(model, f"{name}_table").c[column]
    for name, column in (
        ("package", "id"),
        ("resource", "package_id"),
        ("package_tag", "package_id"),
        ("package_extra", "package_id"),
        ("member", "table_id"),
    )
    if hasattr(model, f"{name}_table")
}
# A change of these alone tells nothing, and CKAN 2.10 and 2.11 set the time by
# a statement in each package_update.
_TELLS_NOTHING = frozenset({"metadata_modified"})


def is_heard(statement: Any) -> bool:
    """Tell whether a statement may change datasets, at no cost for a SELECT."""
    return isinstance(statement, (Update, Delete))


def note(session: Any, statement: Any, parameters: Any) -> None:
    """Note the datasets that a statement is about to change, and whose rights.

    :param parameters: those it is executed with, if any
    """
    _note_users(session, statement, parameters)
    dataset_id = _DATASET_ID.get(statement.table.name)
    if dataset_id is None or _tells_nothing(statement, parameters):
        return
    operation = "deleted" if isinstance(statement, Delete) else "updated"
    connection = session.connection()
    # An error would end the transaction that it is to be kept from.
    with connection.begin_nested():
        rows = _affected(connection, dataset_id, statement, parameters)
    for row in rows:
        dataset = touched.current(session).dataset(row[dataset_id])
        dataset.distrust_memory()
        if dataset_id.table is model.package_table:
            dataset.was({key: row[key] for key in _package_columns()})
        elif dataset_id.table is model.resource_table:
            dataset.note_resource(row["id"], operation)


def _note_users(session: Any, statement: Any, parameters: Any) -> None:
    """Note whose labels a statement may move, and rather everybody's than too few."""
    name = statement.table.name
    if name in rights.COUNTS:
        keys = _set_by(statement, parameters)
        if keys is None or keys & rights.COUNTS[name]:
            touched.current(session).users.add(rights.EVERYBODY)
    elif name in ("package_member", "member"):
        touched.current(session).users.add(rights.EVERYBODY)


def _tells_nothing(statement: Any, parameters: Any) -> bool:
    keys = _set_by(statement, parameters)
    return keys is not None and keys <= _TELLS_NOTHING


def _set_by(statement: Any, parameters: Any) -> set[str] | None:
    """Name the columns that an UPDATE sets; None where that is not known, or all."""
    # SQLAlchemy has no public name for what an UPDATE sets; where it keeps it
    # elsewhere one day, the statement counts as one that sets anything.
    values = getattr(statement, "_values", None)
    if not values or parameters:
        return None
    return {getattr(column, "key", column) for column in values}


def _affected(
    connection: Connection, dataset_id: sa.Column[Any], statement: Any, parameters: Any
) -> list[Any]:
    """Read what is to be known of the rows that a statement will hit, before it does."""
    table = dataset_id.table
    columns = [table.c[key] for key in _package_columns()] if table is model.package_table else []
    query = sa.select(*(columns or [table.c.id, dataset_id]))
    if statement.whereclause is not None:
        query = query.where(statement.whereclause)
    if table is model.member_table:
        query = query.where(table.c.table_name == "package")
    each = parameters if isinstance(parameters, list) else [parameters or {}]
    return [row for one in each for row in connection.execute(query, one).mappings()]


def _package_columns() -> list[str]:
    return [attribute.key for attribute in sa.inspect(model.Package).column_attrs]
