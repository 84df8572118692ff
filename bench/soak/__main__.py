"""A portal's half hour: does anything grow that should not?

python -m bench.soak FOLDER [--minutes N] [--rate N]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import settings, table
from bench.soak import plot, verdict
from bench.soak.figures import Figures
from bench.soak.run import RETENTION, WEBHOOKS, run, standing

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "soak.json"
PICTURE = ROOT / "docs" / "soak.png"
PAGE = ROOT / "docs" / "performance.md"

# A shorter run shows nothing of growth: what a process learns at its start is most of it.
JUDGED_FROM = 10.0
# What is committed is of a run that is at least as long.
KEPT_FROM = 30.0
# Lines of the table on the page: a run has many more.
SHOWN = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the site")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=30.0, help="events a second")
    given = parser.parse_args()
    seconds = given.minutes * 60
    taken: list[Figures] = []
    with standing(given.folder / "stand", seconds) as stand:
        measured_with = settings.read(stand) | {
            "events": f"{given.rate:g} a second for {WEBHOOKS} webhooks",
            "retention": f"{seconds * RETENTION / 60:.3g} minutes",
        }
        print(verdict.head(), flush=True)
        result = run(stand, seconds, given.rate)
        for figures in result.figures:
            taken.append(figures)
            print(verdict.line(figures), flush=True)
    is_judged = given.minutes >= JUDGED_FROM
    found = verdict.judge(taken, result.lost, is_judged)
    print("", *found, sep="\n")
    if not is_judged:
        print(f"growth is judged of runs of {JUDGED_FROM:g} minutes and more")
    if given.minutes >= KEPT_FROM:
        save(taken, found, measured_with, RESULTS, PICTURE)
        shown = "\n\n".join(
            [
                verdict.markdown(taken[:: -(-len(taken) // SHOWN)]),
                "\n".join(f"- {line}" for line in found),
                f"![over time]({PICTURE.name})",
                "Measured with: " + "; ".join(f"{k} {v}" for k, v in measured_with.items()) + ".",
            ]
        )
        PAGE.write_text(table.between(PAGE.read_text(), "soak", shown))
    else:
        save(taken, found, measured_with, given.folder / "soak.json", given.folder / "soak.png")
    sys.exit(not all(line.holds for line in found))


def save(
    taken: Sequence[Figures],
    found: Sequence[verdict.Line],
    measured_with: Mapping[str, str],
    results: Path,
    picture: Path,
) -> None:
    """Write the figures, the verdict and the picture."""
    written = {
        "figures": [figures.as_json() for figures in taken],
        "verdict": [vars(line) for line in found],
        "settings": measured_with,
    }
    results.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    plot.draw(taken, picture)


if __name__ == "__main__":
    main()
