"""Changes that never pass SQLAlchemy's unit of work: UPDATE and DELETE statements."""

from __future__ import annotations

import json
import logging

import ckan.plugins.toolkit as tk
import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ...capture import content, listeners, touched
from .test_capture import as_sysadmin, forget_log, log_rows

pytestmark = [
    pytest.mark.usefixtures("webhooks_db"),
    # CKAN shows a dataset as its index has it, if that is not older.
    pytest.mark.ckan_config("ckan.search.solr_commit", True),
]

RESOURCES = [{"url": "http://example.com/a"}, {"url": "http://example.com/b"}]


def labels(dataset_id: str) -> list[tuple]:
    return [(r.labels_before, r.labels) for r in log_rows(dataset_id)]


def told_last(dataset_id: str) -> dict:
    return json.loads(log_rows(dataset_id)[-1].content)


@pytest.fixture
def organization():
    return factories.Organization()


class TestBulkUpdates:
    """On CKAN 2.10 and 2.11 one statement; on 2.12 a package_patch for each."""

    def test_private_and_public(self, organization):
        member = f"member-{organization['id']}"
        ids = [factories.Dataset(owner_org=organization["id"])["id"] for _ in range(2)]
        for action in ("bulk_update_private", "bulk_update_public"):
            call_action(action, as_sysadmin(), datasets=ids, org_id=organization["id"])
        for id_ in ids:
            assert labels(id_) == [
                (None, ["public"]),
                (["public"], [member]),
                ([member], ["public"]),
            ]
            assert told_last(id_)["private"] is False

    def test_delete(self, organization):
        dataset = factories.Dataset(owner_org=organization["id"], title="a")
        datasets = [dataset["id"]]
        call_action(
            "bulk_update_delete", as_sysadmin(), datasets=datasets, org_id=organization["id"]
        )
        last = log_rows()[-1]
        assert (last.state, last.labels_before, last.labels) == ("deleted", ["public"], None)
        assert json.loads(last.content)["title"] == "a"

    def test_only_those_that_are_hit(self, organization):
        ours, other = (
            factories.Dataset(owner_org=id_)["id"]
            for id_ in (organization["id"], factories.Organization()["id"])
        )
        call_action(
            "bulk_update_private", as_sysadmin(), datasets=[ours, other], org_id=organization["id"]
        )
        assert (len(labels(ours)), len(labels(other))) == (2, 1)

    def test_of_a_dataset_that_the_log_meets_just_now(self, organization):
        dataset = factories.Dataset(owner_org=organization["id"])
        forget_log()
        datasets = [dataset["id"]]
        call_action(
            "bulk_update_private", as_sysadmin(), datasets=datasets, org_id=organization["id"]
        )
        assert labels(dataset["id"]) == [(["public"], [f"member-{organization['id']}"])]


@pytest.mark.parametrize("action", ["organization_delete", "organization_purge"])
def test_datasets_that_become_unowned(action, organization):
    datasets = [factories.Dataset(owner_org=organization["id"])["id"] for _ in range(2)]
    deleted = factories.Dataset(owner_org=organization["id"], state="deleted")
    call_action(action, as_sysadmin(), id=organization["id"])
    model.Session.remove()
    for id_ in datasets:
        assert model.Package.get(id_).owner_org is None
        assert labels(id_) == [(None, ["public"]), (["public"], ["public"])]
        assert (told_last(id_)["owner_org"], told_last(id_)["organization"]) == (None, None)
    assert log_rows(deleted["id"]) == []


@pytest.mark.skipif(
    tk.check_ckan_version(min_version="2.12"),
    reason="CKAN 2.12 refuses to delete an organization with private datasets",
)
def test_a_private_dataset_that_becomes_unowned(organization):
    dataset = factories.Dataset(owner_org=organization["id"], private=True)
    call_action("organization_delete", as_sysadmin(), id=organization["id"])
    assert log_rows(dataset["id"])[-1].labels == [f"creator-{dataset['creator_user_id']}"]


