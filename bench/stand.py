"""What the benches stand on: a site, its worker, endpoints, and a stand-in for CKAN.

Events are written straight into the log, as capture writes them: one
transaction each, then a nudge. Everything behind that is what a portal runs:
PostgreSQL, Redis, a Celery worker, HTTP endpoints in a process of their own.
"""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psutil
import psycopg2
import redis
import sqlalchemy as sa
from ckan import model
from ckan.cli import load_config
from ckan.config.middleware import make_app

from ckanext.webhooks import config, encryption, queue
from ckanext.webhooks.tests.site import READY, Process, Site

BODY = 4096
OWNERS = 100
# So long (seconds) for a worker to load CKAN, and to do what it has been told.
PATIENCE = 300.0

EVENT = """
INSERT INTO webhooks_event (id, entity_type, entity_id, dataset_id, version, state,
    occurred_at, captured_at, labels, facets, content, digest)
VALUES (%(id)s, 'dataset', %(dataset)s, %(dataset)s, 1, 'active', clock_timestamp(),
    clock_timestamp(), ARRAY['public'], '{}', %(content)s, %(id)s)
"""
USER = sa.text(
    """
    INSERT INTO "user" (id, name, password, state, sysadmin, created)
    VALUES (:name, :name, 'none', 'active', false, now()) ON CONFLICT DO NOTHING
    """
)
# Those of a portal that has been running: the last attempt at each succeeded.
SUBSCRIBE = sa.text(
    """
    INSERT INTO webhooks (id, address, topic, user_id, topics, secret, state, format,
        last_success_at)
    SELECT 'good-' || n, :address || n, '*', 'owner-' || n % :owners, ARRAY['*'], :secret,
        'active', :format, clock_timestamp()
    FROM generate_series(1, :webhooks) n
    """
)


class Arrival(NamedTuple):
    """One request that came to a good endpoint.

    :ivar event_id: its ``webhook-id``
    :ivar at: seconds of ``time.monotonic()``
    """

    event_id: str
    path: str
    at: float


@dataclass(frozen=True)
class Used:
    """CPU time since a process began (seconds), of each that has a part in a delivery."""

    worker: float
    postgresql: float
    redis: float
    receiver: float
    writer: float

    def since(self, before: Used) -> dict[str, float]:
        return {name: used - getattr(before, name) for name, used in vars(self).items()}


