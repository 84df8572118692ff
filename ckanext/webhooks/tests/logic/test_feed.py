"""The cursor feed: what one may see, in order, without gaps."""

from __future__ import annotations

import pytest
from ckan import model
from ckan.plugins import toolkit as tk
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ... import owners
from ...dispatch import dispatch, events, move_on, notice_rights
from ...logic import feed
from ...model import epoch, transaction
from ..callers import call, create, execute, join, leave

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture
def organization():
    return factories.Organization()


def work() -> None:
    owners.forget()
    notice_rights()
    while dispatch() or move_on():
        pass


def topics(answer) -> list[str]:
    return [event["topic"] for event in answer["events"]]


def everything(user, **kwargs) -> list[dict]:
    """Follow the cursor to the end."""
    events, after, more = [], 0, True
    while more:
        page = call(user, "webhook_event_list", after=after, **kwargs)
        events += page["events"]
        after, more = page["cursor"], page["more"]
    return events


def test_it_gives_what_deliveries_say(user):
    dataset = factories.Dataset(resources=[{"url": "http://example.com/a"}])
    call_action("package_patch", id=dataset["id"], title="New")
    work()
    created, resource, updated = everything(user)
    assert created["topic"] == "dataset/create"
    assert created["entity"]["id"] == dataset["id"]
    assert created["event_id"] and created["occurred_at"].endswith("Z")
    assert resource["topic"] == "resource/create"
    assert resource["dataset"]["name"] == dataset["name"]
    assert (updated["topic"], updated["changed"]) == ("dataset/update", ["title"])
    assert created["sequence"] < resource["sequence"] < updated["sequence"]


def test_each_reader_gets_what_that_reader_may_see(user, organization):
    member = factories.User()
    join(organization, member)
    dataset = factories.Dataset(owner_org=organization["id"], private=True, title="Secret")
    work()
    assert everything(user) == []
    assert [e["entity"]["title"] for e in everything(member)] == ["Secret"]
    assert [e["entity"]["title"] for e in everything(factories.Sysadmin())] == ["Secret"]
    call_action("package_patch", id=dataset["id"], private=False)
    work()
    assert [e["topic"] for e in everything(user)] == ["dataset/create"]
    assert [e["topic"] for e in everything(member)] == ["dataset/create", "dataset/update"]


def test_a_version_replaced_before_its_reader_could_see_it_has_no_content(user, organization):
    old_member = factories.User()
    join(organization, old_member)
    work()
    secret = {"title": "Secret title", "name": "secret-name"}
    dataset = factories.Dataset(
        owner_org=organization["id"],
        private=True,
        resources=[{"url": "http://example.com/secret"}, {"url": "http://example.com/kept"}],
        **secret,
    )
    mended = {"title": "Mended", "name": "mended", "resources": dataset["resources"][1:]}
    call_action("package_patch", id=dataset["id"], **mended)
    work()
    join(organization, user)
    # Whether or not a worker has looked at who joined.
    for _ in range(2):
        events = everything(user)
        first, *_, last = (e for e in events if e["topic"].startswith("dataset/"))
        assert "ecret" not in str(events)
        assert first["entity"] == {"id": dataset["id"], "name": None, "type": "dataset"}
        assert last["entity"]["title"] == "Mended"
        work()
    assert everything(old_member)[0]["entity"]["title"] == secret["title"]


def test_a_resource_that_is_as_it_was_is_in_the_newest_version(user, organization):
    resources = [{"url": "http://example.com/secret"}, {"url": "http://example.com/kept"}]
    dataset = factories.Dataset(owner_org=organization["id"], private=True, resources=resources)
    call_action("package_patch", id=dataset["id"], resources=dataset["resources"][1:])
    work()
    join(organization, user)
    events = [e for e in everything(user) if e["topic"].startswith("resource/")]
    assert [(e["topic"], e["entity"].get("url")) for e in events] == [
        ("resource/create", None),
        ("resource/create", "http://example.com/kept"),
        ("resource/delete", None),
    ]


def test_what_waited_to_be_told_when_rights_were_looked_at_is_older_than_these(user, organization):
    dataset = factories.Dataset(owner_org=organization["id"], private=True, title="Secret")
    call_action("package_patch", id=dataset["id"], title="Mended")
    join(organization, user)
    work()
    call_action("package_patch", id=dataset["id"], title="Since then")
    call_action("package_patch", id=dataset["id"], title="Newest")
    work()
    titles = [event["entity"].get("title") for event in everything(user)]
    assert titles == [None, None, "Since then", "Newest"]


