"""The event rows that real CKAN actions leave in the log."""

from __future__ import annotations

import datetime
import json
import logging
import time
from types import SimpleNamespace

import ckan.plugins as p
import pytest
import sqlalchemy as sa
from ckan import model
from ckan.logic import ValidationError
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ... import capture, difference
from ...capture import content, listeners, touched
from ...model import Event
from ..callers import execute

pytestmark = [
    pytest.mark.usefixtures("webhooks_db"),
    # CKAN shows a dataset as its index has it, if that is not older.
    pytest.mark.ckan_config("ckan.search.solr_commit", True),
]


def log_rows(dataset_id: str | None = None):
    """Give the rows of the log in the order in which they were written."""
    table = Event.__table__
    query = sa.select(table).order_by(table.c.position)
    if dataset_id:
        query = query.where(table.c.dataset_id == dataset_id)
    return model.Session.execute(query).all()


def forget_log() -> None:
    """Make every dataset one that the log has never seen."""
    model.Session.execute(sa.text("DELETE FROM webhooks_event"))
    model.Session.commit()


def as_sysadmin() -> dict[str, str]:
    return {"user": factories.Sysadmin()["name"]}


def test_a_new_dataset_is_one_row_with_its_content():
    dataset = factories.Dataset(resources=[{"url": "http://example.com/a.csv"}])
    (row,) = log_rows()
    assert (row.entity_type, row.entity_id, row.version) == ("dataset", dataset["id"], 1)
    assert (row.state, row.labels_before, row.labels) == ("active", None, ["public"])
    assert row.sequence is None
    shown = call_action("package_show", id=dataset["id"])
    assert difference.comparable(json.loads(row.content)) == difference.comparable(shown)


def test_each_change_is_one_row_and_no_change_is_none():
    context = as_sysadmin()
    dataset = factories.Dataset()
    call_action("package_patch", context, id=dataset["id"], title="New")
    call_action("package_patch", context, id=dataset["id"], title="New")
    call_action("package_update", context, **call_action("package_show", id=dataset["id"]))
    call_action("package_delete", context, id=dataset["id"])
    call_action("dataset_purge", context, id=dataset["id"])
    rows = log_rows()
    assert [(r.version, r.state, r.labels_before, r.labels) for r in rows] == [
        (1, "active", None, ["public"]),
        (2, "active", ["public"], ["public"]),
        (3, "deleted", ["public"], None),
        # Told to nobody: it says that what the log has of it must go.
        (4, "purged", None, None),
    ]
    # What was deleted is told as it last was.
    assert json.loads(rows[2].content)["title"] == "New"


def test_a_purge_of_an_active_dataset_keeps_no_content():
    dataset = factories.Dataset()
    call_action("dataset_purge", as_sysadmin(), id=dataset["id"])
    purge = log_rows()[-1]
    assert (purge.state, purge.labels_before, purge.labels) == ("purged", ["public"], None)
    assert purge.content is None
    assert purge.facets_before["dataset"] == [dataset["id"], dataset["name"]]


def test_resource_actions_are_changes_of_their_dataset():
    context = as_sysadmin()
    dataset = factories.Dataset()
    resource = call_action(
        "resource_create", context, package_id=dataset["id"], url="http://example.com/a", name="a"
    )
    call_action("resource_patch", context, id=resource["id"], name="b")
    # Whether a name that is left out stays is CKAN's, and differs by version.
    updated = call_action("resource_update", context, id=resource["id"], url="http://example.com/c")
    call_action("resource_delete", context, id=resource["id"])
    contents = [json.loads(r.content)["resources"] for r in log_rows()]
    assert [[(r["name"], r["url"]) for r in resources] for resources in contents] == [
        [],
        [("a", "http://example.com/a")],
        [("b", "http://example.com/a")],
        [(updated["name"], "http://example.com/c")],
        [],
    ]


