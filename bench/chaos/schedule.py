"""Which faults come when: a seed gives the same schedule each time. No I/O."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple


class Fault(NamedTuple):
    """A kind of fault.

    :ivar on: what it befalls; two faults of one thing never come at once
    :ivar lasts: seconds, the least and the most
    :ivar goal: seconds from its end within which something is delivered again, None
        where nothing is promised
    """

    on: str
    lasts: tuple[float, float]
    goal: float | None = None


WORKER_GOAL, REDIS_GOAL, DATABASE_GOAL, POISON_GOAL = 15.0, 10.0, 10.0, 5.0

FAULTS = {
    "worker-killed": Fault("worker", (0, 1), WORKER_GOAL),
    "workers-killed": Fault("worker", (0, 1), WORKER_GOAL),
    # Longer than a lease, which is 15 s.
    "worker-frozen": Fault("worker", (17, 20)),
    "web-killed": Fault("web", (1, 3)),
    "web-frozen": Fault("web", (2, 5)),
    "redis-killed": Fault("redis", (1, 6), REDIS_GOAL),
    "redis-silent": Fault("redis", (3, 8), REDIS_GOAL),
    "database-killed": Fault("database", (1, 5), DATABASE_GOAL),
    "database-slow": Fault("database", (4, 8), DATABASE_GOAL),
    "tables-locked": Fault("database", (2, 5), DATABASE_GOAL),
    "disk-full": Fault("database", (3, 6), DATABASE_GOAL),
    "receiver-killed": Fault("receiver", (2, 6)),
    "receiver-500": Fault("receiver", (2, 6)),
    "receiver-cut": Fault("receiver", (2, 6)),
    "receiver-slow": Fault("receiver", (4, 8)),
    "rights": Fault("receiver", (4, 8)),
    # Nothing is broken: all others go on as if it were not there.
    "poison": Fault("writes", (2, 4), POISON_GOAL),
    "clock-off": Fault("worker", (8, 12)),
    "two-sweepers": Fault("sweeper", (8, 12)),
    "version-before": Fault("worker", (8, 12)),
}

# Seconds without a fault, in which the time to the first delivery is measured.
PAUSE = (6.0, 9.0)
# So many moments have two faults at once.
AT_ONCE = 0.25


@dataclass(frozen=True)
class Moment:
    """One fault, or two at once.

    :ivar pause: seconds to let all go on before it
    :ivar lasts: seconds
    :ivar faults: in the order in which they begin; they end in the other
    :ivar draw: a number by which a fault chooses, say, one of the workers
    """

    pause: float
    lasts: float
    faults: tuple[str, ...]
    draw: int

    def __str__(self) -> str:
        return " and ".join(sorted(self.faults))


def draw(seed: int, seconds: float, names: Sequence[str]) -> list[Moment]:
    """Draw the schedule of a run.

    Each fault comes once before any comes again. Where not even one moment has the time, it has
    less of a pause.

    :param seconds: which it fills, as long as no process is slow to start
    :param names: of :data:`FAULTS`
    """
    moments: list[Moment] = []
    left = seconds
    for moment in _moments(random.Random(seed), sorted(names)):
        left -= moment.pause + moment.lasts
        if left < 0 and moments:
            break
        moments.append(moment)
    if len(moments) == 1:
        (moment,) = moments
        moments = [replace(moment, pause=min(moment.pause, max(0.0, seconds - moment.lasts)))]
    return moments


def _moments(rng: random.Random, names: list[str]) -> Iterator[Moment]:
    while True:
        round_ = rng.sample(names, len(names))
        while round_:
            faults = [round_.pop()]
            other = next((n for n in round_ if FAULTS[n].on != FAULTS[faults[0]].on), None)
            if rng.random() < AT_ONCE and other is not None:
                round_.remove(other)
                faults.append(other)
            # Those of workers may start some, which are ready when they have a broker.
            faults.sort(key=lambda name: FAULTS[name].on != "worker")
            lasts = max(rng.uniform(*FAULTS[name].lasts) for name in faults)
            yield Moment(rng.uniform(*PAUSE), lasts, tuple(faults), rng.randrange(1000))
