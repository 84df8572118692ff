"""Nothing is lost, whatever breaks: real saves, real workers, faults at random, a ledger.

python -m bench.chaos FOLDER [--seed N] [--minutes M] [--faults a,b] [--before COMMIT]
    [--workers N] [--writers N] [--rest SECONDS] [--plant NAME] [--disk FOLDER]
    [--postgresql PID COMMAND…]
python -m bench.chaos FOLDER --web [--postgresql PID COMMAND…]
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from bench.chaos import report, schedule
from bench.chaos.run import REST, WRITERS, run
from bench.chaos.schedule import FAULTS
from bench.chaos.stand import WORKERS, Database, extract_before
from ckanext.webhooks.tests.site import SiteError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the site")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--faults", default=",".join(FAULTS), help="some of them, with commas")
    parser.add_argument("--before", default="HEAD~20", help="the commit of the version before")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--writers", type=int, default=WRITERS, help="clients of CKAN's API")
    parser.add_argument("--rest", type=float, default=REST, help="seconds to come to rest in")
    parser.add_argument("--plant", default="", help="what the workers are without: see plants")
    parser.add_argument("--disk", type=Path, help="the database's, if it is a small one")
    parser.add_argument(
        "--postgresql", nargs=argparse.REMAINDER, default=[], help="last: its PID and command"
    )
    parser.add_argument("--web", action="store_true", help="what a save costs while things break")
    given = parser.parse_args()
    database = None
    if given.postgresql:
        database = Database(int(given.postgresql[0]), given.postgresql[1:], given.disk)
    if given.web:
        sys.exit(not _measure_web(given.folder, database))
    names = set(given.faults.split(","))
    for unknown in names - set(FAULTS):
        parser.error(f"there is no fault {unknown}; there are {', '.join(FAULTS)}")
    skipped = _without_database(database)
    before = None
    if "version-before" in names:
        try:
            before = extract_before(given.folder / "before", given.before)
        except SiteError as error:
            skipped["version-before"] = str(error)
    for name in sorted(names & skipped.keys()):
        _say(f"skipped: {name}: {skipped[name]}")
    moments = schedule.draw(given.seed, given.minutes * 60, sorted(names - skipped.keys()))
    count = sum(len(moment.faults) for moment in moments)
    _say(f"seed {given.seed}: {count} faults in {len(moments)} moments")
    result = run(
        given.folder,
        moments,
        database,
        before,
        _say,
        given.rest,
        given.plant,
        given.workers,
        given.writers,
    )
    _say(*report.lines(result), "")
    failures = report.failures(result)
    _say(*([f"FAILED: {failure}" for failure in failures] or ["the books balance"]))
    sys.exit(bool(failures))


def _measure_web(folder: Path, database: Database | None) -> bool:
    """Print a line for each state; tells whether all was saved and told."""
    from bench.chaos import web  # CKAN, which a run has no use for

    _say(web.head())
    costs = []
    for cost in web.measure(folder, database):
        _say(web.line(cost))
        costs.append(cost)
    return all(cost.is_good for cost in costs)


def _without_database(database: Database | None) -> dict[str, str]:
    """Say which faults there cannot be, and why."""
    if database is None:
        reason = "the database is not ours to stop; unset CKAN_SQLALCHEMY_URL"
        return dict.fromkeys(["database-killed", "database-slow", "disk-full"], reason)
    if database.disk is None:
        return {"disk-full": "only root can mount a small disk for the database"}
    return {}


def _say(*some: str) -> None:
    print(*some, sep="\n", flush=True)


if __name__ == "__main__":
    main()
