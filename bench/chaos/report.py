"""What a run prints."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from bench.chaos.run import Result
from bench.chaos.schedule import FAULTS
from bench.chaos.writer import Outcome

# Of a long list so many lines are shown.
SHOWN = 10


def missed_goals(result: Result) -> list[str]:
    """Name the faults, where they came alone, after which it took too long."""
    return [
        f"{h.moment.faults[0]}: first delivery after {_seconds(first)}, and {goal:g} s are promised"
        for h, first in zip(result.happened, result.first, strict=True)
        if len(h.moment.faults) == 1 and (goal := FAULTS[h.moment.faults[0]].goal) is not None
        if first is None or first > goal
    ]


def failures(result: Result) -> list[str]:
    """Say why a run has failed; nothing where it has not."""
    found = [what for what, cases in result.balance.wrong.items() if cases]
    if result.rested is None:
        found.append("it never came to rest")
    found += missed_goals(result)
    found += [f"{h.moment} did not come about" for h in result.happened if h.failed]
    return found


def lines(result: Result) -> Iterator[str]:
    """Write the report."""
    yield from ("", "writes, by what CKAN answered")
    yield from _writes(result.outcomes)
    yield from ("", f"faults: {_counted(n for h in result.happened for n in h.moment.faults)}")
    heads = ("seconds after a fault until", "first delivery", "goal", "caught up")
    yield from ("", "{:28} {:>18} {:>6} {:>18}".format(*heads))
    yield from _times(result)
    yield from ("", "the books")
    for name, count in result.balance.counts.items():
        yield f"{count:>8}  {name}"
    for explanation, count in sorted(_kinds(result.balance.duplicates).items()):
        yield f"{'':8}  of the duplicates {count}: {explanation}"
    if late := result.balance.late:
        yield f"{len(late):>8}  captured by a later transaction, after {max(late):.1f} s at most"
    for what, cases in result.balance.wrong.items():
        yield f"{len(cases):>8}  {what}"
        yield from (f"{'':10}{case}" for case in cases[:SHOWN])
    died = _counted(name for name, _at in result.deaths)
    yield f"started again after it died by itself: {died or 'nothing'}"
    if result.rested is not None:
        yield f"at rest {result.rested:.1f} s after the end"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count} ×" for name, count in sorted(Counter(names).items()))


def _writes(outcomes: Sequence[Outcome]) -> Iterator[str]:
    by_write: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_write[outcome.write].append(outcome)
    for write, some in sorted(by_write.items()):
        statuses = Counter(outcome.status for outcome in some)
        answers = ", ".join(f"{s or 'no answer'} {n} ×" for s, n in sorted(statuses.items()))
        took = [outcome.milliseconds for outcome in some]
        yield f"  {write:16} {answers:48} median {statistics.median(took):6.0f} ms"


def _times(result: Result) -> Iterator[str]:
    by_fault: dict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    for happened, *times in zip(result.happened, result.first, result.caught_up, strict=True):
        by_fault[str(happened.moment)].append((times[0], times[1]))
    for faults, some in sorted(by_fault.items()):
        fault = FAULTS.get(faults)
        goal = f"{fault.goal:g}" if fault and fault.goal else ""
        first, caught_up = ([pair[n] for pair in some] for n in (0, 1))
        yield f"{faults:28} {_worst(first):>18} {goal:>6} {_worst(caught_up):>18}"


def _worst(times: Sequence[float | None]) -> str:
    """Give each, or of many the range."""
    known = [time for time in times if time is not None]
    if not known:
        return "-"
    if len(times) > 2:
        return f"{min(known):.1f} to {max(known):.1f}"
    return ", ".join(_seconds(time) for time in times)


def _seconds(time: float | None) -> str:
    return "-" if time is None else f"{time:.1f}"


def _kinds(duplicates: Counter[str]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for explanation, count in duplicates.items():
        kinds[explanation.partition(":")[0]] += count
    return kinds
