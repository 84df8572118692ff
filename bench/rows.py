"""The rows of the table: which figures there are, and what each is to reach."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import dispatch_fanout, isolation, memory, throughput, way_2015, web
from bench.stand import Stand, content, percentile
from bench.table import Row
from bench.throughput import Shape


class Effort(NamedTuple):
    """How much is done for each figure.

    :ivar runs: of which medians are taken
    :ivar seconds: of a stream of events
    :ivar saves: of a dataset
    :ivar due: deliveries in a worker's backlog
    :ivar part: of the events of each shape
    """

    runs: int
    seconds: float
    saves: int
    due: int
    part: float


# Medians of five runs; a quick one shows that everything works.
FULL = Effort(runs=5, seconds=10, saves=120, due=memory.DUE, part=1)
QUICK = Effort(runs=1, seconds=4, saves=10, due=10_000, part=0.1)

WEBHOOKS = (0, 1, 1_000, 100_000)  # told of a save
MOST_TASKS = 1_000
# Goals of deliveries a second, by webhooks and events.
THROUGHPUT = {(1, 5000): 1_500, (10, 1000): 8_000, (1000, 20): 12_000}
CPU_GOAL = 150  # microseconds, of all processes
MORE_OWNERS = {1: (1,), 10: (1, 10), 1000: (1, 100)}
HELD = ("sockets", "memory")  # what is bounded beside a slow endpoint
# So long (seconds) the 2015 way is given events beside a slow endpoint: for those
# it takes 20 s, and the longer it is given them, the later they arrive.
SLOW_2015 = 1.0


def described(effort: Effort) -> str:
    """Say how much was done."""
    shortened = "" if effort.part == 1 else f", with {effort.part:.0%} of the events"
    return f"{effort.runs}, which took turns{shortened}"


def of_web(folder: Path, effort: Effort) -> Iterator[Row]:
    """Yield what is added to a save, for each number of webhooks."""
    redis_url = os.environ["CKAN_REDIS_URL"]
    for row in web.measure_web(folder, [(n, 1) for n in WEBHOOKS], effort.saves):
        # The 2015 way sends a task for each of them; beyond 1,000 that takes too long here.
        tasks = row.webhooks if row.webhooks <= MOST_TASKS else 0
        yield Row(
            "web",
            f"added to package_update, {row.webhooks:,} webhooks: p50",
            "ms",
            [row.saves.added_p50, *row.saves.range_of_added],
            row.goal,
            way_2015=way_2015.added(folder, redis_url, content("2015"), tasks, effort.runs)
            if tasks
            else (),
            ceiling=row.saves.without,
            ceiling_is="the save without",
            note=f"Told to {row.webhooks:,} webhooks, a save takes {row.saves.ratio:.3f} times as"
            " long as without the plugin",
        )


def of_fanout(stand: Stand, effort: Effort) -> Iterator[Row]:
    runs = dispatch_fanout.measure(stand, effort.runs)["public"]
    alone = [dispatch_fanout.insert_alone(dispatch_fanout.WEBHOOKS) for _ in range(effort.runs)]
    dispatch_fanout.purge(stand)
    yield Row(
        "fanout",
        "one event, 100,000 webhooks of 1,000 owners",
        "ms",
        [run.took["all"] for run in runs],
        500,
        ceiling=alone,
        ceiling_is="the rows inserted alone",
        parts={
            part: statistics.median(run.took[part] for run in runs)
            for part in dispatch_fanout.PARTS
            if part != "all"
        },
    )


def of_memory(stand: Stand, effort: Effort) -> Iterator[Row]:
    runs = [memory.measure(stand, effort.due) for _ in range(effort.runs)]
    yield Row(
        "memory",
        f"memory of one worker, {effort.due:,} deliveries due",
        "MiB",
        [run.working for run in runs],
        # Megabytes, as the goal has them.
        200e6 / 2**20,
        ceiling=[run.idle for run in runs],
        ceiling_is="the worker idle",
    )


def of_throughput(stand: Stand, effort: Effort) -> Iterator[Row]:
    """Yield deliveries a second of each shape, and what one of the last costs."""
    for (webhooks, events), goal in THROUGHPUT.items():
        some = max(1, int(events * effort.part))
        shapes = [
            Shape(webhooks, some, format_, owners)
            for format_ in ("classic", "standard")
            for owners in MORE_OWNERS[webhooks]
        ]
        ours: dict[Shape, list[throughput.Run]] = {shape: [] for shape in shapes}
        old, bare = [], []
        for _ in range(effort.runs):
            for shape in shapes:
                ours[shape].append(throughput.measure(stand, shape))
            old.append(throughput.measure_2015(stand, shapes[0]))
            bare.append(throughput.measure_bare(stand, shapes[0]))
        for shape, runs in ours.items():
            owners = f"{shape.owners} owner{'s' * (shape.owners > 1)}"
            yield Row(
                "throughput",
                f"{webhooks:,} × {events:,}, {shape.format}, {owners}",
                "/s",
                [run.rate for run in runs],
                goal,
                more_is_better=True,
                way_2015=[run.rate for run in old],
                ceiling=[run.rate for run in bare],
                ceiling_is="a bare client",
            )
        if webhooks == 1000:
            runs = ours[shapes[0]]
            receiver = statistics.median(run.receiver for run in bare)
            yield Row(
                "throughput",
                "CPU of a delivery, all processes, 1,000 × 20",
                "µs",
                [sum(run.cpu.values()) for run in runs],
                CPU_GOAL,
                way_2015=[sum(run.cpu.values()) for run in old],
                ceiling=[run.sender + run.receiver for run in bare],
                ceiling_is="a bare client and the receiver",
                parts={
                    name: statistics.median(run.cpu[name] for run in runs) for name in runs[0].cpu
                },
                note=f"The receiver takes {receiver:.0f} µs for a request of the bare client's:"
                f" a core for itself would take {1e6 / receiver:,.0f}/s",
            )


def of_latency(stand: Stand, effort: Effort) -> Iterator[Row]:
    """Yield the time from commit to arrival: alone, beside a slow endpoint and a dead one."""
    isolation.subscribe(stand)
    runs: dict[tuple[str, float], list[isolation.Run]] = {
        (isolation.ALONE, 20): [],
        ("dead", 20): [],
        ("slow", 150): [],
    }
    old: dict[str, list[list[float]]] = {kind: [] for kind, _ in runs}
    for _ in range(effort.runs):
        for (kind, rate), found in runs.items():
            found.append(isolation.measure(stand, kind, rate, effort.seconds))
            seconds = SLOW_2015 if kind == "slow" else effort.seconds
            old[kind].append(isolation.measure_2015(stand, kind, 20, seconds))
    alone = runs[isolation.ALONE, 20]
    goals = {isolation.ALONE: (5.0, 10.0), "slow": (10.0, 50.0)}
    p50, p99 = (statistics.median(run.percentile(percent) for run in alone) for percent in (50, 99))
    goals["dead"] = 1.5 * p50, 1.5 * p99
    for (kind, rate), found in runs.items():
        for percent, goal in zip((50, 99), goals[kind], strict=True):
            yield _latency(kind, rate, percent, goal, found, old[kind])


def _latency(
    kind: str,
    rate: float,
    percent: int,
    goal: float,
    runs: Sequence[isolation.Run],
    old: Sequence[Sequence[float]],
) -> Row:
    beside = {
        isolation.ALONE: "",
        "dead": " beside a dead endpoint",
        "slow": " beside one that takes 5 s for each",
    }[kind]
    sockets, memory_held = (max(getattr(run, what) for run in runs) for what in HELD)
    note = {
        isolation.ALONE: "",
        "dead": "The goal beside a dead endpoint is 1.5 times the row without one",
        "slow": f"Beside one that takes 5 s the worker had {sockets} sockets and {memory_held:.0f}"
        f" MiB at most; the 2015 way got 20 events/s there, and for {SLOW_2015:g} s only",
    }[kind]
    return Row(
        "latency",
        f"commit to arrival at {rate:g} events/s{beside}: p{percent}",
        "ms",
        [run.percentile(percent) for run in runs],
        goal,
        way_2015=[percentile(took, percent) for took in old],
        note=note,
    )
