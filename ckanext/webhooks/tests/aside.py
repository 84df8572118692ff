"""Things that are put aside, as a stage does that with what failed alone."""

from __future__ import annotations

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


def waiting() -> list[tuple[str, str]]:
    """Name by kind and key what is put aside."""
    with transaction() as connection:
        return [(row.kind, row.key) for row in quarantine.waiting(connection)]
