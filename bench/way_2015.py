"""The 2015 way, to be measured beside this software's.

As the extension of that year did it (github.com/deniszgonjanin/ckanext-webhooks):
one Celery task per subscriber, sent while the change is saved, and in it one
``requests.post`` with a timeout of 2 s; nothing is written down, signed or
retried. The ``webhook-id`` is the bench's, which knows arrivals by it.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import redis
import requests
from celery import Celery

from ckanext.webhooks.tests.site import READY, Process

NAME = "bench-2015"
# What it was run with on the machine of the design's numbers: a process for each core.
CONCURRENCY = 2
# So long (seconds) for Celery to start.
PATIENCE = 60.0

app = Celery(NAME, broker=os.environ.get("BENCH_BROKER"), set_as_current=False)
# Names of its own, since others may use the same Redis.
UNACKED = {f"{key}_key": f"{NAME}-{key}" for key in ("unacked", "unacked_index", "unacked_mutex")}
app.conf.update(task_default_queue=NAME, task_ignore_result=True, broker_transport_options=UNACKED)


@app.task(name="webhooks.notify_hooks")
def notify_hooks(resource: dict[str, Any], webhook: dict[str, str], site_url: str) -> None:
    payload = {
        "entity": resource,
        "address": webhook["address"],
        "webhook_id": webhook["id"],
        "ckan": site_url,
        "topic": webhook["topic"],
        "user_ref": webhook["user_id"],
    }
    requests.post(
        webhook["address"],
        headers={"Content-Type": "application/json", "webhook-id": resource["id"]},
        data=json.dumps(payload),
        timeout=2,
    )


class Way2015:
    """Its worker, for the time of one run; ``with Way2015(folder, redis_url) as way``.

    :param folder: for the log
    :ivar addresses: who is told of each event
    """

    def __init__(self, folder: Path, redis_url: str, addresses: Sequence[str]) -> None:
        self._folder = folder
        self._redis_url = redis_url
        self._webhooks = [
            {"id": str(uuid.uuid4()), "address": address, "topic": "dataset/create", "user_id": "u"}
            for address in addresses
        ]
        app.conf.broker_url = redis_url

    def __enter__(self) -> Way2015:
        celery = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "bench.way_2015"]
        pool = ["--pool", "prefork", "--concurrency", str(CONCURRENCY)]
        self._process = Process(
            "way_2015",
            [*celery, "worker", *pool, "--loglevel", "INFO"],
            self._folder,
            {
                **os.environ,
                "BENCH_BROKER": self._redis_url,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "C_FORCE_ROOT": "1",
            },
        )
        self._process.await_output(READY, PATIENCE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self.purge()

    def purge(self) -> None:
        """Forget the tasks that nobody took, and those that a killed worker had."""
        bindings = [f"_kombu.{kind}.{NAME}" for kind in ("binding", "binding_permanent")]
        with redis.Redis.from_url(self._redis_url) as connection:
            connection.delete(NAME, *bindings, *UNACKED.values())

    def save(self, number: int, content: str, rate: float = 0.0) -> dict[str, float]:
        """Tell each subscriber of so many events.

        :param content: JSON of the dataset
        :param rate: so many a second, 0 for as many as can be
        :returns: when each of them was begun to be told of, by id
        """
        dataset = json.loads(content)
        told: dict[str, float] = {}
        started = time.monotonic()
        for n in range(number):
            if rate and (wait := started + n / rate - time.monotonic()) > 0:
                time.sleep(wait)
            id_ = str(uuid.uuid4())
            told[id_] = time.monotonic()
            for webhook in self._webhooks:
                app.send_task(
                    notify_hooks.name, [{**dataset, "id": id_}, webhook, "http://ckan.example"]
                )
        return told

    def cpu(self) -> float:
        """Give the CPU time of its worker's processes so far (seconds)."""
        worker = psutil.Process(self._process.pid)
        times = [one.cpu_times() for one in (worker, *worker.children(recursive=True))]
        return sum(one.user + one.system for one in times)


def added(folder: Path, redis_url: str, content: str, webhooks: int, saves: int) -> list[float]:
    """Give the milliseconds that each save took longer with so many webhooks.

    No worker takes what is sent, and it is forgotten.
    """
    way = Way2015(folder, redis_url, ["http://127.0.0.1:1/"] * webhooks)
    way.save(1, content)  # it connects
    took = []
    for _ in range(saves):
        started = time.perf_counter()
        way.save(1, content)
        took.append((time.perf_counter() - started) * 1000)
    way.purge()
    return took
