"""What an endpoint that works notices of others that do not.

The same stream of events goes to it alone, and beside endpoints that take
five seconds for each, that are dead, that drip, and one whose circuit is
open with 100,000 deliveries waiting; with ``--crowd``, beside 2,000 that take
their whole deadline. Alone and beside take
turns in one run. Printed is the time from commit to arrival at the one that
works, what the worker held meanwhile, and the ratio.

Events are written straight into the log, as capture writes them: one
transaction each, then a nudge. Everything behind that is what a portal runs:
PostgreSQL, Redis, a Celery worker, an HTTP endpoint in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from ckan import model
from ckan.cli import load_config
from ckan.config.middleware import make_app

from ckanext.webhooks import config, encryption, queue
from ckanext.webhooks.tests.site import Site, free_port

WAITING = 100_000
CONTENT = '{"id": "%s", "name": "n", "title": "A title", "resources": [], "notes": "%s"}'
NOTES = "What it is about. " * 220  # some 4 KB
CROWD = 2_000

EVENT = sa.text(
    """
    INSERT INTO webhooks_event (id, entity_type, entity_id, dataset_id, version, state,
        occurred_at, captured_at, labels, facets, content, digest)
    VALUES (:id, 'dataset', :dataset, :dataset, 1, 'active', clock_timestamp(),
        clock_timestamp(), ARRAY['public'], '{}', :content, :id)
    """
)
SUBSCRIBE = sa.text(
    """
    INSERT INTO webhooks (id, address, topic, user_id, topics, secret, state)
    SELECT :id, :address, '*', u.id, ARRAY['*'], :secret, 'active' FROM "user" u
    WHERE u.name = :owner
    """
)
USER = sa.text(
    """
    INSERT INTO "user" (id, name, password, state, sysadmin, created)
    VALUES (:name, :name, 'none', 'active', false, now())
    """
)
WAIT = sa.text(
    """
    INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format, due_at)
    SELECT 'open', 'old-' || n, 'dataset/update', 0, 'http://127.0.0.5:1/', 'classic', NULL
    FROM generate_series(1, :count) n
    """
)


# Each of the crowd is told something that is in the log.
TELL_CROWD = sa.text(
    """
    INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format)
    SELECT w.id, e.id, 'dataset/create', e.sequence, w.address, w.format
    FROM webhooks w, (SELECT id, sequence FROM webhooks_event ORDER BY sequence LIMIT 1) e
    WHERE w.id LIKE 'crowd%'
    """
)


def main(folder: Path, kind: str, rate: float, seconds: float, rounds: int) -> None:
    with Site(folder, plugins="webhooks") as site:
        load(site)
        with Endpoints(folder) as endpoints:
            subscribe(endpoints.port)
            worker = site.start_worker()
            until_it_works(endpoints)
            committed: dict[str, dict[str, float]] = {"alone": {}, kind: {}}
            held: list[str] = []
            for now in ("alone", kind) * rounds:
                prepare(now)
                if now == "crowd":
                    # All of them begin at once; what is committed then is behind them.
                    committed.setdefault("burst", {}).update(stream(rate, 1))
                    time.sleep(2)
                committed[now].update(stream(rate, seconds / 2))
                held.append(f"{now}: {describe(worker.pid)}")
                committed[now].update(stream(rate, seconds / 2))
                time.sleep(2)  # the last of them arrive
            arrived = endpoints.end()
    report(committed, arrived, held)


def load(site: Site) -> None:
    """Load the site's CKAN into this process."""
    for name in [name for name in os.environ if name.startswith("CKAN_")]:
        del os.environ[name]  # it would win over the site's own settings
    make_app(load_config(str(site.ini)))
    queue.configure()


class Endpoints:
    """The process that is called."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "arrived"

    def __enter__(self) -> Endpoints:
        command = [sys.executable, str(Path(__file__).with_name("endpoints.py")), str(self.log)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def end(self) -> dict[str, float]:
        """Give when what arrived, the first time."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        found: dict[str, float] = {}
        for line in self.log.read_text().splitlines():
            id_, at = line.split()
            found.setdefault(id_, float(at))
        return found


def execute(statement: Any, **values: Any) -> Any:
    with model.meta.engine.begin() as connection:
        result = connection.execute(statement, values)
        return result.all() if result.returns_rows else None


