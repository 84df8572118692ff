"""What this extension adds to a save: two running CKANs side by side.

One has the plugin, the other has not; the same ``package_update`` goes to them
in turns, so that whatever else the machine does falls on both. It does so while
nobody, one, 1,000 and 100,000 webhooks are told of each save. No worker runs:
what is measured is what the web process does, the event row and the nudge, and
not how a machine of few cores shares them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ckanapi
import psycopg2

from ckanext.webhooks.tests.receiver import Receiver
from ckanext.webhooks.tests.site import Site

# Webhooks and resources. Six resources make 4 KB of JSON, as in the design's numbers.
ROWS = (
    *((webhooks, 1) for webhooks in (0, 1, 1_000, 100_000)),
    (1, 6),
    *((webhooks, 500) for webhooks in (0, 1, 1_000, 100_000)),
)
# So many saves make medians that repeat within a few tenths of a millisecond. A save of 500
# resources takes ten times as long, a third of it Python's garbage collector's, which comes
# when it comes: a sixth as many left medians 30 ms apart, half as many do.
ROUNDS = 240
MANY_RESOURCES = 100
WARM_UP = 10
# Of how many parts of a row the medians are compared.
PARTS = 5

# What may be added: so many ms, or this part of the save.
GOAL_MS = 3.0
GOAL_PART = 0.03

# As webhook_create writes them, but all in one statement.
SUBSCRIBE = """
INSERT INTO webhooks (id, address, topic, user_id, topics, secret)
SELECT 'bench-' || n, %s, '*', (SELECT id FROM "user" WHERE name = 'admin'), ARRAY['*'],
       (SELECT secret FROM webhooks LIMIT 1)
