"""When a worker looks at the tables, nudged or not."""

from __future__ import annotations

import threading
import time

import pytest
from ckan.tests import factories

from .. import tasks
from ..dispatch.run import Dispatched
from .callers import create, stored
from .receiver import Receiver

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture
def waits(monkeypatch):
    """Run a worker's rounds without waiting; gives what it would have waited, and what is done
    at each round in place of that."""
    waited: list[float] = []
    rounds: list = []

    class Stopping(threading.Event):
        def wait(self, timeout=None):
            if threading.current_thread() is not threading.main_thread():
                return super().wait(timeout)
            waited.append(timeout)
            rounds.pop(0)() if rounds else self.set()
            return self.is_set()

    monkeypatch.setattr(tasks, "stopping", Stopping())
    monkeypatch.setattr(tasks, "keep_reconciled", lambda: None)
    monkeypatch.setattr(tasks, "keep_captured", lambda: None)
    monkeypatch.setattr(tasks, "keep_told", lambda translating: None)
    return waited, rounds


def test_while_there_is_something_each_time_it_looks_ten_times_a_second(waits):
    waited, rounds = waits
    create(factories.User(), topic="dataset/create", address="http://127.0.0.1:1/")
    rounds += [factories.Dataset, factories.Dataset, *[lambda: None] * 4]
    tasks.tick()
    assert waited == [1.0, 0.1, 0.1, 0.2, 0.4, 0.8, 1.0]


def test_nudges_that_come_while_one_dispatches_are_one_round_more(monkeypatch):
    calls: list[int] = []

    def dispatch_slowly():
        calls.append(1)
        if len(calls) == 1:
            others = [threading.Thread(target=tasks._dispatch_all) for _ in range(5)]
            for thread in others:
                thread.start()
            for thread in others:
                thread.join()

    monkeypatch.setattr(tasks, "dispatch", dispatch_slowly)
    tasks._dispatch_all()
    assert len(calls) == 2


def test_after_a_round_of_many_changes_more_gather_before_the_next(monkeypatch):
    began: list[float] = []
    monkeypatch.setattr(tasks, "_next_round", 0.0)
    monkeypatch.setattr(tasks, "move_on", lambda: False)

    def dispatch(changes: int):
        began.append(time.monotonic())
        return Dispatched(changes, left=0, is_moving=False)

    for changes in (tasks.BURST - 1, tasks.BURST, 1):
        monkeypatch.setattr(tasks, "dispatch", lambda changes=changes: dispatch(changes))
        tasks._dispatch_all()
    assert began[1] - began[0] >= tasks.ROUND
    assert began[2] - began[1] >= tasks.GATHER


def test_what_was_committed_while_another_dispatched_is_dispatched():
    with Receiver() as receiver:
        create(factories.User(), topic="dataset/create", address=receiver.url)
        workers = [threading.Thread(target=tasks.work_once) for _ in range(4)]
        for thread in workers:
            factories.Dataset()
            thread.start()
        for thread in workers:
            thread.join()
        assert len(receiver.requests) == 4
    assert {row.status for row in stored("webhooks_delivery")} == {"delivered"}
