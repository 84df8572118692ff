"""What became of deliveries in each step of time, and by whom it may be asked."""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories

from ...logic import history
from ..callers import call, create, execute
from .test_stats import ended

pytestmark = pytest.mark.usefixtures("webhooks_db")


def days(user, hook: str, **data) -> list[tuple[int, int, int]]:
    found = call(user, "webhook_history", ids=[hook], **data)[hook]
    return [(day["delivered"], day["failed"], day["cancelled"]) for day in found]


def test_each_day_says_what_became_of_it(user):
    hook, other = create(user), create(user)
    ended(hook, "delivered", 3, ago="2 days")
    ended(other, "failed", 3, ago="1 day")
    ended(hook, "failed", 2, ago="1 day")
    ended(hook, "cancelled", 1, ago="1 day")
    execute("UPDATE webhooks_delivery SET created_at = ended_at")
    ended(hook, "delivered", 1, ago="0 seconds", topic="'ping'")
    assert days(user, hook, days=4) == [(0, 0, 0), (3, 0, 0), (0, 2, 1), (0, 0, 0)]
    assert len(days(user, hook)) == 14
    found = call(user, "webhook_history", ids=[hook, other])
    assert sum(day["failed"] for day in found[other]) == 3


def test_of_a_busy_day_the_newest_are_counted(user, monkeypatch):
    monkeypatch.setattr(history, "MOST_OF_A_DAY", 5)
    hook = create(user)
    ended(hook, "delivered", 9, ago="1 day")
    ended(hook, "failed", 2, ago="1 day")
    execute("UPDATE webhooks_delivery SET created_at = ended_at")
    assert days(user, hook, days=2) == [(3, 2, 0), (0, 0, 0)]


def test_the_portal_s_load_is_given_in_steps():
    sysadmin = factories.Sysadmin()
    hook = create(sysadmin)
    ended(hook, "failed", 10, ago="90 minutes")
    execute("UPDATE webhooks_delivery SET created_at = ended_at")
    ended(hook, "delivered", 20, ago="30 minutes")
    load = call(sysadmin, "webhook_load", hours=3, steps=3)
    assert [step["told"] for step in load] == [0, 10, 20]
    assert [step["success_rate"] for step in load] == [None, 0.0, 1.0]
    assert load[1]["latency"]["p50"] is None
    assert load[2]["latency"]["p50"] == 10.5


def test_a_step_is_judged_by_a_sample(monkeypatch):
    monkeypatch.setattr(history, "SAMPLE", 10)
    sysadmin = factories.Sysadmin()
    ended(create(sysadmin), "delivered", 1000)
    (step,) = call(sysadmin, "webhook_load", hours=1, steps=1)
    assert (step["told"], step["success_rate"]) == (1000, 1.0)


def test_without_a_delivery_there_is_nothing_to_say(user):
    assert days(user, create(user), days=1) == [(0, 0, 0)]
    (step,) = call(factories.Sysadmin(), "webhook_load", steps=1)
    assert (step["told"], step["success_rate"]) == (0, None)


def test_they_are_for_the_owner_and_sysadmins(user):
    hook = create(user)
    for caller, error in ((None, tk.NotAuthorized), (factories.User(), tk.ObjectNotFound)):
        with pytest.raises(error):
            call(caller, "webhook_history", ids=[hook])
    for caller in (None, user):
        with pytest.raises(tk.NotAuthorized):
            call(caller, "webhook_load")
    with pytest.raises(tk.ObjectNotFound):
        call(factories.Sysadmin(), "webhook_history", ids=["none"])


@pytest.mark.parametrize("ids", [[], "", None, ["n"] * 101, [7], {"a": 1}])
def test_ids_are_texts(user, ids):
    with pytest.raises(tk.ValidationError):
        call(user, "webhook_history", ids=ids)


def test_those_that_fail_or_call_one_host_are_listed(user):
    good = create(user, address="https://good.example.com/a")
    ill = create(user, address="https://ill.example.com/b")
    execute("UPDATE webhooks SET failing_since = clock_timestamp() WHERE id = :id", id=ill)

    def listed(**wanted):
        return [webhook["id"] for webhook in call(user, "webhook_list", **wanted)]

    assert listed(failing=True) == [ill]
    assert listed(failing=False) == [good]
    assert listed(host="GOOD.example.com") == [good]
    call(user, "webhook_patch", id=ill, state="disabled")
    assert listed(failing=True) == []
