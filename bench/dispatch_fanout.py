"""What one event costs a worker that must tell 100,000 webhooks of 1,000 owners.

The webhooks are written straight into the tables; the events are captured from
real saves, of a public dataset and of a private one, and each is dispatched in
this process with no owner's rights known yet. Printed are medians: how long the
rights of the owners took, the insert, the commit, and all the rest. Then the
plan of the insert, as PostgreSQL ran it.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from ckan import model
from ckan.cli import load_config
from ckan.config.middleware import make_app
from ckan.plugins.toolkit import get_action

from ckanext.webhooks import config, encryption, owners
from ckanext.webhooks.dispatch import dispatch
from ckanext.webhooks.tests.site import Site

OWNERS = 1_000
WEBHOOKS = 100_000
ORGANIZATIONS = 50
ROUNDS = 7  # the first is left out: it warms PostgreSQL's caches and ours
PARTS = ("labels", "insert", "commit", "rest", "all")

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


class Clock:
    """Where the time of one dispatch went, told by what it calls."""

    def __init__(self, engine: Any) -> None:
        self.took = dict.fromkeys(PARTS, 0.0)
        self.plan: list[str] = []
        self.explains = False
        self._since = 0.0
        sa.event.listen(engine, "before_cursor_execute", self._before, retval=True)
        sa.event.listen(engine, "after_cursor_execute", self._after)
        sa.event.listen(engine, "commit", self._commit)

    def time(self, dispatch: Any) -> dict[str, float]:
        """Dispatch one set of events; seconds by part."""
        self.took = dict.fromkeys(PARTS, 0.0)
        started = time.perf_counter()
        dispatch()
        ended = time.perf_counter()
        self.took["commit"] = ended - self._since
        self.took["all"] = ended - started
        self.took["rest"] = self.took["all"] - sum(
            self.took[part] for part in ("labels", "insert", "commit")
        )
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
            statement = f"EXPLAIN (ANALYZE, BUFFERS) {statement}"
        return statement, parameters

    def _after(self, _conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if not _writes_deliveries(statement):
            return
        self.took["insert"] += time.perf_counter() - self._since
        if self.explains:
            self.plan = [row[0] for row in cursor.fetchall()]

    def _commit(self, _conn: Any) -> None:
        self._since = time.perf_counter()


def _writes_deliveries(statement: str) -> bool:
    return "INSERT INTO webhooks_delivery" in statement


def main(folder: Path) -> None:
    with Site(folder) as site:
        app = load(site)
        with app.test_request_context():
            run()


def load(site: Site) -> Any:
    """Load the site's CKAN into this process."""
    for name in [name for name in os.environ if name.startswith("CKAN_")]:
        del os.environ[name]  # it would win over the site's own settings
    return make_app(load_config(str(site.ini)))._wsgi_app


def run() -> None:
    def call(action: str, **data: Any) -> Any:
        return get_action(action)({"user": "admin", "ignore_auth": True}, data)

    for n in range(ORGANIZATIONS):
        organization = call("organization_create", name=f"bench-{n}")
    subscribe()
    private = {"private": True, "owner_org": organization["id"]}
    datasets = {
        "public": call("package_create", name="public", owner_org=organization["id"]),
        "private": call("package_create", name="private", **private),
    }
    clock = Clock(model.meta.engine)
    owners.standing = clock.of("labels", owners.standing)
    while dispatch():
        pass

    print(f"{'dataset':>8}  {'told':>8}" + "".join(f"  {part:>9}" for part in PARTS))
    for kind, dataset in datasets.items():
        rounds = []
        for n in range(ROUNDS):
            call("package_patch", id=dataset["id"], title=f"Title {n}")
            owners.forget()
            told = count()
            rounds.append(dict(clock.time(dispatch)))
            told = count() - told
        medians = [statistics.median(took[part] for took in rounds[1:]) for part in PARTS]
        print(f"{kind:>8}  {told:>8}" + "".join(f"  {m * 1000:>6.0f} ms" for m in medians))

    call("package_patch", id=datasets["public"]["id"], title="the plan")
    clock.explains = True
    dispatch()
    print("\n".join(clock.plan))


def subscribe() -> None:
    """Make the owners and their webhooks."""
    secret = encryption.encrypt(encryption.new_secret(), config.secret_keys())
    numbers = {"owners": OWNERS, "webhooks": WEBHOOKS, "organizations": ORGANIZATIONS}
    with model.meta.engine.begin() as connection:
        for statement in (USERS, MEMBERS, SUBSCRIBE):
            connection.execute(sa.text(statement), {**numbers, "secret": secret})
    # As autovacuum would within a minute.
    with model.meta.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))


def count() -> int:
    with model.meta.engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM webhooks_delivery")).scalar())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
