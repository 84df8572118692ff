"""Claiming what is due, with all that is needed to send it.

A claim takes a lease, which pushes ``due_at`` forward, before anything is sent:
when the worker dies, the row comes due again and another sends it. Two workers
never hold the same row, since rows that another one is claiming are skipped.

What is due but has no place now is held back, so that it stands in nobody's
way, and is taken from there when its webhook takes more: see ``held``.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import quarantine
from ..apart import apart
from ..model import connected
from ..model.base import HASTILY, IN_ORDER_OF_INDEX, may_be_of_one
from ..visibility import OwnerLabels, owner_labels
from . import aside, held
from .lease import BESIDE, COLUMNS, Due, Leased, give_back, lease
from .logged import Logged, logged
from .places import Chosen, Places

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
    :param unread: events that could not be read, by id, with the error
    :param epoch: PostgreSQL's time of the claim, seconds since 1970
    :param monotonic: this process's clock before it was asked for
    :param seconds: how long the lease is
    :param more: whether to look again at once
    :param is_crowded: not all of what was looked at had a place
    """

    deliveries: list[Due]
    until: dict[int, str]
    events: dict[str, Logged]
    unread: dict[str, Exception]
    epoch: float
    monotonic: float
    seconds: float
    more: bool
    is_crowded: bool

    def now(self) -> float:
        """Give PostgreSQL's time, whatever this machine's clock says."""
        return self.epoch + time.monotonic() - self.monotonic

    def is_over(self) -> bool:
        """Tell whether another worker may have taken them meanwhile.

        This process may have been stopped, or have got PostgreSQL's answer late.
        """
        return time.monotonic() >= self.monotonic + self.seconds


def claim(count: int, places: Places, timeout: float, is_crowded: bool = False) -> Claimed | None:
    """Lease up to ``count`` deliveries that are due, the oldest first.

    :param places: what is under way; it is not changed
    :param timeout: seconds that an attempt may take
    :param is_crowded: whether it is likely that not all of them have a place
    :returns: None where nothing is due, or nothing of it has a place
    """
    more = True
    while more:
        claimed = _claim_or_fewer(count, places, timeout + LEASE_MARGIN, is_crowded)
        if claimed.deliveries:
            events, unread = _events({d.event_id for d in claimed.deliveries})
            return replace(claimed, events=events, unread=unread)
        more, is_crowded = claimed.more, True
    return None


class _OfOne(Exception):
    """A delivery alone cannot be claimed.

    :ivar cause: why
    """

    def __init__(self, delivery_id: int, cause: Exception) -> None:
        super().__init__(delivery_id)
        self.delivery_id = delivery_id
        self.cause = cause


def _claim_or_fewer(count: int, places: Places, seconds: float, is_crowded: bool) -> Claimed:
    """Claim, and where something that cannot be claimed prevents that, put it aside."""
    while True:
        try:
            with connected() as connection:
                return _claim(connection, count, places, seconds, is_crowded)
        except _OfOne as error:
            aside.put_aside(error.delivery_id, error.cause)
        except Exception as error:
            if not may_be_of_one(error):
                raise
            if not aside.put_aside_unwritable(count):
                # The half may be without what it is.
                if count == 1:
                    raise
                count //= 2


@dataclass(frozen=True)
class _Line:
    """What a look at the line gave.

    :param leased: those of ``chosen.take`` that are ours
    :param is_whole: there is nothing behind it
    :param some_wait: something that is held back may go
    """

    chosen: Chosen
    leased: Leased
    count: int
    is_whole: bool
    some_wait: bool


def _claim(
    connection: Connection, count: int, places: Places, seconds: float, is_crowded: bool
) -> Claimed:
    monotonic, trial = time.monotonic(), places.copy()
    look = _look_first if is_crowded or places.is_any_full else _lease_first
    line = look(connection, count, trial, monotonic, seconds)
    held.hold(connection, line.chosen.hold)
    deliveries = [row for row in line.chosen.take if row.id in line.leased.until]
    until, epoch = line.leased.until, line.leased.epoch
    left = count - len(deliveries)
    if left and (line.some_wait or line.chosen.hold):
        others, leased = held.take(connection, trial, left, seconds)
        deliveries, until = deliveries + others, {**until, **leased.until}
        epoch = epoch or leased.epoch
    return Claimed(
        sorted(deliveries, key=lambda d: (d.sequence, d.id)),
        until,
        {},
        {},
        epoch,
        monotonic,
        seconds,
        # What was in the way is not any more.
        (bool(line.chosen.hold) and not line.is_whole) or len(deliveries) == count,
        len(line.chosen.take) < line.count,
    )


