"""A run: events at a steady rate, and at each interval a look at everything.

Nearly all events are written as capture writes them; one a second comes from a save
through CKAN's API, so that a web process works, too.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import ckanapi
import psycopg2
import redis

from bench.soak.figures import Figures, Locks, Part, backends, part, tables
from bench.stand import Arrival, Stand, content, percentile
from ckanext.webhooks import queue

WEBHOOKS = 20
OWNERS = 5
# Seconds of an interval; a short run has as many, to show something, but for the shortest.
INTERVAL = 30.0
SHORTEST = 1.0
INTERVALS = 20
# The retention, of the length of a run: reached in its first third.
RETENTION = 1 / 6
# Datasets that are written to in turn: each below the bound of a loop.
DATASETS = 1_000
SAVED = 50
SAVES = 1.0  # a second
# Seconds after the end in which all must have arrived.
REST = 60.0

_EVENT = """
INSERT INTO webhooks_event (id, entity_type, entity_id, dataset_id, version, state, occurred_at,
    captured_at, labels_before, labels, facets_before, facets, content, digest)
VALUES (%(id)s, 'dataset', %(dataset)s, %(dataset)s, %(version)s, 'active', clock_timestamp(),
    clock_timestamp(), %(before)s, ARRAY['public'], '{}', '{}', %(content)s, %(id)s)
"""


@dataclass
class Result:
    """:ivar lost: deliveries that did not arrive"""

    figures: Iterator[Figures]
    lost: int = 0


@dataclass
class Told:
    """What was committed and what came of it.

    :ivar committed: when, by id of the event; it stays until all webhooks were told
    :ivar missing: how many webhooks are still to be told, by id
    """

    committed: dict[str, float] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    def expect(self, id_: str) -> None:
        """Know an event before it is committed, when it may arrive at any moment."""
        self.committed[id_] = time.monotonic()
        self.missing[id_] = WEBHOOKS

    def commit(self, id_: str) -> None:
        if id_ in self.committed:
            self.committed[id_] = time.monotonic()

    def take(self, arrivals: list[Arrival]) -> list[float]:
        """Give the milliseconds of what arrived of these, and forget what is complete."""
        took = []
        for arrival in arrivals:
            if (at := self.committed.get(arrival.event_id)) is None:
                continue  # of a save, or told once more
            took.append((arrival.at - at) * 1000)
            self.missing[arrival.event_id] -= 1
            if not self.missing[arrival.event_id]:
                del self.committed[arrival.event_id], self.missing[arrival.event_id]
        return took


@contextmanager
def standing(folder: Path, seconds: float) -> Iterator[Stand]:
    """Have all run that a portal has, with datasets to be saved."""
    days = seconds * RETENTION / 86400
    options = {"ckanext.webhooks.retention_days": f"{days:.6f}"}
    with Stand(folder, options) as stand:
        stand.start_workers()
        stand.site.start_web("gunicorn", workers=2)
        ckan = ckanapi.RemoteCKAN(stand.site.url, apikey=stand.site.token)
        ckan.action.organization_create(name="soak")
        for n in range(_saved(seconds)):
            ckan.action.package_create(name=f"saved-{n}", owner_org="soak")
        stand.settle()
        stand.subscribe(WEBHOOKS, owners=OWNERS)
        yield stand


def run(stand: Stand, seconds: float, rate: float) -> Result:
    """Begin, when its figures are asked for.

    :param rate: events a second, saves among them
    """
    result = Result(iter(()))
    result.figures = _figures(stand, seconds, rate, result)
    return result


def _figures(stand: Stand, seconds: float, rate: float, result: Result) -> Iterator[Figures]:
    told, saves = Told(), list[float]()
    ending = threading.Event()
    interval = min(INTERVAL, max(SHORTEST, seconds / INTERVALS))
    threads = [
        threading.Thread(target=_commit, args=(stand, rate - SAVES, told, ending), name="commits"),
        threading.Thread(target=_save, args=(stand, _saved(seconds), saves, ending), name="saves"),
    ]
    stand.endpoints.take()
    with (
        contextlib.closing(psycopg2.connect(stand.site.database_url)) as connection,
        Locks(stand.site.database_url) as locks,
    ):
        connection.autocommit = True
        began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            for n in range(1, round(seconds / interval) + 1):
                time.sleep(max(0.0, began + n * interval - time.monotonic()))
                took = told.take(arrivals := stand.endpoints.take())
                waited, transaction = locks.take()
                yield Figures(
                    at=time.monotonic() - began,
                    arrived=len(arrivals),
                    p50=percentile(took, 50) if len(took) > 1 else 0.0,
                    p99=percentile(took, 99) if len(took) > 1 else 0.0,
                    save=statistics.median(saves) if saves else 0.0,
                    waited=waited,
                    transaction=transaction,
                    parts=_parts(stand, connection),
                    tables=tables(connection),
                )
                saves.clear()
        finally:
            ending.set()
            for thread in threads:
                thread.join()
    result.lost = _missing_in_the_end(stand, told)


def _parts(stand: Stand, connection: psycopg2.extensions.connection) -> dict[str, Part]:
    site = stand.site
    assert site.web is not None
    with redis.Redis.from_url(site.redis_url) as connected:
        redis_pid = connected.info("server")["process_id"]
    return {
        "worker": part(process.pid for process in site.workers),
        "web": part([site.web.pid]),
        "PostgreSQL": part(backends(connection), own=True),
        "Redis": part([redis_pid]),
        "receiver": part([stand.endpoints.process.pid]),
    }


def _commit(stand: Stand, rate: float, told: Told, ending: threading.Event) -> None:
    began = time.monotonic()
    with contextlib.closing(psycopg2.connect(stand.site.database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            n = 0
            while not ending.wait(max(0.0, began + n / rate - time.monotonic())):
                version, dataset = 1 + n // DATASETS, f"soak-{n % DATASETS}"
                id_ = f"{dataset}-{version}"
                values = {
                    "id": id_,
                    "dataset": dataset,
                    "version": version,
                    "before": ["public"] if version > 1 else None,
                    "content": content(dataset).replace("A title", f"Title {version}"),
                }
                told.expect(id_)
                cursor.execute(_EVENT, values)
                told.commit(id_)
                queue.nudge()
                n += 1


def _saved(seconds: float) -> int:
    """Give how many datasets are saved in turn: a short run comes to few."""
    return max(1, min(SAVED, round(seconds * SAVES)))


def _save(stand: Stand, datasets: int, saves: list[float], ending: threading.Event) -> None:
    ckan = ckanapi.RemoteCKAN(stand.site.url, apikey=stand.site.token)
    n = 0
    while not ending.wait(1 / SAVES):
        started = time.monotonic()
        ckan.action.package_patch(id=f"saved-{n % datasets}", title=f"Title {n}")
        saves.append((time.monotonic() - started) * 1000)
        n += 1


def _missing_in_the_end(stand: Stand, told: Told) -> int:
    until = time.monotonic() + REST
    while told.missing and time.monotonic() < until:
        time.sleep(0.2)
        told.take(stand.endpoints.take())
    return sum(told.missing.values())
