"""Pages for sysadmins: how the portal does, everybody's webhooks, and switching many off."""

from __future__ import annotations

import pytest
from ckan.tests import factories

from ...model import Kind
from ...views import administration
from ..aside import put_aside
from ..callers import call, create, execute, stored
from ..logic.test_stats import ended, write

pytestmark = pytest.mark.usefixtures("webhooks_db")

PATH = "/ckan-admin/webhooks"


def test_it_is_for_sysadmins_alone(visit, owner, sysadmin):
    for path in (PATH, f"{PATH}/check", f"{PATH}/disable?host=example.com"):
        visit().get(path, 302)
        owner.get(path, 403)
        sysadmin.get(path)
    owner.post(f"{PATH}/disable", 403, host="example.com")
    assert PATH in sysadmin.get("/ckan-admin/").body


def test_the_queue_the_load_and_what_fails_are_shown(sysadmin, user):
    hook = create(user, address="http://ill.example.com/<script>alert(1)</script>")
    ended(hook, "delivered", 30, ago="5 minutes")
    write(hook, 7)
    write(hook, 2, due_at="NULL")
    execute("UPDATE webhooks SET failing_since = '2026-11-24'")
    page = sysadmin.get(PATH).body
    assert "<dd>7</dd>" in page and "<dd>2</dd>" in page
    assert page.count("polyline") >= 8 and "ill.example.com" in page and user["name"] in page
    assert "2026-11-24 00:00:00 UTC" in page and "<script>alert(1)" not in page
    for hours in ("168", "720", "7", "x"):
        sysadmin.get(PATH, hours=hours)


def test_everybody_s_webhooks_are_filtered_and_paged(sysadmin, user, monkeypatch):
    monkeypatch.setattr(administration, "_ON_A_PAGE", 2)
    for n in range(3):
        create(user, address=f"http://n{n}.example.com")
    create(factories.User(), address="http://theirs.example.com")
    page = sysadmin.get(PATH).body
    assert "theirs.example.com" in page and "n2.example" in page and "n1.example" not in page
    page = sysadmin.get(PATH, offset=2).body
    assert "n1.example" in page and "n0.example" in page and "theirs" not in page
    page = sysadmin.get(PATH, host="N1.example.com").body
    assert "n1.example" in page and "n2.example" not in page
    assert "theirs" not in sysadmin.get(PATH, user=user["name"]).body
    assert "n1.example" not in sysadmin.get(PATH, state="disabled").body
    assert 'id="error-state"' in sysadmin.get(PATH, state="odd").body
    assert 'id="error-user"' in sysadmin.get(PATH, user="nobody-of-that-name").body


@pytest.mark.parametrize("by", ["user", "host"])
def test_all_of_one_owner_or_host_are_disabled(sysadmin, user, by):
    hooks = [create(user), create(user)]
    other = create(factories.User(), address="http://other.example.com")
    wanted = {by: {"user": user["name"], "host": "example.com"}[by]}
    page = sysadmin.get(f"{PATH}/disable", **wanted).body
    assert "2 webhooks are told nothing more" in page
    assert {row.state for row in stored()} == {"active"}
    assert "All of them are disabled" in sysadmin.submit(f"{PATH}/disable", **wanted).body
    assert [call(user, "webhook_show", id=hook)["state"] for hook in hooks] == ["disabled"] * 2
    states = {row.id: row.state for row in stored()}
    assert states[other] == "active"


def test_many_are_disabled_in_several_steps(sysadmin, user, monkeypatch):
    monkeypatch.setattr(administration, "_DISABLES_FOR", -1.0)
    create(user)
    create(user)
    page = sysadmin.post(f"{PATH}/disable", 200, user=user["name"]).body
    assert "1 webhook is told nothing more" in page
    sysadmin.submit(f"{PATH}/disable", user=user["name"])
    assert {row.state for row in stored()} == {"disabled"}


def test_one_that_could_not_be_registered_now_is_disabled_all_the_same(sysadmin, user):
    create(user)
    execute("UPDATE webhooks SET format = 'of-another-time'")
    page = sysadmin.submit(f"{PATH}/disable", user=user["name"]).body
    assert "All of them are disabled" in page
    assert [row.state for row in stored()] == ["disabled"]


