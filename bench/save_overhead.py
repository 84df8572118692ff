"""What this extension adds to a save: two running CKANs side by side.

One has the plugin, the other has not; the same ``package_update`` goes to them
in turns, so that whatever else the machine does falls on both. Printed are
medians over all saves, for 0, 1 and 1,000 webhooks that are told of each, and
for a dataset of few resources and one of many. No worker runs: what is measured
is what the web process does, the event row and the nudge, and not how a machine
of few cores shares them.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import ckanapi
import psycopg2

from ckanext.webhooks.tests.receiver import Receiver
from ckanext.webhooks.tests.site import Site

# Webhooks, resources, saves. Six resources make 4 KB of JSON, as in the design's
# numbers; there are saves enough for medians that repeat within a few tenths of a
# millisecond, and for 500 resources, where each takes half a second, within 1 %.
ROWS = ((0, 6, 300), (1, 6, 300), (1000, 6, 300), (1, 1, 300), (1, 500, 60))
WARM_UP = 10

# As webhook_create writes them, but a thousand in one statement.
SUBSCRIBE = """
INSERT INTO webhooks (id, address, topic, user_id, topics, secret)
SELECT 'bench-' || n, %s, '*', (SELECT id FROM "user" WHERE name = 'admin'), ARRAY['*'],
       (SELECT secret FROM webhooks LIMIT 1)
FROM generate_series(1, %s) n
"""


def main(folder: Path) -> None:
    with (
        Receiver() as receiver,
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
        print(
            f"{'webhooks':>8}  {'resources':>9}  {'without':>9}  {'with':>9}  {'added':>9}"
            f"  {'ratio':>6}"
        )
        for webhooks, resources, rounds in ROWS:
            subscribe(with_, clients["with"], receiver.url, webhooks)
            datasets = {name: new_dataset(client, resources) for name, client in clients.items()}
            took = measure(clients, datasets, rounds)
            off, on = (statistics.median(took[name]) * 1000 for name in ("without", "with"))
            print(
                f"{webhooks:>8}  {resources:>9}  {off:>6.1f} ms  {on:>6.1f} ms"
                f"  {on - off:>6.2f} ms  {on / off:>6.3f}"
            )


def new_dataset(ckan: ckanapi.RemoteCKAN, resources: int) -> dict[str, object]:
    dataset: dict[str, object] = ckan.action.package_create(
        name=f"bench-{time.monotonic_ns()}",
        owner_org="bench",
        resources=[
            {"url": f"http://example.com/{n}.csv", "name": f"{n}"} for n in range(resources)
        ],
    )
    return dataset


def subscribe(site: Site, ckan: ckanapi.RemoteCKAN, address: str, count: int) -> None:
    """Make it so many webhooks."""
    hook = ckan.action.webhook_create(topic="*", address=address)
    connection = psycopg2.connect(site.database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM webhooks WHERE id LIKE 'bench-%'")
        cursor.execute(SUBSCRIBE, [address, count])
    connection.close()
    ckan.action.webhook_delete(id=hook)


def measure(
    clients: dict[str, ckanapi.RemoteCKAN],
    datasets: dict[str, dict[str, object]],
    rounds: int,
) -> dict[str, list[float]]:
    """Save in turns; seconds of each save, by site."""
    took: dict[str, list[float]] = {name: [] for name in clients}
    for turn in range(WARM_UP + rounds):
        for name in sorted(clients, reverse=bool(turn % 2)):
            changed = {**datasets[name], "title": f"Title {time.monotonic_ns()}"}
            started = time.perf_counter()
            datasets[name] = clients[name].action.package_update(**changed)
            if turn >= WARM_UP:
                took[name].append(time.perf_counter() - started)
    return took


if __name__ == "__main__":
    main(Path(sys.argv[1]))
