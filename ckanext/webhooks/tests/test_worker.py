"""A worker as a process, and what becomes of it when its broker goes."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis

from .. import encryption, queue
from .site import READY, Site, SiteError

FOLDER = Path(__file__).parents[3] / ".dev" / "run" / f"worker-{os.getpid()}"

pytestmark = pytest.mark.acceptance


EVENT = """
    INSERT INTO webhooks_event (id, entity_type, entity_id, dataset_id, version, occurred_at,
                                captured_at, state)
    VALUES ('one', 'dataset', 'gone', 'gone', 1, now(), now(), 'purged')
"""

HOOK = """
    INSERT INTO webhooks (id, address, topic, topics, user_id, secret)
    VALUES ('hook', 'http://127.0.0.1:1/', '*', '{*}', 'gone', %s)
    ON CONFLICT (id) DO UPDATE SET secret = excluded.secret
"""

NOT_ITS_KEY = "no delivery can be signed"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site(FOLDER, own_redis=True) as prepared:
        yield prepared
    shutil.rmtree(FOLDER)


def nudge(site: Site) -> None:
    """Nudge as a web process does."""
    key = f"ckan:{site.name}:webhooks"
    with redis.Redis.from_url(site.redis_url) as broker:
        broker.lpush(key, queue._message(key))


def have_secret(site: Site, key: str) -> None:
    """Have a webhook whose secret is stored with a key."""
    with psycopg2.connect(site.database_url) as connection, connection.cursor() as cursor:
        cursor.execute(HOOK, [encryption.encrypt(encryption.new_secret(), [key])])


def waiting(site: Site) -> int:
    with redis.Redis.from_url(site.redis_url) as broker:
        return int(broker.llen(f"ckan:{site.name}:webhooks"))


def test_a_worker_whose_broker_dies_in_the_midst_of_a_task_goes_on_or_ends(site):
    """Half dead it would neither take nudges nor be started again."""
    have_secret(site, encryption.derived_key(site._secret()))
    worker = site.start_worker()
    worker.await_output(READY)
    with psycopg2.connect(site.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE webhooks_event")  # the task takes its time
        nudge(site)
        time.sleep(1)
        site.stop_redis()
        time.sleep(2)
    site.start_redis()
    nudge(site)
    deadline = time.monotonic() + 30
    while worker.alive and waiting(site):
        assert time.monotonic() < deadline, worker.error("is half dead")
        time.sleep(0.2)
    assert NOT_ITS_KEY not in worker.output()


def test_a_worker_that_starts_without_its_broker_works(site):
    site.stop_redis()
    worker = site.start_worker()
    with psycopg2.connect(site.database_url) as connection, connection.cursor() as cursor:
        cursor.execute(EVENT)
        connection.commit()
        deadline = time.monotonic() + 120
        dispatched = None
        while dispatched is None:
            assert worker.alive and time.monotonic() < deadline, worker.error("does nothing")
            time.sleep(0.2)
            cursor.execute("SELECT dispatched_at FROM webhooks_event WHERE id = 'one'")
            (dispatched,) = cursor.fetchone()
            connection.commit()


def test_a_worker_says_as_it_starts_that_its_key_is_not_the_one_secrets_are_stored_with(site):
    """With its own it says nothing of that: see above."""
    have_secret(site, encryption.derived_key("the web's"))
    worker = site.start_worker()
    worker.await_output(READY)
    worker.stop()
    said = worker.output()
    assert NOT_ITS_KEY in said
    assert "Give this worker and the web processes the same SECRET_KEY" in said


def test_a_worker_of_processes_is_refused(site):
    celery = [str(Path(sys.executable).with_name("celery")), "-A", "ckanext.webhooks.worker"]
    with pytest.raises(SiteError, match="Start more workers instead"):
        site.run([*celery, "worker", "--pool", "processes"])
