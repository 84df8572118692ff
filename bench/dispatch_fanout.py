"""What one event costs a worker that must tell 100,000 webhooks of 1,000 owners.

The webhooks are written straight into the tables; the events are captured from
real saves, of a public dataset and of a private one, and each is dispatched in
this process with no owner's rights known yet. Printed are medians: how long the
rights of the owners took, the insert with its commit, and all the rest. Then
the plan of the insert, as PostgreSQL ran it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from ckan import model
from ckan.plugins.toolkit import get_action

from bench.stand import Stand, vacuum
from ckanext.webhooks import config, encryption, owners
from ckanext.webhooks.dispatch import dispatch
from ckanext.webhooks.model.base import COMMIT

OWNERS = 1_000
WEBHOOKS = 100_000
ORGANIZATIONS = 50
DATASETS = ("public", "private")
PARTS = ("labels", "insert", "rest", "all")

USERS = """
INSERT INTO "user" (id, name, apikey, password, state, sysadmin, created)
SELECT 'bench-' || md5(n::text), 'bench-' || n, NULL, 'none', 'active', false, now()
FROM generate_series(1, :owners) n
"""
# Every third owner is in two organizations, in each of CKAN's capacities.
MEMBERS = """
INSERT INTO member (id, group_id, table_id, table_name, capacity, state)
SELECT md5('member' || n || '/' || o.place), o.id, 'bench-' || md5(n::text), 'user',
       (ARRAY['admin', 'editor', 'member'])[1 + n / 3 % 3], 'active'
FROM generate_series(3, :owners, 3) n
JOIN (SELECT id, row_number() OVER (ORDER BY name) - 1 AS place FROM "group") o
    ON o.place IN (n / 3 % :organizations, (n / 3 + 7) % :organizations)
"""
# Ids that are spread, as those of webhook_create are.
SUBSCRIBE = """
INSERT INTO webhooks (id, address, topic, user_id, topics, secret)
SELECT gen_random_uuid(), 'https://example.com/callback/' || n, '*',
       'bench-' || md5((1 + n % :owners)::text), ARRAY['*'], :secret
FROM generate_series(1, :webhooks) n
"""
_INSERT = "INSERT INTO webhooks_delivery"
# What the insert would be without any work but writing.
INSERT_ALONE = """
INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format)
SELECT gen_random_uuid(), 'alone', 'dataset/update', 0, 'https://example.com/callback/' || n,
       'classic'
