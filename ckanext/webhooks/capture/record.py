"""One dataset of one transaction → its row in the log, or none.

The dataset's package row is locked first, so that the rows of one dataset
are written in the order in which their transactions commit, and the newest
row is read after that. Nothing is concluded from memory about what this
transaction wrote before: a rollback may have erased it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from ckan import model
from ckan.lib.plugins import get_permission_labels
from sqlalchemy.engine import Connection

from .. import config, difference, wellformed
from ..model import Origin, State
from . import bounds, content
from .touched import Touched

# PostgreSQL gives each statement a snapshot, so what is read after the lock is what was
# committed when it was had.
_BEGIN = f"""{bounds.BEGIN}
    SELECT FROM package WHERE id = %(id)s FOR NO KEY UPDATE;
    SELECT p.id IS NOT NULL AS is_there, p.state AS row_state, p.private AS row_private,
           p.owner_org AS row_owner_org, p.creator_user_id AS row_creator, e.*
    FROM (SELECT) always LEFT JOIN package p ON p.id = %(id)s LEFT JOIN (
        SELECT id, version, state, labels_before, labels, facets, digest, metadata_modified,
               captured_at > now() AS after_we_began,
               transaction_id = txid_current() AND occurred_at = now() AS own
        FROM webhooks_event WHERE dataset_id = %(id)s AND version IS NOT NULL
        ORDER BY version DESC LIMIT 2) e ON true
"""
# What was created since, and is not in the log, was missed; anything else was there before.
LOG_BEGAN = """(
    SELECT timezone('utc', captured_at) FROM webhooks_event
    WHERE sequence IS NOT NULL ORDER BY sequence LIMIT 1)"""
_IS_SINCE = f"SELECT coalesce(%(created)s > {LOG_BEGAN}, false)"
_DELETE = "DELETE FROM webhooks_event WHERE id = %(id_of_own)s;"
_INSERT = """
    INSERT INTO webhooks_event (
        id, entity_type, entity_id, dataset_id, version, transaction_id, occurred_at, captured_at,
        origin, state, labels_before, labels, facets_before, facets, digest, metadata_modified,
        first_sight, content)
    VALUES (
        %(id)s, 'dataset', %(dataset_id)s, %(dataset_id)s, %(version)s, txid_current(), now(),
        clock_timestamp(), %(origin)s, %(state)s, CAST(%(labels_before)s AS text[]),
        CAST(%(labels)s AS text[]), CAST(%(facets_before)s AS jsonb), CAST(%(facets)s AS jsonb),
        %(digest)s, %(metadata_modified)s, CAST(%(first_sight)s AS jsonb),
        -- What was deleted is told as it last was.
        coalesce(%(content)s, (SELECT content FROM webhooks_event WHERE id = %(content_of)s)));
"""


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

    :ivar is_there: the dataset's row exists
    :ivar seen_by: what of that row decides who may see it, see :func:`_seen_by`
    :ivar own: the row that this very transaction wrote, if it did
    :ivar previous: the newest row of an earlier transaction, if there is one
    """

    is_there: bool
    seen_by: tuple[Any, ...]
    own: Any
    previous: Any


def record(session: Any, dataset_id: str, touched: Touched) -> bool:
    """Write, correct or take back the row of one dataset.

    :returns: a row was written
    :raises Exception: whatever the database or a plugin raises; the
        transaction is as it was before
    """
    connection = session.connection()
    try:
        log = _begin(connection, dataset_id)
        row = _row(session, dataset_id, touched, log)
        _end(connection, log, row)
    except Exception:
        connection.exec_driver_sql(bounds.UNDO)
        raise
    return row is not None


def _begin(connection: Connection, dataset_id: str) -> _Log:
    """Bound the time that a save may lose here, lock the dataset, and read the log."""
    rows = connection.exec_driver_sql(_BEGIN, {"id": dataset_id}).all()
    first = rows[0]
    seen_by = (first.row_state, first.row_private, first.row_owner_org, first.row_creator)
    rows = [row for row in rows if row.id is not None]
    own = next((row for row in rows if row.own), None)
    earlier = [row for row in rows if not row.own]
    return _Log(
        first.is_there, seen_by, own, max(earlier, key=lambda row: row.version, default=None)
    )


def _end(connection: Connection, log: _Log, row: dict[str, Any] | None) -> None:
    """Leave the one row of this transaction that is to be there, or none."""
    delete = _DELETE if log.own is not None else ""
    insert = _INSERT if row is not None else ""
    values = {**(row or {}), "id_of_own": log.own.id if log.own is not None else None}
    connection.exec_driver_sql(f"{delete}{insert}{bounds.END}", values)


