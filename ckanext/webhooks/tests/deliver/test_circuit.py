"""An endpoint that fails is left alone, asked again, and in the end given up."""

from __future__ import annotations

import pytest
from ckan.tests import factories

from ... import tasks
from ...deliver.health import OPENS_AFTER
from ..callers import create, execute, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture
def hook(receiver):
    return create(factories.User(), topic="dataset/create", address=receiver.url)


def answer(receiver, status, **headers):
    receiver.respond = lambda request: (status, headers, b"")


def fail_until_it_opens(receiver) -> None:
    answer(receiver, 500)
    for _ in range(OPENS_AFTER):
        factories.Dataset()
    tasks.work_once()
    # It opens for 5 s, which a busy machine may take for what a test does next.
    execute("UPDATE webhooks SET next_at = next_at + interval '1 hour'")
    receiver.clear()


def webhook():
    [row] = stored()
    return row


def statuses() -> list[str]:
    return [row.status for row in stored("webhooks_delivery")]


def make_due() -> None:
    """Let the time pass until the retries are due and the webhook may be asked again."""
    execute("UPDATE webhooks_delivery SET due_at = clock_timestamp() WHERE due_at IS NOT NULL")
    execute("UPDATE webhooks SET next_at = clock_timestamp() WHERE next_at IS NOT NULL")


def test_repeated_failures_open_the_circuit_and_then_nothing_is_tried(receiver, hook):
    fail_until_it_opens(receiver)
    assert webhook().circuit == "open"
    factories.Dataset()
    assert tasks.work_once() == 0
    assert receiver.requests == []
    *_, waiting = stored("webhooks_delivery")
    assert (waiting.status, waiting.tries, waiting.due_at) == ("pending", 0, None)


def test_one_probe_that_fails_leaves_the_others_untried(receiver, hook):
    fail_until_it_opens(receiver)
    make_due()
    assert tasks.work_once() == 1
    assert webhook().circuit == "open"
    assert sorted(row.tries for row in stored("webhooks_delivery")) == [1] * (OPENS_AFTER - 1) + [2]


def test_when_a_probe_succeeds_everything_that_waited_goes_at_once(receiver, hook):
    fail_until_it_opens(receiver)
    for _ in range(20):
        factories.Dataset()
    tasks.work_once()
    assert receiver.requests == []
    answer(receiver, 200)
    make_due()
    tasks.work_once()
    assert set(statuses()) == {"delivered"}
    row = webhook()
    assert (row.circuit, row.failures, row.failing_since, row.next_at) == ("closed", 0, None, None)
    # In the order of the events, as far as one at a time shows it.
    assert receiver.requests[0].json["sequence"] == min(
        r.json["sequence"] for r in receiver.requests
    )


def test_429_is_obeyed_for_all_that_waits(receiver, hook):
    answer(receiver, 429, **{"Retry-After": "120"})
    factories.Dataset()
    tasks.work_once()
    factories.Dataset()
    assert tasks.work_once() == 0
    wait = execute("SELECT extract(epoch FROM next_at - clock_timestamp()) FROM webhooks")[0][0]
    assert 110 < wait <= 120


def test_after_so_many_days_it_is_disabled_with_its_reason(receiver, hook):
    fail_until_it_opens(receiver)
    execute("UPDATE webhooks SET failing_since = clock_timestamp() - interval '5 days 1 minute'")
    make_due()
    tasks.work_once()
    row = webhook()
    assert (row.state, row.state_reason) == (
        "disabled",
        "it failed for 5 days without a success",
    )
    assert row.missed_since is not None
    assert {(r.status, r.reason) for r in stored("webhooks_delivery")} == {
        ("cancelled", "disabled")
    }
    factories.Dataset()
    tasks.work_once()
    assert len(statuses()) == OPENS_AFTER, "it makes no new rows"


def test_a_success_in_between_begins_the_days_anew(receiver, hook):
    fail_until_it_opens(receiver)
    execute("UPDATE webhooks SET failing_since = clock_timestamp() - interval '6 days'")
    answer(receiver, 200)
    make_due()
    tasks.work_once()
    assert webhook().state == "active"
    assert webhook().failing_since is None


def test_the_last_success_is_known_without_a_row_written_for_each(receiver, hook):
    factories.Dataset()
    tasks.work_once()
    first = webhook().last_success_at
    factories.Dataset()
    tasks.work_once()
    assert webhook().last_success_at == first
    execute("UPDATE webhooks SET last_success_at = last_success_at - interval '11 seconds'")
    factories.Dataset()
    tasks.work_once()
    assert webhook().last_success_at > first


def test_a_backlog_of_one_webhook_goes_in_order_and_whole(receiver, hook):
    for _ in range(60):
        factories.Dataset()
    while tasks.dispatch():
        pass
    tasks.work_once()
    assert statuses() == ["delivered"] * 60
    assert webhook().next_at is None
