"""Every figure that this software is to reach, with the 2015 way beside it in the same run.

python -m bench FOLDER [--quick] [SECTION…]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench import plots, rows, settings, table
from bench.rows import FULL, QUICK, Effort
from bench.stand import Stand
from bench.table import Row

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

# In the order in which one stand can serve them: some need that no worker runs.
WITHOUT_WORKER: dict[str, Callable[[Stand, Effort], Iterator[Row]]] = {
    "fanout": rows.of_fanout,
    "memory": rows.of_memory,
}
WITH_WORKER = {"throughput": rows.of_throughput, "latency": rows.of_latency}
SECTIONS = ("web", *WITHOUT_WORKER, *WITH_WORKER)


def measure(
    folder: Path, sections: Sequence[str], effort: Effort
) -> tuple[list[Row], dict[str, str]]:
    """Measure the rows of these sections, and print each as it is known.

    :returns: them, and the settings that they were measured with
    """
    measured: list[Row] = []

    def keep(found: Iterator[Row]) -> None:
        for row in found:
            print(table.plain(row), flush=True)
            measured.append(row)

    if "web" in sections:
        # In processes of its own: here no CKAN has been loaded yet.
        keep(rows.of_web(folder, effort))
    with Stand(folder / "stand") as stand:
        measured_with = settings.read(stand) | {"runs": rows.described(effort)}
        for name, function in WITHOUT_WORKER.items():
            if name in sections:
                keep(function(stand, effort))
        if set(sections) & set(WITH_WORKER):
            stand.start_workers()
        for name, function in WITH_WORKER.items():
            if name in sections:
                keep(function(stand, effort))
    return measured, measured_with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the sites")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    given = parser.parse_intermixed_args()
    for unknown in set(given.sections) - set(SECTIONS):
        parser.error(f"there is no section {unknown}; there are {', '.join(SECTIONS)}")
    committed = table.read(RESULTS)["rows"]
    measured, measured_with = measure(
        given.folder, given.sections or SECTIONS, QUICK if given.quick else FULL
    )
    if given.quick or given.sections:
        # What is committed is of one run.
        save(
            measured, measured_with, given.folder / "results.json", given.folder / "performance.md"
        )
    else:
        save(measured, measured_with, RESULTS, PAGE)
    print(f"{sum(row.met for row in measured)} of {len(measured)} goals are met")
    worse = table.regressions(measured, committed)
    for line in worse:
        print(f"REGRESSION: {line}")
    print(f"{len(worse)} regressions against {len(committed)} committed rows, by ratios")
    sys.exit(bool(worse))


def save(
    measured: Sequence[Row], measured_with: Mapping[str, str], results: Path, page: Path
) -> None:
    """Write results, and the table and the plots of a page."""
    as_json = [row.as_json() for row in measured]
    table.write(results, as_json, measured_with)
    text = page.read_text() if page == PAGE else table.EMPTY_PAGE
    pictures = plots.draw(as_json, page.with_suffix(""))
    shown = [f"![{name}]({path.relative_to(page.parent)})" for name, path in pictures.items()]
    body = "\n\n".join([table.markdown(as_json, measured_with), *shown])
    page.write_text(table.between(text, "bench", body))


if __name__ == "__main__":
    main()
