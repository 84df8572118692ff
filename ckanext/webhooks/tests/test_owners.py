"""What the owners of webhooks may see and do: CKAN's own answers."""

from __future__ import annotations

import pytest
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action, changed_config

from .. import owners
from ..visibility import ALL
from .callers import call

pytestmark = pytest.mark.usefixtures("webhooks_db")


def read(user_id):
    """Give an owner's standing at this moment."""
    owners.forget()
    return owners.standing([user_id])[user_id]


def test_an_owner_has_the_labels_of_ckans_search():
    user, sysadmin = factories.User(), factories.Sysadmin()
    organization = factories.Organization(users=[{"name": user["name"], "capacity": "member"}])
    assert read(user["id"]).labels == {
        "public",
        f"member-{organization['id']}",
        f"creator-{user['id']}",
    }
    assert read(sysadmin["id"]).labels is ALL
    call(sysadmin, "organization_member_delete", id=organization["id"], username=user["name"])
    assert f"member-{organization['id']}" not in read(user["id"]).labels


def test_who_is_not_an_active_user_sees_nothing():
    user, sysadmin = factories.User(), factories.Sysadmin()
    for deleted in (user, sysadmin):
        call_action("user_delete", id=deleted["id"])
    for user_id in (user["id"], sysadmin["id"], "no-such-id", ""):
        standing = read(user_id)
        assert standing == owners.Owner(frozenset(), exists=False, may_subscribe=False)


def test_an_owner_is_found_by_id_alone():
    """Who takes the id of a user who is gone for a name inherits nothing."""
    sysadmin = factories.Sysadmin()
    assert not read(sysadmin["name"]).exists
    assert read(sysadmin["id"]).labels is ALL


def test_an_answer_is_kept_for_five_seconds_and_no_longer(monkeypatch):
    user = factories.User()
    organization = factories.Organization()
    label = f"member-{organization['id']}"
    now = 1000.0
    monkeypatch.setattr(owners.time, "monotonic", lambda: now)
    assert label not in read(user["id"]).labels
    call_action(
        "organization_member_create",
        id=organization["id"],
        username=user["name"],
        role="member",
    )
    now += owners.FRESH_FOR
    assert label not in owners.standing([user["id"]])[user["id"]].labels
    now += 0.1
    assert label in owners.standing([user["id"]])[user["id"]].labels
    assert owners.FRESH_FOR <= 5


def test_many_are_answered_at_once_each_once():
    users = [factories.User()["id"] for _ in range(3)]
    owners.forget()
    assert set(owners.standing([*users, *users])) == set(users)
    assert owners.standing([]) == {}
    # Nobody is left in the session for a later stage to wait for.
    model.Session.rollback()


def test_the_role_is_read_with_the_labels():
    user = factories.User()
    assert read(user["id"]).may_subscribe
    with changed_config("ckanext.webhooks.minimum_auth", "admin"):
        assert not read(user["id"]).may_subscribe
        factories.Organization(users=[{"name": user["name"], "capacity": "admin"}])
        assert read(user["id"]).may_subscribe
