"""Dropping a quarter of the tables while deliveries go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from bench.soak.figures import Locks
from bench.stand import Stand, execute, latencies, percentile
from ckanext.webhooks import sweep

RATE = 20.0  # events a second
BEFORE = 20.0  # seconds of deliveries with nothing else
AT_ONCE = 5.0  # seconds of them between two looks, at most
PATIENCE = 10.0  # seconds for the last of them to arrive
# What who waits for an answer does not notice, milliseconds.
MOST_WAIT = 100.0


@dataclass(frozen=True)
class Pruned:
    """What came of it.

    :ivar rows: dropped, in so many seconds
    :ivar before, during: milliseconds from commit to arrival, sorted
    :ivar waited: milliseconds that somebody waited for a lock, at most
    :ivar dead: dead rows of deliveries at the end, autovacuum being at work
    """

    rows: int
    seconds: float
    before: list[float]
    during: list[float]
    waited: float
    dead: int

    @property
    def wrong(self) -> bool:
        return self.waited > MOST_WAIT

    def lines(self) -> Iterator[str]:
        yield (
            f"pruned {self.rows:,} rows in {self.seconds:.0f} s,"
            f" {self.rows / self.seconds:,.0f} a second"
        )
        for name, took in (("before", self.before), ("meanwhile", self.during)):
            yield (
                f"commit to arrival {name}: p50 {percentile(took, 50):.1f} ms,"
                f" p99 {percentile(took, 99):.1f} ms"
            )
        yield f"longest wait for a lock: {self.waited:.0f} ms (at most {MOST_WAIT:g})"
        yield f"dead rows of deliveries at the end: {self.dead:,}"


def measure(stand: Stand, seconds: float = BEFORE) -> Pruned:
    """Prune by the retention of this process; the worker, with the site's own, drops nothing.

    :param seconds: of deliveries before it, and no longer between two looks
    """
    address = stand.endpoints.address("good")
    execute(sa.text("UPDATE webhooks SET address = :address"), address=address)
    stand.start_worker()
    between = min(AT_ONCE, seconds)
    before: list[float] = []
    while len(before) < 2:  # a percentile is of two or more
        before += _deliver(stand, time.monotonic() + seconds)
    counted: list[int] = []
    pruning = threading.Thread(target=lambda: counted.extend(sweep.drop_old()), name="pruning")
    began = time.monotonic()
    during: list[float] = []
    with Locks(stand.site.database_url) as locks:
        pruning.start()
        # At least one look, however little there is.
        while len(during) < 2 or pruning.is_alive():
            during += _deliver(stand, time.monotonic() + between)
        seconds = time.monotonic() - began
        waited, _transaction = locks.take()
    return Pruned(sum(counted), seconds, sorted(before), sorted(during), waited, _dead())


def _deliver(stand: Stand, until: float) -> Iterator[float]:
    """Commit events at a steady rate, and give the latency of each."""
    stand.endpoints.take()
    committed = stand.commit(round((until - time.monotonic()) * RATE), rate=RATE)
    given_up = time.monotonic() + PATIENCE
    arrived = stand.endpoints.take()
    while committed.keys() - {a.event_id for a in arrived} and time.monotonic() < given_up:
        time.sleep(0.1)
        arrived += stand.endpoints.take()
    yield from latencies(committed, arrived)


def _dead() -> int:
    statement = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'webhooks_delivery'"
    return int(execute(sa.text(statement))[0][0])