def test_what_is_rolled_back_or_refused_leaves_nothing():
    context = as_sysadmin()
    dataset = factories.Dataset()
    before = len(log_rows())
    with pytest.raises(ValidationError):
        call_action("package_patch", context, id=dataset["id"], name="no such name!")
    package = model.Package.get(dataset["id"])
    package.title = "never"
    model.Session.flush()
    model.Session.rollback()
    model.Session.commit()
    assert len(log_rows()) == before


def test_drafts_are_nobodys_until_they_are_active():
    context = as_sysadmin()
    dataset = factories.Dataset(state="draft")
    call_action("package_patch", context, id=dataset["id"], title="Still a draft")
    assert log_rows() == []
    call_action("package_patch", context, id=dataset["id"], state="active")
    call_action("package_patch", context, id=dataset["id"], state="draft")
    assert [(r.state, r.labels_before, r.labels) for r in log_rows()] == [
        ("active", None, ["public"]),
        ("hidden", ["public"], None),
    ]
    assert log_rows()[-1].content is None


def test_an_organization_is_no_dataset():
    call_action("organization_create", name="health", context=as_sysadmin())
    assert log_rows() == []


def test_labels_are_those_of_before_and_after():
    organization = factories.Organization()
    member = f"member-{organization['id']}"
    dataset = factories.Dataset(owner_org=organization["id"], private=True)
    call_action("package_patch", as_sysadmin(), id=dataset["id"], private=False)
    assert [(r.labels_before, r.labels) for r in log_rows()] == [
        (None, [member]),
        ([member], ["public"]),
    ]


def test_excluded_types_leave_nothing(monkeypatch):
    monkeypatch.setitem(p.toolkit.config, "ckanext.webhooks.exclude_types", ["dataset"])
    factories.Dataset()
    assert log_rows() == []


def test_the_dict_that_ckan_built_is_not_built_again(monkeypatch):
    built = []
    show = content._show
    monkeypatch.setattr(content, "_show", lambda id_: built.append(id_) or show(id_))
    context = as_sysadmin()
    organization = factories.Organization()
    dataset = factories.Dataset(owner_org=organization["id"])

    def act(action, **data):
        model.Session.remove()  # as each request does
        return call_action(action, dict(context), **data)

    act("package_patch", id=dataset["id"], title="New")
    resource = act("resource_create", package_id=dataset["id"], url="http://example.com/a")
    act("resource_patch", id=resource["id"], name="b")
    act("resource_delete", id=resource["id"])
    act("package_delete", id=dataset["id"])
    assert built == []
    assert len(log_rows()) == 6
    monkeypatch.undo()
    act("package_patch", id=dataset["id"], state="active")
    assert log_rows()[-1].digest == difference.digest(content.of_dataset(dataset["id"], None)[0])


def test_a_save_asks_postgresql_twice():
    """Each question costs half a millisecond, whatever it asks."""
    dataset = factories.Dataset(title="a")
    package = model.Package.get(dataset["id"])
    asked = []

    def count(_connection, _cursor, statement, *_):
        if "webhooks" in statement or "SAVEPOINT" in statement:
            asked.append(statement)

    sa.event.listen(model.meta.engine, "before_cursor_execute", count)
    try:
        package.title = "b"
        model.Session.commit()
    finally:
        sa.event.remove(model.meta.engine, "before_cursor_execute", count)
    assert len(log_rows()) == 2
    assert len(asked) == 2


def test_the_dict_that_ckan_built_is_parsed_once(monkeypatch):
    parsed = []
    loads = json.loads
    monkeypatch.setattr(
        touched, "json", SimpleNamespace(loads=lambda text: parsed.append(1) or loads(text))
    )
    factories.Dataset(owner_org=factories.Organization()["id"])
    assert parsed == [1]


