"""What the tables share, and the short transactions of the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model
from psycopg2 import errorcodes
from sqlalchemy.engine import Connection

# Declarative models on CKAN's own metadata. mypy cannot follow the dynamic
# base class of two SQLAlchemy generations.
Base: Any = tk.BaseModel

# Of PostgreSQL's advisory locks: any number that no other extension uses,
# "webhooks" on a telephone's keys.
DISPATCH_LOCK = 93246657
HOW_TO_MIGRATE = "run `ckan db upgrade -p webhooks`"


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


def dispatch_lock(connection: Connection) -> None:
    """Wait until no other dispatcher works, and keep others out until the end."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": DISPATCH_LOCK})


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


def missing_tables() -> bool:
    """Tell whether a migration of this extension is still to be run."""
    with transaction() as connection:
        # A column of the newest migration.
        found = connection.execute(
            sa.text(
                "SELECT FROM pg_attribute WHERE attrelid = to_regclass('webhooks_event')"
                " AND attname = 'due_at' AND NOT attisdropped"
            )
        )
        return found.first() is None
