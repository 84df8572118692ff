"""What the owners of webhooks may see and do: CKAN's own answers."""

from __future__ import annotations

import random

import ckan.plugins as p
import ckan.plugins.toolkit as tk
import pytest
import sqlalchemy as sa
from ckan import authz, model
from ckan.lib.plugins import get_permission_labels
from ckan.tests import factories
from ckan.tests.helpers import call_action, changed_config

from .. import owners
from ..dispatch import notice_rights
from ..visibility import ALL
from .callers import call, execute

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


def test_what_changes_inside_ckan_shows_at_once():
    user = factories.User()
    organization = factories.Organization()
    label = f"member-{organization['id']}"
    assert label not in read(user["id"]).labels
    member = {"id": organization["id"], "username": user["name"]}
    call_action("organization_member_create", role="member", **member)
    for _ in range(2):
        assert label in owners.standing([user["id"]])[user["id"]].labels
    notice_rights()
    assert statements([user["id"]], forgetting=False) > 1, "another process numbered it"
    assert statements([user["id"]], forgetting=False) == 1, "it was looked at once"
    call(factories.Sysadmin(), "organization_member_delete", **member)
    assert label not in owners.standing([user["id"]])[user["id"]].labels


def test_an_answer_from_elsewhere_is_kept_for_five_seconds_and_no_longer(monkeypatch):
    user = factories.User()
    organization = factories.Organization()
    label = f"member-{organization['id']}"
    notice_rights()
    now = 1000.0
    monkeypatch.setattr(owners.time, "monotonic", lambda: now)
    assert label not in read(user["id"]).labels
    # SQL as text, of which CKAN knows nothing.
    execute(
        "INSERT INTO member (id, table_name, table_id, group_id, capacity, state)"
        " VALUES ('elsewhere', 'user', :user, :organization, 'member', 'active')",
        user=user["id"],
        organization=organization["id"],
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


def some(kind, count, **columns):
    """Make rows of a model; what is callable is asked for each."""
    made = [kind() for _ in range(count)]
    for n, row in enumerate(made):
        for column, value in columns.items():
            setattr(row, column, value(n) if callable(value) else value)
    model.Session.add_all(made)
    model.Session.flush()
    return made


def populate(seed):
    """Make users with all sorts of rights, most of them odd."""
    rng = random.Random(seed)

    def one_of(*values):
        return lambda n: rng.choice(values)

    def names(kind):
        return lambda n: f"{kind}-{n}"

    mostly_active = one_of("active", "active", "active", "deleted", "pending")
    users = some(
        model.User,
        40,
        name=names("user"),
        email=lambda n: f"user-{n}@example.com",
        state=mostly_active,
        sysadmin=lambda n: n % 10 == 0,
    )
    groups = some(
        model.Group,
        30,
        name=names("group"),
        is_organization=lambda n: n % 6 != 0,
        type=one_of("organization", "organization", "organization", "company", "group"),
        state=mostly_active,
    )
    # Longer than CKAN follows; and loops.
    chain = some(model.Group, 12, name=names("chain"), is_organization=True, type="organization")
    some(
        model.Member,
        11,
        table_name="group",
        table_id=lambda n: chain[n].id,
        group=lambda n: chain[n + 1],
        capacity="parent",
    )
    some(
        model.Member,
        30,
        table_name="group",
        table_id=lambda n: rng.choice(groups).id,
        group=lambda n: rng.choice(groups + chain),
        capacity="parent",
        state=one_of("active", "active", "active", "deleted"),
    )
    some(
        model.Member,
        80,
        table_name="user",
        table_id=lambda n: rng.choice(users).id,
        group=lambda n: rng.choice(groups + chain[:2]),
        capacity=one_of("admin", "editor", "member", "auditor"),
        state=one_of("active", "active", "active", "deleted", "pending"),
    )
    some(
        model.Member,
        1,
        table_name="user",
        table_id=next(u.id for u in users if u.state == "active" and not u.sysadmin),
        group=chain[0],
        capacity="admin",
    )
    packages = some(model.Package, 5, name=names("package"))
    some(
        model.PackageMember,
        20,
        package_id=lambda n: packages[n % 5].id,
        user_id=lambda n: users[n // 5 + n % 5 * 4].id,
        capacity=one_of("editor", "member"),
    )
    model.Session.commit()
    return users


CASCADES = ["", "admin", "admin editor member", "auditor"]


@pytest.mark.parametrize("collaborators", [True, False])
@pytest.mark.parametrize("cascading", CASCADES)
def test_the_labels_of_many_are_those_that_ckan_gives_each(monkeypatch, cascading, collaborators):
    monkeypatch.setitem(authz.ROLE_PERMISSIONS, "auditor", ["read"])
    users = populate(f"{cascading} {collaborators}")
    with (
        changed_config("ckan.auth.roles_that_cascade_to_sub_groups", cascading.split()),
        changed_config("ckan.auth.allow_dataset_collaborators", collaborators),
    ):
        owners.forget()
        found = owners.standing(user.id for user in users)
        for user in users:
            if user.state != "active":
                assert found[user.id] == owners.Owner(frozenset(), False, False)
            elif user.sysadmin:
                assert found[user.id].labels is ALL
            else:
                labels = get_permission_labels().get_user_dataset_labels(user)
                assert found[user.id].labels == set(labels)
    given = {
        label.split("-")[0] for o in found.values() if o.labels is not ALL for label in o.labels
    }
    assert given == {"public", "creator", "member"} | ({"collaborator"} if collaborators else set())


@pytest.mark.parametrize("minimum", ["none", "editor", "admin", "sysadmin"])
def test_the_role_of_many_is_that_of_each(minimum):
    users = [user for user in populate(minimum) if user.state == "active"]
    with changed_config("ckanext.webhooks.minimum_auth", minimum):
        owners.forget()
        found = owners.standing(user.id for user in users)
        for user in users:
            assert found[user.id].may_subscribe == owners.meets_minimum_auth(user)
    may = {owner.may_subscribe for owner in found.values()}
    assert may == ({True} if minimum == "none" else {True, False})


def statements(user_ids, forgetting=True):
    """Count what is asked of the database for these users."""
    asked = []

    def hear(conn, cursor, statement, *_):
        asked.append(statement)

    if forgetting:
        owners.forget()
    sa.event.listen(model.meta.engine, "before_cursor_execute", hear)
    try:
        owners.standing(user_ids)
    finally:
        sa.event.remove(model.meta.engine, "before_cursor_execute", hear)
    return len(asked)


def test_many_cost_no_more_statements_than_one():
    ids = [factories.User()["id"] for _ in range(10)]
    assert statements(ids) == statements(ids[:1])


@pytest.mark.ckan_config("ckan.plugins", "webhooks example_ipermissionlabels")
def test_a_plugin_that_replaces_the_labels_is_asked():
    user = factories.User()
    organization = factories.Organization(users=[{"name": user["name"], "capacity": "admin"}])
    assert f"admin-{organization['id']}" in read(user["id"]).labels


def test_labels_that_cannot_be_read_are_unknown_and_nobody_elses(directory, caplog):
    users = [factories.User()["id"] for _ in range(3)]
    directory.away_for = {users[0], users[1]}
    owners.forget()
    found = owners.standing(users)
    unknown = owners.Owner(None, exists=True, may_subscribe=True)
    assert [found[id_] for id_ in users[:2]] == [unknown] * 2
    assert found[users[2]].labels == {"public", f"creator-{users[2]}"}
    (line,) = [r for r in caplog.records if r.name == "ckanext.webhooks.owners"]
    assert "permission labels of 2 users cannot be read" in line.getMessage()
    assert "the_directory_is_away" in str(line.exc_info)
    directory.away_for.clear()
    assert read(users[0]).labels == {"public", f"creator-{users[0]}"}


@pytest.mark.parametrize("method", ["get_actions", "get_auth_functions"])
@pytest.mark.parametrize(
    "name", ["organization_list_for_user", "package_collaborator_list_for_user"]
)
def test_ckan_is_asked_for_each_where_a_plugin_has_a_say(monkeypatch, method, name):
    ids = [factories.User()["id"] for _ in range(10)]
    at_once = statements(ids)
    # CKAN keeps what it finds first, and what is planted is not to be found.
    authz.auth_functions_list(), tk.get_action("status_show")
    monkeypatch.setattr(p.get_plugin("webhooks"), method, lambda: {name: None})
    assert statements(ids) >= at_once + len(ids)


def test_labels_of_nobody_that_cannot_be_read_are_none(directory):
    """A plugin may know accounts alone; who reads the feed or asks for a replay needs no other."""
    with pytest.raises(AttributeError):
        directory.get_user_dataset_labels(None)
    user = factories.User()["id"]
    assert owners.since([user]) == {user: owners.Since(frozenset(), None)}
