"""What one transaction touched, kept on the session until it ends.

It may name too much (a savepoint that was rolled back leaves its names here)
but never too little: whether something really differs is for ``record``,
which compares with the log.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from ckan import model

from . import rights

_KEY = "ckanext.webhooks"


@dataclass
class Built:
    """A dataset's dict as CKAN built it for Solr; of 500 resources, parsing takes 1.5 ms.

    :ivar text: the dict as JSON that is well-formed
    """

    text: str

    @functools.cached_property
    def dataset(self) -> dict[str, Any]:
        parsed = json.loads(self.text)
        return parsed if isinstance(parsed, dict) else {}


@dataclass
class Touched:
    """One dataset that this transaction touched.

    :ivar created: its row was added in this transaction
    :ivar seeding: nothing changed: the log is to know what was there before it
    :ivar before: the Package's columns as they were, for a dataset that the
        log does not know yet
    :ivar resources: resource id → created, updated or deleted, likewise
    :ivar built: what CKAN built for Solr after the last flush; None where it
        built nothing
    :ivar stale: what the session has in memory may not be what is there: a
        statement changed it in the database alone, or a savepoint went
    """

    created: bool = False
    seeding: bool = False
    before: dict[str, Any] | None = None
    resources: dict[str, str] = field(default_factory=dict)
    built: Built | None = None
    stale: bool = False

    def was(self, columns: dict[str, Any]) -> None:
        """Keep the Package's columns, where nothing was known of them before."""
        if not self.created and self.before is None:
            self.before = columns

    def note_resource(self, id_: str, operation: str) -> None:
        if self.resources.get(id_) == "created" and operation == "updated":
            return
        self.resources[id_] = operation

    def distrust_memory(self) -> None:
        """Have it read again when it is recorded."""
        self.stale = True
        self.built = None


@dataclass
class Transaction:
    """What this extension knows of the session's current transaction.

    :ivar datasets: by id
    :ivar recorded: capture has run; what is flushed now is yet to be captured
    :ivar wrote: a row was written, so that there is something to nudge for
    :ivar noted: of what earlier ones could not note, what is noted here: ids, each with a
        time
    :ivar unnoted: ids of datasets that were missed here, and could not be noted
    :ivar users: those whose labels may be others since; see ``rights``
    """

    datasets: dict[str, Touched] = field(default_factory=dict)
    recorded: bool = False
    wrote: bool = False
    noted: set[tuple[str, float]] = field(default_factory=set)
    unnoted: set[str] = field(default_factory=set)
    users: set[str | None] = field(default_factory=set)

    def dataset(self, id_: str) -> Touched:
        return self.datasets.setdefault(id_, Touched())


def current(session: Any) -> Transaction:
    found: Transaction = session.info.setdefault(_KEY, Transaction())
    return found


def forget(session: Any) -> Transaction | None:
    """End the record of the current transaction, and give it."""
    found: Transaction | None = session.info.pop(_KEY, None)
    return found


def distrust_memory(session: Any) -> None:
    """Have all that was touched read again: a part of the transaction was rolled back.

    What the session then has in memory may be of that part: it forgets what a
    savepoint changed, but not what one within that savepoint did.
    """
    for touched in current(session).datasets.values():
        touched.distrust_memory()


def note_flush(session: Any) -> None:
    """Note the datasets of everything that is about to be flushed, and whose rights it is about."""
    for instance in session.new:
        _note(session, instance, "created")
    for instance in session.deleted:
        _note(session, instance, "deleted")
    for instance in session.dirty:
        concerns = _datasets_of(instance) or isinstance(instance, rights.MOVING)
        if concerns and session.is_modified(instance):
            _note(session, instance, "updated")


def _note(session: Any, instance: Any, operation: str) -> None:
    current(session).users |= rights.users_of(instance, operation)
    for dataset_id in _datasets_of(instance):
        touched = current(session).dataset(dataset_id)
        if touched.built is not None and not _is_shown(instance, touched.built.dataset):
            touched.built = None
        if isinstance(instance, model.Package):
            _note_package(touched, instance, operation)
        elif isinstance(instance, model.Resource):
            _note_resource(touched, instance, operation)


def _is_shown(instance: Any, built: dict[str, Any]) -> bool:
    """Tell whether a dict that was built before this flush shows what it flushes.

    CKAN 2.12 builds a new dataset's dict while its last changes are set on
    the Package but not flushed: the time, the organization, its Member.
    """
    if isinstance(instance, model.Member):
        organization = built.get("organization")
        return bool(
            instance.capacity == "organization"
            and isinstance(organization, dict)
            and organization.get("id") == instance.group_id
        )
    if not isinstance(instance, model.Package):
        return False
    state = sa.inspect(instance)
    columns = {c.key for c in state.mapper.column_attrs}
    changed = [a.key for a in state.attrs if a.history.has_changes()]
    return all(
        key in columns and built.get(key) == _as_json(getattr(instance, key)) for key in changed
    )


def _as_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.datetime) else value


def _note_package(touched: Touched, package: model.Package, operation: str) -> None:
    if operation == "created":
        touched.created = True
    elif touched.before is None:
        touched.before = dict(_columns_before(package))


def _note_resource(touched: Touched, resource: model.Resource, operation: str) -> None:
    if resource.id is None:
        resource.id = model.types.make_uuid()
    if operation == "updated" and resource.state == model.State.DELETED:
        operation = "deleted"
    touched.note_resource(resource.id, operation)


def _columns_before(instance: Any) -> Iterator[tuple[str, Any]]:
    state = sa.inspect(instance)
    for column in state.mapper.column_attrs:
        history = state.attrs[column.key].history
        value = history.deleted[0] if history.deleted else getattr(instance, column.key)
        yield column.key, value


def _datasets_of(instance: Any) -> list[str]:
    """Give the ids of the datasets whose content a mapped object is part of."""
    if isinstance(instance, model.Package):
        if instance.id is None:
            # The default would give one only while flushing.
            instance.id = model.types.make_uuid()
        return [instance.id]
    if isinstance(instance, model.Resource):
        history = sa.inspect(instance).attrs.package_id.history
        package = getattr(instance, "package", None)
        ids = {*(history.deleted or ()), instance.package_id or getattr(package, "id", None)}
        return sorted(id_ for id_ in ids if id_)
    if isinstance(instance, model.Member):
        return [instance.table_id] if instance.table_name == "package" else []
    if isinstance(instance, _PARTS):
        id_ = getattr(instance, "package_id", None)
        id_ = id_ or getattr(getattr(instance, "package", None), "id", None)
        return [id_] if id_ else []
    return []


# CKAN 2.12 has the extras in a column of the package itself.
_PARTS: tuple[type, ...] = tuple(
    getattr(model, name) for name in ("PackageTag", "PackageExtra") if hasattr(model, name)
)
