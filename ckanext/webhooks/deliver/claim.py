"""Claiming what is due, with all that is needed to send it.

A claim takes a lease, which pushes ``due_at`` forward, before anything is sent:
when the worker dies, the row comes due again and another sends it. Two workers
never hold the same row, since rows that another one is claiming are skipped.

What is due but has no place now is held back, so that it stands in nobody's
way, and is taken from there when its webhook takes more: see ``held``.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import connected
from ..model.base import IN_ORDER_OF_INDEX
from ..visibility import OwnerLabels, owner_labels
from . import held
from .lease import BESIDE, COLUMNS, Due, lease
from .logged import Logged, logged
from .places import Places

# A lease outlives the attempt by this much: time for settling it. A worker
# that was killed delays what it held by no more than timeout + margin.
LEASE_MARGIN = 5.0
# How many of the oldest due rows are looked at where those that come first have no
# place. Those in the way are held back, so that the next look goes further.
_WINDOW = 1000


@dataclass(frozen=True)
class Claimed:
    """A set of deliveries under lease, and the events that they refer to.

    :param until: by delivery id, when its lease ends, as PostgreSQL writes it
    :param events: by id
    :param epoch: PostgreSQL's time of the claim, seconds since 1970
    :param monotonic: this process's clock at that moment
    :param more: whether to look again at once
    """

    deliveries: list[Due]
    until: dict[int, str]
    events: dict[str, Logged]
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
    more = True
    with connected() as connection:
        while more:
            claimed = _look(connection, count, places, timeout + LEASE_MARGIN)
            if claimed.deliveries:
                return claimed
            more = claimed.more
    return None


def _look(connection: Connection, count: int, places: Places, seconds: float) -> Claimed:
    """Lease what one look at the line gives."""
    monotonic = time.monotonic()
    for window in (count, _WINDOW):
        trial = places.copy()
        rows = connection.execute(_LINE, {"window": window}).all()
        line = [Due._make(row[:-1]) for row in rows]
        chosen = trial.choose(line, count, monotonic)
        if len(chosen.take) == len(line) or len(line) < window:
            break
    held.hold(connection, chosen.hold)
    leased = lease(connection, [row.id for row in chosen.take], seconds)
    deliveries = [row for row in chosen.take if row.id in leased.until]
    until, epoch = leased.until, leased.epoch
    # What was in the way is not any more.
    more = bool(chosen.hold) and len(line) == window
    left = count - len(deliveries)
    if left and (not rows or rows[0].some_wait or chosen.hold):
        others, leased = held.take(connection, trial, left, seconds)
        deliveries, until = deliveries + others, {**until, **leased.until}
        epoch = epoch or leased.epoch
    return Claimed(
        sorted(deliveries, key=lambda d: (d.sequence, d.id)),
        until,
        logged(connection, {d.event_id for d in deliveries}),
        epoch,
        monotonic,
        more or len(deliveries) == count,
    )


# What is held back is looked for only where some of it may go.
_LINE = sa.text(
    f"""{IN_ORDER_OF_INDEX}
    SELECT {COLUMNS}, EXISTS (SELECT FROM webhooks
                   WHERE next_at <= statement_timestamp() AND state = 'active') AS some_wait
    FROM (SELECT * FROM webhooks_delivery
          WHERE status = 'pending' AND due_at <= statement_timestamp()
          ORDER BY due_at, id LIMIT :window) d {BESIDE}
    ORDER BY d.due_at, d.id
    """
)


def told_under(user_ids: Collection[str]) -> dict[str, OwnerLabels]:
    """Give the labels under which users are told, or are being moved to."""
    with connected() as connection:
        rows = connection.execute(_SERVED, {"ids": list(user_ids)}).all()
    return {row.user_id: owner_labels(row.labels) for row in rows}


_SERVED = sa.text(
    """
    SELECT user_id, coalesce(next_labels, labels) AS labels FROM webhooks_served
    WHERE user_id = ANY(CAST(:ids AS text[]))
    """
)
