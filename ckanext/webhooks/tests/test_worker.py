"""A worker as a process, and what becomes of it when its broker goes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis

from .. import queue
from .site import Site

FOLDER = Path(__file__).parents[3] / ".dev" / "run" / f"worker-{os.getpid()}"

pytestmark = pytest.mark.acceptance


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


def waiting(site: Site) -> int:
    with redis.Redis.from_url(site.redis_url) as broker:
        return int(broker.llen(f"ckan:{site.name}:webhooks"))


def test_a_worker_whose_broker_dies_in_the_midst_of_a_task_goes_on_or_ends(site):
    """Half dead it would neither take nudges nor be started again."""
    worker = site.start_worker()
    deadline = time.monotonic() + 60
    while " ready." not in worker.output():
        assert worker.alive and time.monotonic() < deadline, worker.error("is not ready")
        time.sleep(0.1)
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