def test_whose_or_to_which_host_has_to_be_said(sysadmin):
    sysadmin.post(f"{PATH}/disable", 400)
    sysadmin.get(f"{PATH}/disable", 400)


def test_what_deliveries_depend_on_is_looked_at(sysadmin):
    page = sysadmin.get(f"{PATH}/check").body
    assert "tables: as this version wants them" in page and "worker:" in page


@pytest.fixture
def event():
    """A change that is put aside, of a dataset; gives its number."""
    dataset = factories.Dataset(name="odd-one")
    (captured,) = stored("webhooks_event")
    return put_aside(Kind.EVENT, captured.id, dataset_id=dataset["id"])


def test_where_nothing_is_put_aside_one_line_says_so(sysadmin):
    page = sysadmin.get(PATH).body
    assert "Nothing is put aside." in page and "Try all again" not in page


def test_what_is_put_aside_is_shown_with_its_pages(sysadmin, user, event, monkeypatch):
    hook = create(user)
    write(hook)
    (delivery,) = stored("webhooks_delivery")
    put_aside(Kind.RIGHTS, f"{user['id']} gone", dataset_id="gone", user_id=user["id"])
    put_aside(Kind.DELIVERY, delivery.id)
    put_aside(Kind.WEBHOOK, hook)
    page = sysadmin.get(PATH).body
    for link in (
        "/dataset/webhooks/odd-one",
        f"/webhook/delivery/{delivery.id}",
        f"/webhook/{hook}",
        f"{PATH}?user={user['name']}#all",
        f"{PATH}/quarantine/{event}/give-up",
    ):
        assert f'href="{link}"' in page
    assert "/dataset/webhooks/gone" not in page, "a dataset that was purged has no page"
    assert page.count("ValueError: as planted") == 4
    monkeypatch.setattr(administration, "_PUT_ASIDE", 1)
    page = sysadmin.get(PATH).body
    assert page.count("ValueError: as planted") == 1 and "The oldest 1 is shown" in page


def test_what_is_put_aside_is_tried_again(sysadmin, event):
    for path in (f"{PATH}/quarantine/{event}/retry", f"{PATH}/quarantine/retry"):
        execute("UPDATE webhooks_quarantine SET due_at = 'infinity'")
        assert "It is due now" in sysadmin.submit(path).body
        (row,) = execute("SELECT due_at <= now() AS is_due FROM webhooks_quarantine")
        assert row.is_due


def test_what_is_put_aside_is_given_up_after_a_question(sysadmin, event):
    page = sysadmin.get(f"{PATH}/quarantine/{event}/give-up").body
    assert "No webhook is told of this change." in page and "odd-one" in page
    assert len(stored("webhooks_quarantine")) == 1
    page = sysadmin.submit(f"{PATH}/quarantine/{event}/give-up").body
    assert "It is given up" in page and "Nothing is put aside." in page
    assert stored("webhooks_quarantine") == []


def test_the_question_says_what_becomes_of_each_kind(sysadmin, user):
    hook = create(user)
    write(hook)
    (delivery,) = stored("webhooks_delivery")
    for kind, key, said in (
        (Kind.RIGHTS, f"{user['id']} gone", "what the changed rights mean"),
        (Kind.DELIVERY, delivery.id, "It is cancelled"),
        (Kind.WEBHOOK, hook, "The webhook is disabled"),
    ):
        number = put_aside(kind, key, user_id=user["id"] if kind is Kind.RIGHTS else None)
        assert said in sysadmin.get(f"{PATH}/quarantine/{number}/give-up").body


def test_what_went_through_a_moment_ago_is_no_error(sysadmin):
    for what in ("retry", "give-up"):
        page = sysadmin.submit(f"{PATH}/quarantine/7/{what}").body
        assert "Nothing is put aside under the number 7" in page
    sysadmin.get(f"{PATH}/quarantine/7/give-up", 404)


def test_what_is_put_aside_is_judged_by_sysadmins_alone(owner, event):
    owner.get(f"{PATH}/quarantine/{event}/give-up", 403)
    for path in ("retry", f"{event}/retry", f"{event}/give-up"):
        owner.post(f"{PATH}/quarantine/{path}", 403)
    assert len(stored("webhooks_quarantine")) == 1