def _events(ids: Collection[str]) -> tuple[dict[str, Logged], dict[str, Exception]]:
    """Read events, and give those that cannot be read with the reason."""
    found: dict[str, Logged] = {}
    unread: dict[str, Exception] = {}

    def read(some: Sequence[str]) -> None:
        with connected() as connection:
            found.update(logged(connection, some))

    apart(sorted(ids), read, unread.__setitem__, may_be_of_one)
    return found, unread


def _lease_first(
    connection: Connection, count: int, places: Places, now: float, seconds: float
) -> _Line:
    """Lease what is due, and give back what has no place: mostly that is nothing."""
    rows = connection.execute(_LEASE_LINE, {"count": count, "lease": seconds}).all()
    found = [row for row in rows if row.id is not None]
    try:
        line = [Due._make(row[: len(Due._fields)]) for row in found]
        chosen = places.choose(line, count, now)
    except Exception as error:
        _give_back(connection, found)
        if len(found) == 1:
            raise _OfOne(found[0].id, error) from error
        raise
    taken = {row.id for row in chosen.take}
    until = {row.id: row.until for row in found if row.id in taken}
    _give_back(connection, [row for row in found if row.id not in taken])
    return _Line(
        chosen,
        Leased(until, rows[0].epoch),
        len(line),
        len(line) < count,
        rows[0].some_wait,
    )


def _give_back(connection: Connection, rows: Sequence[Any]) -> None:
    if rows:
        ids, was = [row.id for row in rows], [row.was for row in rows]
        give_back(connection, ids, was, rows[0].until)


def _look_first(
    connection: Connection, count: int, places: Places, now: float, seconds: float
) -> _Line:
    """Lease of what is due what has a place, further back where what comes first has none."""
    for window in (count, _WINDOW):
        trial = places.copy()
        rows = connection.execute(_LINE, {"window": window}).all()
        line = [Due._make(row[: len(Due._fields)]) for row in rows if row.id is not None]
        chosen = trial.choose(line, count, now)
        if len(chosen.take) == len(line) or len(line) < window:
            break
    for row in chosen.take:
        places.take(row, now)
    leased = lease(connection, [row.id for row in chosen.take], seconds)
    return _Line(chosen, leased, len(line), len(line) < window, rows[0].some_wait)


# A row at least, also where nothing is due: what is held back is looked for only where
# some of it may go.
_NOW = """(SELECT EXISTS (
        SELECT FROM webhooks WHERE next_at <= statement_timestamp() AND state = 'active'
    ) AS some_wait, CAST(extract(epoch FROM statement_timestamp()) AS float) AS epoch) now"""
_LINE = sa.text(
    f"""{IN_ORDER_OF_INDEX}
    SELECT {COLUMNS}, some_wait
    FROM {_NOW} LEFT JOIN (
        SELECT * FROM webhooks_delivery d
        WHERE status = 'pending' AND due_at <= statement_timestamp()
            AND {quarantine.DELIVERY_GOES_ON}
        ORDER BY due_at, id LIMIT :window) d ON true {BESIDE}
    ORDER BY d.due_at, d.id
    """
)
# By the rows' addresses: what was locked is not looked for a second time.
_LEASE_LINE = sa.text(
    f"""{HASTILY}{IN_ORDER_OF_INDEX}
    WITH mine AS MATERIALIZED (
        SELECT ctid, id, due_at FROM webhooks_delivery d
        WHERE status = 'pending' AND due_at <= statement_timestamp()
            AND {quarantine.DELIVERY_GOES_ON}
        ORDER BY due_at, id LIMIT :count FOR UPDATE SKIP LOCKED),
    leased AS (
        UPDATE webhooks_delivery
        SET due_at = statement_timestamp() + :lease * interval '1 second'
        WHERE ctid = ANY(ARRAY(SELECT ctid FROM mine))
        RETURNING *)
    SELECT {COLUMNS}, CAST(d.due_at AS text) AS until, CAST(d.was AS text) AS was, now.*
    FROM {_NOW} LEFT JOIN (
        SELECT leased.*, mine.due_at AS was FROM leased JOIN mine USING (id)) d ON true {BESIDE}
    ORDER BY d.was, d.id
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
