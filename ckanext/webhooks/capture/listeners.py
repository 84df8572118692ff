"""When capture acts: the events of SQLAlchemy's session.

They are registered after CKAN's own (in ``IConfigurable.configure``), and for
both of its session factories. CKAN calls no plugin method for several ways
in which datasets change (purge, a move to another organization, code on the
model itself), but all of them pass the session: flushed, or as a statement.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ckan.plugins as p
from ckan.model import meta
from sqlalchemy import event

from .. import logs, queue
from ..model.base import HOW_TO_MIGRATE, gave_up_waiting, is_missing_table
from . import missed, record, rights, statements, touched

log = logs.logger(__name__)

# One statement may change 20,000 datasets (an organization that goes). To build
# the dicts of so many, 10 ms each, is for a worker: a save waits 5 s at most.
MOST_BUILT_HERE = 500

# What was missed and neither the table nor the broker took: ids of datasets, each with when
# that was. The next transaction of this process notes it; no thread does, since uWSGI may
# have none.
_kept: set[tuple[str, float]] = set()
# Said once in a process: without the tables, every save says the same.
_said_missing_tables = False


def listen() -> None:
    """Hear CKAN's sessions. May be called again: each event is heard once."""
    for target in (meta.Session, meta.create_local_session):
        for name, listener in (
            ("do_orm_execute", do_orm_execute),
            ("before_flush", before_flush),
            ("after_flush", after_flush),
            ("before_commit", before_commit),
            ("after_commit", after_commit),
            ("after_soft_rollback", after_soft_rollback),
        ):
            if not event.contains(target, name, listener):
                event.listen(target, name, listener)


def _is_loaded() -> bool:
    # A plugin may be unloaded again (tests do); listeners cannot.
    return p.plugin_loaded("webhooks")


def do_orm_execute(state: Any) -> None:
    """Hear each statement; most are SELECTs, of which nothing is wanted."""
    if not statements.is_heard(state.statement) or not _is_loaded():
        return
    try:
        statements.note(state.session, state.statement, state.parameters)
    except Exception:
        _log_failure("a statement that changes datasets could not be looked at")


def before_flush(session: Any, flush_context: Any, instances: Any) -> None:
    if not _is_loaded():
        return
    try:
        touched.note_flush(session)
    except Exception:
        _log_failure("what is being saved could not be looked at")


def after_flush(session: Any, flush_context: Any) -> None:
    """Capture what another plugin flushes after our turn in before_commit."""
    if _is_loaded() and touched.current(session).recorded:
        _record(session)


def before_commit(session: Any) -> None:
    """Write the event rows, at the real commit and not at a savepoint's.

    CKAN 2.12 releases a savepoint within package_update, and SQLAlchemy fires
    the commit events there too; a row written there would be written twice.
    Whatever goes wrong is logged, and the save goes on: CKAN 2.12 lets an
    exception from here break it.
    """
    if not _is_loaded() or session.in_nested_transaction():
        return
    # Code on the model may commit with nothing flushed yet.
    session.flush()
    _record(session)
    touched.current(session).recorded = True


def after_commit(session: Any) -> None:
    if not _is_loaded() or session.in_nested_transaction():
        return
    ended = touched.forget(session)
    if ended is None:
        return
    _kept.difference_update(ended.noted)
    if ended.unnoted and not queue.report_missed(sorted(ended.unnoted)):
        now = time.monotonic()
        _kept.update((dataset_id, now) for dataset_id in ended.unnoted)
    if ended.wrote:
        queue.nudge()


def after_soft_rollback(session: Any, previous_transaction: Any) -> None:
    if previous_transaction.nested:
        touched.distrust_memory(session)
    else:
        touched.forget(session)


@contextmanager
def _as_ckans_own(session: Any) -> Iterator[None]:
    """Let CKAN's functions, which use ``model.Session``, see this session's transaction."""
    registry = meta.Session.registry
    usual = registry() if registry.has() else None
    registry.set(session)
    try:
        yield
    finally:
        if usual is None:
            registry.clear()
        else:
            registry.set(usual)


def _record(session: Any) -> None:
    with _as_ckans_own(session):
        _record_each(session)
    _note_rights(session)


def _note_rights(session: Any) -> None:
    transaction = touched.current(session)
    if not transaction.users:
        return
    try:
        rights.note(session.connection(), transaction.users)
    except Exception as error:
        _log_not_written(
            f"what {len(transaction.users)} users may see changed, and that was not noted", error
        )
    else:
        transaction.users = set()
        transaction.wrote = True


def _record_each(session: Any) -> None:
    transaction = touched.current(session)
    room = MOST_BUILT_HERE
    missing: list[str] = []
    # In order, so that two transactions that lock the same datasets cannot
    # wait for each other.
    ids = sorted(transaction.datasets)
    for number, dataset_id in enumerate(ids):
        dataset = transaction.datasets[dataset_id]
        if dataset.built is None:
            room -= 1
            if room < 0:
                missing.append(dataset_id)
                continue
        try:
            if record.record(session, dataset_id, dataset):
                transaction.wrote = True
        except Exception as error:
            _log_not_written(f"the change of dataset {dataset_id} was not captured", error)
            if is_missing_table(error) or gave_up_waiting(error):
                # So would the next, and a save waits once.
                missing += ids[number:]
                break
            missing.append(dataset_id)
    if missing or _kept:
        _note(session, missing)


def _note(session: Any, missing: Collection[str]) -> None:
    """Note in the very transaction what it misses, and what an earlier one could not note."""
    transaction = touched.current(session)
    # Another thread may add to it meanwhile.
    kept = _kept.copy()
    ids = {*missing, *(dataset_id for dataset_id, _since in kept)}
    try:
        missed.note(session.connection(), ids)
    except Exception as error:
        _log_not_written(f"what was missed of {len(ids)} datasets was not noted", error)
        if not is_missing_table(error):  # which no worker could note either
            transaction.unnoted.update(missing)
    else:
        transaction.noted |= kept


def _log_not_written(what: str, error: Exception) -> None:
    global _said_missing_tables
    if not is_missing_table(error):
        _log_failure(what)
    elif not _said_missing_tables:
        _said_missing_tables = True
        log.error(
            "webhooks: the tables are missing, so no change is told to anybody: %s",
            HOW_TO_MIGRATE,
        )


def _log_failure(what: str) -> None:
    log.exception(
        "webhooks [%s]: %s; the save itself goes through, and a worker finds what was missed."
        " Please report this with the lines below.",
        uuid.uuid4(),
        what,
    )
