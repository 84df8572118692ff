"""One dataset of one transaction → its row in the log, or none.

The dataset's package row is locked first, so that the rows of one dataset
are written in the order in which their transactions commit, and the newest
row is read after that. Nothing is concluded from memory about what this
transaction wrote before: a rollback may have erased it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from ckan import model
from ckan.lib.plugins import get_permission_labels
from sqlalchemy.engine import Connection

from .. import config, difference
from ..model import Event, State
from . import content
from .touched import Touched

# A save must not wait for this extension: DESIGN promises these bounds.
LOCK_TIMEOUT = "200ms"
STATEMENT_TIMEOUT = "500ms"
_TABLE = Event.__table__
_LOCK = sa.text("SELECT 1 FROM package WHERE id = :id FOR NO KEY UPDATE")
_NEWEST = sa.text(
    """
    SELECT id, version, labels_before, labels, facets_before, facets, digest, state,
           metadata_modified, captured_at > now() AS after_we_began,
           transaction_id = txid_current() AND occurred_at = now() AS own
    FROM webhooks_event WHERE dataset_id = :id AND version IS NOT NULL
    ORDER BY version DESC LIMIT 2
    """
)


@dataclass
class _Side:
    """A dataset before or after the transaction.

    :ivar labels: None where nobody sees it
    """

    labels: list[str] | None
    facets: dict[str, list[str]] | None
    digest: str | None = None


_NOWHERE = _Side(None, None)


@dataclass
class _Log:
    """What the log has of a dataset.

    :ivar own: the row that this very transaction wrote, if it did
    :ivar previous: the newest row of an earlier transaction, if there is one
    """

    own: Any
    previous: Any


def record(session: Any, dataset_id: str, touched: Touched) -> bool:
    """Write, correct or take back the row of one dataset.

    :returns: a row was written
    :raises Exception: whatever the database or a plugin raises; the
        transaction is as it was before
    """
    connection = session.connection()
    with _bounded(connection):
        exists = connection.execute(_LOCK, {"id": dataset_id}).first() is not None
        log = _read_log(connection, dataset_id)
        package = session.get(model.Package, dataset_id) if exists else None
        if _is_excluded(package, touched):
            return False
        if _is_stale(log, touched, package):
            session.expire_all()
            touched.built = None
        before = _before(log, touched, package)
        after, text = _after(package, touched)
        if log.own is not None:
            connection.execute(sa.delete(_TABLE).where(_TABLE.c.id == log.own.id))
        if not _is_event(before, after):
            return False
        connection.execute(
            sa.insert(_TABLE).values(
                id=log.own.id if log.own is not None else str(uuid.uuid4()),
                entity_type="dataset",
                entity_id=dataset_id,
                dataset_id=dataset_id,
                version=log.previous.version + 1 if log.previous is not None else 1,
                transaction_id=sa.func.txid_current(),
                occurred_at=sa.func.now(),
                captured_at=sa.func.clock_timestamp(),
                state=_state(package).value,
                labels_before=before.labels,
                labels=after.labels,
                facets_before=before.facets,
                facets=after.facets or before.facets,
                digest=after.digest,
                metadata_modified=package.metadata_modified if package is not None else None,
                content=text if text is not None else _last_content(log, package),
                first_sight=_first_sight(log, touched),
            )
        )
        return True


@contextmanager
def _bounded(connection: Connection) -> Iterator[None]:
    """Run within a savepoint and within the time that a save may lose here."""
    with connection.begin_nested():
        usual = connection.execute(
            sa.text(
                "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),"
                " set_config('lock_timeout', :lock, true),"
                " set_config('statement_timeout', :statement, true)"
            ),
            {"lock": LOCK_TIMEOUT, "statement": STATEMENT_TIMEOUT},
        ).one()
        yield
        # Settings outlive the release of a savepoint, though not its rollback.
        connection.execute(
            sa.text(
                "SELECT set_config('lock_timeout', :lock, true),"
                " set_config('statement_timeout', :statement, true)"
            ),
            {"lock": usual[0], "statement": usual[1]},
        )


def _read_log(connection: Connection, dataset_id: str) -> _Log:
    rows = connection.execute(_NEWEST, {"id": dataset_id}).all()
    own = rows[0] if rows and rows[0].own else None
    earlier = rows[1:] if own is not None else rows
    return _Log(own, earlier[0] if earlier else None)


def _is_stale(log: _Log, touched: Touched, package: Any) -> bool:
    """Tell whether another transaction wrote this dataset while ours had it in memory."""
    if log.previous is None or package is None:
        return False
    before = touched.before or _columns(package) or {}
    loaded, logged = before.get("metadata_modified"), log.previous.metadata_modified
    # CKAN moves the time forward with each edit: ours started from an older one.
    return bool(log.previous.after_we_began or (loaded and logged and loaded < logged))


def _is_excluded(package: Any, touched: Touched) -> bool:
    type_ = package.type if package is not None else (touched.before or {}).get("type")
    return type_ in config.exclude_types()


def _before(log: _Log, touched: Touched, package: Any) -> _Side:
    if log.previous is not None:
        return _Side(log.previous.labels, log.previous.facets, log.previous.digest)
    if touched.created:
        return _NOWHERE
    columns = touched.before or _columns(package)
    if columns is None or columns["state"] != model.State.ACTIVE:
        return _NOWHERE
    return _Side(_labels(model.Package(**columns)), _facets_of_columns(columns))


def _columns(package: Any) -> dict[str, Any] | None:
    """Give the columns of a package of which only a part was touched."""
    if package is None:
        return None
    return {c.key: getattr(package, c.key) for c in sa.inspect(package).mapper.column_attrs}


def _after(package: Any, touched: Touched) -> tuple[_Side, str | None]:
    if package is None or package.state != model.State.ACTIVE:
        return _NOWHERE, None
    dataset = content.dataset_dict(package.id, touched.built)
    side = _Side(_labels(package), difference.facets(dataset), difference.digest(dataset))
    return side, json.dumps(dataset)


def _labels(package: Any) -> list[str]:
    return sorted(get_permission_labels().get_dataset_labels(package))


def _facets_of_columns(columns: dict[str, Any]) -> dict[str, list[str]]:
    """Give what can be known of the facets without the dataset's dict."""
    owner = columns["owner_org"]
    return {
        "dataset": [columns["id"], columns["name"]],
        "organization": [owner] if owner else [],
        "group": [],
        "tag": [],
        "type": [columns["type"]],
    }


def _is_event(before: _Side, after: _Side) -> bool:
    if before.labels is None and after.labels is None:
        return False
    return (before.labels, before.digest) != (after.labels, after.digest)


def _state(package: Any) -> State:
    if package is None:
        return State.PURGED
    return {
        model.State.ACTIVE: State.ACTIVE,
        model.State.DELETED: State.DELETED,
    }.get(package.state, State.HIDDEN)


def _last_content(log: _Log, package: Any) -> Any:
    """Copy, within the database, what the receivers of a deletion last saw."""
    if log.previous is None or _state(package) is not State.DELETED:
        return None
    previous = _TABLE.alias()
    return sa.select(previous.c.content).where(previous.c.id == log.previous.id).scalar_subquery()


def _first_sight(log: _Log, touched: Touched) -> dict[str, str] | None:
    if log.previous is not None or touched.created:
        return None
    return touched.resources
