"""How many deliveries a second, and what each costs: from the first commit to the last arrival.

A number of webhooks by a number of events, with the CPU time of each process.

    python -m bench.throughput FOLDER --shape 1000x20 --owners 1 100
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from bench import bare
from bench.stand import BODY, Stand, content
from bench.way_2015 import Way2015


@dataclass(frozen=True)
class Shape:
    """What is measured.

    :ivar webhooks: how many are told of each event
    :ivar format: of all of them
    :ivar owners: how many users own them
    :ivar size: bytes of an event's content
    """

    webhooks: int
    events: int
    format: str = "classic"
    owners: int = 1
    size: int = BODY

    @property
    def deliveries(self) -> int:
        return self.webhooks * self.events

    def __str__(self) -> str:
        owners = f"{self.owners} owner{'s' * (self.owners > 1)}"
        return f"{self.webhooks:,}x{self.events:,} {self.format}, {owners}"


@dataclass(frozen=True)
class Run:
    """What one run gave.

    :ivar rate: deliveries a second
    :ivar committing: seconds from the first commit to the last
    :ivar seconds: from the first commit to the last arrival
    :ivar cpu: microseconds for a delivery, by process
    :ivar repeated: deliveries that arrived more than once
    """

    rate: float
    committing: float
    seconds: float
    cpu: dict[str, float]
    repeated: int


def measure(stand: Stand, shape: Shape) -> Run:
    """Run once, on a stand whose workers run, with an empty log.

    :raises AssertionError: the tables do not say what arrived
    """
    stand.subscribe(shape.webhooks, shape.format, shape.owners)
    # The worker's last look at what the log was before.
    time.sleep(1.2)
    return run(stand, shape)


def run(stand: Stand, shape: Shape) -> Run:
    """Run once more, with the webhooks and the log that there are; else as :func:`measure`."""
    newest = stand.newest()
    stand.endpoints.take()
    before = stand.used()
    committed = stand.commit(shape.events, size=shape.size)
    stand.endpoints.wait_for(shape.deliveries)
    stand.settle()
    used = stand.used().since(before)
    arrivals = stand.endpoints.take()
    delivered = stand.delivered(newest)
    assert delivered == shape.deliveries, f"{delivered} of {shape.deliveries} are delivered"
    told = {(arrival.event_id, arrival.path): arrival.at for arrival in reversed(arrivals)}
    assert len(told) == shape.deliveries, f"{len(told)} of {shape.deliveries} arrived"
    first = min(committed.values())
    seconds = max(told.values()) - first
    return Run(
        rate=shape.deliveries / seconds,
        committing=max(committed.values()) - first,
        seconds=seconds,
        cpu={name: cpu / shape.deliveries * 1e6 for name, cpu in used.items()},
        repeated=len(arrivals) - len(told),
    )


def measure_2015(stand: Stand, shape: Shape) -> Run:
    """Run the 2015 way once, as Celery and requests of today do it."""
    addresses = [stand.endpoints.address(f"good/{n}") for n in range(shape.webhooks)]
    with Way2015(stand.site.folder, stand.site.redis_url, addresses) as way:
        stand.endpoints.take()
        before, began = stand.used(), way.cpu()
        told = way.save(shape.events, content("2015", shape.size))
        stand.endpoints.wait_for(shape.deliveries)
        # No database has a part in it, and this software's worker has nothing to do.
        used = stand.used().since(before) | {"worker": way.cpu() - began, "postgresql": 0.0}
        arrivals = stand.endpoints.take()
    first = min(told.values())
    seconds = max(arrival.at for arrival in arrivals) - first
    return Run(
        rate=shape.deliveries / seconds,
        committing=max(told.values()) - first,
        seconds=seconds,
        cpu={name: cpu / shape.deliveries * 1e6 for name, cpu in used.items()},
        repeated=len(arrivals) - shape.deliveries,
    )


def measure_bare(stand: Stand, shape: Shape) -> bare.Run:
    """Send as many requests with a bare client."""
    entity = content("bare", shape.size)
    return bare.measure(stand.endpoints, entity, shape.format, shape.deliveries, shape.webhooks)


def describe(run: Run) -> str:
    cpu = ", ".join(f"{name} {micro:.0f}" for name, micro in run.cpu.items())
    repeated = f"; {run.repeated} arrived again" if run.repeated else ""
    return (
        f"{run.rate:>7,.0f}/s  {run.seconds:6.2f} s, committing {run.committing:.2f} s;"
        f"  CPU {sum(run.cpu.values()):.0f} µs: {cpu}{repeated}"
    )


def shape(text: str) -> tuple[int, int]:
    """Read ``1000x20``: webhooks and events."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is not like 1000x20")
    return int(found[1]), int(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the site")
    parser.add_argument("--shape", type=shape, nargs="+", default=[(1000, 20)])
    parser.add_argument("--format", nargs="+", default=["classic"])
    parser.add_argument("--owners", type=int, nargs="+", default=[1])
    parser.add_argument("--size", type=int, default=BODY, help="bytes of an event's content")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    shapes = [
        Shape(webhooks, events, format_, owners, given.size)
        for webhooks, events in given.shape
        for format_ in given.format
        for owners in given.owners
    ]
    runs: dict[Shape, list[Run]] = {one: [] for one in shapes}
    with Stand(given.folder) as stand:
        stand.start_workers(given.workers)
        for _ in range(given.runs):
            for one in shapes:
                runs[one].append(measure(stand, one))
                print(f"{one}:", describe(runs[one][-1]), flush=True)
    for one, found in runs.items():
        rates = [run.rate for run in found]
        cpu = statistics.median(sum(run.cpu.values()) for run in found)
        print(
            f"{one}: median {statistics.median(rates):,.0f}/s"
            f" ({min(rates):,.0f} to {max(rates):,.0f}), CPU {cpu:.0f} µs"
        )


if __name__ == "__main__":
    main()
