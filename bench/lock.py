"""How long dispatch's lock is held where much comes at once: other workers wait for it.

200 private datasets of 120 resources are created in organizations of which some of 1,000
owners are members, and dispatched in this process. Printed are how many transactions that
took, and how long each held the lock.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from ckan import model

from bench import dispatch_fanout
from bench.stand import Stand, vacuum
from ckanext.webhooks import owners
from ckanext.webhooks.dispatch import dispatch

DATASETS = 200
RESOURCES = 120
GOAL = 200  # milliseconds

CAPTURED = """
INSERT INTO webhooks_event (id, entity_type, entity_id, dataset_id, state, labels, facets,
                            content, version, occurred_at, captured_at)
SELECT gen_random_uuid(), 'dataset', 'big-' || n, 'big-' || n, 'active',
       ARRAY['member-' || o.id], '{}', replace(:content, 'big-0', 'big-' || n), 1,
       clock_timestamp(), clock_timestamp()
FROM generate_series(1, :datasets) n
JOIN (SELECT id, row_number() OVER (ORDER BY name) - 1 AS place FROM "group") o
    ON o.place = n % :organizations
"""


class Clock:
    """How long each transaction held the lock, in milliseconds."""

    def __init__(self, engine: Any) -> None:
        self.held: list[float] = []
        self._since: float | None = None
        sa.event.listen(engine, "before_cursor_execute", self._before)
        sa.event.listen(engine, "after_cursor_execute", self._after)

    def _before(self, _conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "pg_advisory_xact_lock" in statement:
            self._since = time.perf_counter()

    def _after(self, _conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.endswith("COMMIT") and self._since is not None:
            self.held.append((time.perf_counter() - self._since) * 1000)
            self._since = None


def main(folder: Path) -> None:
    with Stand(folder) as stand, stand.app.test_request_context():
        for n in range(dispatch_fanout.ORGANIZATIONS):
            dispatch_fanout.create_organization(n)
        dispatch_fanout.subscribe(dispatch_fanout.OWNERS)
        capture()
        owners.forget()
        clock = Clock(model.meta.engine)
        while dispatch():
            pass
        told = dispatch_fanout.count()
    print(
        f"{DATASETS} private datasets x {RESOURCES} resources x {dispatch_fanout.OWNERS} owners:"
        f" {told} deliveries; the lock was held {len(clock.held)} times, for"
        f" {statistics.median(clock.held):.0f} ms (median), {max(clock.held):.0f} ms at most;"
        f" {GOAL} ms are promised"
    )
    sys.exit(max(clock.held) > GOAL)


def capture() -> None:
    """Have the datasets in the log, as if one transaction had created them."""
    resources = [
        {
            "id": f"big-0-{n}",
            "package_id": "big-0",
            "url": f"http://example.com/{n}",
            "format": "CSV",
        }
        for n in range(RESOURCES)
    ]
    content = {"id": "big-0", "name": "big-0", "title": "Big", "resources": resources}
    values = {
        "content": json.dumps(content),
        "datasets": DATASETS,
        "organizations": dispatch_fanout.ORGANIZATIONS,
    }
    with model.meta.engine.begin() as connection:
        connection.execute(sa.text(CAPTURED), values)
    vacuum()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
