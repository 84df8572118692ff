"""Writing down what became of deliveries, a set at a time."""

from __future__ import annotations

import random
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import logs
from ..apart import apart
from ..model import (
    STILL_PENDING,
    Circuit,
    Status,
    WebhookState,
    connected,
    in_transaction,
    missed_from,
    pending_of,
)
from ..model.base import BEGIN, HASTILY, array, may_be_of_one
from ..topics import PING
from . import aside
from .attempt import Attempted, Outcome
from .health import Health, after
from .retry import Decision, Verdict, decide

log = logs.logger(__name__)

_STATUS = {
    Verdict.DELIVERED: Status.DELIVERED.value,
    Verdict.RETRY: Status.PENDING.value,
    Verdict.GIVE_UP: Status.FAILED.value,
    Verdict.DISABLE: Status.FAILED.value,
}

_MOVE_ON = f"""
    UPDATE webhooks_delivery d
    SET status = o.status, reason = o.reason, tries = d.tries + 1,
        due_at = CASE WHEN o.status = 'pending'
            THEN clock_timestamp() + o.retry_in * interval '1 second' ELSE d.due_at END,
        ended_at = CASE WHEN o.status <> 'pending' THEN clock_timestamp() END
    FROM o
    WHERE d.id = o.id AND {STILL_PENDING}
        AND (d.due_at = o.until OR o.status = 'delivered') IS TRUE
    """
# A lease that was lost may have been taken by another worker, whose failure
# counts then; that it was delivered counts in any case. One statement and no
# wait for the disk: what a breakdown forgets is sent again.
_SETTLE = sa.text(
    f"""{HASTILY}
    WITH o AS MATERIALIZED (
        SELECT * FROM unnest(
            CAST(:ids AS bigint[]), CAST(:until AS timestamptz[]), CAST(:status AS text[]),
            CAST(:reason AS text[]), CAST(:retry_in AS float[]), CAST(:number AS int[]),
            CAST(:sent_at AS float[]), CAST(:duration AS float[]), CAST(:resolve AS real[]),
            CAST(:connect AS real[]), CAST(:tls AS real[]), CAST(:wait AS real[]),
            CAST(:dialled AS text[]), CAST(:http_status AS int[]), CAST(:error AS text[]),
            CAST(:answer AS text[]))
        AS o(id, until, status, reason, retry_in, number, sent_at, duration, resolve, connect,
             tls, wait, dialled, http_status, error, answer)),
    attempts AS (
        INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration, resolve, connect, tls,
                                      wait, dialled, http_status, error, answer)
        SELECT id, number, to_timestamp(sent_at), duration, resolve, connect, tls,
               wait, dialled, http_status, error, answer FROM o)
    {_MOVE_ON}
    """
)
_SETTLE_WITHOUT_ATTEMPT = sa.text(
    f"""{HASTILY}
    WITH o AS (
        SELECT CAST(:id AS bigint) AS id, CAST(:until AS timestamptz) AS until,
               CAST(:status AS text) AS status, CAST(:reason AS text) AS reason,
               CAST(:retry_in AS float) AS retry_in)
    {_MOVE_ON}
    """
)
_CANCEL = sa.text(
    f"""
    UPDATE webhooks_delivery d
    SET status = 'cancelled', reason = o.reason, ended_at = clock_timestamp()
    FROM unnest(CAST(:ids AS bigint[]), CAST(:reasons AS text[])) AS o(id, reason)
    WHERE d.id = o.id AND {STILL_PENDING}
    """
)
_PROBE_AGAIN = sa.text(
    """
    WITH mine AS (
        SELECT id FROM webhooks WHERE id = ANY(CAST(:ids AS text[])) AND circuit = 'half-open'
        ORDER BY id FOR NO KEY UPDATE)
    UPDATE webhooks w SET next_at = clock_timestamp() FROM mine WHERE w.id = mine.id
    """
)
# Rows are locked in one order everywhere, webhooks before deliveries. One that
# went on well needs no lock: when it last succeeded is known to 10 s, not at
# the cost of a row written for each set.
_LOCK_HEALTH = sa.text(
    f"""{BEGIN} {HASTILY}
    SELECT id, state, circuit, failures, challenge,
           extract(epoch FROM clock_timestamp() - failing_since) AS failing_for
    FROM webhooks
    WHERE id = ANY(CAST(:ids AS text[])) AND (
        id = ANY(CAST(:failed AS text[])) OR state <> 'active' OR circuit <> 'closed'
        OR failures > 0 OR failing_since IS NOT NULL OR last_success_at IS NULL
        OR last_success_at < clock_timestamp() - interval '10 seconds')
    ORDER BY id FOR NO KEY UPDATE
    """
)
_HEALTH = sa.text(
    """
    UPDATE webhooks w SET
        circuit = o.circuit, failures = o.failures,
        next_at = CASE WHEN o.next_in IS NULL THEN w.next_at
            ELSE clock_timestamp() + o.next_in * interval '1 second' END,
        last_success_at = CASE WHEN o.succeeded THEN clock_timestamp() ELSE w.last_success_at END,
        last_failure_at = CASE WHEN o.failed THEN clock_timestamp() ELSE w.last_failure_at END,
        failing_since = CASE WHEN o.failures > 0 OR o.disabled IS NOT NULL
            THEN coalesce(CASE WHEN NOT o.succeeded THEN w.failing_since END, clock_timestamp()) END
    FROM unnest(CAST(:ids AS text[]), CAST(:circuits AS text[]), CAST(:failures AS int[]),
                CAST(:next_ins AS float[]), CAST(:succeeded AS bool[]), CAST(:failed AS bool[]),
                CAST(:disabled AS text[]))
        AS o(id, circuit, failures, next_in, succeeded, failed, disabled)
    WHERE w.id = o.id
    """
)
_DISABLE = sa.text(
    f"""
    UPDATE webhooks w SET state = 'disabled', state_reason = o.reason,
        missed_since = least(w.missed_since, {missed_from("w.id")}),
        updated_at = timezone('utc', clock_timestamp())
    FROM unnest(CAST(:ids AS text[]), CAST(:reasons AS text[])) AS o(id, reason)
    WHERE w.id = o.id AND w.state = 'active'
    """
)
_CANCEL_DISABLED = sa.text(
    f"""
    UPDATE webhooks_delivery
    SET status = 'cancelled', reason = 'disabled', ended_at = clock_timestamp()
    WHERE status = 'pending' AND id = ANY(ARRAY({pending_of("ANY(CAST(:ids AS text[]))")}))
    """
)
_VERIFY = sa.text(
    "UPDATE webhooks SET state = 'active', state_reason = NULL, challenge = NULL"
    " WHERE id = ANY(CAST(:ids AS text[])) AND state = 'unverified'"
)


