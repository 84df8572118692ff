"""Tables as a busy portal has them after forty days, made by PostgreSQL itself.

Every event is told to ten webhooks that want all, and to ten of its organization: so of
20 million deliveries ten webhooks have a million each. The newest are not all through:
one webhook in ten of those that want all has been holding back, and many wait for their next try.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from bench.stand import execute, new_secret, vacuum

# Webhooks that each event is told to: those that want all, and those of its organization.
ALL = 10
OF_ONE = 10
ORGANIZATIONS = 98
WEBHOOKS = ALL + OF_ONE * ORGANIZATIONS
TOLD = ALL + OF_ONE
# Versions of each dataset; each of them has a resource event, too.
VERSIONS = 10
# With the default retention of 30 days a quarter of it is old.
DAYS = 40
# Of all deliveries, the newest ones of organizations' webhooks that wait for their next
# try, and before them those that are held back.
WAITING = 0.01
# Events of one statement: its transaction takes half a minute.
CHUNK = 100_000

BIG = ("webhooks_event", "webhooks_delivery", "webhooks_attempt")

_DATASETS = """
INSERT INTO package (id, name, title, type, state, private, metadata_created, metadata_modified)
SELECT CAST(md5('dataset' || n) AS uuid), 'dataset-' || n, 'Dataset ' || n, 'dataset', 'active',
    false, timezone('utc', now()) - :days * interval '1 day', '2026-01-01'
FROM generate_series(0, :datasets - 1) n
"""
# An event of a dataset at each even number, and of its resource behind it.
_EVENTS = """
INSERT INTO webhooks_event (id, sequence, entity_type, entity_id, dataset_id, source_id, version,
    state, occurred_at, captured_at, dispatched_at, labels_before, labels, facets_before, facets,
    content, digest, metadata_modified, changed)
SELECT CAST(md5('event' || n) AS uuid), n + 1,
    CASE WHEN n % 2 = 0 THEN 'dataset' ELSE 'resource' END,
    CASE WHEN n % 2 = 0 THEN dataset ELSE CAST(md5('resource' || dataset) AS uuid)::text END,
    dataset,
    CASE WHEN n % 2 = 1 THEN CAST(md5('event' || n - 1) AS uuid) END,
    CASE WHEN n % 2 = 0 THEN 1 + n / 2 / :datasets END,
    'active', at, at, at, CASE WHEN n / 2 >= :datasets THEN ARRAY['public'] END, ARRAY['public'],
    facets, facets,
    CASE WHEN n % 2 = 0 THEN json_build_object('id', dataset, 'name', 'dataset-' || n,
        'notes', repeat(md5('notes' || n), 20),
        'resources', json_build_array(json_build_object(
            'id', CAST(md5('resource' || dataset) AS uuid), 'package_id', dataset))) END,
    n, '2026-01-01', ARRAY['notes', 'resources']
FROM generate_series(CAST(:first AS int), :last) n
    CROSS JOIN LATERAL (SELECT
        CAST(CAST(md5('dataset' || n / 2 % :datasets) AS uuid) AS text) AS dataset,
        now() - (1 - CAST(n AS float) / :events) * :days * interval '1 day' AS at,
        jsonb_build_object('organization', ARRAY['org-' || n / 2 % :organizations]) AS facets
        OFFSET 0) of
"""
_DELIVERIES = """
INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format, status,
    reason, tries, due_at, created_at, ended_at)
SELECT CAST(md5('webhook' || CASE WHEN k < :all THEN k
        ELSE :all + (k - :all) * :organizations + n / 2 % :organizations END) AS uuid),
    e.id, e.entity_type || '/update', e.sequence, 'https://example.com/webhooks/' || k, 'classic',
    status, CASE WHEN status <> 'delivered' THEN 'HTTP 500' END,
    CASE WHEN status = 'delivered' THEN 1 WHEN status = 'failed' THEN 10 ELSE 0 END,
    CASE WHEN status <> 'pending' THEN e.dispatched_at
        WHEN n >= (1 - :waiting) * :events THEN now() + (1 + k / 10.0) * interval '1 day' END,
    e.dispatched_at, CASE WHEN status <> 'pending' THEN e.dispatched_at + interval '20 ms' END
