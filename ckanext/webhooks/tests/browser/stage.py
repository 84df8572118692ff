"""What the pages have to show: webhooks in every state, and what they were told for two weeks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ...model import Kind
from ..receiver import Receiver
from ..site import Site

# By what it is shown as. Of those of the past nothing is called; example.* exist for nobody.
WEBHOOKS: dict[str, dict[str, Any]] = {
    "healthy": {
        "address": "https://maps.example.org/ckan/changed",
        "topic": ["dataset/*", "resource/*"],
        "description": "Refreshes the layers of the city map",
        "filters": {"organization": "city-council", "tag": ["trees", "parks"]},
        "headers": {"Authorization": "Bearer of the map"},
    },
    "failing": {
        "address": "https://mirror.example.net/webhooks/open-data?source=city-council",
        "topic": "*",
        "description": "The mirror of the state",
        "format": "cloudevents",
    },
    "disabled": {
        "address": "https://old-portal.example.com/receive",
        "topic": ["dataset/create", "dataset/delete"],
    },
    "busy": {
        "address": "https://search.example.com/index/updates",
        "topic": "*",
        "description": "The search index",
        "format": "standard",
    },
    "paced": {
        "address": "https://chat.example.com/channels/open-data",
        "topic": "dataset/create",
        "description": "Announcements, few enough to read",
        "max_rate": 6,
        "coalesce": True,
    },
}

# Two weeks, the oldest first, as ids are given. Mornings have more than nights; the mirror
# has been failing for three hours, and had a bad day before.
PAST = """
WITH moment AS (
    SELECT n, clock_timestamp() - (:count - n) * interval '14 days' / :count AS at
    FROM generate_series(1, CAST(:count AS int)) n
), told AS (
    SELECT n, at, (ARRAY['busy', 'busy', 'busy', 'healthy', 'failing', 'paced', 'busy'])[1 + n % 7]
        AS name,
        (ARRAY['dataset/update', 'resource/update', 'dataset/update', 'resource/create',
            'dataset/create', 'resource/delete'])[1 + n * 7 % 6] AS topic
    FROM moment WHERE (n * 7919) % 24 < 10 + 10 * sin(extract(hour FROM at) / 24 * 6.28)
), judged AS (
    SELECT *, (name = 'failing' AND (at > now() - interval '3 hours'
            OR CAST(at AS date) = CAST(now() - interval '6 days' AS date) AND n % 3 > 0))
        OR (name = 'busy' AND n % 97 = 0) AS is_failed
    FROM told
), delivery AS (
    INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format, status,
        reason, tries, due_at, created_at, ended_at)
    SELECT webhooks.id, 'past-' || n, judged.topic, n, address, format,
        CASE WHEN is_failed THEN 'failed' ELSE 'delivered' END,
        CASE WHEN is_failed THEN 'gave up after 10 tries: HTTP status 503' END,
        CASE WHEN is_failed THEN 10 ELSE 1 END, NULL,
        at, at + (0.02 + n * 31 % 100 / 1000.0 + CASE WHEN n % 50 = 0 THEN 0.6 ELSE 0 END)
            * interval '1 second'
    FROM judged JOIN webhooks
        ON webhooks.id = (CAST(:ids AS text[]))[array_position(CAST(:names AS text[]), name)]
    ORDER BY n
    RETURNING id, created_at, ended_at, status
)
INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration, resolve, connect, tls, wait,
    dialled, http_status, answer)
SELECT id, 1, created_at, extract(epoch FROM ended_at - created_at), 0.004, 0.011, 0.023, 0.04,
    '192.0.43.8', CASE status WHEN 'failed' THEN 503 ELSE 200 END, '{"ok": true}'
FROM delivery
"""
COUNT = 9_000

# The newest of the mirror's, as its tries went by.
FAILED = """
WITH delivery AS (
    INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format, tries,
        due_at)
    SELECT :failing, event_id, topic, sequence, (SELECT address FROM webhooks WHERE id = :failing),
        'cloudevents', 3, clock_timestamp() + interval '24 minutes'
    FROM webhooks_delivery WHERE webhook_id = :healthy ORDER BY id DESC LIMIT 1
    RETURNING id
)
INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration, resolve, connect, tls, wait,
    dialled, http_status, error, answer)
SELECT id, number, clock_timestamp() - CAST(ago AS interval), duration, resolve, connect, tls, wait,
    '192.0.43.8', http_status, error, answer
FROM delivery CROSS JOIN (VALUES
    (1, '5 min 6 s', 10.0, 0.004, 0.011, 0.023, 9.962, NULL,
        'no complete answer within 10 s', NULL),
    (2, '5 min 1 s', 1.31, 0.002, 0.012, 0.025, 1.20, 503, NULL,
        '{"error": "maintenance", "retry": "later"}'),
    (3, '1 min', 0.12, 0.003, 0.117, NULL, NULL, NULL,
        'could not connect: Connection refused', NULL)
) tried (number, ago, duration, resolve, connect, tls, wait, http_status, error, answer)
"""

STATES = """
UPDATE webhooks SET failing_since = now() - interval '3 hours', failures = 14,
    last_failure_at = now() - interval '1 min', circuit = 'open',
    last_success_at = now() - interval '3 hours 2 min', next_at = now() + interval '24 min'
WHERE id = :failing;
UPDATE webhooks SET state = 'disabled', state_reason = 'it failed for 5 days without a success',
    failing_since = now() - interval '7 days', last_failure_at = now() - interval '2 days',
    last_success_at = now() - interval '7 days', missed_since = now() - interval '2 days'
