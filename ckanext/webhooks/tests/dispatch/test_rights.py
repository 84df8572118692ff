"""What an owner is told whose rights change while no dataset does."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ... import owners, sweep, tasks
from ...deliver import deliver_due
from ...dispatch import move_on, moves, newest, notice_rights, tell_newest
from ...model import Delivery, Kind, Webhook, ping_row, transaction
from ..aside import kinds, put_aside, try_again
from ..callers import call, execute, join, leave

pytestmark = pytest.mark.usefixtures("webhooks_db")

CREATED = ["dataset/create", "resource/create"]
DELETED = ["dataset/delete", "resource/delete"]


@pytest.fixture
def organization():
    return factories.Organization()


def subscribe(receiver, user, **kwargs) -> str:
    context = {"user": user["name"], "ignore_auth": False}
    return call_action(
        "webhook_create", context, **{"topic": "*", "address": receiver.url, **kwargs}
    )


def private(organization, **kwargs) -> dict:
    resources = [{"url": "http://example.com/a", "name": "a"}]
    return factories.Dataset(
        owner_org=organization["id"], private=True, resources=resources, **kwargs
    )


def told(receiver) -> list[dict]:
    """Notice, tell, send; give the bodies in order, and forget them."""
    notice_rights()
    tasks.work_once()
    bodies = sorted((r.json for r in receiver.requests), key=lambda body: body["sequence"])
    receiver.clear()
    return bodies


def topics(bodies) -> list[str]:
    return [body["topic"] for body in bodies]


def make_due() -> None:
    execute("UPDATE webhooks_delivery SET due_at = clock_timestamp() WHERE status = 'pending'")


def test_who_joins_is_told_of_creates_and_who_leaves_of_deletes(receiver, user, organization):
    subscribe(receiver, user)
    dataset = private(organization, title="Inside")
    factories.Dataset(title="Public")
    told(receiver)
    join(organization, user)
    bodies = told(receiver)
    assert topics(bodies) == CREATED
    assert bodies[0]["entity"]["title"] == "Inside"
    assert bodies[1]["entity"]["package_id"] == dataset["id"]
    assert bodies[1]["dataset"]["name"] == dataset["name"]
    assert told(receiver) == [], "it is told once"
    leave(organization, user)
    bodies = told(receiver)
    assert topics(bodies) == DELETED
    assert bodies[0]["entity"] == {
        "id": dataset["id"],
        "name": dataset["name"],
        "type": "dataset",
    }


@pytest.mark.parametrize("changes_too", [True, False])
def test_who_left_a_moment_ago_is_told_nothing_more(receiver, user, organization, changes_too):
    """At once, without the look that a worker takes each minute."""
    member = {"id": organization["id"], "username": user["name"]}
    call_action("organization_member_create", role="member", **member)
    subscribe(receiver, user)
    dataset = private(organization, title="Inside")
    tasks.work_once()
    receiver.clear()
    call(factories.Sysadmin(), "organization_member_delete", **member)
    if changes_too:
        call_action("package_patch", id=dataset["id"], title="Not for who left")
    tasks.work_once()
    assert sorted(r.json["topic"] for r in receiver.requests) == DELETED
    assert b"Not for" not in b"".join(r.body for r in receiver.requests)
    receiver.clear()
    call_action("organization_member_create", role="member", **member)
    tasks.work_once()
    assert sorted(r.json["topic"] for r in receiver.requests) == CREATED


def test_what_is_asked_for_again_after_the_right_is_lost_is_not_sent(receiver, user, organization):
    member = {"id": organization["id"], "username": user["name"]}
    call_action("organization_member_create", role="member", **member)
    hook = subscribe(receiver, user, topic="dataset/create")
    private(organization, title="Inside")
    tasks.work_once()
    assert [r.json["entity"]["title"] for r in receiver.requests] == ["Inside"]
    receiver.clear()
    (delivery,) = execute("SELECT id FROM webhooks_delivery")
    call(factories.Sysadmin(), "organization_member_delete", **member)
    call(user, "webhook_redeliver", id=delivery.id)
    call(user, "webhook_replay", id=hook, since="2000-01-01")
    tasks.work_once()
    assert receiver.requests == []


def test_a_sysadmin_sees_everything_until_it_is_taken_back(receiver, user, organization):
    subscribe(receiver, user)
    private(organization)
    told(receiver)
    for sysadmin, expected in ((True, CREATED), (False, DELETED)):
        model.User.get(user["id"]).sysadmin = sysadmin
        model.Session.commit()
        owners.forget()
        assert topics(told(receiver)) == expected


@pytest.mark.ckan_config("ckan.auth.allow_dataset_collaborators", "true")
def test_a_collaborator_is_told_of_the_dataset(receiver, user, organization):
    subscribe(receiver, user)
    dataset = private(organization)
    private(organization)
    told(receiver)
    call_action(
        "package_collaborator_create", id=dataset["id"], user_id=user["id"], capacity="member"
    )
    owners.forget()
    bodies = told(receiver)
    assert topics(bodies) == CREATED
    assert bodies[0]["entity"]["id"] == dataset["id"]


def test_filters_apply(receiver, user, organization):
    subscribe(receiver, user, filters={"tag": "yes"})
    private(organization, tags=[{"name": "yes"}], title="Tagged")
    private(organization)
    told(receiver)
    join(organization, user)
    bodies = told(receiver)
    assert topics(bodies) == CREATED
    assert bodies[0]["entity"]["title"] == "Tagged"


def test_what_postgresql_cannot_hold_stands_in_no_way(receiver, user, organization):
    subscribe(receiver, user)
    private(organization, title="Ordinary")
    resources = [{"url": "http://example.com/a", "note": "a\0b", "a\0": ""}]
    factories.Dataset(owner_org=organization["id"], private=True, resources=resources)
    told(receiver)
    join(organization, user)
    bodies = told(receiver)
    assert sorted(topics(bodies)) == sorted(2 * CREATED)
    (odd,) = (body["entity"] for body in bodies if "note" in body["entity"])
    assert (odd["note"], odd["a\ufffd"]) == ("a\ufffdb", "")


@pytest.mark.parametrize(
    "odd",
    [
        r', "note": "\u0000"}',
        r', "note": "\ud800"}',
        ', "note": NaN}',
        ', "note": -Infinity}',
    ],
)
def test_what_an_earlier_version_kept_as_it_came_is_told(receiver, user, organization, odd):
    subscribe(receiver, user)
    dataset = private(organization)
    told(receiver)
    execute("UPDATE webhooks_event SET content = left(content, -1) || :odd", odd=odd)
    join(organization, user)
    bodies = told(receiver)
    assert topics(bodies) == CREATED
    assert bodies[0]["entity"]["note"] in ("\ufffd", None)
    assert bodies[1]["entity"]["id"] == dataset["resources"][0]["id"]


def test_a_new_webhook_is_not_told_what_its_owner_saw_before(receiver, user, organization):
    private(organization)
    first = subscribe(receiver, user)
    told(receiver)
    call_action("webhook_delete", {"user": user["name"]}, id=first)
    join(organization, user)
    subscribe(receiver, user)
    assert told(receiver) == []


def test_many_datasets_are_told_page_by_page(receiver, user, organization, monkeypatch):
    monkeypatch.setattr(moves, "PAGE", 2)
    subscribe(receiver, user)
    datasets = [private(organization) for _ in range(5)]
    told(receiver)
    join(organization, user)
    notice_rights()
    rounds = 0
    while move_on():
        rounds += 1
    assert rounds == 3
    bodies = told(receiver)
    created = [b["entity"]["id"] for b in bodies if b["topic"] == "dataset/create"]
    assert sorted(created) == sorted(d["id"] for d in datasets)


@pytest.mark.parametrize("joins", [True, False])
def test_a_dataset_that_changes_in_the_middle_of_a_move_is_told_in_order(
    receiver, user, organization, joins, monkeypatch
):
    """Its owner first learns what the move means for it, then what changed."""
    monkeypatch.setattr(moves, "PAGE", 1)
    subscribe(receiver, user)
    datasets = sorted((private(organization) for _ in range(3)), key=lambda d: d["id"])
    if not joins:
        join(organization, user)
    told(receiver)
    (join if joins else leave)(organization, user)
    notice_rights()
    move_on()
    for dataset in datasets:
        call_action("package_patch", id=dataset["id"], title="Changed")
    bodies = told(receiver)
    by_dataset = {
        d["id"]: [
            b["topic"]
            for b in bodies
            if b["topic"].startswith("dataset/") and b["entity"]["id"] == d["id"]
        ]
        for d in datasets
    }
    expected = ["dataset/create", "dataset/update"] if joins else ["dataset/delete"]
    assert list(by_dataset.values()) == [expected] * 3


def test_who_leaves_in_the_middle_of_a_move_is_told_when_it_ends(
    receiver, user, organization, monkeypatch
):
    monkeypatch.setattr(moves, "PAGE", 1)
    subscribe(receiver, user, topic="dataset/*")
    datasets = [private(organization) for _ in range(3)]
    told(receiver)
    join(organization, user)
    notice_rights()
    move_on()
    leave(organization, user)
    tasks.work_once()
    deleted = [r.json for r in receiver.requests if r.json["topic"] == "dataset/delete"]
    assert sorted(b["entity"]["id"] for b in deleted) == sorted(d["id"] for d in datasets)


def test_what_waits_when_the_right_is_lost_is_superseded(receiver, user, organization):
    join(organization, user)
    subscribe(receiver, user)
    receiver.respond = lambda request: (500, {}, b"")
    private(organization, title="Secret")
    told(receiver)
    leave(organization, user)
    receiver.respond = lambda request: (204, {}, b"")
    make_due()
    bodies = told(receiver)
    assert topics(bodies) == DELETED
    assert "Secret" not in str(bodies)
    rows = execute("SELECT DISTINCT reason FROM webhooks_delivery WHERE status = 'cancelled'")
    assert [row.reason for row in rows] == ["superseded"]


def fail(request) -> tuple:
    return 500, {}, b""


def accept(request) -> tuple:
    return 204, {}, b""


def leave_creates_waiting(receiver, user, organization, **kwargs) -> dict:
    """Have the creates of a dataset wait which is public before their owner leaves."""
    join(organization, user)
    subscribe(receiver, user, **kwargs)
    receiver.respond = fail
    dataset = private(organization)
    told(receiver)
    call_action("package_patch", id=dataset["id"], private=False)
    told(receiver)
    leave(organization, user)
    return dataset


def test_what_did_not_change_since_it_was_superseded_is_told_as_it_is_now(
    receiver, user, organization
):
    join(organization, user)
    subscribe(receiver, user)
    other = subscribe(receiver, user, topic="resource/*")
    receiver.respond = fail
    dataset = private(organization, title="Not public yet")
    told(receiver)
    call_action("package_patch", id=dataset["id"], title="Public", private=False)
    told(receiver)
    leave(organization, user)
    receiver.respond = accept
    make_due()
    bodies = told(receiver)
    assert sorted(topics(bodies)) == ["dataset/update", "resource/create", "resource/create"]
    (resource,) = dataset["resources"]
    for body in bodies:
        assert "Not public yet" not in str(body)
        if body["topic"] == "resource/create":
            assert body["entity"]["id"] == resource["id"]
            assert body["entity"]["url"] == resource["url"]
    assert other in [body["webhook_id"] for body in bodies]
    make_due()
    assert told(receiver) == [], "it is told once"


def test_what_was_told_before_the_right_was_lost_is_not_told_again(receiver, user, organization):
    """Of two webhooks of one owner, the one that had waited is told."""
    join(organization, user)
    subscribe(receiver, user, topic="resource/*")
    waiting = subscribe(receiver, user, topic="resource/*")
    receiver.respond = lambda request: (
        fail(request) if request.json["webhook_id"] == waiting else accept(request)
    )
    dataset = private(organization)
    assert len(told(receiver)) == 2
    call_action("package_patch", id=dataset["id"], private=False)
    assert told(receiver) == []
    leave(organization, user)
    receiver.respond = accept
    make_due()
    (body,) = told(receiver)
    assert (body["topic"], body["webhook_id"]) == ("resource/create", waiting)


def test_a_change_that_comes_while_the_newest_state_is_told_loses_nothing(
    receiver, user, organization, monkeypatch
):
    dataset = leave_creates_waiting(receiver, user, organization, topic="resource/*")
    receiver.respond = accept
    tell = newest._tell

    def tell_late(delivery_ids):
        call_action("package_patch", id=dataset["id"], title="Changed meanwhile")
        monkeypatch.undo()
        return tell(delivery_ids)

    monkeypatch.setattr(newest, "_tell", tell_late)
    make_due()
    assert told(receiver) == []
    make_due()
    assert topics(told(receiver)) == ["resource/create"]


@pytest.mark.parametrize("is_put_aside", [True, False])
def test_what_is_superseded_waits_for_a_change_that_waits(
    receiver, user, organization, is_put_aside
):
    """Under that change the owner may see it no more, and is told so."""
    dataset = leave_creates_waiting(receiver, user, organization)
    notice_rights()
    while move_on():
        pass
    call_action("package_patch", id=dataset["id"], private=True, title="Inside again")
    receiver.respond = accept
    if is_put_aside:
        ((change,),) = execute("SELECT id FROM webhooks_event WHERE sequence IS NULL")
        put_aside(Kind.EVENT, change, dataset_id=dataset["id"])
        execute("UPDATE webhooks_quarantine SET due_at = due_at + interval '1 hour'")
    make_due()
    deliver_due(tell_newest)
    assert receiver.requests == []
    as_long = "SELECT FROM webhooks_delivery JOIN webhooks_quarantine USING (due_at)"
    assert len(execute(as_long)) == (2 if is_put_aside else 0)
    waiting = "SELECT topic FROM webhooks_delivery WHERE status = 'pending' ORDER BY sequence"
    assert execute(waiting) == [("resource/create",), ("dataset/update",)]
    try_again()
    bodies = told(receiver)
    assert sorted(topics(bodies)) == DELETED
    assert "Inside again" not in str(bodies)


def test_where_one_owners_row_cannot_be_read_what_the_others_waited_for_is_told(
    receiver, user, organization
):
    other = factories.User()
    join(organization, other)
    mine = subscribe(receiver, other, topic="resource/*")
    leave_creates_waiting(receiver, user, organization, topic="resource/*")
    leave(organization, other)
    notice_rights()
    while move_on():
        pass
    row = "UPDATE webhooks_served SET labels = :labels WHERE user_id = :user"
    execute(row, labels="3", user=user["id"])
    receiver.respond = accept
    make_due()
    tasks.work_once()
    assert [request.json["webhook_id"] for request in receiver.requests] == [mine]
    receiver.clear()
    assert kinds() == ["delivery"]
    execute(row, labels='["public"]', user=user["id"])
    try_again()
    assert topics(told(receiver)) == ["resource/create"]
    assert kinds() == []


def test_a_right_that_comes_back_unnoticed_loses_nothing(receiver, user, organization):
    """Lost just before a send and regained after it, before dispatch looked."""
    join(organization, user)
    subscribe(receiver, user)
    receiver.respond = lambda request: (500, {}, b"")
    private(organization)
    told(receiver)
    receiver.respond = lambda request: (204, {}, b"")
    # By SQL, which nobody hears.
    set_state = "UPDATE member SET state = :state WHERE table_id = :user"
    execute(set_state, state="deleted", user=user["id"])
    owners.forget()
    make_due()
    tasks.work_once()
    assert receiver.requests == []
    execute(set_state, state="active", user=user["id"])
    owners.forget()
    make_due()
    assert topics(told(receiver)) == CREATED


def test_what_cannot_be_read_takes_nothing_back(receiver, user, organization, directory):
    """Unknown is not no: what waits is told when it is known, and once."""
    join(organization, user)
    subscribe(receiver, user)
    dataset = private(organization, title="Known")
    told(receiver)
    directory.away_for = {user["id"]}
    call_action("package_patch", id=dataset["id"], title="Meanwhile")
    for _ in range(2):
        owners.forget()
        make_due()
        assert told(receiver) == []
    assert execute("SELECT FROM webhooks_delivery WHERE status = 'cancelled'") == []
    directory.away_for.clear()
    owners.forget()
    make_due()
    bodies = told(receiver)
    assert topics(bodies) == ["dataset/update"]
    assert bodies[0]["entity"]["title"] == "Meanwhile"


def test_a_right_lost_while_nothing_can_be_read_is_taken_back_afterwards(
    receiver, user, organization, directory
):
    join(organization, user)
    subscribe(receiver, user)
    dataset = private(organization)
    told(receiver)
    directory.away_for = {user["id"]}
    call_action("package_patch", id=dataset["id"], title="Not for who left")
    leave(organization, user)
    assert told(receiver) == []
    directory.away_for.clear()
    owners.forget()
    make_due()
    bodies = told(receiver)
    assert topics(bodies) == DELETED
    assert "Not for who left" not in str(bodies)


def test_others_are_told_while_one_owners_labels_cannot_be_read(receiver, user, directory):
    subscribe(receiver, user, topic="dataset/create")
    mine = subscribe(receiver, factories.User(), topic="dataset/create")
    directory.away_for = {user["id"]}
    owners.forget()
    factories.Dataset()
    assert [body["webhook_id"] for body in told(receiver)] == [mine]


def test_a_ping_says_nothing_of_datasets_and_is_sent_whatever_may_be_read(
    receiver, user, directory
):
    hook = subscribe(receiver, user)
    directory.away_for = {user["id"]}
    owners.forget()
    with transaction() as connection:
        connection.execute(sa.insert(Delivery.__table__).values(ping_row(Webhook.get(hook))))
    assert topics(told(receiver)) == ["ping"]


def test_what_an_owner_was_served_is_forgotten_with_the_last_active_webhook(receiver, user):
    hook = subscribe(receiver, user)
    told(receiver)
    assert execute("SELECT user_id FROM webhooks_served") == [(user["id"],)]
    call_action("webhook_delete", {"user": user["name"]}, id=hook)
    sweep.forget_unserved()
    assert execute("SELECT user_id FROM webhooks_served") == []