FROM generate_series(CAST(:first AS int), :last) n
    JOIN webhooks_event e ON e.sequence = n + 1
    CROSS JOIN generate_series(0, :all + :of_one - 1) k
    CROSS JOIN LATERAL (SELECT CASE
        WHEN k >= :all AND n >= (1 - 2 * :waiting) * :events THEN 'pending'
        WHEN k = :all - 1 AND n >= 0.8 * :events THEN 'pending'
        WHEN (n * 31 + k * 7) % 100 = 0 THEN 'failed'
        WHEN (n * 31 + k * 7) % 100 = 1 THEN 'cancelled'
        ELSE 'delivered' END AS status OFFSET 0) became
ORDER BY n, k
"""
# One attempt for each that was delivered or failed; the first nine of those that failed are
# not made up.
_ATTEMPTS = """
INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration, wait, dialled, http_status,
    answer)
SELECT id, tries, created_at, 0.01, 0.009, '192.0.2.1',
    CASE WHEN status = 'delivered' THEN 200 ELSE 500 END, ''
FROM webhooks_delivery
WHERE sequence BETWEEN CAST(:first AS int) + 1 AND :last + 1 AND tries > 0
"""
# The webhooks that hold back do so until tomorrow, but one that takes what it has.
_WEBHOOKS = """
INSERT INTO webhooks (id, address, topic, user_id, topics, secret, state, format, filters,
    last_success_at, circuit, next_at, created_at)
SELECT CAST(md5('webhook' || n) AS uuid), 'https://example.com/webhooks/' || n, '*',
    'owner-' || n % 100, ARRAY['*'], :secret, 'active', 'classic',
    CASE WHEN n < :all THEN '{}' ELSE jsonb_build_object(
        'organization', ARRAY['org-' || (n - :all) % :organizations]) END,
    clock_timestamp(),
    CASE WHEN n < :all - 1 OR n = :all THEN 'closed' ELSE 'open' END,
    CASE WHEN n = :all THEN now() WHEN n >= :all - 1 THEN now() + interval '1 day' END,
    timezone('utc', now()) - :days * interval '1 day'
FROM generate_series(0, :webhooks - 1) n
"""


def fill(deliveries: int) -> Iterator[str]:
    """Fill empty tables, and say after each step what it was.

    :param deliveries: how many rows, about
    """
    events = deliveries // TOLD
    values = {
        "events": events,
        "datasets": max(1, events // 2 // VERSIONS),
        "days": DAYS,
        "all": ALL,
        "of_one": OF_ONE,
        "organizations": ORGANIZATIONS,
        "waiting": WAITING,
    }
    execute(sa.text("DELETE FROM webhooks"))
    execute(sa.text(_WEBHOOKS), secret=new_secret(), webhooks=WEBHOOKS, **values)
    execute(sa.text(_DATASETS), **values)
    for statement, table, name in (
        (_EVENTS, "webhooks_event", "events"),
        (_DELIVERIES, "webhooks_delivery", "deliveries"),
        (_ATTEMPTS, "webhooks_attempt", "attempts"),
    ):
        started = time.monotonic()
        with _without_indexes(table):
            for first in range(0, events, CHUNK):
                last = min(first + CHUNK, events) - 1
                execute(sa.text(statement), first=first, last=last, **values)
        yield f"{count(table):,} {name} in {time.monotonic() - started:.0f} s"
    execute(sa.text("SELECT setval('webhooks_event_order', :events + 1)"), events=events)
    vacuum()
    yield f"{size():.1f} GB"


@contextmanager
def _without_indexes(table: str) -> Iterator[None]:
    """Make the indexes of a table when it is full, which takes a quarter of the time."""
    statement = """
        SELECT i.indexname, i.indexdef FROM pg_indexes i
        WHERE i.tablename = :table AND i.schemaname = current_schema()
            AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = i.indexname)
    """
    indexes = execute(sa.text(statement), table=table)
    for index in indexes:
        execute(sa.text(f"DROP INDEX {index.indexname}"))
    yield
    for index in indexes:
        execute(sa.text(index.indexdef))


def count(table: str) -> int:
    return int(execute(sa.text(f"SELECT count(*) FROM {table}"))[0][0])


def size() -> float:
    """Give the size of the three tables with their indexes, GB."""
    parts = " + ".join(f"pg_total_relation_size('{table}')" for table in BIG)
    return float(execute(sa.text(f"SELECT {parts}"))[0][0]) / 1e9
