"""Rows that PostgreSQL refuses, and what is put aside for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ckan import model

from .. import quarantine
from .callers import execute


@contextmanager
def refusing(event: str, table: str, condition: str) -> Iterator[None]:
    """Have PostgreSQL refuse rows.

    :param condition: of ``NEW``
    """
    execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" 'BEGIN IF {condition} THEN RAISE EXCEPTION ''planted''; END IF; RETURN NEW; END'"
    )
    execute(
        f"CREATE TRIGGER refuse BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    try:
        yield
    finally:
        execute("DROP FUNCTION refuse CASCADE")


def aside() -> list[str]:
    """Name the kinds of what is put aside."""
    model.Session.rollback()
    rows = quarantine.waiting(model.Session.connection())
    return [row.kind for row in rows]


def try_again() -> None:
    """What time does: everything that was put aside is due."""
    execute("UPDATE webhooks_quarantine SET due_at = clock_timestamp() - interval '1 second'")
    execute("UPDATE webhooks_delivery SET due_at = clock_timestamp() WHERE status = 'pending'")
