"""What there is to break: a site, its services, workers and a receiver, all kept running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import ckanapi
import psutil
import psycopg2

from bench.chaos import endpoint, writer
from bench.chaos.ledger import Receipt, Subscriber
from bench.chaos.supervisor import Supervisor
from bench.chaos.tables import Tables
from ckanext.webhooks.tests.site import READY, Process, Site, SiteError, free_port

ROOT = Path(__file__).parents[2]
WORKERS = 2
# As many tries as by default, with less time between them: the books are to be closed soon.
SCHEDULE = "0 1 2 3 5 8 10 15 20 30"
# Seconds for a worker to load CKAN; that takes 5, and much longer on a busy machine.
PATIENCE = 180.0

# The webhooks: who owns each, what it is told, and how.
WEBHOOKS = {
    "sysadmin": ("admin", "*", "classic"),
    "member": ("member", "*", "standard"),
    "public": ("public", "*", "classic"),
    "public-datasets": ("public", "dataset/*", "cloudevents"),
    "member-resources": ("member", "resource/*", "classic"),
    "moving": ("moving", "*", "standard"),
    "moving-resources": ("moving", "resource/*", "cloudevents"),
}
# Who joins and leaves: see faults.rights.
MOVING = "moving"


@dataclass(frozen=True)
class Database:
    """A PostgreSQL to break.

    :ivar pid: of the server that runs now
    :ivar command: what starts it again
    :ivar disk: its folder, where that is a small disk of its own
    """

    pid: int
    command: list[str]
    disk: Path | None


@dataclass(frozen=True)
class Stand:
    """What stands.

    :ivar port: the receiver's
    :ivar subscribers: by the names of their webhooks
    :ivar disk: the folder of the database where that is a small disk of its own
    :ivar before: the folder of an earlier version, if there is one
    """

    site: Site
    supervisor: Supervisor
    tables: Tables
    port: int
    subscribers: Mapping[str, Subscriber]
    disk: Path | None
    before: Path | None

    @property
    def worker(self) -> list[str]:
        """The command of a worker."""
        ckan = str(Path(sys.executable).with_name("ckan"))
        return [ckan, "-c", str(self.site.ini), "webhooks", "worker"]

    def receipts(self) -> list[Receipt]:
        """Give the receiver's ledger, with the ids of webhooks."""
        return [
            receipt._replace(webhook=self.subscribers[receipt.webhook].webhook)
            for receipt in endpoint.read(_ledger(self.site))
        ]

    def start_writer(self, number: int, rate: float) -> Process:
        """Start a client that writes so often a second; its outcomes are beside its log."""
        name = f"writer-{number}"
        command = [sys.executable, "-m", writer.__name__, self.site.url, self.site.token]
        command += [str(number), str(rate), str(self.site.folder / f"{name}.jsonl")]
        return Process(name, command, self.site.folder, _with_bench(self.site))


def await_ready(supervisor: Supervisor, name: str) -> None:
    """Wait until a worker takes tasks, however often it is started for that.

    :raises SiteError: it takes too long
    """
    deadline = time.monotonic() + PATIENCE
    while READY not in supervisor[name].output():
        if time.monotonic() > deadline:
            raise supervisor[name].error("is not ready")
        time.sleep(0.1)


@contextmanager
def standing(
    folder: Path,
    database: Database | None,
    before: Path | None = None,
    wsgi: str = "",
    plant: str = "",
    workers: int = WORKERS,
) -> Iterator[Stand]:
    """Have everything run, until the end of the context.

    :param database: a PostgreSQL of our own; None for that of the environment
    :param wsgi: Python that each web process runs when CKAN is loaded
    :param plant: a safeguard that the workers are without: see plants
    :raises SiteError: something does not start
    """
    folder.mkdir(parents=True, exist_ok=True)
    for book in folder.glob("*.jsonl"):
        book.unlink()  # of an earlier run
    with Supervisor(folder) as supervisor, ExitStack() as stack:
        if database is not None:
            _take_over(supervisor, database)
        options = {"ckanext.webhooks.retry_schedule": SCHEDULE}
        site = stack.enter_context(Site(folder, options=options, own_redis=True))
        # Ended before the site, which would find what it ended started again.
        stack.callback(supervisor.end_all, but=["postgresql"])
        assert site.redis is not None
        supervisor.adopt(site.redis, site.environment())
        with open(folder / "wsgi.py", "a") as file:
            file.write(wsgi)
        supervisor.adopt(site.start_web("gunicorn", workers=2), site.environment())
        tables = Tables(site.database_url)
        tables.mark_commits()
        port = free_port()
        subscribers = _subscribe(site, port)
        _start_receiver(supervisor, site, port)
        disk = database.disk if database is not None else None
        stand = Stand(site, supervisor, tables, port, subscribers, disk, before)
        command, env = _planted(site, plant) if plant else (stand.worker, site.environment())
        for number in range(1, workers + 1):
            supervisor.keep(f"worker-{number}", command, env)
        for name in supervisor.names("worker"):
            await_ready(supervisor, name)
        yield stand


