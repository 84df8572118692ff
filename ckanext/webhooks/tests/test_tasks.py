"""When a worker looks at the tables, nudged or not."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories

from .. import tasks
from ..dispatch import Dispatched
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


@pytest.mark.parametrize(("seconds_ago", "tries"), [(0, 0), (tasks.TICK, 1)])
def test_what_was_put_aside_is_tried_also_where_changes_never_end(monkeypatch, seconds_ago, tries):
    tried: list[str] = []
    rounds = iter([Dispatched(1, left=1, is_moving=False), Dispatched(1, left=0, is_moving=False)])
    monkeypatch.setattr(tasks, "dispatch", lambda: next(rounds))
    monkeypatch.setattr(tasks, "try_again", lambda: tried.append("tried"))
    monkeypatch.setattr(tasks, "_next_trial", time.monotonic() + tasks.TICK - seconds_ago)
    tasks._dispatch_all()
    assert len(tried) == tries


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


STAGES = (
    *("dispatch", "move_on", "try_again", "deliver_due"),
    *("pause_and_resume", "forget_old_secrets", "forget_unserved", "forget_put_aside"),
    *("prune", "notice_rights"),
)


@pytest.fixture
def stages(monkeypatch):
    """Stand in for the stages of a round; gives their names as they are called, and those
    that are to fail."""
    called: list[str] = []
    failing: set[str] = set()

    def stand_in(name: str):
        def stage(*_arguments):
            called.append(name)
            if name in failing:
                raise RuntimeError("as planted")
            return None if name == "dispatch" else 0

        stage.__name__ = name
        return stage

    stand_ins = {name: stand_in(name) for name in STAGES}
    steps = [step.__name__ for step in tasks.STEPS]
    monkeypatch.setattr(tasks, "STEPS", tuple(stand_ins.pop(name) for name in steps))
    for name, stage in stand_ins.items():
        monkeypatch.setattr(tasks, name, stage)
    return called, failing


@pytest.mark.parametrize("failing", STAGES)
def test_a_stage_that_fails_stops_no_other_and_is_called_again(stages, waits, caplog, failing):
    called, failing_now = stages
    waited, rounds = waits
    failing_now.add(failing)
    rounds.append(failing_now.clear)
    tasks.tick()
    assert set(called) == set(STAGES)
    assert called.count(failing) == (2 if failing in STAGES[:4] else 1), "the sweep is each minute"
    assert waited[0] == tasks.TICK
    assert caplog.text.count("failed, and is tried again within") == 1


def test_capture_of_what_was_missed_goes_on_where_it_cannot_be_noted(monkeypatch):
    captured = threading.Event()

    def fail(_ids):
        raise RuntimeError("as planted")

    monkeypatch.setattr(tasks, "stopping", captured)
    monkeypatch.setattr(tasks, "_unnoted", {"a"})
    monkeypatch.setattr(tasks.capture, "note_missed", fail)
    monkeypatch.setattr(tasks.capture, "capture_missed", lambda _stopping: captured.set())
    tasks.keep_captured()
    assert captured.is_set()


def test_the_log_is_trimmed_where_the_comparison_fails(monkeypatch):
    trimmed = threading.Event()

    def fail(_stopping):
        raise RuntimeError("as planted")

    monkeypatch.setattr(tasks, "stopping", trimmed)
    monkeypatch.setattr(tasks.capture, "reconcile", fail)
    monkeypatch.setattr(tasks, "trim_log", trimmed.set)
    tasks.keep_reconciled()
    assert trimmed.is_set()


def test_an_event_is_sent_after_five_questions_to_postgresql(receiver, user, monkeypatch):
    """What waits, what is told under the lock, that it is told, what is due, and what that says.

    Each costs the reader of the event a part of a millisecond. After that there are two: what
    came of it, and whether that was all.
    """
    monkeypatch.setattr(tasks, "_next_trial", float("inf"))
    create(user, address=receiver.url, topic="dataset/*")
    factories.Dataset()
    tasks.work_once()  # what is asked for the first time alone
    asked: list[str] = []
    before: list[int] = []
    receiver.respond = lambda request: (before.append(len(asked)), (204, {}, b""))[1]

    def count(_connection, _cursor, statement, *_):
        asked.append(statement)

    factories.Dataset()
    sa.event.listen(model.meta.engine, "before_cursor_execute", count)
    try:
        tasks.work_once()
    finally:
        sa.event.remove(model.meta.engine, "before_cursor_execute", count)
    assert before == [5]
    assert len(asked) == 7
