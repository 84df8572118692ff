"""Putting aside what fails alone, and looking at what was put aside."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from . import logs, wellformed
from .model.quarantine import Kind

log = logs.logger(__name__)

# Seconds until the next try: a deploy or a person mends most causes within minutes or days.
_FIRST_PAUSE = 5
_LONGEST_PAUSE = 3600
# An error of PostgreSQL may quote a whole row.
_MAX_REASON = 500


def put_aside(connection: Connection, kind: Kind, key: str, error: Exception, **more: Any) -> None:
    """Put one thing aside, or further aside, and log that.

    :param more: see :func:`note`
    """
    note(connection, kind, key, error, **more)
    say(kind, key, error)


def note(
    connection: Connection,
    kind: Kind,
    key: str,
    error: Exception,
    *,
    dataset_id: str | None = None,
    user_id: str | None = None,
    labels: Any = None,
    is_stuck: bool = False,
    sequence: int | None = None,
) -> None:
    """Write that something is put aside; see ``model.Quarantined``.

    :param error: why
    :param labels: of rights, as the tables have them: those of before
    :param sequence: the number of the last event that it had its part in; None for the last
        of all
    """
    connection.execute(
        _NOTE,
        {
            "kind": kind.value,
            "key": key,
            "dataset_id": dataset_id,
            "user_id": user_id,
            "labels": labels,
            "is_stuck": is_stuck,
            "sequence": sequence,
            "reason": reason(error),
        },
    )


def say(kind: Kind, key: str, error: Exception) -> None:
    """Log that something is put aside."""
    log.error(
        "webhooks [%s]: %s %s failed and is put aside, so that everything else goes on; it is"
        " tried again by itself. `ckan webhooks quarantine list` shows it. Please report this"
        " with the lines below.",
        uuid.uuid4(),
        kind.value,
        key,
        exc_info=error,
    )


def reason(error: BaseException) -> str:
    """Say what an error is in one line."""
    original = getattr(error, "orig", None) or error
    first, *_ = str(original).strip().splitlines() or [""]
    return wellformed.text(f"{type(original).__name__}: {first}"[:_MAX_REASON])


def release(connection: Connection, ids: Sequence[int]) -> None:
    """Forget that some things were put aside."""
    connection.execute(
        sa.text("DELETE FROM webhooks_quarantine WHERE id = ANY(:ids)"), {"ids": list(ids)}
    )


def waiting(connection: Connection, limit: int | None = None) -> Sequence[Any]:
    """Give what is put aside, oldest first: columns of :class:`model.quarantine.Quarantined`."""
    return connection.execute(_WAITING, {"limit": limit}).all()


def counts(connection: Connection) -> dict[str, int]:
    """Count what is put aside by its kind; each is there, also where nothing is."""
    found = {row.kind: row.count for row in connection.execute(_COUNTS)}
    return {kind.value: found.get(kind.value, 0) for kind in Kind}


_PAUSE = f"""least(
    {_FIRST_PAUSE} * power(4, least(%s, 10)), {_LONGEST_PAUSE}) * interval '1 second'"""
_NOTE = sa.text(
    f"""
    INSERT INTO webhooks_quarantine AS q
        (kind, key, dataset_id, user_id, labels, is_stuck, reason, sequence, due_at)
    SELECT :kind, :key, :dataset_id, :user_id, :labels, :is_stuck, :reason,
           coalesce(:sequence, (SELECT coalesce(max(sequence), 0) FROM webhooks_event)),
           clock_timestamp() + {_PAUSE % "0"}
    ON CONFLICT (kind, key) DO UPDATE SET
        reason = excluded.reason, is_stuck = excluded.is_stuck, tries = q.tries + 1,
        due_at = clock_timestamp() + {_PAUSE % "q.tries"}
    """
).bindparams(
    sa.bindparam("labels", type_=JSONB(none_as_null=True)),
    *(
        sa.bindparam(name, type_=sa.Text)
        for name in ("dataset_id", "user_id", "kind", "key", "reason")
    ),
    sa.bindparam("is_stuck", type_=sa.Boolean),
    sa.bindparam("sequence", type_=sa.BigInteger),
)
# Of an event `e`: neither it nor what it waits behind is put aside. An event is let in again
# when its time has come; what a user's rights mean for its dataset is told before it.
DATASET_GOES_ON = """NOT EXISTS (
    SELECT FROM webhooks_quarantine q WHERE q.dataset_id = e.dataset_id
        AND (q.kind = 'rights' OR q.due_at > statement_timestamp()))"""
# Of a webhook `w`.
WEBHOOK_GOES_ON = (
    "w.id <> ALL(ARRAY(SELECT q.key FROM webhooks_quarantine q WHERE q.kind = 'webhook'))"
)
# The owners of whom no webhook goes on.
OWNERS_ASIDE = f"""
    SELECT aside.user_id FROM webhooks_quarantine q JOIN webhooks aside ON aside.id = q.key
    WHERE q.kind = 'webhook' AND NOT EXISTS (
        SELECT FROM webhooks w WHERE w.user_id = aside.user_id AND {WEBHOOK_GOES_ON})
"""
# Of a delivery `d`. What can be written is pushed forward instead.
DELIVERY_GOES_ON = """d.id <> ALL(ARRAY(
    SELECT CAST(q.key AS bigint) FROM webhooks_quarantine q
    WHERE q.is_stuck AND q.due_at > statement_timestamp()))"""
# That of which nothing is left to do is no longer aside.
LIVE = """CASE q.kind
    WHEN 'delivery' THEN EXISTS (
        SELECT FROM webhooks_delivery d
        WHERE d.id = CAST(q.key AS bigint) AND d.status = 'pending'
            AND (q.is_stuck OR d.due_at = q.due_at))
    WHEN 'webhook' THEN EXISTS (SELECT FROM webhooks w WHERE w.id = q.key)
    ELSE true END"""
_COUNTS = sa.text(
    f"SELECT q.kind, count(*) AS count FROM webhooks_quarantine q WHERE {LIVE} GROUP BY q.kind"
)
_WAITING = sa.text(f"SELECT q.* FROM webhooks_quarantine q WHERE {LIVE} ORDER BY q.id LIMIT :limit")
