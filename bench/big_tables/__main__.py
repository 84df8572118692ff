"""Whether all that is asked of the tables is answered by an index, at 20 million deliveries.

python -m bench.big_tables FOLDER [--rows N] [--repeats N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import settings, table
from bench.big_tables import asked, fill, pruning
from bench.big_tables.asked import Asked
from bench.big_tables.plans import Read, Recorder, Statement
from bench.stand import Stand

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
PLANS = Path(__file__).parents[1] / "plans.txt"
ROWS = 20_000_000
REPEATS = 3


@dataclass(frozen=True)
class Answer:
    """What one thing that was asked cost.

    :ivar milliseconds: of all of it, the median
    :ivar wrong: why that is not good, empty where it is
    :ivar statements: those that read of the big tables
    """

    asked: Asked
    milliseconds: float
    read: Read
    wrong: str
    statements: Sequence[Statement]

    def cells(self) -> list[str]:
        indexes = sorted(name.removeprefix("webhooks_") for name in self.read.indexes)
        return [
            self.asked.what,
            f"{self.milliseconds:,.0f}" if self.milliseconds >= 10 else f"{self.milliseconds:.1f}",
            f"{max(self.read.rows.values(), default=0):,}",
            f"{self.read.pages:,}",
            ", ".join(indexes),
            self.wrong or (f"ok: {self.asked.whole}" if self.asked.whole else "ok"),
        ]


HEAD = ["what", "ms", "rows read", "pages", "indexes", ""]


def answers(many: Iterable[Asked], repeats: int) -> Iterator[Answer]:
    """Ask, and say of each what it cost.

    What only reads is timed by itself: to explain it takes time, too.

    :param repeats: how often; 0 for only while it is explained
    """
    counts = {name: fill.count(name) for name in fill.BIG}
    for one in many:
        took = [_milliseconds(one) for _ in range(repeats)] if one.repeatable else []
        with Recorder().recording() as recorder:
            if took:
                one.run()
            else:
                took = [_milliseconds(one)]
        yield _judged(one, statistics.median(took), list(recorder.worst.values()), counts)


def _milliseconds(one: Asked) -> float:
    started = time.perf_counter()
    one.run()
    return (time.perf_counter() - started) * 1000


def _judged(
    one: Asked, took: float, statements: Sequence[Statement], counts: Mapping[str, int]
) -> Answer:
    read, whole = Read(), set[str]()
    for statement in statements:
        read.add(statement.read)
        if found := statement.read.whole(counts):
            whole |= found
            if not one.whole:
                print(f"reads {', '.join(sorted(found))} whole: {statement.text}", flush=True)
    wrong = []
    if whole and not one.whole:
        wrong.append(f"reads {', '.join(sorted(whole))} whole")
    if one.limit is not None and took > one.limit:
        wrong.append(f"takes longer than {one.limit:g} ms")
    return Answer(one, took, read, "; ".join(wrong), statements)


def plain(answer: Answer) -> str:
    """Lay an answer out for a terminal."""
    what, ms, rows, pages, indexes, judged = answer.cells()
    return f"{what:52} {ms:>8} {rows:>10} {pages:>9}  {judged}  ({indexes})"


def _plans(found: Iterable[Answer]) -> Iterator[str]:
    for answer in found:
        for statement in answer.statements:
            yield f"{answer.asked.what}:"
            yield from statement.lines()
            yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the site")
    parser.add_argument("--rows", type=int, default=ROWS, help="deliveries")
    parser.add_argument(
        "--repeats",
        type=int,
        default=REPEATS,
        help="times that one is timed; 0 for only while it is explained",
    )
    given = parser.parse_args()
    # Nothing is pruned before it is to be.
    options = {"ckanext.webhooks.retention_days": "365"}
    with Stand(given.folder / "stand", options) as stand:
        measured_with = settings.read(stand)
        for line in fill.fill(given.rows):
            print(line, flush=True)
        found = list(_answers(stand, given.repeats))
        # Small tables are pruned in no time, and need no long time beside it.
        pruned = pruning.measure(stand, min(pruning.BEFORE, given.rows / 10_000))
    print(*pruned.lines(), sep="\n")
    wrong = [answer for answer in found if answer.wrong]
    print(f"{len(found) - len(wrong)} of {len(found)} are well")
    if given.rows >= ROWS:
        rows = [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD))]
        rows += [f"| {' | '.join(answer.cells())} |" for answer in found]
        PLANS.write_text("\n".join(_plans(found)))
        pruning_said = "\n".join(f"- {line}" for line in pruned.lines())
        said = "Measured with: " + "; ".join(f"{k} {v}" for k, v in measured_with.items()) + "."
        shown = "\n\n".join(["\n".join(rows), pruning_said, said])
        PAGE.write_text(table.between(PAGE.read_text(), "big tables", shown))
    sys.exit(bool(wrong or pruned.wrong))


def _answers(stand: Stand, repeats: int) -> Iterator[Answer]:
    with stand.app.test_request_context():
        for many in (asked.reading(), asked.writing(stand)):
            for answer in answers(many, repeats):
                print(plain(answer), flush=True)
                yield answer


if __name__ == "__main__":
    main()