def settle(attempted: Sequence[Attempted], schedule: Sequence[float], disable_after: float) -> None:
    """Record attempts and move their deliveries on, in one transaction.

    Where one alone cannot be recorded, its delivery is moved on without it, so that it is
    tried again by the schedule.

    :param schedule: seconds before each try
    :param disable_after: seconds of failing after which a webhook is disabled
    """
    try:
        _record(attempted, schedule, disable_after)
    except Exception as error:
        if len(attempted) > 1 or not may_be_of_one(error):
            raise
        _log_unrecorded(attempted[0])
        _move_on_or_aside(attempted[0], schedule)


def _record(
    attempted: Sequence[Attempted], schedule: Sequence[float], disable_after: float
) -> None:
    if not attempted:
        return
    decided = [(a, _decide(a, schedule)) for a in attempted]
    values = _columns([_values(a, d) for a, d in decided])
    with connected() as connection:
        if all(a.delivery.is_well and d.verdict is Verdict.DELIVERED for a, d in decided):
            connection.execute(_SETTLE, values)
            return
        with in_transaction(connection, _LOCK_HEALTH, _said_of(decided)) as rows:
            found = {row.id: row for row in rows}
            connection.execute(_SETTLE, values)
            _write_health(connection, found, decided, disable_after)
            _verify(connection, found, decided)


def _log_unrecorded(attempted: Attempted) -> None:
    log.exception(
        "webhooks [%s]: an attempt of delivery %s cannot be recorded; the delivery goes on"
        " without it. Please report this with the lines below.",
        uuid.uuid4(),
        attempted.delivery.id,
    )


def _move_on_or_aside(attempted: Attempted, schedule: Sequence[float]) -> None:
    try:
        _move_on(attempted, schedule)
    except Exception as error:
        if not may_be_of_one(error):
            raise
        aside.put_aside(attempted.delivery.id, error)


def _move_on(attempted: Attempted, schedule: Sequence[float]) -> None:
    """Move a delivery on by whether it was taken, and by nothing else of what came back."""
    bare = Outcome(status=attempted.outcome.status)
    decision = _decide(attempted._replace(outcome=bare), schedule)
    with connected() as connection:
        connection.execute(
            _SETTLE_WITHOUT_ATTEMPT,
            {
                "id": attempted.delivery.id,
                "until": attempted.until,
                "status": _STATUS[decision.verdict],
                "reason": decision.reason,
                "retry_in": decision.wait,
            },
        )


def _decide(attempted: Attempted, schedule: Sequence[float]) -> Decision:
    if attempted.delivery.topic == PING:
        schedule = schedule[:1]  # somebody waits for the answer, whatever it is
    return decide(
        attempted.outcome,
        attempted.delivery.tries + 1,
        schedule,
        random.random(),
        float(attempted.sent_at),
    )