class Endpoints:
    """The process that is called; ``with Endpoints() as endpoints``.

    :ivar port: where it listens, on each of the addresses of ``endpoints.py``
    """

    def __enter__(self) -> Endpoints:
        command = [sys.executable, str(Path(__file__).with_name("endpoints.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.process.communicate()

    def address(self, path: str, host: int = 1) -> str:
        """Give a URL of one of its hosts, 1 to 8."""
        return f"http://127.0.0.{host}:{self.port}/{path}"

    def count(self) -> int:
        """Give how many requests came to good endpoints since they were last taken."""
        return int(self._get("/count"))

    def take(self) -> list[Arrival]:
        """Give these requests, in order; they are forgotten there."""
        lines = (line.split() for line in self._get("/taken").splitlines())
        return [Arrival(id_, path, float(at)) for id_, path, at in lines]

    def wait_for(self, number: int, patience: float = PATIENCE) -> None:
        """Wait until so many have come.

        :raises TimeoutError: they do not come
        """
        deadline = time.monotonic() + patience
        while (count := self.count()) < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} of {number} requests arrived in {patience:g} s")
            time.sleep(0.02)

    def _get(self, path: str) -> str:
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()


class Stand:
    """A site that is ready to be measured; ``with Stand(folder) as stand``.

    :param folder: for the site
    :param options: lines of its ckan.ini
    :ivar app: its CKAN, in this process
    """

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None) -> None:
        self.site = Site(folder, plugins="webhooks", options=options)
        self.endpoints = Endpoints()

    def __enter__(self) -> Stand:
        try:
            self.site.__enter__()
            self.app = load(self.site)
            self.endpoints.__enter__()
            self._writing = psycopg2.connect(self.site.database_url)
            self._writing.autocommit = True
            self._redis = redis.Redis.from_url(self.site.redis_url)
            for n in range(OWNERS):
                execute(USER, name=f"owner-{n}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if hasattr(self.endpoints, "process"):
            self.endpoints.__exit__()
        self.site.__exit__(kind, error, traceback)

    def start_workers(self, number: int = 1) -> list[Process]:
        """Start workers, and wait until each of them works."""
        self.subscribe(1)
        for _ in range(number):
            self.start_worker()
        self.commit(1)
        self.endpoints.wait_for(1)
        self.settle()
        self.endpoints.take()
        return self.site.workers

    def start_worker(self) -> Process:
        """Start one, and wait until it takes tasks."""
        worker = self.site.start_worker()
        worker.await_output(READY, PATIENCE)
        return worker

    def subscribe(self, webhooks: int, format_: str = "classic", owners: int = 1) -> None:
        """Begin anew: so many webhooks of good endpoints, and an empty log."""
        execute(sa.text("DELETE FROM webhooks"))
        truncate("webhooks_event", "webhooks_delivery", "webhooks_attempt")
        execute(
            SUBSCRIBE,
            webhooks=webhooks,
            format=format_,
            owners=owners,
            address=self.endpoints.address("good/"),
            secret=new_secret(),
        )
        vacuum()

    def commit(self, number: int, rate: float = 0.0, size: int = BODY) -> dict[str, float]:
        """Commit events of datasets that the log has not seen.

        :param rate: so many a second, 0 for as many as can be
        :param size: bytes of the content
        :returns: when each was committed, by id
        """
        committed: dict[str, float] = {}
        started = time.monotonic()
        with self._writing.cursor() as cursor:
            for n in range(number):
                if rate and (wait := started + n / rate - time.monotonic()) > 0:
                    time.sleep(wait)
                id_, dataset = str(uuid.uuid4()), str(uuid.uuid4())
                cursor.execute(
                    EVENT, {"id": id_, "dataset": dataset, "content": content(dataset, size)}
                )
                committed[id_] = time.monotonic()
                queue.nudge()
        return committed

    def settle(self, patience: float = PATIENCE) -> None:
        """Wait until the worker has written down what became of all deliveries.

        :raises TimeoutError: it does not
        """
        deadline = time.monotonic() + patience
        while execute(sa.text("SELECT FROM webhooks_delivery WHERE status = 'pending' LIMIT 1")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"there are pending deliveries after {patience:g} s")
            time.sleep(0.05)

    def newest(self) -> int:
        """Give the sequence of the newest event that was dispatched, 0 for none."""
        return int(execute(sa.text("SELECT coalesce(max(sequence), 0) FROM webhooks_event"))[0][0])

    def delivered(self, after: int = 0) -> int:
        """Give how many deliveries the tables say were delivered, with an attempt on record.

        :param after: of events with a sequence above that
        """
        statement = """
            SELECT count(DISTINCT d.id) FROM webhooks_delivery d
            JOIN webhooks_attempt a ON a.delivery_id = d.id
            WHERE d.status = 'delivered' AND d.sequence > :after
        """
        return int(execute(sa.text(statement), after=after)[0][0])

    def used(self) -> Used:
        """Give the CPU time that each part has used so far."""
        cpu = self._redis.info("cpu")
        return Used(
            worker=sum(_cpu(process.pid) for process in self.site.workers),
            postgresql=self._postgresql(),
            redis=float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"]),
            receiver=_cpu(self.endpoints.process.pid),
            writer=time.process_time(),
        )

    def _postgresql(self) -> float:
        """Of the whole server: who else uses it counts, too. 0 where it is on another machine."""
        try:
            server = psutil.Process(self._writing.info.backend_pid).parent()
        except psutil.NoSuchProcess:
            return 0.0
        if server is None or not server.name().startswith("postgres"):
            return 0.0
        ended = server.cpu_times()
        return (
            sum(_cpu(process.pid) for process in [server, *server.children()])
            + ended.children_user
            + ended.children_system
        )


def load(site: Site) -> Any:
    """Load the site's CKAN into this process."""
    for name in [name for name in os.environ if name.startswith("CKAN_")]:
        del os.environ[name]  # it would win over the site's own settings
    app = make_app(load_config(str(site.ini)))._wsgi_app
    queue.configure()
    return app


def execute(statement: Any, **values: Any) -> Any:
    """Run a statement in a transaction of its own, and give its rows."""
    with model.meta.engine.begin() as connection:
        result = connection.execute(statement, values)
        return result.all() if result.returns_rows else None


def truncate(*tables: str) -> None:
    """Empty tables. One after the other: who waits while it holds none cannot be in a deadlock."""
    for table in tables:
        execute(sa.text(f"TRUNCATE {table}"))


def vacuum() -> None:
    """Do what autovacuum would within a minute."""
    with model.meta.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))


def new_secret() -> str:
    """Give a webhook's secret as the table holds it."""
    return encryption.encrypt(encryption.new_secret(), config.secret_keys())


def content(dataset: str, size: int = BODY) -> str:
    """Give the JSON of a dataset, of about so many bytes."""
    start = f'{{"id": "{dataset}", "name": "n", "title": "A title", "resources": [], "notes": "'
    notes = "What it is about. " * (size // 18)
    return f'{start}{notes[: max(0, size - len(start) - 2)]}"}}'


def latencies(committed: Mapping[str, float], arrivals: Sequence[Arrival]) -> list[float]:
    """Give the milliseconds from commit to the first arrival, sorted, of all that arrived."""
    arrived: dict[str, float] = {}
    for arrival in arrivals:
        arrived.setdefault(arrival.event_id, arrival.at)
    return sorted((arrived[id_] - at) * 1000 for id_, at in committed.items() if id_ in arrived)


def percentile(values: Sequence[float], percent: int) -> float:
    """Give a percentile of two values or more."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _cpu(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system