def test_what_is_built_here_is_what_ckan_builds():
    organization = factories.Organization()
    dataset = factories.Dataset(
        owner_org=organization["id"],
        tags=[{"name": "tag-b"}, {"name": "tag-a"}],
        extras=[{"key": "k", "value": "v"}],
        groups=[{"name": factories.Group()["name"]}],
        resources=[{"url": "http://example.com/a.csv", "format": "CSV"}],
    )
    (row,) = log_rows()
    assert json.loads(row.content).keys() == content.of_dataset(dataset["id"], None)[0].keys()
    assert difference.digest(content.of_dataset(dataset["id"], None)[0]) == row.digest


@pytest.mark.ckan_config("ckan.plugins", "webhooks example_idatasetform_v4")
def test_fields_of_a_datasets_own_schema_are_told():
    """With a plugin of CKAN's own that implements IDatasetForm."""
    dataset = factories.Dataset(custom_text="a")
    call_action("package_patch", as_sysadmin(), id=dataset["id"], custom_text="b")
    shown = call_action("package_show", id=dataset["id"])
    contents = [json.loads(row.content) for row in log_rows()]
    assert [c["custom_text"] for c in contents] == ["a", "b"]
    assert difference.comparable(contents[-1]) == difference.comparable(shown)


def test_urls_are_in_the_default_locale_whoever_edited(app):
    dataset = factories.Dataset()
    german = {"CKAN_LANG": "de", "CKAN_LANG_IS_DEFAULT": False}
    with app.flask_app.test_request_context(environ_overrides=german):
        resource = call_action(
            "resource_create",
            as_sysadmin(),
            package_id=dataset["id"],
            url="a.csv",
            url_type="upload",
        )
    assert "/de/dataset/" in resource["url"]
    (told,) = json.loads(log_rows()[-1].content)["resources"]
    assert told["url"] == resource["url"].replace("/de/", "/")


def test_code_on_the_model_that_commits_without_a_flush_is_heard():
    dataset = factories.Dataset()
    package = model.Package.get(dataset["id"])
    package.title = "Set on the model"
    model.Session.commit()
    assert json.loads(log_rows()[-1].content)["title"] == "Set on the model"


def test_a_group_that_takes_a_dataset_in_changes_it():
    dataset = factories.Dataset()
    group = factories.Group()
    call_action(
        "member_create",
        as_sysadmin(),
        id=group["id"],
        object=dataset["id"],
        object_type="package",
        capacity="public",
    )
    assert log_rows(dataset["id"])[-1].facets["group"] == [group["id"]]


def test_several_changes_of_one_transaction_are_one_row():
    created = model.Package(name="one", title="a")
    model.Session.add(created)
    model.Session.flush()
    created.title = "b"
    model.Session.flush()
    other = model.Package(name="two", title="a")
    model.Session.add(other)
    model.Session.commit()
    rows = log_rows()
    assert sorted(json.loads(r.content)["title"] for r in rows) == ["a", "b"]
    assert {r.labels_before for r in rows} == {None}


def test_a_change_that_is_undone_in_its_transaction_is_none():
    dataset = factories.Dataset(title="a")
    package = model.Package.get(dataset["id"])
    for title in ("b", "a"):
        package.title = title
        model.Session.flush()
    model.Session.commit()
    assert len(log_rows()) == 1


def test_what_another_plugin_flushes_after_our_turn_is_captured():
    dataset = factories.Dataset(title="a")
    package = model.Package.get(dataset["id"])

    def late(session):
        if package.title == "b":
            package.title = "c"

    sa.event.listen(model.Session, "before_commit", late)
    try:
        package.title = "b"
        model.Session.commit()
    finally:
        sa.event.remove(model.Session, "before_commit", late)
    rows = log_rows()
    assert [(r.version, json.loads(r.content)["title"]) for r in rows] == [(1, "a"), (2, "c")]


