"""Every way of changing a dataset leaves its row, whichever of CKAN's methods it calls."""

from __future__ import annotations

import json

import pytest
from ckan import model
from ckan.cli.cli import ckan as ckan_command
from ckan.tests import factories
from ckan.tests.helpers import call_action

from .test_capture import as_sysadmin, log_rows

pytestmark = pytest.mark.usefixtures("webhooks_db")

RESOURCES = [{"url": "http://example.com/a"}, {"url": "http://example.com/b"}]


def told_last(dataset_id: str) -> dict:
    return json.loads(log_rows(dataset_id)[-1].content)


def states(dataset_id: str) -> list[str]:
    return [row.state for row in log_rows(dataset_id)]


def test_a_move_to_another_organization():
    """No interface method is called, and CKAN 2.12 builds no dict of it."""
    old, new = factories.Organization(), factories.Organization()
    dataset = factories.Dataset(owner_org=old["id"], private=True)
    model.Session.remove()
    move = {"id": dataset["id"], "organization_id": new["id"]}
    call_action("package_owner_org_update", as_sysadmin(), **move)
    last = log_rows()[-1]
    assert (last.labels_before, last.labels) == ([f"member-{old['id']}"], [f"member-{new['id']}"])
    told = told_last(dataset["id"])
    assert (told["owner_org"], told["organization"]["id"]) == (new["id"], new["id"])


def test_a_revision():
    dataset = factories.Dataset(title="a", resources=RESOURCES)
    first, second = dataset["resources"]
    call_action(
        "package_revise",
        as_sysadmin(),
        match={"id": dataset["id"]},
        update={"title": "b"},
        **{f"update__resources__{first['id'][:8]}": {"name": "new"}},
    )
    told = told_last(dataset["id"])
    assert len(log_rows()) == 2
    assert (told["title"], [r["name"] for r in told["resources"]]) == ("b", ["new", second["name"]])


def test_a_new_order_of_resources():
    dataset = factories.Dataset(resources=RESOURCES)
    order = [r["id"] for r in reversed(dataset["resources"])]
    call_action("package_resource_reorder", as_sysadmin(), id=dataset["id"], order=order)
    assert [r["id"] for r in told_last(dataset["id"])["resources"]] == order
    assert len(log_rows()) == 2


def test_the_state_set_by_a_patch():
    dataset = factories.Dataset()
    for state in ("deleted", "active", "draft", "active"):
        call_action("package_patch", as_sysadmin(), id=dataset["id"], state=state)
    assert states(dataset["id"]) == ["active", "deleted", "active", "hidden", "active"]


@pytest.mark.parametrize("how", ["delete", "purge"])
def test_ckans_own_command(how, cli):
    dataset = factories.Dataset()
    result = cli.invoke(ckan_command, ["dataset", how, dataset["name"]], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert states(dataset["id"]) == ["active", f"{how}d"]


def test_code_on_the_model():
    package = model.Package(name="one", title="a")
    model.Session.add(package)
    model.Session.commit()
    resource = model.Resource(url="http://example.com/a", package_id=package.id)
    model.Session.add(resource)
    package.extras = {"key": "value"}
    model.Session.commit()
    told = told_last(package.id)
    assert [r["id"] for r in told["resources"]] == [resource.id]
    assert [(e["key"], e["value"]) for e in told["extras"]] == [("key", "value")]
    package.add_tag_by_name("one")
    model.Session.commit()
    assert [t["name"] for t in told_last(package.id)["tags"]] == ["one"]
    package.delete()
    model.Session.commit()
    package.state = "active"
    model.Session.commit()
    package.purge()
    model.Session.commit()
    assert states(package.id)[-3:] == ["deleted", "active", "purged"]


def test_several_datasets_in_one_transaction():
    context = {**as_sysadmin(), "defer_commit": True}
    first, second = (
        call_action("package_create", dict(context), name=name, resources=RESOURCES)["id"]
        for name in ("first", "second")
    )
    assert log_rows() == []
    model.Session.commit()
    assert (states(first), states(second)) == (["active"], ["active"])
    # With this, CKAN 2.12 does not roll its own change back.
    context["return_id_only"] = True
    for id_ in (first, second):
        call_action("package_patch", dict(context), id=id_, title="b")
    model.Session.commit()
    assert [told_last(id_)["title"] for id_ in (first, second)] == ["b", "b"]
    assert len(log_rows()) == 4


def test_a_deferred_change_that_is_rolled_back():
    context = {**as_sysadmin(), "defer_commit": True}
    call_action("package_create", dict(context), name="first")
    model.Session.rollback()
    model.Session.commit()
    assert log_rows() == []