def test_what_may_have_been_replaced_by_a_version_that_was_not_compared_has_no_content(
    user, organization, monkeypatch
):
    (secret,) = resources = [{"url": "http://example.com/secret"}]
    dataset = factories.Dataset(owner_org=organization["id"], private=True, resources=resources)
    work()
    mended = [{**dataset["resources"][0], "url": "http://example.com/mended"}]
    call_action("package_patch", id=dataset["id"], resources=mended)
    with monkeypatch.context() as broken:
        broken.setattr(events, "_events_of", None)
        work()
    join(organization, user)
    assert secret["url"] not in str(everything(user))


def test_a_resource_that_is_as_it_was_has_content_without_what_its_dataset_was(user, organization):
    other = factories.Organization()
    dataset = factories.Dataset(
        name="secret-name",
        owner_org=organization["id"],
        private=True,
        resources=[{"url": "http://example.com/kept"}],
    )
    call_action("package_patch", id=dataset["id"], name="mended", owner_org=other["id"])
    work()
    for each in (organization, other):
        join(each, user)
    old, resource, new = everything(user)
    assert "secret-name" not in str([old, resource, new])
    assert resource["entity"]["url"] == "http://example.com/kept"
    assert resource["dataset"] == {"id": dataset["id"], "name": None, "type": "dataset"}
    assert (old["entity"]["name"], new["entity"]["name"]) == (None, "mended")


@pytest.mark.ckan_config("ckanext.webhooks.entity", "stub")
def test_a_stub_of_the_newest_version_has_the_name_of_that(user, organization):
    dataset = factories.Dataset(name="secret-name", owner_org=organization["id"], private=True)
    call_action("package_patch", id=dataset["id"], name="mended")
    work()
    join(organization, user)
    work()
    assert [e["entity"]["name"] for e in everything(user)] == [None, "mended"]


def test_what_was_hidden_since_is_not_published_again(user, organization):
    dataset = factories.Dataset(owner_org=organization["id"], title="Before it was hidden")
    call_action("package_patch", id=dataset["id"], private=True, title="Hidden")
    work()
    (taken_back,) = everything(user)
    assert taken_back["topic"] == "dataset/delete"
    assert sorted(taken_back["entity"]) == ["id", "name", "type"]
    call_action("package_patch", id=dataset["id"], private=False, title="Mended")
    work()
    assert "idden" not in str(everything(user))


def test_what_was_deleted_is_given_and_what_was_purged_is_not(user):
    dataset = factories.Dataset(title="Deleted")
    call_action("package_delete", id=dataset["id"])
    work()
    assert [e["entity"]["title"] for e in everything(user)] == ["Deleted", "Deleted"]
    call_action("dataset_purge", id=dataset["id"])
    work()
    (stub,) = everything(user)
    assert (stub["topic"], stub["entity"]["id"]) == ("dataset/delete", dataset["id"])
    assert "Deleted" not in str(stub)


def test_pages_join_without_gap_or_repeat(user, monkeypatch):
    monkeypatch.setattr(feed, "_CHUNK", 2)
    ids = [factories.Dataset()["id"] for _ in range(7)]
    work()
    for limit in (1, 3, 7, 100):
        assert [e["entity"]["id"] for e in everything(user, limit=limit)] == ids
    page = call(user, "webhook_event_list", limit=7)
    assert page["more"]
    rest = call(user, "webhook_event_list", after=page["cursor"])
    assert rest == {"events": [], "cursor": page["cursor"], "more": False}


def test_a_page_of_large_datasets_ends_early_and_goes_on(user, monkeypatch):
    monkeypatch.setattr(feed, "_CHUNK", 1)
    monkeypatch.setattr(feed, "_MAX_PAGE_BYTES", 1)
    ids = [factories.Dataset()["id"] for _ in range(3)]
    work()
    page = call(user, "webhook_event_list")
    assert (len(page["events"]), page["more"]) == (1, True)
    assert [e["entity"]["id"] for e in everything(user)] == ids


def test_what_began_early_and_commits_late_is_not_skipped(user):
    """A long transaction's event gets its number when it is there, not when it began."""
    early = model.meta.create_local_session()
    package = model.Package(name="early", type="dataset", creator_user_id=user["id"])
    early.add(package)
    early.flush()
    factories.Dataset(name="late")
    work()
    page = call(user, "webhook_event_list")
    assert [e["entity"]["name"] for e in page["events"]] == ["late"]
    early.commit()
    early.close()
    work()
    page = call(user, "webhook_event_list", after=page["cursor"])
    assert [e["entity"]["name"] for e in page["events"]] == ["early"]


