"""The books that PostgreSQL keeps: marks of what was committed, the log, the deliveries.

A mark is written by a trigger that fires as a transaction commits, so it is in the very
transaction of the change, whoever made it, and is rolled back with it. It has a schema
of its own, which neither CKAN nor Alembic looks at.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from bench.chaos.ledger import Delivery, Event, Mark, Membership

# A title that begins so has the commit itself refused, when all has been written.
REFUSED = "refused"

_MARKS = f"""
CREATE SCHEMA chaos;
CREATE TABLE chaos.mark (
    transaction bigint, dataset text, at timestamptz NOT NULL, after jsonb,
    PRIMARY KEY (transaction, dataset));
CREATE TABLE chaos.membership (
    user_id text, organization text, at timestamptz NOT NULL, is_in boolean);

CREATE FUNCTION chaos.snapshot(dataset text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'state', p.state, 'private', p.private, 'owner_org', p.owner_org,
        'rest', md5((to_jsonb(p) - 'metadata_modified')::text),
        'title', p.title,
        'names', (
            SELECT coalesce(jsonb_object_agg(r.id, r.name), '{{}}')
            FROM resource r WHERE r.package_id = p.id AND r.state = 'active'),
        'resources', (
            SELECT coalesce(jsonb_object_agg(
                r.id, md5((to_jsonb(r) - 'metadata_modified' - 'position')::text)), '{{}}')
            FROM resource r WHERE r.package_id = p.id AND r.state = 'active'))
    FROM package p WHERE p.id = dataset
$$;

CREATE FUNCTION chaos.mark() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row_ jsonb := to_jsonb(coalesce(NEW, OLD));
    id_ text := CASE TG_TABLE_NAME WHEN 'package' THEN row_->>'id' ELSE row_->>'package_id' END;
BEGIN
    IF EXISTS (SELECT FROM package WHERE id = id_ AND title LIKE '{REFUSED}%') THEN
        RAISE EXCEPTION 'chaos refuses this commit';
    END IF;
    INSERT INTO chaos.mark VALUES (txid_current(), id_, clock_timestamp(), chaos.snapshot(id_))
    ON CONFLICT (transaction, dataset) DO UPDATE SET at = excluded.at, after = excluded.after;
    RETURN NULL;
END $$;

CREATE FUNCTION chaos.membership() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    row_ member := coalesce(NEW, OLD);
BEGIN
    IF row_.table_name = 'user' THEN
        INSERT INTO chaos.membership VALUES (row_.table_id, row_.group_id, clock_timestamp(),
            TG_OP <> 'DELETE' AND row_.state = 'active');
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER chaos_membership AFTER INSERT OR UPDATE OR DELETE ON member
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos.membership();
CREATE CONSTRAINT TRIGGER chaos_mark AFTER INSERT OR UPDATE OR DELETE ON package
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos.mark();
CREATE CONSTRAINT TRIGGER chaos_mark AFTER INSERT OR UPDATE OR DELETE ON resource
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION chaos.mark();
"""
_READ_MARKS = "SELECT transaction, dataset, extract(epoch FROM at)::float, after FROM chaos.mark"
_READ_MEMBERSHIPS = """
SELECT user_id, organization, extract(epoch FROM at)::float, is_in FROM chaos.membership ORDER BY at
"""
_READ_EVENTS = """
SELECT id, transaction_id, dataset_id, entity_id, source_id, extract(epoch FROM captured_at)::float
FROM webhooks_event WHERE origin = 'change'
"""
_READ_DELIVERIES = """
SELECT d.webhook_id, d.event_id, d.topic, d.status, d.reason, e.entity_id
FROM webhooks_delivery d LEFT JOIN webhooks_event e ON e.id = d.event_id WHERE d.topic <> 'ping'
"""
_UNDER_WAY = """
SELECT (SELECT count(*) FROM webhooks_event WHERE sequence IS NULL)
     + (SELECT count(*) FROM webhooks_delivery WHERE status = 'pending')
"""
# Somebody has written, and not yet committed.
_WRITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_xid IS NOT NULL AND state = 'idle in transaction'
"""
_CAUGHT_UP = """
SELECT extract(epoch FROM max(ended_at) - %(at)s)::float FROM webhooks_delivery
WHERE created_at <= %(at)s AND ended_at > %(at)s
"""


class Tables:
    """Reads the tables of a site; each call has a connection of its own.

    :param url: of the site's database
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def mark_commits(self) -> None:
        """Have each transaction that writes to a dataset or to a membership leave a mark."""
        with self.connected() as cursor:
            cursor.execute(_MARKS)

    def marks(self) -> list[Mark]:
        return [Mark(*row) for row in self._rows(_READ_MARKS)]

    def memberships(self) -> list[Membership]:
        return [Membership(*row) for row in self._rows(_READ_MEMBERSHIPS)]

    def events(self) -> list[Event]:
        return [Event(*row) for row in self._rows(_READ_EVENTS)]

    def deliveries(self) -> list[Delivery]:
        return [Delivery(*row) for row in self._rows(_READ_DELIVERIES)]

    def under_way(self) -> int:
        """Count what is still to be dispatched or sent."""
        return int(self._rows(_UNDER_WAY)[0][0])

    def caught_up(self, at: float) -> float | None:
        """Give the seconds from a time until all that waited then had ended."""
        moment = datetime.datetime.fromtimestamp(at, datetime.timezone.utc)
        found = self._rows(_CAUGHT_UP, at=moment)[0][0]
        return float(found) if found is not None else None

    def someone_writes(self) -> bool:
        return bool(self._rows(_WRITING)[0][0])

    def _rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.connected() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Yield a cursor in a transaction that is committed at the end."""
        connection = psycopg2.connect(self.url, connect_timeout=5)
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()
