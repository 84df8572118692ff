"""What the tables share, and the short transactions of the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model
from psycopg2 import errorcodes, extensions
from sqlalchemy.engine import Connection

from .. import wellformed

# Declarative models on CKAN's own metadata. mypy cannot follow the dynamic
# base class of two SQLAlchemy generations.
Base: Any = tk.BaseModel

# Of PostgreSQL's advisory locks: any number that no other extension uses,
# "webhooks" on a telephone's keys.
DISPATCH_LOCK = 93246657
LOCK_DISPATCH = f"SELECT pg_advisory_xact_lock({DISPATCH_LOCK});"
HOW_TO_MIGRATE = "run `ckan db upgrade -p webhooks`"
# Begins a transaction of several statements. Who vanishes in its midst, cut off or frozen,
# keeps its locks for so long and not until PostgreSQL's TCP gives up, hours later. What is
# done between two statements takes milliseconds.
BEGIN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s';"
COMMIT = "COMMIT"
# Before a statement: its transaction is not on disk yet when it returns.
HASTILY = "SET LOCAL synchronous_commit = off;"
# Before a statement: a queue is empty at one moment and full at the next, whatever the
# statistics say, so what is oldest is to be read from its index, not sorted. Where a few
# rows are to be sorted after that, the cost of what is off would look worth compiling.
IN_ORDER_OF_INDEX = (
    "SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off; SET LOCAL jit = off;"
)

# A connection that was used so lately (seconds) is not asked whether it still works.
_TRUSTED_FOR = 5.0
_kept = threading.local()


@contextmanager
def transaction() -> Iterator[Connection]:
    """Open a connection of its own, commit at the end, roll back on an error.

    The stages of the worker use this rather than CKAN's session: their
    transactions are short, hold sets of rows, and no ORM object.
    """
    engine = model.meta.engine
    assert engine is not None, "CKAN's model is not initialised"
    with engine.begin() as connection:
        yield connection


@contextmanager
def connected() -> Iterator[Connection]:
    """Give this thread's own connection, on which each statement is a transaction.

    It stays open for the next use: to take one from the pool, which asks whether
    it still works, to begin and to commit would be four round trips more than
    the statement itself. What is given up on an error is opened anew.
    """
    connection = _kept.connection if _is_kept() else _open()
    _kept.connection = None  # whatever happens in between
    try:
        yield connection
    except BaseException:
        connection.invalidate()
        connection.close()
        raise
    _kept.connection, _kept.used_at = connection, time.monotonic()


@contextmanager
def in_transaction(
    connection: Connection, first: sa.TextClause, values: Mapping[str, Any] | None = None
) -> Iterator[Sequence[Any]]:
    """Make several statements of :func:`connected` one transaction; give the rows of the first.

    :param first: begins with :data:`BEGIN`, which is not worth a round trip of its own; the last
        may end with :data:`COMMIT` for the same reason
    """
    yield connection.execute(first, values or {}).all()
    if _is_in_transaction(connection):
        connection.exec_driver_sql(COMMIT)


def _is_in_transaction(connection: Connection) -> bool:
    """Ask the driver, which knows it without asking PostgreSQL."""
    status = connection.connection.dbapi_connection.info.transaction_status
    return bool(status != extensions.TRANSACTION_STATUS_IDLE)


def close_kept() -> None:
    """Close the connection that this thread keeps."""
    connection, _kept.connection = getattr(_kept, "connection", None), None
    if connection is not None:
        connection.invalidate()
        connection.close()


def _is_kept() -> bool:
    connection = getattr(_kept, "connection", None)
    if connection is None:
        return False
    if connection.engine is not model.meta.engine or not _still_works(connection):
        close_kept()
        return False
    return True


def _still_works(connection: Connection) -> bool:
    if time.monotonic() - _kept.used_at < _TRUSTED_FOR:
        return True
    try:
        connection.exec_driver_sql("SELECT 1")
    except sa.exc.DBAPIError:
        return False
    return True


def _open() -> Connection:
    engine = model.meta.engine
    assert engine is not None, "CKAN's model is not initialised"
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def array(values: Iterable[int | float | str | None]) -> str:
    """Write values as PostgreSQL reads an array, with what it cannot hold replaced.

    https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO: a third of the time
    that the driver takes to write each of them on its own.
    """
    return wellformed.text("{" + ",".join(map(_element, values)) + "}")


def _element(value: int | float | str | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def dispatch_lock(connection: Connection) -> None:
    """Wait until no other dispatcher works, and keep others out until the end."""
    connection.exec_driver_sql(LOCK_DISPATCH)


def try_dispatch_lock(connection: Connection) -> bool:
    """Do so unless another has it; what has been dispatched is in sight then."""
    found = connection.execute(
        sa.text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": DISPATCH_LOCK}
    )
    return bool(found.scalar_one())


def is_missing_table(error: BaseException) -> bool:
    """Tell whether a database error says that a migration is still to be run."""
    return getattr(getattr(error, "orig", None), "pgcode", None) in (
        errorcodes.UNDEFINED_TABLE,
        errorcodes.UNDEFINED_COLUMN,
    )


def gave_up_waiting(error: BaseException) -> bool:
    """Tell whether a database error says that a lock was not had in time, or an answer."""
    return getattr(getattr(error, "orig", None), "pgcode", None) in (
        errorcodes.LOCK_NOT_AVAILABLE,
        errorcodes.QUERY_CANCELED,
    )


# Classes of SQLSTATE: cardinality, data, integrity, a limit exceeded, an error of a trigger's own.
_OF_THE_DATA = ("21", "22", "23", "54", "P0")


def is_of_the_data(error: BaseException) -> bool:
    """Tell whether an error is about what was to be written, whenever and with whom that is tried.

    Any other is about the moment: a connection, a lock, a disk, a migration that is missing.
    """
    code = getattr(getattr(error, "orig", None), "pgcode", None)
    if code is not None:
        return str(code).startswith(_OF_THE_DATA)
    if isinstance(error, sa.exc.DBAPIError):  # the driver's, before anything was sent
        return isinstance(error, (sa.exc.DataError, sa.exc.ProgrammingError))
    if isinstance(error, sa.exc.StatementError):
        return True
    return not isinstance(error, (sa.exc.SQLAlchemyError, OSError, MemoryError))


# Classes of SQLSTATE: corrupted data and what PostgreSQL says of it, its memory; and what was
# cut off, as a whole set may be for its size alone.
_OF_ONE = ("XX", errorcodes.OUT_OF_MEMORY, errorcodes.QUERY_CANCELED, "25P03")


def may_be_of_one(error: BaseException) -> bool:
    """Tell whether a set that failed may go through without one of its members, or in parts."""
    code = getattr(getattr(error, "orig", None), "pgcode", None)
    if code is not None and str(code).startswith(_OF_ONE):
        return True
    return is_of_the_data(error) or isinstance(error, MemoryError)


def missing_tables() -> bool:
    """Tell whether a migration of this extension is still to be run."""
    with transaction() as connection:
        # The table of the newest migration.
        found = connection.execute(sa.text("SELECT to_regclass('webhooks_quarantine')"))
        return found.scalar_one() is None
