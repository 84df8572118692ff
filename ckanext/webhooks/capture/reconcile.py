"""Log against catalogue, in the worker: what capture missed, or was there before it.

A capture that failed, SQL by hand, a labels plugin that was exchanged: all
leave a dataset that is not what the log's newest row of it says. It is
captured again by the same steps as a save, so that the net change is told.
What the log does not know at all was there before it, and is only noted (a
*seed*); unless it was made since, for then it was missed.

Everything goes in pages, and each dataset is a transaction of its own: this
may end anywhere, and goes on where it is needed when it is called again.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from ckan import model

from .. import config, logs
from ..model import transaction
from . import missed, record
from .touched import Touched

log = logs.logger(__name__)

# Datasets looked at per query; of these only the columns are read.
PAGE = 500


class Found(enum.Enum):
    """What came of looking at a dataset again."""

    MISSED = "missed"  # it differed, and that is captured now
    SAME = "same"  # nothing that counts differs
    FAILED = "failed"  # it could not be captured; the log says why


def reconcile(stopping: Callable[[], bool] = lambda: False) -> Iterator[Found]:
    """Compare every dataset with the log, and capture what differs, one at each step.

    :param stopping: asked before each dataset; when true, this ends early
    """
    for dataset_id, touched in _differing():
        if stopping():
            return
        yield _capture(dataset_id, touched)


def reconcile_datasets(dataset_ids: Collection[str]) -> dict[str, Found]:
    """Look at some datasets whatever their time says, and capture what differs.

    :param dataset_ids: also of datasets that are no more
    """
    rows = model.Session.execute(_NAMED, {"ids": list(dataset_ids)}).all()
    created = {row.id for row in rows if row.is_new and not row.is_known}
    return {id_: _capture(id_, Touched(created=id_ in created)) for id_ in sorted(dataset_ids)}


def capture_missed(stopping: Callable[[], bool] = lambda: False) -> None:
    """Capture what saves have noted as missed; what cannot be captured yet is due later.

    :param stopping: asked before each page; when true, this ends early
    """
    while not stopping() and (rows := missed.claim()):
        found = reconcile_datasets({row.dataset_id for row in rows})
        missed.forget([row.id for row in rows if found[row.dataset_id] is not Found.FAILED])


def note_missed(dataset_ids: Collection[str]) -> None:
    """Note what a save could not note itself."""
    with transaction() as connection:
        missed.note(connection, dataset_ids)


def snapshot() -> Iterator[Found]:
    """Note the datasets that the log does not know, one at each step."""
    for page in _pages(_UNKNOWN):
        for dataset_id, touched in _suspects(page):
            yield _capture(dataset_id, touched)


def count_unknown() -> int:
    """Count the datasets that :func:`snapshot` has still to note."""
    found = model.Session.execute(_COUNT_UNKNOWN, {"excluded": sorted(config.exclude_types())})
    return int(found.scalar_one())


def _capture(dataset_id: str, touched: Touched) -> Found:
    session = model.Session()
    try:
        written = record.record(session, dataset_id, touched)
        if not written:
            # Else the time alone would make it differ the next time too.
            session.execute(_FOLLOW_TIME, {"id": dataset_id})
        session.commit()
    except Exception:
        session.rollback()
        log.exception(
            "webhooks [%s]: dataset %s is not what the log says and could not be captured. It is"
            " tried again; if that goes on, look at the lines below.",
            uuid.uuid4(),
            dataset_id,
        )
        return Found.FAILED
    finally:
        # What was read of one dataset is not wanted for the next.
        session.expunge_all()
    return Found.MISSED if written else Found.SAME


def _differing() -> Iterator[tuple[str, Touched]]:
    for page in _pages(_CATALOGUE):
        yield from _suspects(page)
    for page in _pages(_GONE):
        for row in page:
            yield row.id, Touched()


def _pages(statement: Any) -> Iterator[Any]:
    values = {"after": "", "page": PAGE, "excluded": sorted(config.exclude_types())}
    while page := model.Session.execute(statement, values).all():
        # While the page is worked on, no transaction is open.
        model.Session.rollback()
        yield page
        values["after"] = page[-1].id


def _suspects(rows: Any) -> Iterator[tuple[str, Touched]]:
    """Give those of some datasets that are not what the log says."""
    packages = model.Session.query(model.Package).filter(
        model.Package.id.in_([row.id for row in rows])
    )
    labels, unread = _labels(packages.all())
    model.Session.rollback()
    model.Session.expunge_all()
    for row in rows:
        active = row.state == model.State.ACTIVE
        if row.id in unread:
            yield row.id, Touched()  # capture asks again, and says why it cannot
        elif not row.is_known:
            if active:
                yield row.id, Touched(created=row.is_new, seeding=not row.is_new)
        elif (labels.get(row.id) if active else None) != row.labels or (
            active and row.metadata_modified != row.logged_modified
        ):
            yield row.id, Touched()


def _labels(packages: Iterable[Any]) -> tuple[dict[str, Any], set[str]]:
    """Give the labels of datasets, and the ids of those whose labels cannot be read."""
    found: dict[str, Any] = {}
    unread: set[str] = set()
    for package in packages:
        id_ = package.id
        try:
            found[id_] = record.labels(package)
        except Exception:
            unread.add(id_)
    return found, unread


# What the log has of a dataset, beside what the catalogue has.
_COMPARED = f"""
    SELECT p.id, p.state, p.metadata_modified, e.id IS NOT NULL AS is_known, e.labels,
           e.metadata_modified AS logged_modified,
           coalesce(p.metadata_created > {record.LOG_BEGAN}, false) AS is_new
    FROM package p LEFT JOIN LATERAL (
        SELECT id, labels, metadata_modified FROM webhooks_event
        WHERE dataset_id = p.id AND version IS NOT NULL
        ORDER BY version DESC LIMIT 1) e ON true
"""
_CATALOGUE = sa.text(
    f"{_COMPARED} WHERE p.id > :after AND p.type <> ALL(CAST(:excluded AS text[]))"
    " ORDER BY p.id LIMIT :page"
)
_NAMED = sa.text(f"{_COMPARED} WHERE p.id = ANY(CAST(:ids AS text[]))")
_IS_UNKNOWN = """
    p.state = 'active' AND p.type <> ALL(CAST(:excluded AS text[]))
    AND NOT EXISTS (SELECT FROM webhooks_event known
                    WHERE known.dataset_id = p.id AND known.version IS NOT NULL)
"""
_UNKNOWN = sa.text(f"{_COMPARED} WHERE p.id > :after AND {_IS_UNKNOWN} ORDER BY p.id LIMIT :page")
_COUNT_UNKNOWN = sa.text(f"SELECT count(*) FROM package p WHERE {_IS_UNKNOWN}")
_GONE = sa.text(
    """
    SELECT e.dataset_id AS id FROM webhooks_event e
    WHERE e.version IS NOT NULL AND e.dataset_id > :after AND e.state <> 'purged'
        AND NOT EXISTS (SELECT FROM package p WHERE p.id = e.dataset_id)
        AND NOT EXISTS (
            SELECT FROM webhooks_event newer
            WHERE newer.dataset_id = e.dataset_id AND newer.version > e.version)
    ORDER BY e.dataset_id LIMIT :page
    """
)
_FOLLOW_TIME = sa.text(
    """
    UPDATE webhooks_event e SET metadata_modified = p.metadata_modified
    FROM package p
    WHERE p.id = :id AND e.dataset_id = p.id AND e.version = (
        SELECT max(version) FROM webhooks_event WHERE dataset_id = p.id)
    """
)
