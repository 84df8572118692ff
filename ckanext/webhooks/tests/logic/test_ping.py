"""A ping that a person waits for."""

from __future__ import annotations

import contextlib
import threading
import time

import ckan.plugins.toolkit as tk
import pytest
import sqlalchemy as sa
from ckan.tests import factories

from ... import config, owners, queue, tasks
from ...logic import ping
from ...model import transaction
from ..callers import call, create, execute, stored
from .test_deliveries import write

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture
def hook(user):
    return create(user)


@contextlib.contextmanager
def a_worker():
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(0.02):
            tasks.work_once()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stopped.set()
        worker.join()


class TestPing:
    @pytest.mark.parametrize("state", ["active", "disabled"])
    def test_it_gives_what_the_endpoint_answered(self, user, receiver, state):
        hook = create(user, address=receiver.url, headers={"X-Key": "k"})
        call(user, "webhook_patch", id=hook, state=state)
        with a_worker():
            attempt = call(user, "webhook_ping", id=hook)
        assert (attempt["http_status"], attempt["answer"]) == (200, "thanks")
        (received,) = receiver.requests
        assert received.json["topic"] == "ping" and received.json["entity"] is None
        assert received.headers["x-key"] == "k"
        show = call(user, "webhook_delivery_show", id=attempt["delivery_id"])
        assert (show["status"], show["topic"]) == ("delivered", "ping")
        assert [{**a, "delivery_id": show["id"]} for a in show["attempts"]] == [attempt]
        assert show["request"]["body"].encode() == received.body
        assert call(user, "webhook_show", id=hook)["state"] == state

    def test_it_is_sent_once_and_a_failure_is_for_the_person_alone(self, user, receiver):
        hook = create(user, address=receiver.url)
        receiver.respond = lambda request: (500, {}, b"broken")
        with a_worker():
            attempt = call(user, "webhook_ping", id=hook)
        assert (attempt["http_status"], attempt["answer"]) == (500, "broken")
        assert len(receiver.requests) == 1
        show = call(user, "webhook_delivery_show", id=attempt["delivery_id"])
        assert (show["status"], show["tries"]) == ("failed", 1)
        health = call(user, "webhook_show", id=hook)["health"]
        assert (health["failures"], health["failing_since"]) == (0, None)

    def test_without_a_worker_it_is_taken_back(self, user, hook, monkeypatch):
        monkeypatch.setattr(config, "timeout", lambda: 0.0)
        monkeypatch.setattr(ping, "_TAKEN_WITHIN", 0.2)
        started = time.monotonic()
        with pytest.raises(tk.ValidationError, match="No worker took it"):
            call(user, "webhook_ping", id=hook)
        assert time.monotonic() - started < 2
        (row,) = stored("webhooks_delivery")
        assert (row.status, row.reason) == ("cancelled", "no worker took it in time")
        assert tasks.work_once() == 0

    def test_one_that_a_worker_has_is_left_to_it(self, user, hook, monkeypatch):
        monkeypatch.setattr(config, "timeout", lambda: 0.0)
        monkeypatch.setattr(ping, "_TAKEN_WITHIN", 0.2)
        # A worker leases at the nudge, and then takes its time.
        monkeypatch.setattr(queue, "nudge", _lease)
        with pytest.raises(tk.ValidationError, match="still under way"):
            call(user, "webhook_ping", id=hook)
        assert [row.status for row in stored("webhooks_delivery")] == ["pending"]

    def test_there_is_one_at_a_time(self, user, hook):
        write(hook, topic="'ping'", sequence="0")
        before = stored("webhooks_delivery")
        with pytest.raises(tk.ValidationError, match="under way already"):
            call(user, "webhook_ping", id=hook)
        assert stored("webhooks_delivery") == before

    def test_it_says_why_it_was_not_sent(self, user, hook):
        def delete_the_user() -> None:
            execute("UPDATE \"user\" SET state = 'deleted' WHERE id = :id", id=user["id"])
            owners.forget()

        sysadmin = factories.Sysadmin()
        delete_the_user()
        with a_worker(), pytest.raises(tk.ValidationError, match="not an active user any more"):
            call(sysadmin, "webhook_ping", id=hook)


def _lease() -> None:
    """Take what is due, as another process does."""
    with transaction() as connection:
        connection.execute(
            sa.text("UPDATE webhooks_delivery SET due_at = clock_timestamp() + interval '1 minute'")
        )