def cancel(reasons: Mapping[int, str]) -> None:
    """End deliveries that are not to be sent, each with its reason."""

    def cancel_some(ids: Sequence[int]) -> None:
        with connected() as connection:
            values = {"ids": list(ids), "reasons": [reasons[id_] for id_ in ids]}
            connection.execute(_CANCEL, values)

    apart(list(reasons), cancel_some, aside.put_aside, may_be_of_one)


def probe_again(webhook_ids: Collection[str]) -> None:
    """Let another delivery be the probe where the one that was to be it is not sent.

    Nothing would come of it, and what waits would wait until its lease is over.
    """
    if webhook_ids:
        with connected() as connection:
            connection.execute(_PROBE_AGAIN, {"ids": sorted(webhook_ids)})


def _values(attempted: Attempted, decision: Decision) -> tuple[Any, ...]:
    delivery, outcome = attempted.delivery, attempted.outcome
    return (
        delivery.id,
        attempted.until,
        _STATUS[decision.verdict],
        decision.reason,
        decision.wait,
        delivery.tries + 1,
        attempted.sent_at,
        outcome.duration,
        outcome.resolve,
        outcome.connect,
        outcome.tls,
        outcome.wait,
        outcome.dialled,
        outcome.status,
        outcome.error,
        _text(outcome.answer) if outcome.answer else "",
    )


_COLUMNS = (
    "ids",
    "until",
    "status",
    "reason",
    "retry_in",
    "number",
    "sent_at",
    "duration",
    "resolve",
    "connect",
    "tls",
    "wait",
    "dialled",
    "http_status",
    "error",
    "answer",
)


def _columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, str]:
    """Turn rows round. Where nothing is known nothing is sent: unnest fills up with NULLs."""
    return {
        name: array(values) if any(v is not None for v in values) else "{}"
        for name, values in zip(_COLUMNS, zip(*rows, strict=True), strict=True)
    }


def _text(answer: bytes) -> str:
    # Answers are anybody's bytes.
    return answer.decode("utf-8", "replace")


def _says_something(attempted: Attempted, decision: Decision) -> bool:
    """A ping that fails is for the person who sent it."""
    return attempted.delivery.topic != PING or decision.verdict is Verdict.DELIVERED


def _said_of(decided: Sequence[tuple[Attempted, Decision]]) -> dict[str, list[str]]:
    """Name the webhooks of which attempts may say something new."""
    return {
        "ids": list({a.delivery.webhook_id for a, _ in decided}),
        "failed": list(
            {a.delivery.webhook_id for a, d in decided if d.verdict is not Verdict.DELIVERED}
        ),
    }


def _write_health(
    connection: Connection,
    found: Mapping[str, Any],
    decided: Sequence[tuple[Attempted, Decision]],
    disable_after: float,
) -> None:
    """Note how the endpoints are, and disable what is given up."""
    now: dict[str, Health] = {}
    succeeded: set[str] = set()
    failed: set[str] = set()
    for attempted, decision in decided:
        row = found.get(attempted.delivery.webhook_id)
        if row is None or not _says_something(attempted, decision):
            continue
        before = now.get(row.id) or _health(row)
        now[row.id] = after(before, decision, disable_after, random.random())
        (succeeded if decision.verdict is Verdict.DELIVERED else failed).add(row.id)
    if not now:
        return
    connection.execute(
        _HEALTH,
        {
            "ids": list(now),
            "circuits": [h.circuit.value for h in now.values()],
            "failures": [h.failures for h in now.values()],
            "next_ins": [h.next_in for h in now.values()],
            "succeeded": [id_ in succeeded for id_ in now],
            "failed": [id_ in failed for id_ in now],
            "disabled": [h.disabled for h in now.values()],
        },
    )
    given_up = {id_: h.disabled for id_, h in now.items() if h.disabled}
    if given_up:
        connection.execute(_DISABLE, {"ids": list(given_up), "reasons": list(given_up.values())})
        connection.execute(_CANCEL_DISABLED, {"ids": list(given_up)})


def _health(row: Any) -> Health:
    failing_for = None if row.failing_for is None else float(row.failing_for)
    return Health(Circuit(row.circuit), row.failures, failing_for)


def _verify(
    connection: Connection,
    found: Mapping[str, Any],
    decided: Sequence[tuple[Attempted, Decision]],
) -> None:
    """Trust the endpoints that sent their challenge back."""
    verified = [
        row.id
        for attempted, decision in decided
        if attempted.delivery.topic == PING
        and decision.verdict is Verdict.DELIVERED
        and (row := found.get(attempted.delivery.webhook_id)) is not None
        and row.state == WebhookState.UNVERIFIED.value
        and row.challenge
        and row.challenge in _text(attempted.outcome.answer)
    ]
    if verified:
        connection.execute(_VERIFY, {"ids": verified})
