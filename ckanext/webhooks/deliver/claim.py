"""Taking a lease on what is due, with all that is needed to send it.

A claim pushes ``due_at`` forward and commits before anything is sent: when
the worker dies, the row comes due again and another sends it. Two workers
never hold the same row, since rows that another one is claiming are skipped.

What is due but has no place now is held back, so that it stands in nobody's
way, and is taken from there when its webhook takes more.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import Circuit, transaction, try_dispatch_lock
from .coalesce import coalesce
from .logged import Logged, logged
from .places import Places

# A lease outlives the attempt by this much: time for settling it. A worker
# that was killed delays what it held by no more than timeout + margin.
LEASE_MARGIN = 5.0
# How many of the oldest due rows are looked at. Those in the way are held
# back, so that the next look goes further.
_WINDOW = 1000
# Webhooks that get some of what is held back, in one claim.
_MOST_GATES = 200
# How far ahead newer states are looked for where only the newest is told.
_LOOK_AHEAD = 5000


@dataclass(frozen=True)
class Claimed:
    """A set of deliveries under lease, and the rows they refer to.

    :param deliveries: rows; ``due_at`` is the lease
    :param webhooks: rows by id
    :param events: by id
    :param served: by user id, the labels of :class:`~..model.Served`
    :param epoch: PostgreSQL's time of the claim, seconds since 1970
    :param monotonic: this process's clock at that moment
    :param more: whether to look again at once
    """

    deliveries: list[Any]
    webhooks: dict[str, Any]
    events: dict[str, Logged]
    served: dict[str, Any]
    epoch: float
    monotonic: float
    more: bool

    def now(self) -> float:
        """Give PostgreSQL's time, whatever this machine's clock says."""
        return self.epoch + time.monotonic() - self.monotonic


def claim(count: int, places: Places, timeout: float) -> Claimed | None:
    """Lease up to ``count`` deliveries that are due, the oldest first.

    :param places: what is under way; it is not changed
    :param timeout: seconds that an attempt may take
    :returns: None where nothing is due, or nothing of it has a place
    """
    lease = timeout + LEASE_MARGIN
    while True:
        with transaction() as connection:
            monotonic = time.monotonic()
            trial = places.copy()
            line = connection.execute(_LINE, {"window": _WINDOW}).all()
            chosen = trial.choose(line, count, monotonic)
            _hold(connection, chosen.hold)
            deliveries = _lease(connection, [row.id for row in chosen.take], lease)
            deliveries += _take_held(connection, trial, count - len(deliveries), lease)
            # What was in the way is not any more.
            more = bool(chosen.hold) and len(line) == _WINDOW
            if deliveries:
                more = more or len(deliveries) == count
                return _with_what_they_refer_to(connection, deliveries, monotonic, more)
        if not more:
            return None


def _with_what_they_refer_to(
    connection: Connection, deliveries: list[Any], monotonic: float, more: bool
) -> Claimed:
    webhooks = connection.execute(_WEBHOOKS, {"ids": list({d.webhook_id for d in deliveries})})
    by_id = {row.id: row for row in webhooks}
    owners = list({row.user_id for row in by_id.values()})
    served = connection.execute(_SERVED, {"ids": owners})
    return Claimed(
        sorted(deliveries, key=lambda d: (d.sequence, d.id)),
        by_id,
        logged(connection, {d.event_id for d in deliveries}),
        {row.user_id: row.labels for row in served},
        float(deliveries[0].epoch),
        monotonic,
        more,
    )


# In a condition it is statement_timestamp(): an index is not asked for what is
# another at each row, as clock_timestamp() is.

# What the place of a delivery depends on. A webhook that was deleted takes
# none: its deliveries are claimed to be cancelled.
_STANDING = """
    w.user_id, w.host, coalesce(w.failures = 0 AND w.last_success_at IS NOT NULL, true) AS is_proven
