"""PostgreSQL behind pgbouncer: transaction pooling gives each transaction another connection."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import ckanapi
import psycopg2
import pytest

from .receiver import Receiver
from .site import READY, Process, Site, SiteError, for_us_alone, free_port

pytestmark = pytest.mark.acceptance

FOLDER = Path(__file__).parents[3] / ".dev" / "run" / f"pgbouncer-{os.getpid()}"
# Not on the PATH of all users.
SERVER = Path("/usr/sbin/pgbouncer")
# Fewer than CKAN and the worker would have open without it: connections do change hands.
POOL = 4
CONFIGURATION = """
[databases]
* = host={server.hostname} port={server.port} user={server.username} password={server.password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
admin_users = {server.username}
pool_mode = transaction
default_pool_size = {pool}
"""
SAVES = 20


class Pooler:
    """A pgbouncer before the server of a site's database, on a free port of 127.0.0.1."""

    def __init__(self, folder: Path, database_url: str) -> None:
        if not SERVER.exists():
            raise SiteError(f"{SERVER} is missing; bin/test installs pgbouncer")
        server, self._port = urlsplit(database_url), free_port()
        self._folder = folder
        self.url = urlunsplit(server._replace(netloc=f"ckan@127.0.0.1:{self._port}"))
        self._admin_url = urlunsplit(
            server._replace(netloc=f"{server.username}@127.0.0.1:{self._port}", path="/pgbouncer")
        )
        folder.mkdir(parents=True)
        with open(folder / "pgbouncer.ini", "w", opener=for_us_alone) as ini:
            ini.write(CONFIGURATION.format(server=server, port=self._port, pool=POOL))
        self.start()

    def start(self) -> None:
        # It refuses to run as root.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = [str(SERVER), *user, str(self._folder / "pgbouncer.ini")]
        self.process = Process("pgbouncer", command, self._folder, os.environ)

    def transactions(self) -> int:
        """Give how many it has passed on."""
        with contextlib.closing(psycopg2.connect(self._admin_url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SHOW STATS_TOTALS")
                columns = [column.name for column in cursor.description]
                rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        return sum(int(row["xact_count"]) for row in rows if row["database"] != "pgbouncer")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site(FOLDER / "site")
    site.options["ckan.auth.create_unowned_dataset"] = "true"
    with site as prepared:
        yield prepared
    shutil.rmtree(FOLDER)


@pytest.fixture
def pooler(site: Site) -> Iterator[Pooler]:
    started = Pooler(FOLDER / "pooler", site.database_url)
    site.options["sqlalchemy.url"] = started.url
    site.write_ini()
    yield started
    site.stop_workers()
    site.stop_web()
    started.process.kill()


def test_pgbouncer_each_save_is_told_once_and_goes_on_after_a_restart(site, pooler):
    worker = site.start_worker()
    site.start_web("gunicorn", workers=2)
    ckan = ckanapi.RemoteCKAN(site.url, apikey=site.token)
    worker.await_output(READY)
    with Receiver() as receiver:
        ckan.action.webhook_create(topic="dataset/create", address=receiver.url)
        before = pooler.transactions()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: create(ckan), range(SAVES)))
        receiver.wait(SAVES)
        assert pooler.transactions() - before > 2 * SAVES
        assert len({request.id for request in receiver.settle(0.5)}) == SAVES

        pooler.process.kill()
        pooler.start()
        create_when_it_answers(ckan)
        told = receiver.wait(SAVES + 1)
        assert len({request.id for request in told}) == SAVES + 1


def create(ckan: ckanapi.RemoteCKAN) -> None:
    ckan.action.package_create(name=f"dataset-{uuid.uuid4().hex}")


def create_when_it_answers(ckan: ckanapi.RemoteCKAN) -> None:
    """Save a dataset. CKAN fails once for each connection that the pooler dropped."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return create(ckan)
        except ckanapi.CKANAPIError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
