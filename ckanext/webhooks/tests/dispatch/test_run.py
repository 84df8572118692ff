"""Who is told what: from the log to deliveries, with CKAN's own labels."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from ckan import model
from ckan.lib.plugins import get_permission_labels
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ... import owners
from ...dispatch import dispatch
from ...dispatch import run as running
from ...model import Webhook
from ..callers import execute

pytestmark = pytest.mark.usefixtures("webhooks_db")

ADDRESS = "http://127.0.0.1:9/callback"


def subscribe(user: dict, topic="*", **kwargs) -> str:
    context = {"user": user["name"], "ignore_auth": False}
    return call_action("webhook_create", context, topic=topic, address=ADDRESS, **kwargs)


def told(webhook_id: str) -> list[str]:
    """Dispatch, and give what this webhook is told, in order; then forget it."""
    owners.forget()
    while dispatch():
        pass
    rows = model.Session.execute(
        sa.text(
            "WITH gone AS (DELETE FROM webhooks_delivery WHERE webhook_id = :id"
            " RETURNING sequence, topic) SELECT topic FROM gone ORDER BY sequence"
        ),
        {"id": webhook_id},
    ).scalars()
    topics = list(rows)
    model.Session.commit()
    return topics


@pytest.fixture
def organization():
    return factories.Organization()


@pytest.fixture
def public():
    """A webhook of a user who sees public datasets alone."""
    return subscribe(factories.User())


@pytest.fixture
def member(organization):
    """A webhook of a member of the organization."""
    user = factories.User()
    call_action(
        "organization_member_create", id=organization["id"], username=user["name"], role="member"
    )
    return subscribe(user)


RESOURCES = [{"url": "http://example.com/a"}, {"url": "http://example.com/b"}]
CREATED = ["dataset/create", "resource/create", "resource/create"]
DELETED = ["dataset/delete", "resource/delete", "resource/delete"]


def sysadmin() -> dict:
    return {"user": factories.Sysadmin()["name"]}


def test_a_public_dataset_is_told_to_everyone(organization, public, member):
    factories.Dataset(owner_org=organization["id"], resources=RESOURCES)
    assert told(public) == told(member) == CREATED


def test_a_private_dataset_is_told_to_members(organization, public, member):
    factories.Dataset(owner_org=organization["id"], private=True, resources=RESOURCES)
    assert told(public) == []
    assert told(member) == CREATED


def test_sysadmins_see_every_active_dataset(organization):
    hook = subscribe(factories.Sysadmin())
    factories.Dataset(owner_org=organization["id"], private=True)
    factories.Dataset(state="draft")
    assert told(hook) == ["dataset/create"]


def test_visibility_that_changes_is_a_create_or_a_delete(organization, public, member):
    dataset = factories.Dataset(owner_org=organization["id"], private=True, resources=RESOURCES)
    assert (told(public), told(member)) == ([], CREATED)
    call_action("package_patch", sysadmin(), id=dataset["id"], private=False)
    assert (told(public), told(member)) == (CREATED, ["dataset/update"])
    call_action("package_patch", sysadmin(), id=dataset["id"], private=True)
    assert (told(public), told(member)) == (DELETED, ["dataset/update"])


def test_a_draft_is_told_when_it_becomes_active_and_taken_back_when_it_is_one_again(public):
    dataset = factories.Dataset(state="draft", resources=RESOURCES)
    call_action("package_patch", sysadmin(), id=dataset["id"], title="Still a draft")
    assert told(public) == []
    call_action("package_patch", sysadmin(), id=dataset["id"], state="active")
    assert told(public) == CREATED
    call_action("package_patch", sysadmin(), id=dataset["id"], state="draft")
    assert told(public) == DELETED


def test_deleting_restoring_and_purging(public):
    dataset = factories.Dataset(resources=RESOURCES)
    assert told(public) == CREATED
    call_action("package_delete", sysadmin(), id=dataset["id"])
    assert told(public) == DELETED
    call_action("package_patch", sysadmin(), id=dataset["id"], state="active")
    assert told(public) == CREATED
    call_action("dataset_purge", sysadmin(), id=dataset["id"])
    assert told(public) == DELETED


def test_of_a_purged_dataset_neither_content_nor_tags_are_kept():
    tagged = subscribe(factories.User(), filters={"tag": "patient zero"})
    dataset = factories.Dataset(resources=RESOURCES, tags=[{"name": "patient zero"}])
    call_action("package_patch", sysadmin(), id=dataset["id"], tags=[{"name": "patient one"}])
    call_action("package_patch", sysadmin(), id=dataset["id"], tags=[{"name": "patient zero"}])
    told(tagged)
    call_action("dataset_purge", sysadmin(), id=dataset["id"])
    assert told(tagged) == DELETED, "the filters are matched first"
    model.Session.commit()
    rows = model.Session.execute(sa.text("SELECT * FROM webhooks_event")).all()
    assert rows and "patient" not in str(rows)


def test_each_resource_action_is_told_with_its_dataset(public):
    context = sysadmin()
    dataset = factories.Dataset(resources=RESOURCES[:1])
    assert told(public) == CREATED[:2]
    resource = call_action(
        "resource_create", dict(context), package_id=dataset["id"], url="http://example.com/c"
    )
    assert told(public) == ["dataset/update", "resource/create"]
    call_action("resource_patch", dict(context), id=resource["id"], name="new")
    assert told(public) == ["dataset/update", "resource/update"]
    order = [resource["id"], dataset["resources"][0]["id"]]
    call_action("package_resource_reorder", dict(context), id=dataset["id"], order=order)
    assert told(public) == ["dataset/update"]
    call_action("resource_delete", dict(context), id=resource["id"])
    assert told(public) == ["dataset/update", "resource/delete"]


def test_an_update_names_the_keys_that_differ(public):
    dataset = factories.Dataset(title="a")
    call_action("package_patch", sysadmin(), id=dataset["id"], title="b", notes="c")
    told(public)
    changed = model.Session.execute(
        sa.text("SELECT changed FROM webhooks_event ORDER BY sequence")
    ).scalars()
    assert list(changed) == [[], ["notes", "title"]]


def test_only_what_was_subscribed_to_is_told(public):
    user = factories.User()
    creates = subscribe(user, "dataset/create")
    resources = subscribe(user, "resource/*")
    two = subscribe(user, ["dataset/update", "resource/delete"])
    dataset = factories.Dataset(resources=RESOURCES)
    call_action("package_patch", sysadmin(), id=dataset["id"], resources=[])
    assert told(creates) == ["dataset/create"]
    assert told(resources) == ["resource/create"] * 2 + ["resource/delete"] * 2
    assert told(two) == ["dataset/update"] + ["resource/delete"] * 2


@pytest.mark.parametrize("facet", ["organization", "group", "dataset", "tag", "type"])
def test_filters_match_before_and_after(facet, organization):
    """A dataset that enters the filter is created for the webhook, one that leaves deleted."""
    group = factories.Group()
    outside = {"name": "outside", "title": "a"}
    inside = {
        "organization": {"owner_org": organization["id"]},
        "group": {"groups": [{"id": group["id"]}]},
        "dataset": {"name": "inside"},
        "tag": {"tags": [{"name": "inside"}]},
        "type": {},
    }[facet]
    value = {
        "organization": organization["name"],
        "group": group["name"],
        "type": "dataset",
    }.get(facet, "inside")
    hook = subscribe(factories.User(), "dataset/*", filters={facet: value})
    context = sysadmin()
    dataset = call_action("package_create", dict(context), **outside)
    assert told(hook) == (["dataset/create"] if facet == "type" else [])
    call_action("package_patch", dict(context), id=dataset["id"], **inside, notes="in")
    assert told(hook) == ["dataset/update" if facet == "type" else "dataset/create"]
    call_action("package_patch", dict(context), id=dataset["id"], title="b")
    assert told(hook) == ["dataset/update"]
    back = {"owner_org": "", "groups": [], "tags": [], "name": "outside"}
    call_action("package_patch", dict(context), id=dataset["id"], **back, notes="out")
    assert told(hook) == ["dataset/update" if facet == "type" else "dataset/delete"]


def test_filters_are_combined_by_and(organization):
    hook = subscribe(
        factories.User(),
        "dataset/create",
        filters={"organization": organization["id"], "tag": ["one", "two"]},
    )
    factories.Dataset(tags=[{"name": "one"}])
    factories.Dataset(owner_org=organization["id"])
    assert told(hook) == []
    factories.Dataset(owner_org=organization["id"], tags=[{"name": "two"}])
    assert told(hook) == ["dataset/create"]


def test_disabled_webhooks_and_those_that_came_later_are_told_nothing():
    user = factories.User()
    context = {"user": user["name"], "ignore_auth": False}
    disabled = subscribe(user)
    call_action("webhook_patch", context, id=disabled, state="disabled")
    factories.Dataset()
    late = subscribe(user)
    assert told(disabled) == told(late) == []


def test_the_sequence_is_in_the_order_of_commit(public):
    names = [factories.Dataset()["id"] for _ in range(3)]
    told(public)
    in_order = model.Session.execute(
        sa.text("SELECT dataset_id FROM webhooks_event ORDER BY sequence")
    ).scalars()
    assert list(in_order) == names


def test_first_sight_of_a_dataset_is_an_update_of_what_was_touched(public):
    dataset = factories.Dataset(resources=RESOURCES)
    model.Session.execute(sa.text("DELETE FROM webhooks_event"))
    model.Session.commit()
    call_action("resource_patch", sysadmin(), id=dataset["resources"][0]["id"], name="renamed")
    assert told(public) == ["dataset/update", "resource/update"]


def test_dispatchers_at_the_same_time_write_nothing_twice(public):
    for _ in range(5):
        factories.Dataset()
    at_once = threading.Barrier(4)

    def run() -> None:
        at_once.wait()
        try:
            dispatch()
        finally:
            model.Session.remove()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(run) for _ in range(4)]:
            future.result()
    assert told(public) == ["dataset/create"] * 5


def test_what_is_more_than_a_set_is_known_to_wait(public, monkeypatch):
    monkeypatch.setattr(running, "MAX_EVENTS", 2)
    for _ in range(4):
        factories.Dataset()
    # It looks one further than a set holds.
    assert [dispatch().left, dispatch().left, dispatch()] == [1, 0, None]
    assert told(public) == ["dataset/create"] * 4


def test_adopted_topics_match_like_new_ones():
    hook = Webhook.get(subscribe(factories.User(), "dataset/create"))
    assert (hook.topic, hook.topics) == ("dataset/create", ["dataset/create"])


def test_a_change_that_cannot_be_compared_keeps_no_other_waiting(public, caplog):
    broken = factories.Dataset()
    model.Session.execute(
        sa.text("UPDATE webhooks_event SET content = 'no JSON' WHERE dataset_id = :id"),
        {"id": broken["id"]},
    )
    model.Session.commit()
    factories.Dataset()
    assert told(public) == ["dataset/create"] * 2
    assert "could not be compared" in caplog.text


def test_what_postgresql_cannot_hold_is_told_and_keeps_no_other_waiting(public):
    dataset = factories.Dataset(resources=RESOURCES[:1])
    assert told(public) == CREATED[:2]
    (resource,) = dataset["resources"]
    call_action("resource_patch", sysadmin(), id=resource["id"], **{"a\0b": "1"})
    factories.Dataset()
    assert told(public) == ["dataset/update", "resource/update", "dataset/create"]
    rows = execute(
        "SELECT changed FROM webhooks_event WHERE entity_id = :id ORDER BY sequence",
        id=resource["id"],
    )
    assert rows[-1].changed == ["a\ufffdb"]


def test_what_an_earlier_version_kept_as_it_came_is_compared(public):
    dataset = factories.Dataset()
    assert told(public) == CREATED[:1]
    execute(
        "UPDATE webhooks_event SET content = left(content, -1) || :odd",
        odd=r', "a\u0000b": 1, "c\ud800": 2, "d": NaN, "title": "\u0000"}',
    )
    call_action("package_patch", sysadmin(), id=dataset["id"], title="New")
    factories.Dataset()
    assert told(public) == ["dataset/update", "dataset/create"]
    rows = execute("SELECT changed FROM webhooks_event WHERE changed <> '{}'")
    assert [row.changed for row in rows] == [["a\ufffdb", "c\ufffd", "d", "title"]]


def test_one_owner_without_labels_keeps_no_other_waiting(public, monkeypatch, caplog):
    odd = factories.User()
    hook = subscribe(odd)
    kind = type(get_permission_labels())
    labels = kind.get_user_dataset_labels

    def sometimes(self, user):
        if user.id == odd["id"]:
            raise KeyError("a bug of another plugin")
        return labels(self, user)

    monkeypatch.setattr(kind, "get_user_dataset_labels", sometimes)
    factories.Dataset()
    assert told(public) == ["dataset/create"]
    assert told(hook) == ["dataset/create"], "what was known; that waits until it is known again"
    assert "IPermissionLabels" in caplog.text


def test_no_more_is_written_under_the_lock_than_is_quickly_done(public, monkeypatch):
    """Others wait for it: what is left is done after they had their turn."""
    datasets = [factories.Dataset(resources=RESOURCES)["id"] for _ in range(3)]
    monkeypatch.setattr(running, "MAX_TOLD", 4)
    rounds = []
    while dispatch():
        (row,) = execute("SELECT count(*) AS told FROM webhooks_delivery") or []
        rounds.append(row.told)
    assert rounds == [6, 9], "that which goes over it is the last"
    assert {row.dataset_id for row in execute("SELECT dataset_id FROM webhooks_event") or []} == {
        *datasets
    }
