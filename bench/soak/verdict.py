"""Whether a run shows growth: no I/O."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.soak.figures import Figures

# MiB an hour, by the slope of the last two thirds of a run: at 600 deliveries a second
# that is 15 bytes kept of each. Less cannot be told from how an allocator breathes.
MOST_GROWTH = 32.0
# Times as much in the last third as in the one before: what is pruned once a minute
# makes a saw of it.
MOST_SIZE = 1.2
# Times the latency of the first third.
MOST_LATENCY = 1.5


@dataclass(frozen=True)
class Line:
    """One judgement, in words."""

    what: str
    holds: bool

    def __str__(self) -> str:
        return f"{'ok ' if self.holds else 'BAD'} {self.what}"


def judge(taken: Sequence[Figures], lost: int, growth: bool = True) -> list[Line]:
    """Judge a run.

    :param lost: deliveries that did not arrive
    :param growth: whether it was long enough to judge by how things grew
    """
    return [
        Line(f"{lost} deliveries are missing in the end", lost == 0),
        *(_growth(taken) if growth else ()),
    ]


def _growth(taken: Sequence[Figures]) -> Iterator[Line]:
    third = len(taken) // 3
    first, middle, last = taken[:third], taken[third:-third], taken[-third:]
    for name in taken[0].parts:
        grows = slope([(f.at / 3600, f.parts[name].memory) for f in [*middle, *last]])
        yield Line(
            f"memory of {name}: {taken[-1].parts[name].memory:.0f} MiB, {grows:+.1f} MiB an hour"
            f" (at most {MOST_GROWTH:g})",
            grows <= MOST_GROWTH,
        )
    for name in taken[0].tables:
        was, now = (max(f.tables[name].size for f in some) for some in (middle, last))
        yield Line(
            f"{name}: {now:.0f} MB at most in the last third, {was:.0f} in the one before"
            f" (at most {MOST_SIZE:g} times as much)",
            now <= was * MOST_SIZE,
        )
    figures: dict[str, Callable[[Figures], float]] = {
        "p50": lambda f: f.p50,
        "p99": lambda f: f.p99,
    }
    for name, of in figures.items():
        was, now = (statistics.median(map(of, some)) for some in (first, last))
        yield Line(
            f"{name} from commit to arrival: {now:.1f} ms in the last third, {was:.1f} in the"
            f" first (at most {MOST_LATENCY:g} times as much)",
            now <= was * MOST_LATENCY,
        )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Give how fast y grows with x, by least squares."""
    x, y = zip(*points, strict=True)
    return statistics.linear_regression(x, y).slope


# Head and width of each column, and what is in it.
_COLUMNS: dict[str, Callable[[Figures], str]] = {
    "min": lambda f: f"{f.at / 60:.1f}",
    "arrived": lambda f: f"{f.arrived:,}",
    "p50 ms": lambda f: f"{f.p50:.1f}",
    "p99 ms": lambda f: f"{f.p99:.1f}",
    "save ms": lambda f: f"{f.save:.0f}",
    "lock ms": lambda f: f"{f.waited:.0f}",
    "worker MiB": lambda f: f"{f.parts['worker'].memory:.0f}",
    "web MiB": lambda f: f"{f.parts['web'].memory:.0f}",
    "PG MiB": lambda f: f"{f.parts['PostgreSQL'].memory:.0f}",
    "Redis MiB": lambda f: f"{f.parts['Redis'].memory:.0f}",
    "receiver MiB": lambda f: f"{f.parts['receiver'].memory:.0f}",
    "files": lambda f: "/".join(str(p.files) for p in f.parts.values()),
    "threads": lambda f: "/".join(str(p.threads) for p in f.parts.values()),
    "events": lambda f: f"{f.tables['webhooks_event'].rows:,}",
    "deliveries": lambda f: f"{f.tables['webhooks_delivery'].rows:,}",
    "attempts": lambda f: f"{f.tables['webhooks_attempt'].rows:,}",
    "MB": lambda f: f"{sum(t.size for t in f.tables.values()):.0f}",
    "dead rows": lambda f: f"{sum(t.dead for t in f.tables.values()):,}",
}
# Files and threads are of five parts.
_WIDTHS = {"files": 15, "threads": 15, "deliveries": 11}


def head() -> str:
    return "  ".join(f"{name:>{_width(name)}}" for name in _COLUMNS)


def line(figures: Figures) -> str:
    """Lay the figures of one interval out for a terminal."""
    return "  ".join(f"{of(figures):>{_width(name)}}" for name, of in _COLUMNS.items())


def _width(name: str) -> int:
    return max(len(name), _WIDTHS.get(name, 0))


def markdown(taken: Sequence[Figures]) -> str:
    """Lay figures out as a table."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    lines += [f"| {' | '.join(of(f) for of in _COLUMNS.values())} |" for f in taken]
    return "\n".join(lines)
