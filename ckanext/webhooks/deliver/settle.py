"""Writing down what became of deliveries, a set at a time."""

from __future__ import annotations

import datetime
import random
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import Attempt, Status, WebhookState, transaction
from .attempt import Attempted
from .retry import Decision, Verdict, decide

_STATUS = {
    Verdict.DELIVERED: Status.DELIVERED,
    Verdict.RETRY: Status.PENDING,
    Verdict.GIVE_UP: Status.FAILED,
    Verdict.DISABLE: Status.FAILED,
}

# Rows are locked in one order everywhere, webhooks before deliveries.
_LOCK_WEBHOOKS = sa.text(
    "SELECT FROM webhooks WHERE id = ANY(CAST(:ids AS text[])) ORDER BY id FOR NO KEY UPDATE"
)
# A lease that was lost may have been taken by another worker, whose failure
# counts then; that it was delivered counts in any case.
_SETTLE = sa.text(
    """
    UPDATE webhooks_delivery d
    SET status = o.status, reason = o.reason, tries = d.tries + 1,
        due_at = CASE WHEN o.status = 'pending'
            THEN clock_timestamp() + o.wait * interval '1 second' ELSE d.due_at END,
        ended_at = CASE WHEN o.status <> 'pending' THEN clock_timestamp() END
    FROM unnest(CAST(:ids AS bigint[]), CAST(:leases AS timestamptz[]), CAST(:statuses AS text[]),
                CAST(:reasons AS text[]), CAST(:waits AS float[]))
         AS o(id, lease, status, reason, wait)
    WHERE d.id = o.id AND d.status = 'pending'
        AND (d.due_at = o.lease OR o.status = 'delivered')
    """
)
_CANCEL = sa.text(
    """
    UPDATE webhooks_delivery d
    SET status = 'cancelled', reason = o.reason, ended_at = clock_timestamp()
    FROM unnest(CAST(:ids AS bigint[]), CAST(:reasons AS text[])) AS o(id, reason)
    WHERE d.id = o.id AND d.status = 'pending'
    """
)
_CANCEL_WEBHOOKS = sa.text(
    """
    UPDATE webhooks_delivery
    SET status = 'cancelled', reason = :reason, ended_at = clock_timestamp()
    WHERE webhook_id = ANY(CAST(:ids AS text[])) AND status = 'pending'
    """
)
_SUCCEEDED = sa.text(
    "UPDATE webhooks SET last_success_at = clock_timestamp(), failing_since = NULL"
    " WHERE id = ANY(CAST(:ids AS text[]))"
)
_FAILED = sa.text(
    "UPDATE webhooks SET last_failure_at = clock_timestamp(),"
    " failing_since = coalesce(failing_since, clock_timestamp())"
    " WHERE id = ANY(CAST(:ids AS text[]))"
)
_DISABLE = sa.text(
    "UPDATE webhooks SET state = :state, state_reason = :reason,"
    " updated_at = timezone('utc', clock_timestamp())"
    " WHERE id = ANY(CAST(:ids AS text[]))"
)


def settle(attempted: Sequence[Attempted], schedule: Sequence[float]) -> None:
    """Record attempts and move their deliveries on, in one transaction.

    :param schedule: seconds before each try
    """
    if not attempted:
        return
    decisions = [
        decide(a.outcome, a.delivery.tries + 1, schedule, random.random(), float(a.sent_at))
        for a in attempted
    ]
    with transaction() as connection:
        webhook_ids = sorted({a.delivery.webhook_id for a in attempted})
        connection.execute(_LOCK_WEBHOOKS, {"ids": webhook_ids})
        connection.execute(sa.insert(Attempt.__table__), [_attempt_row(a) for a in attempted])
        connection.execute(
            _SETTLE,
            {
                "ids": [a.delivery.id for a in attempted],
                "leases": [a.delivery.due_at for a in attempted],
                "statuses": [_STATUS[d.verdict].value for d in decisions],
                "reasons": [d.reason for d in decisions],
                "waits": [d.wait for d in decisions],
            },
        )
        _write_health(connection, attempted, decisions)


def cancel(reasons: dict[int, str]) -> None:
    """End deliveries that are not to be sent, each with its reason."""
    if not reasons:
        return
    with transaction() as connection:
        connection.execute(_CANCEL, {"ids": list(reasons), "reasons": list(reasons.values())})


def _attempt_row(attempted: Attempted) -> dict[str, Any]:
    outcome = attempted.outcome
    return {
        "delivery_id": attempted.delivery.id,
        "number": attempted.delivery.tries + 1,
        "sent_at": datetime.datetime.fromtimestamp(attempted.sent_at, datetime.timezone.utc),
        "duration": outcome.duration,
        "dialled": outcome.dialled,
        "http_status": outcome.status,
        "error": outcome.error,
        "answer": _text(outcome.answer),
    }


def _text(answer: bytes) -> str:
    # PostgreSQL's text cannot hold NUL; answers are anybody's bytes.
    return answer.decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _write_health(
    connection: Connection, attempted: Sequence[Attempted], decisions: Sequence[Decision]
) -> None:
    """Note per webhook how its last attempt of the set went."""
    last = {a.delivery.webhook_id: d for a, d in zip(attempted, decisions, strict=True)}
    succeeded = [id_ for id_, d in last.items() if d.verdict is Verdict.DELIVERED]
    failed = [id_ for id_, d in last.items() if d.verdict is not Verdict.DELIVERED]
    if succeeded:
        connection.execute(_SUCCEEDED, {"ids": succeeded})
    if failed:
        connection.execute(_FAILED, {"ids": failed})
    gone = {
        a.delivery.webhook_id
        for a, d in zip(attempted, decisions, strict=True)
        if d.verdict is Verdict.DISABLE
    }
    if gone:
        reason = "the endpoint answered 410 Gone: it is not there any more"
        connection.execute(
            _DISABLE,
            {"ids": list(gone), "state": WebhookState.DISABLED.value, "reason": reason},
        )
        connection.execute(_CANCEL_WEBHOOKS, {"ids": list(gone), "reason": "disabled"})