def test_an_event_that_cannot_be_read_is_a_marker_among_the_others(user, caplog):
    odd, other = factories.Dataset(), factories.Dataset()
    work()
    execute("UPDATE webhooks_event SET content = '{' WHERE dataset_id = :id", id=odd["id"])
    found = {e["entity"]["id"]: e["entity"] for e in everything(user)}
    assert found[other["id"]]["name"] == other["name"]
    assert found[odd["id"]]["name"] is None
    assert "the feed gives it without" in caplog.text


def test_topics_can_be_chosen(user):
    factories.Dataset(resources=[{"url": "http://example.com/a"}])
    work()
    for topic, expected in (
        ("resource/*", ["resource/create"]),
        ("dataset/create", ["dataset/create"]),
        ("dataset/delete", []),
    ):
        assert [e["topic"] for e in everything(user, topic=topic)] == expected


def test_an_owner_finds_the_change_of_rights_and_others_do_not(user, organization):
    create(user)
    other = factories.User()
    factories.Dataset(owner_org=organization["id"], private=True)
    work()
    join(organization, user)
    work()
    assert [e["topic"] for e in everything(user)][-1] == "dataset/create"
    leave(organization, user)
    work()
    assert [e["topic"] for e in everything(user)] == ["dataset/delete"]
    assert everything(other) == []


def test_nobody_reads_it_anonymously():
    with pytest.raises(tk.NotAuthorized):
        call(None, "webhook_event_list")


def test_a_cursor_beyond_the_end_is_refused_and_says_what_to_do():
    """After a restore, "there is no more" would be silence for ever."""
    user = factories.User()
    factories.Dataset()
    dispatch()
    end = call(user, "webhook_event_list")["cursor"]
    assert call(user, "webhook_event_list", after=end)["more"] is False
    with pytest.raises(tk.ValidationError) as error:
        call(user, "webhook_event_list", after=end + 1)
    (why,) = error.value.error_dict["after"]
    assert str(end + 1) in why and "Begin anew at 0" in why


def test_after_a_restore_a_cursor_from_what_was_lost_is_refused_and_no_number_comes_again(user):
    kept = factories.Dataset()
    work()
    back_up = call(user, "webhook_event_list")["cursor"]
    factories.Dataset()
    work()
    lost = call(user, "webhook_event_list")["cursor"]
    # The back-up has neither the event nor its number.
    execute("DELETE FROM webhooks_event WHERE sequence > :back_up", back_up=back_up)
    execute("SELECT setval('webhooks_event_order', :back_up)", back_up=back_up)
    with transaction() as connection:
        begun = epoch.begin(connection)
    new = factories.Dataset()
    work()
    with pytest.raises(tk.ValidationError) as error:
        call(user, "webhook_event_list", after=lost)
    assert "Begin anew at 0" in str(error.value.error_dict["after"])
    # A cursor from before the back-up goes on, and so does who begins anew.
    page = call(user, "webhook_event_list", after=back_up)
    assert [e["entity"]["id"] for e in page["events"]] == [new["id"]]
    assert page["events"][0]["sequence"] > lost and page["events"][0]["epoch"] == begun
    assert call(user, "webhook_event_list", after=page["cursor"])["events"] == []
    events = everything(user, limit=1)
    assert [(e["entity"]["id"], e["epoch"]) for e in events] == [
        (kept["id"], begun - 1),
        (new["id"], begun),
    ]


def test_numbers_of_any_epoch_and_any_size_are_looked_at(user):
    """Those of the third epoch and above are larger than what PostgreSQL takes for an integer."""
    with transaction() as connection:
        for _ in range(3):
            epoch.begin(connection)
    factories.Dataset()
    work()
    (event,) = call(user, "webhook_event_list")["events"]
    assert call(user, "webhook_event_list", after=event["sequence"])["events"] == []
    for after in (event["sequence"] + 1, event["sequence"] - epoch.NUMBERS, 2**63 - 1):
        with pytest.raises(tk.ValidationError) as error:
            call(user, "webhook_event_list", after=after)
        assert "Begin anew at 0" in str(error.value.error_dict["after"])


@pytest.mark.parametrize(
    ("field", "value"), [("after", -1), ("limit", 0), ("limit", 1001), ("topic", "dataset/x")]
)
def test_what_makes_no_sense_is_refused_with_the_reason(user, field, value):
    with pytest.raises(tk.ValidationError) as error:
        call(user, "webhook_event_list", **{field: value})
    assert list(error.value.error_dict) == [field]