WHERE id = :disabled;
UPDATE webhooks SET last_success_at = now() - interval '3 min' WHERE id IN (:busy, :healthy, :paced)
"""


@dataclass(frozen=True)
class Stage:
    """What there is.

    :ivar hooks: ids of :data:`WEBHOOKS`, by their names
    :ivar deliveries: the newest of each
    """

    hooks: dict[str, str]
    deliveries: dict[str, int]


def build(site: Site, ckan: Any, own: Any, owner_org: str) -> Stage:
    """Build it.

    :param ckan: the action API, by ckanapi
    :param own: the same as who is to own the webhooks
    """
    hooks = {name: own.action.webhook_create(**given) for name, given in WEBHOOKS.items()}
    engine = sa.create_engine(site.database_url)
    try:
        with engine.begin() as connection:
            past = {"count": COUNT, "ids": list(hooks.values()), "names": list(hooks)}
            connection.execute(sa.text(PAST), past)
        _tell(engine, ckan, owner_org, hooks["healthy"])
        with engine.begin() as connection:
            connection.execute(sa.text(FAILED), hooks)
            for statement in STATES.split(";\n"):
                connection.execute(sa.text(statement), hooks)
            newest = connection.execute(sa.text(NEWEST), {"ids": list(hooks.values())})
            deliveries = {row.webhook_id: row.id for row in newest}
    finally:
        engine.dispose()
    return Stage(hooks, {name: deliveries[id_] for name, id_ in hooks.items() if id_ in deliveries})


# One of each kind, numbered in their order. None is tried while somebody looks.
ASIDE = """
INSERT INTO webhooks_quarantine (id, kind, key, dataset_id, user_id, is_stuck, reason, sequence,
    due_at)
SELECT n, kind, key, CASE WHEN n <= 2 THEN package.id END, CASE WHEN n = 2 THEN publisher.id END,
    n = 3, 'DataError: integer out of range', 1, now() + interval '50 min'
FROM package, "user" publisher, LATERAL (VALUES
    (1, 'event', '6b8f8d5c-6f5c-4b7e-9f57-5b1c7a0c5f11'),
    (2, 'rights', publisher.id || ' ' || package.id),
    (3, 'delivery', CAST(CAST(:delivery AS bigint) AS text)),
    (4, 'webhook', :webhook)) aside (n, kind, key)
WHERE package.name = :dataset AND publisher.name = 'publisher'
"""


@contextmanager
def put_aside(site: Site, stage: Stage) -> Iterator[None]:
    """Have something of each kind put aside meanwhile."""
    engine = sa.create_engine(site.database_url)
    what = {
        "delivery": stage.deliveries["failing"],
        "webhook": stage.hooks["paced"],
        "dataset": DATASET["name"],
    }
    try:
        with engine.begin() as connection:
            assert connection.execute(sa.text(ASIDE), what).rowcount == len(Kind)
        yield
        with engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM webhooks_quarantine"))
    finally:
        engine.dispose()


def _tell(engine: Any, ckan: Any, owner_org: str, hook: str) -> None:
    """Have a dataset told to a receiver, in the name of the one that is shown."""
    with Receiver() as receiver:
        with engine.begin() as connection:
            # Not paused, of which a worker's sweep would think that it is over.
            connection.execute(sa.text("UPDATE webhooks SET state = 'disabled'"))
            connection.execute(sa.text(LENT), {"url": receiver.url, "id": hook})
        ckan.action.package_create(**DATASET, owner_org=owner_org)
        ckan.action.package_patch(id=DATASET["name"], title="Street trees of the city")
        receiver.wait(3, timeout=60)
    with engine.begin() as connection:
        # What it was told is settled a moment after it has arrived.
        deadline = time.monotonic() + 60
        while connection.execute(sa.text(PENDING), {"id": hook}).scalar():
            assert time.monotonic() < deadline, "what arrived is not settled"
            time.sleep(0.1)
        shown = {"id": hook, "address": WEBHOOKS["healthy"]["address"]}
        for statement in RETURNED.split(";\n"):
            connection.execute(sa.text(statement), shown)


DATASET = {
    "name": "street-trees",
    "title": "Street trees",
    "notes": "Every tree along a street, with its species and the year it was planted.",
    "license_id": "cc-by",
    "tags": [{"name": "trees"}],
    "resources": [
        {"name": "Trees of 2026", "format": "CSV", "url": "https://data.example.org/trees.csv"}
    ],
}
LENT = "UPDATE webhooks SET state = 'active', address = :url WHERE id = :id"
PENDING = "SELECT count(*) FROM webhooks_delivery WHERE status = 'pending' AND webhook_id = :id"
RETURNED = """
UPDATE webhooks SET address = :address WHERE id = :id;
UPDATE webhooks SET state = 'active';
UPDATE webhooks_delivery SET address = :address WHERE webhook_id = :id;
UPDATE webhooks_attempt SET dialled = '192.0.43.8', resolve = 0.004, connect = 0.011, tls = 0.023,
    wait = 0.048, duration = 0.087
WHERE delivery_id IN (
    SELECT id FROM webhooks_delivery WHERE webhook_id = :id AND event_id NOT LIKE 'past-%');
UPDATE webhooks_delivery SET ended_at = created_at + interval '0.09 s' WHERE webhook_id = :id
    AND event_id NOT LIKE 'past-%';
UPDATE webhooks SET created_at = now() - interval '40 days'
"""
NEWEST = """
SELECT webhook_id, max(id) AS id FROM webhooks_delivery WHERE webhook_id = ANY(:ids) GROUP BY 1
"""