def subscribe(port: int) -> None:
    secret = encryption.encrypt(encryption.new_secret(), config.secret_keys())
    addresses = {
        "good": f"http://127.0.0.1:{port}/good",
        "slow": f"http://127.0.0.2:{port}/slow",
        "dead": f"http://127.0.0.3:{free_port()}/",
        "drip": f"http://127.0.0.4:{port}/drip",
        "open": "http://127.0.0.5:1/",
    }
    for name, address in addresses.items():
        execute(USER, name=f"owner-{name}")
        execute(SUBSCRIBE, id=name, address=address, secret=secret, owner=f"owner-{name}")
    for n in range(CROWD):
        address = f"http://127.0.0.{5 + n % 4}:{port}/hang/{n}"
        execute(
            SUBSCRIBE,
            id=f"crowd-{n}",
            address=address,
            secret=secret,
            owner=f"owner-{('slow', 'dead', 'drip', 'open')[n % 4]}",
        )
    # Of what is streamed, these hear nothing.
    execute(sa.text("UPDATE webhooks SET topics = '{dataset/delete}' WHERE id LIKE 'crowd%'"))


def until_it_works(endpoints: Endpoints) -> None:
    prepare("alone")
    for _ in range(120):
        stream(1, 1)
        done = execute(
            sa.text("SELECT 1 FROM webhooks_delivery WHERE status = 'delivered' LIMIT 1")
        )
        if done:
            return
    raise SystemExit("The worker delivered nothing within two minutes: see its log.")


def prepare(kind: str) -> None:
    """Leave nothing of the round before, and say who is told in this one."""
    execute(sa.text("UPDATE webhooks SET state = 'disabled' WHERE id <> 'good'"))
    execute(sa.text("UPDATE webhooks_delivery SET status = 'cancelled' WHERE status = 'pending'"))
    time.sleep(config.timeout() + 1 if kind == "alone" else 1)  # what is under way ends
    execute(sa.text("TRUNCATE webhooks_delivery, webhooks_attempt"))
    execute(
        sa.text(
            "UPDATE webhooks SET circuit = 'closed', failures = 0, next_at = NULL,"
            " failing_since = NULL WHERE id <> 'good'"
        )
    )
    if kind == "beside":
        execute(WAIT, count=WAITING)
        execute(
            sa.text(
                "UPDATE webhooks SET circuit = 'open', failures = 5, next_at = clock_timestamp()"
                " WHERE id = 'open'"
            )
        )
        execute(sa.text("UPDATE webhooks SET state = 'active' WHERE id NOT LIKE 'crowd%'"))
    if kind == "crowd":
        execute(sa.text("UPDATE webhooks SET state = 'active' WHERE id LIKE 'crowd%'"))
        execute(TELL_CROWD)
    with model.meta.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE webhooks_delivery"))


def stream(rate: float, seconds: float) -> dict[str, float]:
    """Commit events at a rate, and give when each was committed."""
    committed: dict[str, float] = {}
    started = time.monotonic()
    for number in range(int(rate * seconds)):
        id_ = str(uuid.uuid4())
        dataset = str(uuid.uuid4())
        wait = started + number / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        execute(EVENT, id=id_, dataset=dataset, content=CONTENT % (dataset, NOTES))
        committed[id_] = time.monotonic()
        queue.nudge()
    return committed


def describe(pid: int) -> str:
    """Say what the worker holds."""
    process = psutil.Process(pid)
    memory = process.memory_full_info().pss / 2**20
    sockets = len(process.net_connections())
    waiting = execute(sa.text("SELECT count(*) FROM webhooks_delivery WHERE status = 'pending'"))
    return (
        f"{sockets} sockets, {process.num_threads()} threads, {memory:.0f} MiB,"
        f" {waiting[0][0]} deliveries waiting"
    )


def report(
    committed: dict[str, dict[str, float]], arrived: dict[str, float], held: list[str]
) -> None:
    for line in held:
        print(line)
    print(f"{'':>8}  {'events':>7}  {'arrived':>7}  {'p50':>9}  {'p99':>9}  {'max':>9}")
    figures: dict[str, tuple[float, float]] = {}
    for kind, events in committed.items():
        took = sorted((arrived[id_] - at) * 1000 for id_, at in events.items() if id_ in arrived)
        cuts = statistics.quantiles(took, n=100)
        figures[kind] = cuts[49], cuts[98]
        print(
            f"{kind:>8}  {len(events):>7}  {len(took):>7}"
            f"  {cuts[49]:>6.1f} ms  {cuts[98]:>6.1f} ms  {took[-1]:>6.1f} ms"
        )
    alone, beside, *_ = figures.values()
    ratios = [b / a for a, b in zip(alone, beside, strict=True)]
    p50, p99 = beside
    met = max(ratios) <= 1.5 and p50 <= 10 and p99 <= 50
    print(
        f"beside / alone: p50 {ratios[0]:.2f}, p99 {ratios[1]:.2f};"
        f" goal: within 1.5, p50 <= 10 ms, p99 <= 50 ms: {'met' if met else 'MISSED'}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crowd", dest="kind", action="store_const", const="crowd")
    parser.add_argument("--rate", type=float, default=150, help="events a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    main(given.folder, given.kind or "beside", given.rate, given.seconds, given.rounds)
