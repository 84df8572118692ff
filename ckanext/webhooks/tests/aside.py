"""Rows that PostgreSQL refuses, and things that are put aside for such a reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import quarantine
from ..model import Kind, transaction
from .callers import execute

WHY = ValueError("as planted")


def put_aside(kind: Kind, key: object, **more: Any) -> int:
    """Put something aside, of a delivery its own row too; gives the number of that."""
    with transaction() as connection:
        quarantine.put_aside(connection, kind, str(key), WHY, **more)
    if kind is Kind.DELIVERY and not more.get("is_stuck"):
        execute(
            "UPDATE webhooks_delivery d SET due_at = q.due_at FROM webhooks_quarantine q"
            " WHERE d.id = :key AND q.kind = 'delivery' AND q.key = CAST(:key AS text)",
            key=key,
        )
    (row,) = execute(
        "SELECT id FROM webhooks_quarantine WHERE kind = :kind AND key = :key",
        kind=kind.value,
        key=str(key),
    )
    return int(row.id)


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


def waiting() -> list[tuple[str, str]]:
    """Name by kind and key what is put aside."""
    with transaction() as connection:
        return [(row.kind, row.key) for row in quarantine.waiting(connection)]


def kinds() -> list[str]:
    """Name the kinds of what is put aside."""
    return [kind for kind, _key in waiting()]


def try_again() -> None:
    """What time does: everything that was put aside is due."""
    execute("UPDATE webhooks_quarantine SET due_at = clock_timestamp() - interval '1 second'")
    execute("UPDATE webhooks_delivery SET due_at = clock_timestamp() WHERE status = 'pending'")