class TestSavepoints:
    """Rolled back before, around and after our row: the log tells the truth."""

    def test_before(self):
        dataset = factories.Dataset(title="a")
        package = model.Package.get(dataset["id"])
        nested = model.Session.begin_nested()
        package.title = "rolled back"
        model.Session.flush()
        nested.rollback()
        package.notes = "kept"
        model.Session.commit()
        last = json.loads(log_rows()[-1].content)
        assert (last["title"], last["notes"]) == ("a", "kept")

    def test_alone_it_leaves_nothing(self):
        dataset = factories.Dataset(title="a")
        package = model.Package.get(dataset["id"])
        nested = model.Session.begin_nested()
        package.title = "rolled back"
        model.Session.flush()
        nested.rollback()
        model.Session.commit()
        assert len(log_rows()) == 1

    def test_around_a_whole_action(self):
        context = as_sysadmin()
        dataset = factories.Dataset(title="a")
        nested = model.Session.begin_nested()
        call_action(
            "package_patch",
            {**context, "defer_commit": True, "return_id_only": True},
            id=dataset["id"],
            title="rolled back",
        )
        if nested.is_active:
            nested.rollback()
        model.Session.commit()
        shown = model.Session.get(model.Package, dataset["id"], populate_existing=True)
        assert json.loads(log_rows()[-1].content)["title"] == shown.title

    def test_around_a_new_dataset(self):
        nested = model.Session.begin_nested()
        model.Session.add(model.Package(name="never"))
        model.Session.flush()
        nested.rollback()
        model.Session.commit()
        assert log_rows() == []

    def test_after(self):
        dataset = factories.Dataset(title="a")
        package = model.Package.get(dataset["id"])
        package.title = "kept"
        model.Session.flush()
        nested = model.Session.begin_nested()
        package.title = "rolled back"
        model.Session.flush()
        nested.rollback()
        model.Session.commit()
        rows = log_rows()
        assert [json.loads(r.content)["title"] for r in rows] == ["a", "kept"]

    def test_released(self):
        dataset = factories.Dataset(title="a")
        package = model.Package.get(dataset["id"])
        with model.Session.begin_nested():
            package.title = "kept"
        assert len(log_rows()) == 1
        model.Session.commit()
        assert [json.loads(r.content)["title"] for r in log_rows()] == ["a", "kept"]


class TestFirstSight:
    """A dataset that was there before the log was."""

    def test_an_update_counts_as_one(self):
        dataset = factories.Dataset(title="a", resources=[{"url": "http://example.com/a"}])
        forget_log()
        call_action("package_patch", as_sysadmin(), id=dataset["id"], title="b")
        (row,) = log_rows()
        assert (row.labels_before, row.labels) == (["public"], ["public"])
        assert row.first_sight is not None

    def test_labels_before_are_those_of_before(self):
        organization = factories.Organization()
        dataset = factories.Dataset(owner_org=organization["id"])
        forget_log()
        call_action("package_patch", as_sysadmin(), id=dataset["id"], private=True)
        (row,) = log_rows()
        assert (row.labels_before, row.labels) == (["public"], [f"member-{organization['id']}"])

    def test_a_deletion_says_which_it_was(self):
        dataset = factories.Dataset()
        forget_log()
        call_action("package_delete", as_sysadmin(), id=dataset["id"])
        (row,) = log_rows()
        assert (row.labels_before, row.labels, row.content) == (["public"], None, None)
        assert row.facets_before["dataset"] == [dataset["id"], dataset["name"]]


