"""What is held back: deliveries that wait for their webhook, not for a time.

A webhook takes only so much at once: its circuit is open, it has a pace, or it
has a backlog of its own. What is in the way of others for that reason leaves
the line (``due_at`` is NULL), and is taken from here when its webhook takes
more (``webhooks.next_at``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import quarantine
from ..model import Circuit, in_transaction, try_dispatch_lock
from ..model.base import BEGIN, HASTILY, array
from .coalesce import coalesce
from .lease import BESIDE, COLUMNS, Due, Leased, give_back, lease, rows_of
from .places import Places

# Webhooks that get some of what is held back, in one claim.
_MOST_GATES = 200
# How far ahead newer states are looked for where only the newest is told.
_LOOK_AHEAD = 5000


def hold(connection: Connection, rows: Sequence[Due]) -> None:
    """Hold rows back until their webhooks take more."""
    if not rows:
        return
    # The webhooks first, as everywhere: who else holds one is not waited for.
    webhooks = {"ids": list({row.webhook_id for row in rows})}
    with in_transaction(connection, _GATE, webhooks) as gates:
        gated = {gate.id for gate in gates}
        ids = array(row.id for row in rows if row.webhook_id in gated)
        connection.execute(_HOLD, {"ids": ids})


_GATE = sa.text(
    f"""{BEGIN} {HASTILY}
    WITH mine AS (
        SELECT id FROM webhooks WHERE id = ANY(CAST(:ids AS text[]))
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
    UPDATE webhooks w SET next_at = coalesce(next_at, clock_timestamp())
    FROM mine WHERE w.id = mine.id RETURNING w.id
    """
)
# Written, as a lease is, so that no other index than that of ids fits.
_HOLD = sa.text(
    """
    UPDATE webhooks_delivery SET due_at = NULL
    WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM webhooks_delivery
        WHERE id = ANY(CAST(:ids AS bigint[])) AND status = 'pending'
            AND (due_at <= statement_timestamp()) IS TRUE
        FOR UPDATE SKIP LOCKED))
    """
)


def take(
    connection: Connection, places: Places, count: int, seconds: float
) -> tuple[list[Due], Leased]:
    """Lease some of what is held back, as much as each webhook takes now.

    :param places: where it takes its places
    :param seconds: how long the lease is
    """
    quick_only = bool(places.full("unproven"))
    served = {
        "webhooks": places.full("webhook", "quick"),
        "hosts": places.full("host"),
        "owners": places.full("owner"),
        "quick_only": quick_only,
        # Up to 10,000 names, which nothing else asks for.
        "slow": places.slow() if quick_only else [],
        "most": _MOST_GATES,
    }
    with in_transaction(connection, _GATES, served) as gates:
        quotas = _quotas(gates, places, count)
        if not quotas:
            return [], Leased()
        newest_only = {gate.webhook_id for gate in gates if gate.newest_only}
        others = {id_: quota for id_, quota in quotas.items() if id_ not in newest_only}
        parts = [_lease_oldest(connection, others, places, seconds)]
        for webhook_id in quotas.keys() & newest_only:
            parts.append(_lease_newest(connection, webhook_id, quotas[webhook_id], seconds))
        found = [row for rows, _ in parts for row in rows]
        # Whoever is behind these has not been looked at.
        is_end = len(gates) < _MOST_GATES and sum(quotas.values()) < count
        taken = Counter(row.webhook_id for row in found)
        _move_gates(connection, gates, quotas, taken, seconds, is_end)
    until = {id_: until for _, leased in parts for id_, until in leased.until.items()}
    return found, Leased(until, max(leased.epoch for _, leased in parts))


def _quotas(gates: Sequence[Any], places: Places, count: int) -> dict[str, int]:
    """Give how many each webhook may have, and take the places."""
    quotas: dict[str, int] = {}
    for gate in gates:
        quota = places.quota(gate, min(count, _burst(gate)))
        if quota:
            quotas[gate.webhook_id] = quota
            count -= quota
            for _ in range(quota):
                places.take(gate, 0.0)
    return quotas


def _burst(gate: Any) -> int:
    """Give how many deliveries a webhook may be given at once."""
    if gate.circuit != Circuit.CLOSED.value:
        return 1  # a probe
    if gate.max_rate is None:
        return 1_000_000
    # A second's worth: the driver looks again after that.
    return max(1, int(gate.max_rate / 60))


def _lease_oldest(
    connection: Connection, quotas: dict[str, int], places: Places, seconds: float
) -> tuple[list[Due], Leased]:
    """Lease what waits longest of each webhook, as far as the bodies may be under way."""
    if not quotas:
        return [], Leased()
    values = {"webhooks": list(quotas), "counts": list(quotas.values()), "lease": seconds}
    rows = connection.execute(_LEASE_HELD, values).all()
    if not rows:
        return [], Leased()
    line = [Due._make(row[: len(Due._fields)]) for row in rows]
    found = list(places.within_bytes(line))
    until = rows[0].until
    if others := [row.id for row in line[len(found) :]]:
        give_back(connection, others, [None] * len(others), until)
    return found, Leased({row.id: until for row in found}, rows[0].epoch)


def _lease_newest(
    connection: Connection, webhook_id: str, count: int, seconds: float
) -> tuple[list[Due], Leased]:
    leased = lease(connection, _newest_held(connection, webhook_id, count), seconds)
    return rows_of(connection, list(leased.until)) if leased.until else [], leased


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
    seconds: float,
    is_end: bool,
) -> None:
    """Say when each webhook takes more, and which hold nothing back any more.

    :param is_end: all that have something to take had their turn
    """
    probes = [g.webhook_id for g in gates if g.circuit != Circuit.CLOSED.value]
    probed = [id_ for id_ in probes if taken[id_]]
    if probed:
        connection.execute(_PROBE, {"ids": probed, "lease": seconds})
    paced = {
        g.webhook_id: taken[g.webhook_id] * 60 / g.max_rate
        for g in gates
        if g.max_rate is not None and taken[g.webhook_id] and g.webhook_id not in probed
    }
    if paced:
        connection.execute(_PACE, {"ids": list(paced), "waits": list(paced.values())})
    moved = {*probed, *paced}
    turned = [id_ for id_ in quotas if taken[id_] and id_ not in moved]
    if turned and not is_end:
        # Others come first at the next claim.
        connection.execute(_TURN, {"ids": turned})
    empty = [id_ for id_, quota in quotas.items() if taken[id_] < quota]
    if empty and try_dispatch_lock(connection):
        connection.execute(_OPEN, {"ids": empty})


_GATES = sa.text(
    f"""{BEGIN} {HASTILY}
    SELECT w.id AS webhook_id, w.circuit, w.max_rate, w.newest_only, w.user_id, w.host, 0 AS size,
           w.failures = 0 AND w.last_success_at IS NOT NULL AS is_proven
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
# By the rows' addresses: what was locked is not looked for a second time.
_LEASE_HELD = sa.text(
    f"""
    WITH mine AS MATERIALIZED (
        SELECT d.ctid
        FROM unnest(CAST(:webhooks AS text[]), CAST(:counts AS int[])) AS q(id, count)
            CROSS JOIN LATERAL (
                SELECT ctid FROM webhooks_delivery d
                WHERE webhook_id = q.id AND status = 'pending' AND due_at IS NULL
                    AND {quarantine.DELIVERY_GOES_ON}
                ORDER BY id LIMIT q.count FOR UPDATE SKIP LOCKED) d),
    leased AS (
        UPDATE webhooks_delivery
        SET due_at = statement_timestamp() + :lease * interval '1 second'
        WHERE ctid = ANY(ARRAY(SELECT ctid FROM mine))
        RETURNING *)
    SELECT {COLUMNS}, CAST(d.due_at AS text) AS until,
           CAST(extract(epoch FROM statement_timestamp()) AS float) AS epoch
    FROM leased d {BESIDE}
    ORDER BY d.id
    """
)
_AHEAD = sa.text(
    f"""
    SELECT d.id, d.topic, d.tries, CASE WHEN e.id IS NOT NULL AND d.topic LIKE '%/%'
        THEN e.entity_type || '/' || e.entity_id END AS entity
    FROM (SELECT id, event_id, topic, tries FROM webhooks_delivery d
          WHERE webhook_id = :webhook AND status = 'pending' AND due_at IS NULL
              AND {quarantine.DELIVERY_GOES_ON}
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
