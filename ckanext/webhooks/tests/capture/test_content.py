"""As whom a dataset is captured, where an extension does not show all of it to everybody."""

from __future__ import annotations

import json

import ckan.plugins.toolkit as tk
import flask
import pytest
from ckan import authz, model
from ckan.tests import factories

from ... import owners, tasks
from ...capture import content
from ...plugin import WebhooksPlugin
from ..callers import ADDRESS, call, create, execute, join, stored

pytestmark = [
    pytest.mark.usefixtures("webhooks_db"),
    # CKAN shows a dataset as its index has it, if that is not older.
    pytest.mark.ckan_config("ckan.search.solr_commit", True),
]

PLANTED = "planted@example.org"
anonymous = pytest.mark.ckan_config("ckanext.webhooks.content", "anonymous")
stub = pytest.mark.ckan_config("ckanext.webhooks.entity", "stub")


def by_user(context) -> bool:
    return authz.is_sysadmin(context.get("user"))


def by_check_access(context) -> bool:
    try:
        tk.check_access("sysadmin", context)
    except tk.NotAuthorized:
        return False
    return True


def by_request(context) -> bool:
    return bool(tk.current_user and tk.current_user.is_authenticated and tk.current_user.sysadmin)


def by_object(context) -> bool:
    reader = context.get("auth_user_obj")
    return bool(reader and reader.sysadmin)


def by_g(context) -> bool:
    reader = flask.g.get("userobj") if flask.has_app_context() else None
    return bool(reader and reader.sysadmin)


WAYS = (by_user, by_check_access, by_request, by_object, by_g)


@pytest.fixture
def redacting(monkeypatch):
    """An extension that blanks fields for all but sysadmins, whichever way it finds these."""

    def load(is_for):
        def after_dataset_show(self, context, dataset):
            if not (context.get("ignore_auth") or is_for(context)):
                dataset["maintainer_email"] = None
            return dataset

        def before_resource_show(self, resource):
            if not (tk.current_user and getattr(tk.current_user, "sysadmin", False)):
                resource["description"] = None
            return resource

        monkeypatch.setattr(WebhooksPlugin, "after_dataset_show", after_dataset_show)
        monkeypatch.setattr(WebhooksPlugin, "before_resource_show", before_resource_show)

    return load


def save(**changes):
    return factories.Dataset(
        maintainer_email=PLANTED,
        resources=[{"url": "http://example.com/a.csv", "description": PLANTED}],
        user=factories.Sysadmin(),
        **changes,
    )


def in_order():
    return execute("SELECT labels, content FROM webhooks_event ORDER BY position")


def edit_in_a_request(app, dataset):
    """Save as a sysadmin does by the API, so that the request is a sysadmin's, too."""
    token = factories.SysadminWithToken()["token"]
    answer = app.post(
        "/api/3/action/package_patch",
        headers={"Authorization": token},
        json={"id": dataset["id"], "title": "Edited"},
    )
    assert answer.json["success"]


@anonymous
def test_what_anonymous_readers_do_not_get_is_not_captured(redacting, app):
    """Whichever way the extension finds who reads, and whoever may read the dataset."""
    found = set()

    def is_for(context):
        ways = {way.__name__ for way in WAYS if way(context)}
        found.update(ways)
        return bool(ways)

    redacting(is_for)
    organization = factories.Organization()
    datasets = [save(owner_org=organization["id"], private=private) for private in (False, True)]
    for dataset in datasets:
        edit_in_a_request(app, dataset)
    rows = in_order()
    assert [row.labels == ["public"] for row in rows] == [True, False, True, False]
    assert [json.loads(row.content)["title"] for row in rows[2:]] == ["Edited"] * 2
    for row in rows:
        kept = json.loads(row.content)
        assert kept["maintainer_email"] is None and kept["resources"][0]["description"] is None
        assert PLANTED not in row.content
    assert found == {way.__name__ for way in WAYS}, "the request itself was a sysadmin's"


@anonymous
def test_without_such_an_extension_it_is_what_is_captured_otherwise(monkeypatch):
    dataset = save(tags=[{"name": "wet"}])
    model.Session.commit()
    (row,) = stored("webhooks_event")
    monkeypatch.setitem(tk.config, "ckanext.webhooks.content", "full")
    execute("DELETE FROM webhooks_event")
    call(factories.Sysadmin(), "package_patch", id=dataset["id"], title=dataset["title"] + "!")
    (full,) = stored("webhooks_event")
    kept, expected = json.loads(row.content), json.loads(full.content)
    changing = ("title", "metadata_modified")
    assert {k: v for k, v in kept.items() if k not in changing} == {
        k: v for k, v in expected.items() if k not in changing
    }


@anonymous
def test_the_request_is_its_user_s_again_afterwards(app):
    dataset = save()
    reader = model.User.get(factories.Sysadmin()["id"])
    with app.flask_app.test_request_context("/"):
        content.of_dataset(dataset["id"], None)
        assert not {"user", "userobj", "_login_user"} & set(flask.g), "what was not there is not"
        flask.g.user, flask.g.userobj = reader.name, reader
        flask.current_app.login_manager._update_request_context_with_user(reader)
        content.of_dataset(dataset["id"], None)
        assert (flask.g.user, flask.g.userobj) == (reader.name, reader)
        assert tk.current_user.name == reader.name


@anonymous
def test_what_is_told_has_none_of_it(redacting, receiver):
    redacting(by_check_access)
    organization, member = factories.Organization(), factories.User()
    join(organization, member)
    for format_ in ("classic", "standard", "cloudevents"):
        create(member, address=receiver.url, format=format_)
    save(owner_org=organization["id"], private=True)
    tasks.work_once()
    assert len(receiver.requests) == 6
    assert not any(PLANTED.encode() in request.body for request in receiver.requests)


@stub
def test_a_stub_has_none_of_what_some_readers_do_not_get(redacting, receiver):
    redacting(by_check_access)
    user = factories.User()
    hooks = [
        create(user, address=receiver.url, format=format_)
        for format_ in ("classic", "standard", "cloudevents")
    ]
    dataset = save()
    call(factories.Sysadmin(), "package_patch", id=dataset["id"], maintainer_email="x" + PLANTED)
    call(factories.Sysadmin(), "package_delete", id=dataset["id"])
    tasks.work_once()
    call(user, "webhook_replay", id=hooks[0], since="2000-01-01")
    tasks.work_once()
    bodies = [request.body.decode() for request in receiver.requests]
    assert len(bodies) > 15 and not any(PLANTED in body for body in bodies)
    owners.forget()
    said = [call(user, "webhook_event_list")]
    for row in stored("webhooks_delivery"):
        said.append(call(user, "webhook_delivery_show", id=row.id)["request"])
    assert said[0]["events"] and PLANTED not in json.dumps(said)
    assert ADDRESS not in json.dumps(said)
