"""``ckan webhooks snapshot`` on a portal that has datasets already.

Fills a catalogue, has it noted in the log, and prints the time and the peak
memory for a tenth of it and for all of it. Then a mirror is built from the
feed, from its start, and compared with what ``package_search`` gives the same
user: dataset by dataset and resource by resource.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ckanapi
import psycopg2

from ckanext.webhooks.tests.mirror import Message, Mirror
from ckanext.webhooks.tests.site import Site

# As package_create leaves them, but all in a few statements. Every third is private.
FILL = """
INSERT INTO package (id, name, title, notes, type, state, private, owner_org, creator_user_id,
                     metadata_created, metadata_modified)
SELECT 'dataset-' || n, 'dataset-' || n, 'Dataset ' || n, repeat('What it is about. ', 40),
       'dataset', 'active', mod(n, 3) = 0, %(owner_org)s, %(user_id)s,
       timezone('utc', now() - interval '1 day'), timezone('utc', now() - interval '1 day')
FROM generate_series(%(first)s, %(last)s) n;
INSERT INTO resource (id, package_id, url, format, name, position, state, created,
                      metadata_modified)
SELECT 'resource-' || n || '-' || i, 'dataset-' || n, 'http://example.com/' || n || '/' || i,
       'CSV', 'File ' || i, i, 'active', timezone('utc', now()), timezone('utc', now())
FROM generate_series(%(first)s, %(last)s) n, generate_series(0, 2) i;
INSERT INTO member (id, table_name, table_id, capacity, group_id, state)
SELECT 'member-' || n, 'package', 'dataset-' || n, 'organization', %(owner_org)s, 'active'
FROM generate_series(%(first)s, %(last)s) n;
"""


def main(folder: Path, count: int) -> None:
    with Site(folder, plugins="webhooks") as site:
        site.start_web("gunicorn", workers=1)
        ckan = ckanapi.RemoteCKAN(site.url, apikey=site.token)
        owner_org = ckan.action.organization_create(name="bench")["id"]
        user_id = ckan.action.user_show(id="admin")["id"]
        filled = 0
        for wanted in (count // 10, count):
            fill(site, owner_org=owner_org, user_id=user_id, first=filled + 1, last=wanted)
            seconds, mebibytes = measured(site, "webhooks", "snapshot")
            print(
                f"snapshot of {wanted - filled:>6} datasets: {seconds:6.1f} s,"
                f" {(wanted - filled) / seconds:4.0f}/s, peak memory {mebibytes:.0f} MiB",
                flush=True,
            )
            filled = wanted
        seconds, mebibytes = measured(site, "webhooks", "snapshot")
        print(f"again, with nothing to do:    {seconds:6.1f} s, peak memory {mebibytes:.0f} MiB")
        seconds, mebibytes = measured(site, "webhooks", "deliver")
        print(f"dispatched:                   {seconds:6.1f} s, peak memory {mebibytes:.0f} MiB")
        measured(site, "search-index", "rebuild", "--force")
        sys.exit(compare(site, ckan))


def fill(site: Site, **values: Any) -> None:
    connection = psycopg2.connect(site.database_url)
    with connection, connection.cursor() as cursor:
        cursor.execute(FILL, values)
    connection.close()


def measured(site: Site, *arguments: str) -> tuple[float, float]:
    """Run a command of CKAN; seconds, and the most memory that it held (MiB)."""
    started = time.monotonic()
    log = site.folder / "measured.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("ckan"), "-c", site.ini, *arguments],
            env=site.environment(),
            stdout=output,
            stderr=output,
        )
        _pid, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{log.read_text()}\nckan {' '.join(arguments)} failed")
    return time.monotonic() - started, used.ru_maxrss / 1024


def compare(site: Site, admin: ckanapi.RemoteCKAN) -> int:
    """Compare mirrors with the catalogue, for who sees all and who sees what is public."""
    reader = admin.action.user_create(
        name="reader", email="reader@example.com", password="bench-0123456789"
    )
    token = admin.action.api_token_create(user=reader["name"], name="bench")["token"]
    differing = 0
    for name, ckan in (("admin", admin), ("reader", ckanapi.RemoteCKAN(site.url, apikey=token))):
        started = time.monotonic()
        mirror = Mirror()
        for message in feed(ckan):
            mirror.take(message)
        seconds = time.monotonic() - started
        differences = mirror.differences(list(search(ckan)))
        differing += len(differences)
        print(
            f"feed as {name:<6}: {len(mirror.datasets)} datasets, {len(mirror.resources)} resources"
            f" in {seconds:.1f} s; differences to package_search: {len(differences)}",
            *differences[:5],
            sep="\n  ",
            flush=True,
        )
    return int(differing > 0)


def feed(ckan: ckanapi.RemoteCKAN) -> Iterator[Message]:
    after, more = 0, True
    while more:
        page = ckan.action.webhook_event_list(after=after, limit=1000)
        for event in page["events"]:
            kind, verb = event["topic"].split("/")
            yield Message(kind, verb, event["entity"], event["sequence"])
        after, more = page["cursor"], page["more"]


def search(ckan: ckanapi.RemoteCKAN) -> Iterator[dict[str, Any]]:
    start, found = 0, True
    while found:
        page = ckan.action.package_search(
            rows=1000, start=start, include_private=True, sort="id asc"
        )
        yield from page["results"]
        start, found = start + len(page["results"]), bool(page["results"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--datasets", type=int, default=20_000)
    options = parser.parse_args()
    main(options.folder, options.datasets)
