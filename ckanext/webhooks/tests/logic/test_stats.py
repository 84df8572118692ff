"""How it goes: what ended, how long it took, and what waits."""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories

from ...logic import stats
from ...model import Kind
from ..aside import put_aside
from ..callers import call, create, execute

pytestmark = pytest.mark.usefixtures("webhooks_db")


def write(hook: str, count: int = 1, **columns: str) -> None:
    """Write deliveries of a webhook, all columns as SQL."""
    values = {
        "topic": "'dataset/update'",
        "event_id": "'no-' || n",
        "sequence": "n",
        "address": "'http://example.com'",
        "format": "'classic'",
        **columns,
    }
    execute(
        f"INSERT INTO webhooks_delivery (webhook_id, {', '.join(values)})"
        f" SELECT :hook, {', '.join(values.values())} FROM generate_series(1, :count) n",
        hook=hook,
        count=count,
    )


def ended(hook: str, status: str, count: int, ago: str = "1 minute", **columns: str) -> None:
    """Write deliveries that ended, the nth after n seconds."""
    end = f"date_trunc('second', clock_timestamp()) - interval '{ago}'"
    created = f"{end} - n * interval '1 second'"
    ended_ = {"status": f"'{status}'", "tries": "1", "created_at": created, "ended_at": end}
    write(hook, count, **{**ended_, **columns})


def test_what_ended_is_counted_and_timed(user):
    hook = create(user)
    ended(hook, "delivered", 100)
    ended(hook, "failed", 25)
    ended(hook, "cancelled", 3)
    # Neither the first try, nor an event, nor of these hours.
    ended(hook, "delivered", 100, tries="2")
    ended(hook, "delivered", 7, topic="'ping'")
    ended(hook, "delivered", 9, ago="25 hours")
    execute(
        "INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration)"
        " SELECT id, 1, ended_at, sequence / 1000.0 FROM webhooks_delivery"
        " WHERE status = 'delivered' AND topic <> 'ping'"
    )
    found = call(user, "webhook_stats", id=hook)
    assert (found["delivered"], found["failed"], found["cancelled"]) == (200, 25, 3)
    assert found["success_rate"] == round(200 / 225, 6)
    assert found["latency"] == {"p50": 50.5, "p95": 95.05, "p99": 99.01}
    assert found["duration"]["p50"] == 0.0505
    assert call(user, "webhook_stats", id=hook, hours=48)["delivered"] == 209


def test_what_waits_is_counted(user):
    hook = create(user)
    write(hook, 3, due_at="clock_timestamp() - n * interval '10 seconds'")
    write(hook, 2, due_at="clock_timestamp() + interval '1 hour'", tries="1")
    write(hook, 4, due_at="NULL")
    waiting = call(user, "webhook_stats", id=hook)["waiting"]
    assert 30 <= waiting.pop("age") < 40
    assert waiting == {"events": 0, "due": 3, "later": 2, "held_back": 4}


def test_what_is_put_aside_waits_and_is_not_due(user):
    hook = create(user)
    dataset = factories.Dataset()
    (event,) = execute("SELECT id FROM webhooks_event")
    put_aside(Kind.EVENT, event.id, dataset_id=dataset["id"])
    write(hook, due_at="clock_timestamp() - interval '1 day'")
    (delivery,) = execute("SELECT id FROM webhooks_delivery")
    put_aside(Kind.DELIVERY, delivery.id, is_stuck=True)
    for asked in ({"id": hook}, {}):
        waiting = call(factories.Sysadmin(), "webhook_stats", **asked)["waiting"]
        assert waiting == {"events": 1, "due": 0, "age": None, "later": 0, "held_back": 0}


def test_where_nobody_dispatches_events_wait(user):
    hook = create(user)
    factories.Dataset()
    waiting = call(user, "webhook_stats", id=hook)["waiting"]
    assert waiting["events"] == 1 and waiting["due"] == 0
    assert 0 < waiting["age"] < 10


def test_where_nothing_was_there_is_nothing_to_say(user):
    found = call(user, "webhook_stats", id=create(user))
    assert found.pop("since")
    nothing = {"p50": None, "p95": None, "p99": None}
    assert found == {
        "delivered": 0,
        "failed": 0,
        "cancelled": 0,
        "success_rate": None,
        "latency": nothing,
        "duration": nothing,
        "waiting": {"events": 0, "due": 0, "age": None, "later": 0, "held_back": 0},
    }


def test_sysadmins_see_all_of_it(user):
    for hook in (create(user), create(factories.User())):
        ended(hook, "delivered", 2)
        write(hook)
        write(hook, due_at="NULL")
    found = call(factories.Sysadmin(), "webhook_stats")
    assert (found["delivered"], found["success_rate"]) == (4, 1)
    assert (found["waiting"]["due"], found["waiting"]["held_back"]) == (2, 2)


@pytest.mark.parametrize("of_all", [False, True])
def test_of_many_the_newest_are_counted_and_that_is_said(user, monkeypatch, of_all):
    monkeypatch.setattr(stats, "MOST_ENDED", 5)
    monkeypatch.setattr(stats, "MOST_WAITING", 5)
    hook = create(user)
    asked = call(user, "webhook_stats", id=hook)["since"]
    ended(hook, "failed", 5, ago="2 minutes")
    ended(hook, "delivered", 5, ago="1 minute")
    write(hook, 9, due_at="NULL")
    caller, which = (factories.Sysadmin(), {}) if of_all else (user, {"id": hook})
    found = call(caller, "webhook_stats", **which)
    assert (found["delivered"], found["failed"]) == (5, 0)
    assert found["waiting"]["held_back"] == 5
    assert found["since"] > asked
    oldest = execute("SELECT min(ended_at) FROM webhooks_delivery WHERE status = 'delivered'")
    assert found["since"] == oldest[0][0].isoformat()


@pytest.mark.parametrize("hours", [0, -1, "many", 10_000])
def test_hours_are_a_number(user, hours):
    with pytest.raises(tk.ValidationError) as error:
        call(user, "webhook_stats", id=create(user), hours=hours)
    assert list(error.value.error_dict) == ["hours"]


def test_others_are_refused(user):
    hook = create(user)
    stranger = factories.User()
    for caller, which in ((None, {"id": hook}), (None, {}), (user, {})):
        with pytest.raises(tk.NotAuthorized):
            call(caller, "webhook_stats", **which)
    for caller, id_ in ((stranger, hook), (factories.Sysadmin(), "no-such-id")):
        with pytest.raises(tk.ObjectNotFound):
            call(caller, "webhook_stats", id=id_)