def _take_over(supervisor: Supervisor, database: Database) -> None:
    """End the server that bin/chaos started, and keep one like it."""
    server = psutil.Process(database.pid)
    server.send_signal(signal.SIGINT)  # a fast and orderly end
    server.wait(20)
    supervisor.keep("postgresql", database.command, os.environ)
    url = os.environ["CKAN_SQLALCHEMY_URL"].rpartition("/")[0] + "/postgres"
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg2.connect(url).close()
            return
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise supervisor["postgresql"].error("does not start again") from None
            time.sleep(0.1)


def _subscribe(site: Site, port: int) -> dict[str, Subscriber]:
    """Make owners and their webhooks; what the receiver verifies by is left in the folder."""
    admin = ckanapi.RemoteCKAN(site.url, apikey=site.token)
    organization = admin.action.organization_create(name=writer.ORGANIZATION)["id"]
    tokens = {"admin": site.token}
    ids = {}
    for name in ("member", "public", MOVING):
        account = {"name": name, "email": f"{name}@localhost.example", "password": "chaos-chaos"}
        ids[name] = admin.action.user_create(**account)["id"]
        tokens[name] = admin.action.api_token_create(user=name, name="chaos")["token"]
    admin.action.organization_member_create(id=organization, username="member", role="member")
    may_see = {"admin": None, "member": [organization], "public": [], MOVING: []}
    secrets, subscribers = {}, {}
    for name, (owner, topics, format_) in WEBHOOKS.items():
        ckan = ckanapi.RemoteCKAN(site.url, apikey=tokens[owner])
        address = f"http://127.0.0.1:{port}/{name}"
        id_ = ckan.action.webhook_create(topic=topics, address=address, format=format_)
        secrets[name] = ckan.action.webhook_secret_show(id=id_)["secret"]
        moving = ids[owner] if owner == MOVING else None
        subscribers[name] = Subscriber(id_, topics, may_see[owner], moving)
    _secrets(site).write_text(json.dumps(secrets))
    return subscribers


def _start_receiver(supervisor: Supervisor, site: Site, port: int) -> None:
    command = [sys.executable, "-m", endpoint.__name__, str(port)]
    command += [str(_ledger(site)), str(_secrets(site))]
    supervisor.keep("receiver", command, _with_bench(site))


def _planted(site: Site, plant: str) -> tuple[list[str], dict[str, str]]:
    """Give the command and the environment of a worker without a safeguard."""
    command = [sys.executable, "-m", "celery", "-A", "bench.chaos.plants", "worker"]
    command += ["--loglevel=INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return command, {**_with_bench(site), "CHAOS_PLANT": plant}


def _with_bench(site: Site) -> dict[str, str]:
    return site.environment({"PYTHONPATH": str(ROOT)})


def _ledger(site: Site) -> Path:
    return site.folder / "ledger.jsonl"


def _secrets(site: Site) -> Path:
    return site.folder / "secrets.json"


def extract_before(folder: Path, commit: str) -> Path:
    """Put the package as it was at a commit into a folder.

    :raises SiteError: git does not know it
    """
    command = ["git", "-C", str(ROOT), "archive", commit, "ckanext"]
    archived = subprocess.run(command, capture_output=True, check=False)
    if archived.returncode:
        raise SiteError(f"there is no version before: {archived.stderr.decode().strip()}")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archived.stdout, check=True)
    return folder