@pytest.mark.parametrize("action", ["group_delete", "group_purge"])
def test_groups_that_go(action):
    group = factories.Group()
    dataset = factories.Dataset(groups=[{"id": group["id"]}])
    assert log_rows(dataset["id"])[-1].facets["group"] == [group["id"]]
    call_action(action, as_sysadmin(), id=group["id"])
    assert log_rows(dataset["id"])[-1].facets["group"] == []


def test_a_tag_that_is_deleted_leaves_its_datasets():
    dataset = factories.Dataset(tags=[{"name": "one"}, {"name": "two"}])
    call_action("tag_delete", as_sysadmin(), id="one")
    assert [t["name"] for t in told_last(dataset["id"])["tags"]] == ["two"]


def test_a_vocabulary_whose_tags_are_deleted():
    vocabulary = factories.Vocabulary(tags=[{"name": "one"}])
    dataset = factories.Dataset()
    package = model.Package.get(dataset["id"])
    package.add_tag_by_name("one", vocab=model.Vocabulary.get(vocabulary["id"]))
    model.Session.commit()
    assert [t["name"] for t in told_last(dataset["id"])["tags"]] == ["one"]
    call_action("tag_delete", as_sysadmin(), id="one", vocabulary_id=vocabulary["id"])
    call_action("vocabulary_delete", as_sysadmin(), id=vocabulary["id"])
    assert told_last(dataset["id"])["tags"] == []


def statements():
    """One statement for each table and each form, by what it does."""
    package, resource = model.package_table, model.resource_table
    tag, member = model.package_tag_table, model.member_table

    def query(id_):
        found = model.Session.query(model.Package).filter(model.Package.id == id_)
        found.update({"title": "hit"}, synchronize_session=False)

    def orm(id_):
        statement = sa.update(model.Package).where(model.Package.id == id_).values(title="hit")
        model.Session.execute(statement, execution_options={"synchronize_session": False})

    def core(statement):
        return lambda id_: model.Session.execute(statement, {"dataset": id_})

    this = sa.bindparam("dataset")
    return {
        "package by Query.update": query,
        "package by an ORM statement": orm,
        "package by a Core statement": core(
            package.update().where(package.c.id == this).values(title="hit")
        ),
        "package by another table": core(
            package.update()
            .where(package.c.id == resource.c.package_id, resource.c.package_id == this)
            .values(title="hit")
        ),
        "resource updated": core(
            resource.update().where(resource.c.package_id == this).values(name="hit")
        ),
        "resource deleted": core(resource.delete().where(resource.c.package_id == this)),
        "tags deleted": core(tag.delete().where(tag.c.package_id == this)),
        "groups left": core(
            member.update().where(member.c.table_id == this).values(state="deleted")
        ),
    }


@pytest.mark.parametrize("name", statements())
@pytest.mark.parametrize("session", ["fresh", "stale"])
def test_statements_are_captured(name, session):
    """Also where the session holds the dataset as it was before."""
    group = factories.Group()
    dataset = factories.Dataset(
        title="a", resources=RESOURCES, tags=[{"name": "one"}], groups=[{"id": group["id"]}]
    )
    other = factories.Dataset(title="a", resources=RESOURCES)
    if session == "fresh":
        model.Session.remove()
    else:
        held = model.Package.get(dataset["id"])
        assert (held.title, len(held.resources)) == ("a", 2)
    statements()[name](dataset["id"])
    model.Session.commit()
    assert [r.version for r in log_rows(dataset["id"])] == [1, 2]
    assert len(log_rows(other["id"])) == 1
    last = told_last(dataset["id"])
    model.Session.remove()
    shown = call_action("package_show", {"use_cache": False}, id=dataset["id"])
    for key in ("title", "resources", "tags", "groups"):
        assert last[key] == shown[key]


@pytest.mark.skipif(
    not hasattr(model, "PackageExtra"), reason="CKAN 2.12 keeps extras in the dataset's own row"
)
def test_extras_by_a_statement():
    dataset = factories.Dataset(extras=[{"key": "a", "value": "1"}])
    model.Session.query(model.PackageExtra).filter_by(package_id=dataset["id"]).delete()
    model.Session.commit()
    assert told_last(dataset["id"])["extras"] == []