"""
_LINE = sa.text(
    f"""
    SELECT d.id, d.webhook_id, d.topic, {_STANDING},
           coalesce(w.next_at IS NOT NULL OR w.circuit <> 'closed' OR w.max_rate IS NOT NULL
                    OR w.newest_only, false) AS is_gated
    FROM (SELECT id, webhook_id, topic, due_at FROM webhooks_delivery
          WHERE status = 'pending' AND due_at <= statement_timestamp()
          ORDER BY due_at, id LIMIT :window) d
        LEFT JOIN webhooks w ON w.id = d.webhook_id AND w.state = 'active'
    ORDER BY d.due_at, d.id
    """
)


def _lease(connection: Connection, ids: Sequence[int], lease: float) -> list[Any]:
    if not ids:
        return []
    return list(connection.execute(_LEASE, {"ids": ids, "lease": lease}).all())


_LEASE = sa.text(
    """
    WITH mine AS (
        SELECT id FROM webhooks_delivery
        WHERE id = ANY(CAST(:ids AS bigint[])) AND status = 'pending'
            AND (due_at <= statement_timestamp() OR due_at IS NULL)
        FOR UPDATE SKIP LOCKED)
    UPDATE webhooks_delivery d SET due_at = clock_timestamp() + :lease * interval '1 second'
    FROM mine WHERE d.id = mine.id
    RETURNING d.id, d.webhook_id, d.event_id, d.topic, d.sequence, d.address, d.format,
              d.tries, d.due_at, d.created_at, d.coalesced,
              extract(epoch FROM clock_timestamp()) AS epoch
    """
)


# --- what is held back


def _hold(connection: Connection, rows: Sequence[Any]) -> None:
    """Hold rows back until their webhooks take more."""
    if not rows:
        return
    # The webhooks first, as everywhere: who else holds one is not waited for.
    gated = set(
        connection.execute(_GATE, {"ids": list({row.webhook_id for row in rows})}).scalars()
    )
    connection.execute(_HOLD, {"ids": [row.id for row in rows if row.webhook_id in gated]})


_GATE = sa.text(
    """
    WITH mine AS (
        SELECT id FROM webhooks WHERE id = ANY(CAST(:ids AS text[]))
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
    UPDATE webhooks w SET next_at = coalesce(next_at, clock_timestamp())
    FROM mine WHERE w.id = mine.id RETURNING w.id
    """
)
_HOLD = sa.text(
    """
    WITH mine AS (
        SELECT id FROM webhooks_delivery
        WHERE id = ANY(CAST(:ids AS bigint[])) AND status = 'pending'
            AND due_at <= statement_timestamp()
        FOR UPDATE SKIP LOCKED)
    UPDATE webhooks_delivery d SET due_at = NULL FROM mine WHERE d.id = mine.id
    """
)


def _take_held(connection: Connection, places: Places, count: int, lease: float) -> list[Any]:
    """Lease some of what is held back, as much as each webhook takes now."""
    if count <= 0:
        return []
    quick_only = bool(places.full("unproven"))
    gates = connection.execute(
        _GATES,
        {
            "webhooks": places.full("webhook"),
            "hosts": places.full("host"),
            "owners": places.full("owner"),
            "quick_only": quick_only,
            # Up to 10,000 names, which nothing else asks for.
            "slow": places.slow() if quick_only else [],
            "most": _MOST_GATES,
        },
    ).all()
    quotas: dict[str, int] = {}
    for gate in gates:
        quota = places.quota(gate, min(count, _burst(gate)))
        if quota:
            quotas[gate.webhook_id] = quota
            count -= quota
            for _ in range(quota):
                places.take(gate, 0.0)
    if not quotas:
        return []
    newest_only = [gate.webhook_id for gate in gates if gate.newest_only]
    ids = _held(connection, {id_: n for id_, n in quotas.items() if id_ not in newest_only})
    for webhook_id in newest_only:
        if webhook_id in quotas:
            ids += _newest_held(connection, webhook_id, quotas[webhook_id])
    leased = _lease(connection, ids, lease)
    _move_gates(connection, gates, quotas, Counter(row.webhook_id for row in leased), lease)
    return leased


def _burst(gate: Any) -> int:
    """Give how many deliveries a webhook may be given at once."""
    if gate.circuit != Circuit.CLOSED.value:
        return 1  # a probe
    if gate.max_rate is None:
        return 1_000_000
    # A second's worth: the driver looks again after that.
    return max(1, int(gate.max_rate / 60))


def _held(connection: Connection, quotas: dict[str, int]) -> list[int]:
    found = connection.execute(
        _HELD, {"webhooks": list(quotas), "counts": list(quotas.values())}
    ).scalars()
    return list(found)


def _newest_held(connection: Connection, webhook_id: str, count: int) -> list[int]:
    """Choose of what waits the newest of each entity, and cancel the older ones."""
    rows = connection.execute(_AHEAD, {"webhook": webhook_id, "ahead": _LOOK_AHEAD}).all()
    found = coalesce(rows, count)
    if found.cancel:
        connection.execute(_COALESCED, {"ids": [row.id for row in found.cancel]})
    if merged := [(row.id, topic, n) for row, topic, n in found.take if n]:
        ids, topics, counts = zip(*merged, strict=True)
        connection.execute(
            _STANDS_FOR, {"ids": list(ids), "topics": list(topics), "counts": list(counts)}
        )
    return [row.id for row, _topic, _n in found.take]


def _move_gates(
    connection: Connection,
    gates: Iterable[Any],
    quotas: dict[str, int],
    taken: Counter[str],
    lease: float,
) -> None:
    """Say when each webhook takes more, and which hold nothing back any more."""
    probes = [g.webhook_id for g in gates if g.circuit != Circuit.CLOSED.value]
    probed = [id_ for id_ in probes if taken[id_]]
    if probed:
        connection.execute(_PROBE, {"ids": probed, "lease": lease})
    paced = {
        g.webhook_id: taken[g.webhook_id] * 60 / g.max_rate
        for g in gates
        if g.max_rate is not None and taken[g.webhook_id] and g.webhook_id not in probed
    }
    if paced:
        connection.execute(_PACE, {"ids": list(paced), "waits": list(paced.values())})
    moved = {*probed, *paced}
    if turned := [id_ for id_ in quotas if taken[id_] and id_ not in moved]:
        # They have had their turn: others come first at the next claim.
        connection.execute(_TURN, {"ids": turned})
    empty = [id_ for id_, quota in quotas.items() if taken[id_] < quota]
    if empty and try_dispatch_lock(connection):
        connection.execute(_OPEN, {"ids": empty})


_GATES = sa.text(
    f"""
    SELECT w.id AS webhook_id, w.circuit, w.max_rate, w.newest_only, {_STANDING}
    FROM webhooks w
    WHERE w.next_at <= statement_timestamp() AND w.state = 'active'
        AND NOT w.id = ANY(CAST(:webhooks AS text[]))
        AND NOT w.host = ANY(CAST(:hosts AS text[]))
        AND NOT w.user_id = ANY(CAST(:owners AS text[]))
        AND (NOT :quick_only OR w.failures = 0 AND w.last_success_at IS NOT NULL
             AND NOT w.id = ANY(CAST(:slow AS text[])))
    ORDER BY w.next_at LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
    """
)
_HELD = sa.text(
    """
    SELECT d.id FROM unnest(CAST(:webhooks AS text[]), CAST(:counts AS int[])) AS q(id, count)
        CROSS JOIN LATERAL (
            SELECT id FROM webhooks_delivery
            WHERE webhook_id = q.id AND status = 'pending' AND due_at IS NULL
            ORDER BY id LIMIT q.count) d
    """
)
_AHEAD = sa.text(
    """
    SELECT d.id, d.topic, d.tries, CASE WHEN e.id IS NOT NULL AND d.topic LIKE '%/%'
        THEN e.entity_type || '/' || e.entity_id END AS entity
    FROM (SELECT id, event_id, topic, tries FROM webhooks_delivery
          WHERE webhook_id = :webhook AND status = 'pending' AND due_at IS NULL
          ORDER BY id LIMIT :ahead) d
        LEFT JOIN webhooks_event e ON e.id = d.event_id
    ORDER BY d.id
    """
)
_COALESCED = sa.text(
    """
    UPDATE webhooks_delivery
    SET status = 'cancelled', reason = 'coalesced', ended_at = clock_timestamp()
    WHERE id = ANY(CAST(:ids AS bigint[])) AND status = 'pending'
    """
)
_STANDS_FOR = sa.text(
    """
    UPDATE webhooks_delivery d SET topic = o.topic, coalesced = coalesce(coalesced, 0) + o.count
    FROM unnest(CAST(:ids AS bigint[]), CAST(:topics AS text[]), CAST(:counts AS int[]))
        AS o(id, topic, count)
    WHERE d.id = o.id
    """
)
_PROBE = sa.text(
    """
    UPDATE webhooks SET circuit = 'half-open',
        next_at = clock_timestamp() + :lease * interval '1 second'
    WHERE id = ANY(CAST(:ids AS text[]))
    """
)
_PACE = sa.text(
    """
    UPDATE webhooks w SET next_at = clock_timestamp() + o.wait * interval '1 second'
    FROM unnest(CAST(:ids AS text[]), CAST(:waits AS float[])) AS o(id, wait)
    WHERE w.id = o.id
    """
)
_TURN = sa.text(
    "UPDATE webhooks SET next_at = clock_timestamp() WHERE id = ANY(CAST(:ids AS text[]))"
)
_OPEN = sa.text(
    """
    UPDATE webhooks w SET next_at = NULL
    WHERE id = ANY(CAST(:ids AS text[])) AND next_at <= statement_timestamp() AND NOT EXISTS (
        SELECT FROM webhooks_delivery d
        WHERE d.webhook_id = w.id AND d.status = 'pending' AND d.due_at IS NULL)
    """
)


# --- what they refer to

# A ping is sent whatever the state: a person asked for it.
_WEBHOOKS = sa.text(
    """
    SELECT id, id AS webhook_id, user_id, address, host, headers, secret, previous_secret, state,
           challenge,
           coalesce(previous_secret_until > clock_timestamp(), false) AS previous_is_valid,
           failures = 0 AND last_success_at IS NOT NULL AS is_proven
    FROM webhooks WHERE id = ANY(CAST(:ids AS text[]))
    """
)
_SERVED = sa.text(
    """
    SELECT user_id, coalesce(next_labels, labels) AS labels FROM webhooks_served
    WHERE user_id = ANY(CAST(:ids AS text[]))
    """
)