def _row(session: Any, dataset_id: str, touched: Touched, log: _Log) -> dict[str, Any] | None:
    """Give the columns of the dataset's row, None where there is nothing to tell."""
    if touched.stale:
        session.expire_all()
    package = session.get(model.Package, dataset_id) if log.is_there else None
    if _is_excluded(package, touched):
        return None
    if _is_stale(log, touched, package):
        session.expire_all()
        touched.built = None
    is_first_sight = _is_first_sight(session, log, touched, package)
    before = _before(log, touched, package, is_first_sight)
    after, text = _after(package, touched)
    state = _state(package)
    if not _is_event(before, after) and not _is_withdrawal(state, log):
        return None
    return {
        "id": log.own.id if log.own is not None else str(uuid.uuid4()),
        "dataset_id": dataset_id,
        "version": log.previous.version + 1 if log.previous is not None else 1,
        "origin": _origin(log, touched).value,
        "state": state.value,
        "labels_before": before.labels,
        "labels": after.labels,
        "facets_before": _json(before.facets),
        "facets": _json(after.facets or before.facets),
        "digest": after.digest,
        "metadata_modified": package.metadata_modified if package is not None else None,
        "first_sight": _json(touched.resources if is_first_sight else None),
        "content": text,
        "content_of": log.previous.id
        if state is State.DELETED and log.previous is not None
        else None,
    }


def _origin(log: _Log, touched: Touched) -> Origin:
    # Another worker may have noted it meanwhile: then this is what changed since.
    return Origin.SEED if touched.seeding and log.previous is None else Origin.CHANGE


def _json(value: Any) -> str | None:
    return wellformed.dumps(value) if value is not None else None


def _is_stale(log: _Log, touched: Touched, package: Any) -> bool:
    """Tell whether another transaction wrote this dataset while ours had it in memory."""
    if package is None:
        return False
    if _seen_by(package) != log.seen_by:
        return True
    if touched.created:
        return False
    if log.previous is None or log.previous.labels is None:
        # The log has no time of what happens to a dataset that nobody sees.
        return bool(package.state == model.State.ACTIVE)
    before = touched.before or _columns(package) or {}
    loaded, logged = before.get("metadata_modified"), log.previous.metadata_modified
    # CKAN moves the time forward with each edit: ours started from an older one.
    return bool(log.previous.after_we_began or (loaded and logged and loaded < logged))


def _seen_by(package: Any) -> tuple[Any, ...]:
    """Give what the permission labels of a dataset are made of."""
    return (package.state, package.private, package.owner_org, package.creator_user_id)


def _is_excluded(package: Any, touched: Touched) -> bool:
    type_ = package.type if package is not None else (touched.before or {}).get("type")
    return type_ in config.exclude_types()


def _is_first_sight(session: Any, log: _Log, touched: Touched, package: Any) -> bool:
    """Tell whether the dataset was there before the log, which does not know it."""
    if log.previous is not None or touched.created or touched.seeding:
        return False
    columns = touched.before or _columns(package)
    if columns is None:
        return True
    found = session.connection().exec_driver_sql(
        _IS_SINCE, {"created": columns["metadata_created"]}
    )
    return not found.scalar_one()


def _before(log: _Log, touched: Touched, package: Any, is_first_sight: bool) -> _Side:
    if log.previous is not None:
        return _Side(log.previous.labels, log.previous.facets, log.previous.digest)
    if not is_first_sight:
        return _NOWHERE
    columns = touched.before or _columns(package)
    if columns is None or columns["state"] != model.State.ACTIVE:
        return _NOWHERE
    return _Side(labels(model.Package(**columns)), _facets_of_columns(columns))


def _columns(package: Any) -> dict[str, Any] | None:
    """Give the columns of a package of which only a part was touched."""
    if package is None:
        return None
    return {c.key: getattr(package, c.key) for c in sa.inspect(package).mapper.column_attrs}


def _after(package: Any, touched: Touched) -> tuple[_Side, str | None]:
    if package is None or package.state != model.State.ACTIVE:
        return _NOWHERE, None
    dataset, text = content.of_dataset(package.id, touched.built)
    side = _Side(labels(package), difference.facets(dataset), difference.digest(dataset))
    return side, text


def labels(package: Any) -> list[str]:
    """Give the permission labels of a dataset, whatever its state."""
    return sorted(map(wellformed.text, get_permission_labels().get_dataset_labels(package)))


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


def _is_withdrawal(state: State, log: _Log) -> bool:
    """Tell whether what the log has of a dataset that nobody sees may go out no more.

    What was deleted is still told with its content; what was then made a draft
    or purged is not.
    """
    if log.previous is None:
        return False
    if state is State.PURGED:
        return bool(log.previous.state != State.PURGED)
    return state is State.HIDDEN and bool(log.previous.state == State.DELETED)


def _state(package: Any) -> State:
    if package is None:
        return State.PURGED
    return {
        model.State.ACTIVE: State.ACTIVE,
        model.State.DELETED: State.DELETED,
    }.get(package.state, State.HIDDEN)