def test_a_dataset_deleted_by_statements():
    dataset = factories.Dataset()
    package = model.package_table
    for table in (model.member_table, model.package_table):
        column = table.c.table_id if table is model.member_table else table.c.id
        model.Session.execute(table.delete().where(column == dataset["id"]))
    assert package.name == "package"
    model.Session.commit()
    last = log_rows(dataset["id"])[-1]
    assert (last.state, last.labels_before, last.labels) == ("purged", ["public"], None)


def test_each_session_is_heard():
    dataset = factories.Dataset(title="a")
    session = model.meta.create_local_session()
    session.query(model.Package).filter_by(id=dataset["id"]).update({"title": "b"})
    session.commit()
    session.close()
    assert told_last(dataset["id"])["title"] == "b"


def test_the_first_of_several_statements_says_how_it_was():
    dataset = factories.Dataset()
    forget_log()
    packages = model.Session.query(model.Package).filter_by(id=dataset["id"])
    packages.update({"private": True, "owner_org": factories.Organization()["id"]})
    packages.update({"title": "b"})
    model.Session.commit()
    assert labels(dataset["id"])[0][0] == ["public"]


def test_a_statement_that_is_rolled_back_leaves_nothing():
    dataset = factories.Dataset()
    packages = model.Session.query(model.Package).filter_by(id=dataset["id"])
    packages.update({"title": "never"})
    model.Session.rollback()
    with model.Session.begin_nested() as savepoint:
        packages.update({"title": "never"})
        savepoint.rollback()
    model.Session.commit()
    assert len(log_rows()) == 1


def test_the_time_alone_is_nothing_to_look_at():
    """CKAN 2.10 and 2.11 set it by a statement in each package_update."""
    dataset = factories.Dataset()
    time = {"metadata_modified": sa.func.now()}
    model.Session.query(model.Package).filter_by(id=dataset["id"]).update(time)
    assert touched.current(model.Session()).datasets == {}


# A type of CKAN 2.10 itself, in the statement of the DataStore.
@pytest.mark.filterwarnings("ignore:TypeDecorator JsonDictType")
def test_a_datastore_that_comes_is_nothing():
    """The DataStore sets its flag by a statement of its own."""
    dataset = factories.Dataset(resources=RESOURCES)
    (resource, _) = dataset["resources"]
    model.Session.query(model.Resource).filter_by(id=resource["id"]).update(
        {"extras": '{"datastore_active": true}'}, synchronize_session="fetch"
    )
    model.Session.commit()
    model.Session.remove()
    assert content.of_dataset(dataset["id"], None)[0]["resources"][0]["datastore_active"] is True
    assert len(log_rows()) == 1


def test_other_statements_cost_a_look_at_their_kind(monkeypatch):
    noted = []
    monkeypatch.setattr(listeners.statements, "note", lambda *_: noted.append(1))
    factories.User()
    model.Session.query(model.Package).all()
    model.Session.execute(sa.text("UPDATE package SET title = 'x' WHERE false"))
    assert noted == []


def test_a_bug_fails_no_save(monkeypatch, caplog):
    dataset = factories.Dataset()
    monkeypatch.setattr(listeners.statements, "_affected", broken)
    with caplog.at_level(logging.ERROR, logger=listeners.__name__):
        model.Session.query(model.Package).filter_by(id=dataset["id"]).update({"title": "saved"})
        model.Session.commit()
    assert "could not be looked at" in caplog.text
    model.Session.remove()
    assert model.Package.get(dataset["id"]).title == "saved"


def broken(connection, *_):
    connection.execute(sa.text("SELECT * FROM nowhere"))


def test_what_ckan_builds_from_a_stale_session_is_not_believed():
    dataset = factories.Dataset(title="a")
    held = model.Package.get(dataset["id"])
    model.Session.query(model.Package).filter_by(id=dataset["id"]).update(
        {"title": "b"}, synchronize_session=False
    )
    assert held.title == "a"
    built = json.dumps({**dataset, "title": "a"})
    content.keep_built({"id": dataset["id"], "validated_data_dict": built})
    model.Session.commit()
    assert told_last(dataset["id"])["title"] == "b"