FROM generate_series(1, %s) n
"""


@dataclass(frozen=True)
class Saves:
    """The same saves, in turns: milliseconds of each.

    :ivar without: in a CKAN without the plugin
    :ivar with_: in one that has it
    """

    without: list[float]
    with_: list[float]

    @property
    def added(self) -> list[float]:
        """What each pair of saves differs by: both fell on the same second of the machine."""
        return [with_ - without for with_, without in zip(self.with_, self.without, strict=True)]

    @property
    def added_p50(self) -> float:
        return statistics.median(self.added)

    @property
    def added_p95(self) -> float:
        return p95(self.with_) - p95(self.without)

    @property
    def range_of_added(self) -> tuple[float, float]:
        """The lowest and the highest median that one fifth of the pairs alone would give."""
        size = -(-len(self.added) // PARTS)
        medians = [
            statistics.median(self.added[first : first + size])
            for first in range(0, len(self.added), size)
        ]
        return min(medians), max(medians)

    @property
    def ratio(self) -> float:
        return 1 + self.added_p50 / statistics.median(self.without)

    def __str__(self) -> str:
        low, high = self.range_of_added
        return (
            f"{statistics.median(self.without):>7.1f} {p95(self.without):>6.1f} ms"
            f"  {statistics.median(self.with_):>7.1f} {p95(self.with_):>6.1f} ms"
            f"  {self.added_p50:>5.2f} ({low:>5.2f} to {high:>5.2f}) {self.added_p95:>5.2f} ms"
            f"  {self.ratio:>6.3f}"
        )


@dataclass(frozen=True)
class Row:
    """The saves of one dataset, with so many webhooks."""

    webhooks: int
    resources: int
    saves: Saves

    @property
    def goal(self) -> float:
        return max(GOAL_MS, GOAL_PART * statistics.median(self.saves.without))

    @property
    def met(self) -> bool:
        return self.saves.added_p50 <= self.goal


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


# Above what is written of saves.
HEAD = f"{'without p50 p95':>17}  {'with p50 p95':>17}  {'added p50 (range) p95':>28}  {'ratio':>6}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="saves of each row")
    arguments = parser.parse_args()
    print(f"{'webhooks':>8}  {'resources':>9}  {HEAD}  {'goal':>8}")
    rows = []
    for row in measure_web(arguments.folder, rounds=arguments.rounds):
        rows.append(row)
        print(
            f"{row.webhooks:>8}  {row.resources:>9}  {row.saves}"
            f"  {row.goal:>5.2f} ms {'met' if row.met else 'MISSED'}",
            flush=True,
        )
    for resources in sorted({row.resources for row in rows}):
        line = [row for row in rows if row.resources == resources]
        if len(line) > 1:
            print(f"{resources} resources, {told_growth(line)}")


def told_growth(line: Sequence[Row]) -> str:
    """Say whether what is added grows with the webhooks.

    It does where the least of what the most webhooks add is above the most of
    what the fewest do.
    """
    fewest, most = (pick(line, key=lambda row: row.webhooks) for pick in (min, max))
    flat = most.saves.range_of_added[0] <= fewest.saves.range_of_added[1]
    return (
        f"{fewest.webhooks} to {most.webhooks} webhooks: {fewest.saves.added_p50:.2f} to"
        f" {most.saves.added_p50:.2f} ms added, {'flat' if flat else 'it GROWS'}"
    )


def measure_web(
    folder: Path, rows: Sequence[tuple[int, int]] = ROWS, rounds: int = ROUNDS
) -> Iterator[Row]:
    """Measure what is added to a save, one row after the other.

    :param folder: for the two sites; their URLs of PostgreSQL, Solr and Redis
        are those of the environment
    :param rows: numbers of webhooks and of the dataset's resources
    :param rounds: saves of each row
    """
    with Receiver() as receiver, side_by_side(folder) as (with_, clients):
        for webhooks, resources in rows:
            subscribe(with_, clients["with"], receiver.url, webhooks)
            saves = rounds if resources < MANY_RESOURCES else max(rounds // 2, PARTS)
            yield Row(webhooks, resources, save_datasets(clients, resources, saves))


@contextmanager
def side_by_side(folder: Path) -> Iterator[tuple[Site, dict[str, ckanapi.RemoteCKAN]]]:
    """Run a CKAN without and one with the plugin, each with an organization ``bench``.

    :returns: the one with it; and clients of both, ``without`` and ``with``
    """
    with (
        Site(folder / "without", plugins="activity") as without,
        Site(folder / "with", plugins="activity webhooks") as with_,
    ):
        for site in (without, with_):
            site.start_web("gunicorn", workers=1)
        sites = {"without": without, "with": with_}
        clients = {
            name: ckanapi.RemoteCKAN(site.url, apikey=site.token) for name, site in sites.items()
        }
        for client in clients.values():
            client.action.organization_create(name="bench")
        yield with_, clients


def subscribe(site: Site, ckan: ckanapi.RemoteCKAN, address: str, count: int) -> None:
    """Make it so many webhooks."""
    hook = ckan.action.webhook_create(topic="*", address=address)
    connection = psycopg2.connect(site.database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM webhooks WHERE id LIKE 'bench-%'")
        cursor.execute(SUBSCRIBE, [address, count])
    # As autovacuum would within a minute, in the midst of the saves.
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE webhooks")
    connection.close()
    ckan.action.webhook_delete(id=hook)


def save_datasets(clients: Mapping[str, ckanapi.RemoteCKAN], resources: int, rounds: int) -> Saves:
    """Save a new dataset of each site in turns."""
    datasets = {name: new_dataset(client, resources) for name, client in clients.items()}

    def save(name: str) -> None:
        changed = {**datasets[name], "title": f"Title {time.monotonic_ns()}"}
        datasets[name] = clients[name].action.package_update(**changed)

    return in_turns(save, rounds)


def in_turns(save: Callable[[str], object], rounds: int) -> Saves:
    """Save on each site in turns.

    :param save: is given the site's name, ``without`` or ``with``
    """
    took: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(WARM_UP + rounds):
        for name in sorted(took, reverse=bool(turn % 2)):
            started = time.perf_counter()
            save(name)
            if turn >= WARM_UP:
                took[name].append((time.perf_counter() - started) * 1000)
    return Saves(took["without"], took["with"])


def new_dataset(ckan: ckanapi.RemoteCKAN, resources: int) -> dict[str, object]:
    dataset: dict[str, object] = ckan.action.package_create(
        name=f"bench-{time.monotonic_ns()}",
        owner_org="bench",
        resources=[
            {"url": f"http://example.com/{n}.csv", "name": f"{n}"} for n in range(resources)
        ],
    )
    return dataset


if __name__ == "__main__":
    main()