class TestTrouble:
    """Whatever goes wrong here, the save goes through."""

    def test_a_bug_is_logged_with_an_id(self, monkeypatch, caplog):
        monkeypatch.setattr(listeners.record, "record", lambda *_: 1 / 0)
        with caplog.at_level(logging.ERROR, logger=listeners.__name__):
            dataset = factories.Dataset(title="saved")
        assert call_action("package_show", id=dataset["id"])["title"] == "saved"
        assert f"the change of dataset {dataset['id']} was not captured" in caplog.text
        assert log_rows() == []

    def test_a_locked_table_costs_the_lock_timeout(self, caplog, say):
        dataset = factories.Dataset(title="a")
        context = as_sysadmin()
        with model.meta.engine.connect() as other:
            transaction = other.begin()
            other.execute(sa.text("LOCK TABLE webhooks_event IN ACCESS EXCLUSIVE MODE"))
            started = time.monotonic()
            call_action("package_patch", context, id=dataset["id"], title="saved")
            took = time.monotonic() - started
            transaction.rollback()
        say(f"saved in {took * 1000:.0f} ms while the event table was locked")
        assert call_action("package_show", id=dataset["id"])["title"] == "saved"
        assert "was not captured" in caplog.text
        assert len(log_rows()) == 1

    def test_missing_tables_are_said_once(self, caplog, monkeypatch):
        monkeypatch.setattr(listeners, "_said_missing_tables", False)
        model.Session.execute(sa.text("ALTER TABLE webhooks_event RENAME TO away"))
        model.Session.commit()
        try:
            for _ in range(2):
                factories.Dataset()
        finally:
            model.Session.execute(sa.text("ALTER TABLE away RENAME TO webhooks_event"))
            model.Session.commit()
        assert caplog.text.count("ckan db upgrade -p webhooks") == 1

    @pytest.mark.parametrize("fails", [False, True])
    def test_the_transactions_own_time_limits_come_back(self, fails, monkeypatch):
        limits = sa.text(
            "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
        )
        dataset = factories.Dataset()
        package = model.Package.get(dataset["id"])
        if fails:
            monkeypatch.setattr(listeners.record, "labels", lambda _: 1 / 0)
        seen = []

        def late(session):
            seen.append(session.connection().execute(limits).one())

        sa.event.listen(model.Session, "before_commit", late)
        try:
            model.Session.execute(sa.text("SET LOCAL lock_timeout = '7s'"))
            package.title = "b"
            model.Session.commit()
        finally:
            sa.event.remove(model.Session, "before_commit", late)
        assert len(log_rows()) == (1 if fails else 2)
        assert tuple(seen[0]) == ("7s", "0")


def test_two_sessions_that_overlap_leave_the_truth():
    """The second has the dataset in memory as it was before the first committed."""
    dataset = factories.Dataset(title="a", notes="a")
    stale = model.Session.get(model.Package, dataset["id"])
    assert stale.title == "a"
    other = model.meta.create_local_session()
    package = other.get(model.Package, dataset["id"])
    package.title = "by the other"
    other.commit()
    other.close()
    stale.notes = "by this one"
    model.Session.commit()
    last = log_rows()[-1]
    assert last.version == 3
    told = json.loads(last.content)
    assert (told["title"], told["notes"]) == ("by the other", "by this one")


def test_an_edit_from_an_older_state_is_captured_from_the_newest():
    """The other committed between our reading and our first statement's transaction."""
    dataset = factories.Dataset(title="a", notes="a")
    stale = model.Package.get(dataset["id"])
    assert stale.title == "a"
    model.Session.commit()  # ends the transaction; the object stays as it was read
    other = model.meta.create_local_session()
    package = other.get(model.Package, dataset["id"])
    package.title = "by the other"
    package.metadata_modified = datetime.datetime.utcnow()
    other.commit()
    other.close()
    stale.notes = "by this one"
    model.Session.commit()
    told = json.loads(log_rows()[-1].content)
    assert (told["title"], told["notes"]) == ("by the other", "by this one")


