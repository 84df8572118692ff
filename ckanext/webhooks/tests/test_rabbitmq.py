"""RabbitMQ as the broker, by one line of ckan.ini: a real one, killed and frozen on the way."""

from __future__ import annotations

import os
import shutil
import statistics
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import amqp
import ckanapi
import kombu
import pytest
from celery import Celery

from .. import config, queue
from ..rabbitmq import Broker
from .rabbitmq_server import RabbitMQ
from .site import READY, Process, Site

FOLDER = Path(__file__).parents[3] / ".dev" / "run" / f"rabbitmq-{os.getpid()}"

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    with RabbitMQ(FOLDER / "rabbitmq") as started:
        yield started


@pytest.fixture(scope="module")
def site(rabbitmq: RabbitMQ) -> Iterator[Site]:
    options = {
        "ckanext.webhooks.broker_url": rabbitmq.url,
        "ckan.auth.create_unowned_dataset": "true",
    }
    with Site(FOLDER / "site", options=options) as prepared:
        rabbitmq.wait()
        yield prepared
        # To end in order takes Celery 10 s.
        for process in (*prepared.workers, *filter(None, [prepared.web])):
            process.kill()
    shutil.rmtree(FOLDER / "site")


@pytest.fixture
def nudging(site: Site, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make this process nudge as one of the site's web processes does; give the queue's name."""
    for worker in filter(lambda process: process.alive, site.workers):
        worker.kill()  # an earlier test's, which would take what this one looks for
    monkeypatch.setattr(queue, "app", Celery("test", amqp=Broker, set_as_current=False))
    monkeypatch.setattr(queue, "_quiet_until", 0.0)
    monkeypatch.setattr(config, "broker_url", lambda: rabbitmq.url)
    monkeypatch.setattr(config, "site_id", lambda: site.name)
    queue.configure()
    return str(queue.nudges().name)


def create(ckan: ckanapi.RemoteCKAN) -> float:
    """Save a dataset; gives the seconds that it took."""
    began = time.monotonic()
    ckan.action.package_create(name=f"dataset-{uuid.uuid4().hex}")
    return time.monotonic() - began


def await_nudge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nudge until it works: a broker that has just started takes longer than 50 ms."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        monkeypatch.setattr(queue, "_quiet_until", 0.0)
        queue.nudge()
        if queue._quiet_until == 0.0:
            return
    raise AssertionError("no nudge was taken within 30 s")


def report(dataset_ids: list[str]) -> int:
    """Report until it works, for the same reason; gives how often.

    What was not confirmed in time may have been taken all the same.
    """
    deadline, tries = time.monotonic() + 30, 1
    while not queue.report_missed(dataset_ids):
        assert time.monotonic() < deadline, "no report was taken within 30 s"
        tries += 1
    return tries


def await_empty(rabbitmq: RabbitMQ, name: str, worker: Process) -> None:
    """Wait until the worker has taken all that waits."""
    deadline = time.monotonic() + 60
    while rabbitmq.waiting(name):
        assert worker.alive and time.monotonic() < deadline, worker.error("takes no nudges")
        time.sleep(0.1)


def _listed(seconds: list[float]) -> str:
    return ", ".join(f"{one:.2f} s" for one in seconds)


def test_rabbitmq_a_burst_is_one_task_and_outlives_a_kill(nudging, rabbitmq, monkeypatch, say):
    await_nudge(monkeypatch)
    took = []
    for _ in range(100):
        began = time.monotonic()
        queue.nudge()
        took.append(time.monotonic() - began)
        if queue._quiet_until:  # a busy machine took longer than 50 ms
            await_nudge(monkeypatch)
    await_nudge(monkeypatch)  # the others may have expired on a busy machine
    assert rabbitmq.waiting(nudging) == 1
    say(f"RabbitMQ: a nudge takes {1000 * statistics.median(took):.1f} ms")

    # What was missed stands for nothing else, and is not dropped for a nudge.
    report(["a"])
    before = rabbitmq.waiting(f"{nudging}-missed")  # an earlier test may have reported something
    tries = report(["b"])
    assert before + 1 <= rabbitmq.waiting(f"{nudging}-missed") <= before + tries

    rabbitmq.process.freeze()
    began = time.monotonic()
    for _ in range(100):
        queue.nudge()
    # One was given up after 50 ms, and no other tried, which would take 5 s; the rest is what a
    # busy machine adds.
    assert time.monotonic() - began < 3
    rabbitmq.process.thaw()

    time.sleep(1)  # RabbitMQ writes the list of its queues twice a second
    rabbitmq.stop()
    monkeypatch.setattr(queue, "_quiet_until", 0.0)
    began = time.monotonic()
    queue.nudge()
    assert time.monotonic() - began < 3
    rabbitmq.start()
    rabbitmq.wait()
    deadline = time.monotonic() + 30
    while not rabbitmq.waiting(nudging):  # its queues are back a moment after it answers
        assert time.monotonic() < deadline, "it was confirmed, so it is on disk"
        time.sleep(0.1)
    await_nudge(monkeypatch)


def test_rabbitmq_the_queues_are_quorum_queues(nudging, rabbitmq, monkeypatch):
    await_nudge(monkeypatch)
    report(["a"])
    for name, most in ((nudging, 1), (f"{nudging}-missed", 1000)):
        classic = {"x-queue-type": "classic", "x-max-length": most}
        with (
            kombu.Connection(rabbitmq.url) as connection,
            connection.channel() as channel,
            pytest.raises(amqp.exceptions.PreconditionFailed, match="quorum"),
        ):
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=classic)


def test_rabbitmq_another_of_several_brokers_is_nudged(nudging, rabbitmq, monkeypatch):
    gone = "amqp://webhooks@127.0.0.1:9//"
    monkeypatch.setitem(queue.app.conf, "broker_url", f"{gone};{rabbitmq.url}")
    await_nudge(monkeypatch)
    assert rabbitmq.waiting(nudging) == 1


def test_rabbitmq_carries_saves_and_may_go_and_come(
    site, rabbitmq, receiver, nudging, monkeypatch, say
):
    worker = site.start_worker()
    site.start_web("gunicorn", workers=1)
    ckan = ckanapi.RemoteCKAN(site.url, apikey=site.token)
    ckan.action.webhook_create(topic="dataset/create", address=receiver.url)
    worker.await_output(READY)

    lags = []
    for count in range(1, 5):
        time.sleep(1.5)  # by then a worker that nobody nudges looks once a second
        create(ckan)
        saved = time.monotonic()
        lags.append(receiver.wait(count)[-1].at - saved)
    usual = create(ckan)
    receiver.wait(5)
    await_empty(rabbitmq, nudging, worker)

    rabbitmq.process.freeze()
    silent = [create(ckan) for _ in range(3)]
    receiver.wait(8)
    rabbitmq.stop()
    stopped = [create(ckan) for _ in range(3)]
    receiver.wait(11)
    say(
        f"RabbitMQ: delivered {1000 * statistics.median(lags):.0f} ms after a save of"
        f" {usual:.2f} s; saves while it is silent: {_listed(silent)}, stopped: {_listed(stopped)}"
    )
    # A save on a busy machine, and once the 100 ms that a nudge may cost.
    assert max(silent + stopped) < 5 * usual + 1

    rabbitmq.start()
    rabbitmq.wait()
    await_nudge(monkeypatch)
    await_empty(rabbitmq, nudging, worker)
    create(ckan)
    # Celery makes queues for tasks with a countdown beside quorum queues that it knows.
    with pytest.raises(amqp.exceptions.NotFound):
        rabbitmq.waiting("celery_delayed_0")
    assert len({request.id for request in receiver.wait(12)}) == len(receiver.settle(0.5)) == 12
