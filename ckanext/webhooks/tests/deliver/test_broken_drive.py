"""Whatever fails in a drive, it leaves nothing behind: the next one delivers everything."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType

import ckan.plugins.toolkit as tk
import pytest
from ckan import model as ckan_model
from ckan.tests import factories

from ... import deliver, model, tasks
from ...deliver import books, loop
from ...dispatch import tell_newest
from ..callers import create, execute
from ..receiver import Answer, Received, Receiver

pytestmark = pytest.mark.usefixtures("webhooks_db")

OURS = os.path.dirname(deliver.__file__)
PATIENCE = 30.0


class Injected(Exception):
    pass


class Tracer:
    """Sees each call of what this software does in a drive, and makes one of them fail.

    :ivar seen: the functions that were called, by whether the slow request was under way
    :ivar failing: the function whose next call fails
    :ivar fired: when it did
    """

    def __init__(self) -> None:
        self.seen: dict[CodeType, bool] = {}
        self.is_late = False
        self.failing: CodeType | None = None
        self.fired = threading.Event()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(OURS):
            return
        self.seen[code] = self.seen.get(code, False) or self.is_late
        if code is self.failing:
            self.failing = None
            self.fired.set()
            raise Injected(code.co_name)


class Slow:
    """The endpoint whose answer takes until it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_answer = threading.Event()

    def __call__(self, _request: Received) -> Answer:
        self.asked.set()
        self.may_answer.wait(PATIENCE)
        return 200, {}, b""


@pytest.fixture
def slow() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
def trace() -> Iterator[Callable[[Tracer | None], None]]:
    """Trace the thread that writes attempts down; the driver's is the test's own."""

    def start(tracer: Tracer | None) -> None:
        books._thread.submit(sys.settrace, tracer).result()

    yield start
    start(None)


def drive(tracer: Tracer) -> threading.Thread:
    """Begin a drive in a thread of its own."""

    def run() -> None:
        sys.settrace(tracer)
        try:
            loop.deliver_due(tell_newest)
        except Injected:
            pass
        finally:
            sys.settrace(None)
            model.close_kept()
            ckan_model.Session.remove()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def begin_anew(slow_hook: str) -> None:
    """Have only what goes to the slow endpoint due."""
    execute("DELETE FROM webhooks_attempt")
    execute(
        "UPDATE webhooks SET circuit = 'closed', failures = 0, failing_since = NULL, next_at = NULL"
    )
    execute(
        "UPDATE webhooks_delivery"
        " SET status = 'pending', reason = NULL, tries = 0, ended_at = NULL,"
        " due_at = CASE WHEN webhook_id = :slow THEN clock_timestamp() ELSE 'infinity' END",
        slow=slow_hook,
    )


def make_due() -> None:
    execute("UPDATE webhooks_delivery SET due_at = clock_timestamp() WHERE status = 'pending'")


def undelivered() -> int:
    rows = execute("SELECT count(*) AS n FROM webhooks_delivery WHERE status <> 'delivered'")
    assert rows is not None
    return int(rows[0].n)


# Each call costs two drives: there is time for every third.
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
def test_a_drive_that_fails_at_any_call_leaves_all_to_the_next(
    receiver, slow, trace, monkeypatch, say, every
):
    monkeypatch.setattr(loop, "_LOOK_EVERY", 0.02)
    monkeypatch.setattr(loop, "LEASE_MARGIN", 0.0)
    monkeypatch.setitem(tk.config, "ckanext.webhooks.timeout", 3)
    owner = factories.User()
    slow_hook = create(owner, topic="dataset/create", address=slow.url)
    for _ in range(2):
        create(owner, topic="dataset/*", address=receiver.url, headers={"X-Key": "s3cr3t-token"})
    factories.Dataset(resources=[{"url": "http://example.com"}])
    tasks.dispatch()

    def fail_at(code: CodeType | None, is_late: bool) -> Tracer:
        """Drive with a failure at a call, then once more without any."""
        tracer = Tracer()
        answering = Slow()
        slow.respond = answering
        begin_anew(slow_hook)
        trace(tracer)
        if not is_late:
            tracer.failing = code
        driver = drive(tracer)
        wait_for(lambda: answering.asked.is_set() or not driver.is_alive())
        tracer.is_late = True
        if is_late:
            tracer.failing = code
        execute("UPDATE webhooks_delivery SET due_at = clock_timestamp() WHERE due_at = 'infinity'")
        wait_for(lambda: tracer.fired.is_set() or not driver.is_alive() or undelivered() <= 1)
        answering.may_answer.set()
        driver.join(PATIENCE)
        assert not driver.is_alive(), code
        trace(None)
        make_due()
        loop.deliver_due(tell_newest)
        assert undelivered() == 0, code
        return tracer

    seen = fail_at(None, is_late=False).seen
    chosen = list(seen.items())[::every]
    fired = [fail_at(code, is_late).fired.is_set() for code, is_late in chosen]
    say(f"a drive failed at {sum(fired)} of {len(seen)} calls, and left nothing behind at any")
    assert sum(fired) >= 60 / every