FROM generate_series(1, :count) n
"""


class Clock:
    """Where the time of one dispatch went, told by what it calls."""

    def __init__(self, engine: Any) -> None:
        self.took = dict.fromkeys(PARTS, 0.0)
        self.plan: list[str] = []
        self.explains = False
        self._since = 0.0
        sa.event.listen(engine, "before_cursor_execute", self._before, retval=True)
        sa.event.listen(engine, "after_cursor_execute", self._after)

    def time(self, dispatch: Any) -> dict[str, float]:
        """Dispatch one set of events; seconds by part."""
        self.took = dict.fromkeys(PARTS, 0.0)
        started = time.perf_counter()
        dispatch()
        self.took["all"] = time.perf_counter() - started
        self.took["rest"] = self.took["all"] - sum(self.took[part] for part in ("labels", "insert"))
        return self.took

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.took[name] += time.perf_counter() - started

    def of(self, name: str, function: Any) -> Any:
        """Give the function, with its time counted."""

        def timed(*arguments: Any) -> Any:
            with self._part(name):
                return function(*arguments)

        return timed

    def _before(
        self, _conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> tuple[str, Any]:
        self._since = time.perf_counter()
        if self.explains and _writes_deliveries(statement):
            explained = f"EXPLAIN (ANALYZE, BUFFERS) {_INSERT}"
            # The plan is given by the last statement.
            statement = statement.replace(_INSERT, explained).removesuffix(COMMIT)
        return statement, parameters

    def _after(self, _conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if not _writes_deliveries(statement):
            return
        self.took["insert"] += time.perf_counter() - self._since
        if self.explains:
            self.plan = [row[0] for row in cursor.fetchall()]


def _writes_deliveries(statement: str) -> bool:
    return _INSERT in statement


@dataclass(frozen=True)
class Run:
    """What one event cost.

    :ivar told: how many webhooks were told of it
    :ivar took: milliseconds by part
    """

    told: int
    took: dict[str, float]


def main(folder: Path) -> None:
    with Stand(folder) as stand:
        runs = measure(stand)
        print(f"{'dataset':>8}  {'told':>8}" + "".join(f"  {part:>9}" for part in PARTS))
        for kind, found in runs.items():
            medians = [statistics.median(run.took[part] for run in found) for part in PARTS]
            print(f"{kind:>8}  {found[0].told:>8}" + "".join(f"  {m:>6.0f} ms" for m in medians))
        print(f"the insert alone, of rows that are at hand: {insert_alone(WEBHOOKS):.0f} ms")
        with stand.app.test_request_context():
            print("\n".join(plan()))


def measure(stand: Stand, runs: int = 6) -> dict[str, list[Run]]:
    """Dispatch events in this process, on a stand whose worker does not run yet.

    The datasets stay: who goes on with the stand calls :func:`purge`.

    :returns: what each cost, of the public dataset and of the private one
    """
    with stand.app.test_request_context():
        for n in range(ORGANIZATIONS):
            create_organization(n)
        subscribe(WEBHOOKS)
        for kind in DATASETS:
            _call(
                "package_create",
                name=kind,
                owner_org=f"bench-{ORGANIZATIONS - 1}",
                private=kind == "private",
            )
        clock = Clock(model.meta.engine)
        known = owners.standing
        owners.standing = clock.of("labels", known)
        try:
            _dispatch_all()
            # The first of each warms PostgreSQL's caches and ours.
            return {
                kind: [_measure_one(clock, kind) for _ in range(1 + runs)][1:] for kind in DATASETS
            }
        finally:
            owners.standing = known


def _measure_one(clock: Clock, dataset: str) -> Run:
    _change(dataset)
    owners.forget()
    told = count()
    took = clock.time(dispatch)
    return Run(count() - told, {part: seconds * 1000 for part, seconds in took.items()})


def insert_alone(count: int) -> float:
    """Give the milliseconds in which PostgreSQL writes so many deliveries that are at hand."""
    with model.meta.engine.connect() as connection, connection.begin() as transaction:
        started = time.perf_counter()
        connection.execute(sa.text(INSERT_ALONE), {"count": count})
        took = time.perf_counter() - started
        transaction.rollback()
    return took * 1000


def purge(stand: Stand) -> None:
    """Take the datasets away, which a worker would find missing in an empty log."""
    with stand.app.test_request_context():
        for dataset in DATASETS:
            _call("dataset_purge", id=dataset)


def plan() -> list[str]:
    """Give the plan of the insert, as PostgreSQL ran it, after :func:`measure`."""
    clock = Clock(model.meta.engine)
    clock.explains = True
    _change("public")
    dispatch()
    return clock.plan


def _call(action: str, **data: Any) -> Any:
    return get_action(action)({"user": "admin", "ignore_auth": True}, data)


def _change(dataset: str) -> None:
    _call("package_patch", id=dataset, title=f"Title {time.monotonic_ns()}")


def _dispatch_all() -> None:
    while dispatch():
        pass


def create_organization(number: int) -> None:
    _call("organization_create", name=f"bench-{number}")


def subscribe(webhooks: int) -> None:
    """Make the owners and their webhooks."""
    secret = encryption.encrypt(encryption.new_secret(), config.secret_keys())
    numbers = {"owners": OWNERS, "webhooks": webhooks, "organizations": ORGANIZATIONS}
    with model.meta.engine.begin() as connection:
        for statement in (USERS, MEMBERS, SUBSCRIBE):
            connection.execute(sa.text(statement), {**numbers, "secret": secret})
    vacuum()


def count() -> int:
    """Count the deliveries that there are."""
    with model.meta.engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM webhooks_delivery")).scalar())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
