"""What the web process puts into the broker, and what a worker makes of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from celery.contrib.testing.worker import start_worker

from .. import config, nudged, queue, tasks  # noqa: F401  (nudged adds its consumer to the worker)

pytestmark = pytest.mark.usefixtures("webhooks_db")


class Queue:
    """One of the portal's queues in Redis."""

    def __init__(self, suffix: str = "") -> None:
        self._redis = redis.Redis.from_url(config.broker_url())
        self._name = queue.nudges().name + suffix

    def __len__(self) -> int:
        return int(self._redis.llen(self._name))

    def clear(self) -> None:
        self._redis.delete(self._name)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch, webhooks_db: None) -> Iterator[Queue]:
    monkeypatch.setattr(queue, "_quiet_until", 0.0)
    found = Queue()
    found.clear()
    # What tests before this one had missed, a worker would take, too.
    Queue("-missed").clear()
    yield found
    found.clear()


def test_a_burst_of_nudges_is_one_task(waiting):
    for _ in range(5000):
        queue.nudge()
    assert len(waiting) == 1


def test_a_worker_takes_each_nudge_once(waiting, monkeypatch):
    worked = threading.Semaphore(0)
    monkeypatch.setattr(tasks, "work_once", worked.release)
    with start_worker(queue.app, pool="solo", perform_ping_check=False):
        for _ in range(3):
            queue.nudge()
            assert worked.acquire(timeout=5), "Celery knew what to do with it"
        assert not worked.acquire(timeout=0.2)
    assert len(waiting) == 0


def test_what_could_not_be_captured_is_sent_though_a_nudge_waits(waiting):
    missed = Queue("-missed")
    queue.nudge()
    queue.report_missed(["a", "b"])
    assert (len(waiting), len(missed)) == (1, 1)


def test_what_could_not_be_captured_is_sent_though_the_broker_failed_a_moment_ago(
    waiting, monkeypatch
):
    """Nothing else knows of it; such a save may take its 100 ms."""
    missed = Queue("-missed")
    monkeypatch.setattr(queue, "_quiet_until", time.monotonic() + 30)
    queue.nudge()
    queue.report_missed(["a"])
    assert (len(waiting), len(missed)) == (0, 1)


def test_a_worker_takes_what_could_not_be_captured(waiting, monkeypatch):
    taken = threading.Event()
    monkeypatch.setattr(tasks.capture, "note_missed", lambda ids: taken.set())
    with start_worker(queue.app, pool="solo", perform_ping_check=False):
        queue.report_missed(["a"])
        assert taken.wait(5)


def test_another_broker_is_nudged_each_time(monkeypatch):
    sent: list[str] = []
    monkeypatch.setattr(queue, "_quiet_until", 0.0)
    monkeypatch.setitem(queue.app.conf, "broker_url", "sqs://broker/")
    monkeypatch.setattr(queue.app, "send_task", lambda task, *_, **__: sent.append(task))
    for _ in range(3):
        queue.nudge()
    assert sent == [queue.WORK] * 3


def test_a_silent_redis_costs_a_tenth_of_a_second_once(waiting, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        monkeypatch.setitem(queue.app.conf, "broker_url", url)
        started = time.monotonic()
        for _ in range(100):
            queue.nudge()
        took = time.monotonic() - started
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
    # 50 ms to connect and 50 ms to wait; the rest is what a busy machine may add.
    assert took < 0.2