def test_an_edit_that_began_before_what_was_missed_is_made_up_for(monkeypatch):
    """The log has no row of what the other did, so it is not known to be from an older state."""
    dataset = factories.Dataset(title="a", notes="a")
    stale = model.Package.get(dataset["id"])
    assert stale.title == "a"
    model.Session.commit()
    other = model.meta.create_local_session()
    other.get(model.Package, dataset["id"]).title = "by the other"
    with monkeypatch.context() as patch:
        patch.setattr(listeners.record, "record", lambda *_: 1 / 0)
        other.commit()
    other.close()
    stale.notes = "by this one"
    model.Session.commit()
    model.Session.remove()
    capture.capture_missed()
    told = json.loads(log_rows()[-1].content)
    assert (told["title"], told["notes"]) == ("by the other", "by this one")


def test_a_draft_that_is_published_from_an_older_state_is_captured_from_the_newest():
    """The log has no row of what the other did, as nobody could see it."""
    dataset = factories.Dataset(title="a", state="draft")
    stale = model.Package.get(dataset["id"])
    assert stale.title == "a"
    other = model.meta.create_local_session()
    other.get(model.Package, dataset["id"]).title = "by the other"
    other.commit()
    other.close()
    stale.state = "active"
    model.Session.commit()
    assert json.loads(log_rows()[-1].content)["title"] == "by the other"


def test_what_a_savepoint_within_a_savepoint_did_is_not_told_when_both_are_gone():
    context = {**as_sysadmin(), "defer_commit": True, "return_id_only": True}
    dataset = factories.Dataset(
        title="a",
        notes="a",
        resources=[{"url": "http://example.com/a"}],
        owner_org=factories.Organization()["id"],
    )
    package = model.Session.get(model.Package, dataset["id"])
    package.notes, package.private = "b", True
    model.Session.flush()
    outer = model.Session.begin_nested()
    call_action(
        "package_patch",
        # CKAN 2.12 opens a savepoint of its own, and writes back what its index shows.
        context,
        id=dataset["id"],
        resources=[{"url": "http://example.com/b"}],
    )
    outer.rollback()
    package.title = "c"
    model.Session.commit()
    row = log_rows()[-1]
    told = json.loads(row.content)
    assert (told["title"], told["notes"], told["private"]) == ("c", "b", True)
    assert [r["url"] for r in told["resources"]] == ["http://example.com/a"]
    assert "public" not in row.labels


# Each column that CKAN's labels are made of: what it was, what another process made of it, and
# the labels then. A private dataset of no organization is its creator's.
ROWS = {
    "owner_org": ({"private": True, "owner_org": "first"}, "second", ["member-second"]),
    "hidden": ({"private": False, "owner_org": "first"}, True, ["member-first"]),
    "published": ({"private": True, "owner_org": "first"}, False, ["public"]),
    "deleted": ({"state": "active"}, "deleted", None),
    "restored": ({"state": "deleted"}, "active", ["public"]),
    "creator_user_id": (
        {"private": True, "owner_org": None, "creator_user_id": "first"},
        "second",
        ["creator-second"],
    ),
}
COLUMNS = {"hidden": "private", "published": "private", "deleted": "state", "restored": "state"}


@pytest.mark.parametrize("changed", ROWS)
def test_who_may_see_it_is_the_rows_whatever_a_session_has_in_memory(changed):
    """A session of long standing edits what another process gave to others to see."""
    before, now, labels = ROWS[changed]
    column = COLUMNS.get(changed, changed)
    dataset = factories.Dataset()
    for name, value in before.items():
        execute(f"UPDATE package SET {name} = :value WHERE id = :id", value=value, id=dataset["id"])
    session = model.meta.create_local_session()
    package = session.get(model.Package, dataset["id"])
    session.commit()
    execute(f"UPDATE package SET {column} = :value WHERE id = :id", value=now, id=dataset["id"])
    assert getattr(package, column) == before[column] != now
    package.title = "Edited"
    session.commit()
    session.close()
    newest = log_rows(dataset["id"])[-1]
    assert newest.labels == labels
    if labels is not None:
        content = json.loads(newest.content)
        assert (content[column], content["title"]) == (now, "Edited")
