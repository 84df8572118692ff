"""Three workers on three machines, one of which is cut off from all others for a while."""

from __future__ import annotations

import configparser
import os
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ckanapi
import psycopg2
import pytest

from ..model.base import DISPATCH_LOCK
from .network import Network, why_not
from .receiver import Received, Receiver
from .site import READY, Process, Site

FOLDER = Path(__file__).parents[3] / ".dev" / "run" / f"network-{os.getpid()}"
WEBHOOKS, DATASETS = 30, 20
# Seconds. Of the attempt, and with it of the lease, which is 5 s longer.
TIMEOUT = 5
LEASE = TIMEOUT + 5
# As docs/scaling.md has it: a server that is cut off is given up.
IMPATIENTLY = "connect_timeout=5&keepalives_idle=5&keepalives_interval=2&keepalives_count=3"
IMPATIENTLY += "&tcp_user_timeout=10000"

_why_not = why_not()
pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(bool(_why_not), reason=f"no machines of our own: {_why_not}"),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    options = {
        "ckan.auth.create_unowned_dataset": "true",
        "ckanext.webhooks.allowed_networks": "10.213.0.0/24",
        "ckanext.webhooks.timeout": f"{TIMEOUT}",
        # So that no worker takes all at once.
        "ckanext.webhooks.max_in_flight": "40",
    }
    with Site(FOLDER / "site", options=options) as prepared:
        prepared.start_web()
        yield prepared
    shutil.rmtree(FOLDER)


@pytest.fixture(scope="module")
def network(site: Site) -> Iterator[Network]:
    with Network(site.folder, 3) as made:
        yield made


@pytest.fixture(scope="module")
def workers(site: Site, network: Network) -> Iterator[dict[str, Process]]:
    """A worker on each machine, by its address; all are ready."""
    ini = site.folder / "machines.ini"
    _write_ini(site, network, ini)
    started: dict[str, Process] = {}
    try:
        for number, address in enumerate(network.addresses, 1):
            command = [*network.inside(number), site._script("ckan"), "-c", str(ini)]
            command += ["webhooks", "worker"]
            name = f"worker-{number}"
            started[address] = Process(name, command, site.folder, site.environment())
        for worker in started.values():
            worker.await_output(READY)
        yield started
    finally:
        for worker in started.values():
            worker.kill()


def _write_ini(site: Site, network: Network, ini: Path) -> None:
    """Write the site's ckan.ini with the servers' addresses as the machines have them."""
    parser = configparser.RawConfigParser()
    parser.read(site.ini)
    settings = parser["app:main"]
    for key in ("sqlalchemy.url", "ckan.redis.url", "solr_url"):
        settings[key] = network.forward(settings[key])
    settings["sqlalchemy.url"] += f"?{IMPATIENTLY}"
    with open(ini, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        parser.write(file)


def rows(site: Site, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg2.connect(site.database_url) as connection, connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall()


def test_three_workers_of_which_one_is_cut_off_lose_nothing(site, network, workers, say):
    ckan = ckanapi.RemoteCKAN(site.url, apikey=site.token)
    with Receiver(network.listen(8000)) as receiver:
        receiver.respond = _slowly
        for number in range(WEBHOOKS):
            ckan.action.webhook_create(topic="dataset/create", address=f"{receiver.url}/{number}")
        _create_at_once(site, ckan)

        everything = WEBHOOKS * DATASETS
        early = receiver.wait(everything // 3, 60)
        victim = early[-1].sender
        number = 1 + network.addresses.index(victim)
        network.cut(number)
        cut = time.monotonic()

        # The others do it all, while it is away.
        while rows(site, "SELECT FROM webhooks_delivery WHERE status = 'pending' LIMIT 1"):
            assert time.monotonic() < cut + LEASE + 60, "what the lost worker held is not taken"
            time.sleep(0.2)
        without = time.monotonic() - cut
        network.mend(number)

        by_delivery: dict[tuple[str, str], list[Received]] = defaultdict(list)
        for request in receiver.settle(3.0):
            by_delivery[request.path, request.id].append(request)
        assert len(by_delivery) == everything, "nothing is lost"
        senders = {request.sender for request in receiver.requests}
        assert senders == set(network.addresses), "each had its part"
        repeated = [several for several in by_delivery.values() if len(several) > 1]
        for several in repeated:
            came = [(request.sender, round(request.at - cut, 2)) for request in several]
            assert len(came) == 2, came
            # What the lost worker had sent, and could not say that it had.
            assert came[0][0] == victim and -LEASE < came[0][1] < 0.5, (victim, came)
        assert len(repeated) <= 40, "no more than it may have under way"
        assert rows(site, "SELECT status, count(*) FROM webhooks_delivery GROUP BY status") == [
            ("delivered", everything)
        ]
        say(
            f"three workers: {everything} deliveries, one worker lost in the midst of them; the"
            f" others were done {without:.1f} s later, and {len(repeated)} came twice"
        )

        # It works again, also all alone.
        for address, worker in workers.items():
            if address != victim:
                worker.kill()
        assert workers[victim].alive
        receiver.clear()
        mended = time.monotonic()
        ckan.action.package_create(name=f"dataset-{uuid.uuid4().hex}")
        senders = {request.sender for request in receiver.wait(WEBHOOKS, 60)}
        assert senders == {victim}
        say(f"three workers: that one delivered again {time.monotonic() - mended:.1f} s later")


def _slowly(request: Received) -> tuple[int, dict[str, str], bytes]:
    time.sleep(0.3)
    return 200, {}, b""


def _create_at_once(site: Site, ckan: ckanapi.RemoteCKAN) -> None:
    """Create datasets, of which none is dispatched before all are there."""
    with psycopg2.connect(site.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [DISPATCH_LOCK])
        for _ in range(DATASETS):
            ckan.action.package_create(name=f"dataset-{uuid.uuid4().hex}")
