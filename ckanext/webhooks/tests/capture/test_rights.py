"""What moves a user's labels inside CKAN is noted in the transaction that does it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories

from ..callers import call, execute, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")

EVERYBODY = None


def noted() -> set[str | None]:
    """Give whose rights were noted, and forget it."""
    found = {row.user_id for row in stored("webhooks_right")}
    execute("DELETE FROM webhooks_right")
    return found


def add(row) -> None:
    model.Session.add(row)
    model.Session.commit()


def change(row, **columns) -> None:
    for name, value in columns.items():
        setattr(row, name, value)
    model.Session.commit()


def table_of(mapped):
    return sa.inspect(mapped).local_table


def delete(row) -> None:
    model.Session.delete(row)
    model.Session.commit()


@pytest.mark.ckan_config("ckan.auth.allow_dataset_collaborators", "true")
def test_each_way_to_another_right_is_noted(user):
    organization, dataset = factories.Organization(), factories.Dataset()
    admin = factories.Sysadmin()
    row = model.User.get(user["id"])
    group = model.Group.get(organization["id"])
    member = {"id": organization["id"], "username": user["name"]}
    both = {"id": dataset["id"], "user_id": user["id"]}
    execute("DELETE FROM webhooks_right")
    mine, everybody = {user["id"]}, {EVERYBODY}
    ways = [
        (mine, lambda: call(admin, "organization_member_create", role="member", **member)),
        (mine, lambda: call(admin, "organization_member_create", role="admin", **member)),
        (mine, lambda: call(admin, "organization_member_delete", **member)),
        (mine, lambda: call(admin, "package_collaborator_create", capacity="member", **both)),
        (mine, lambda: call(admin, "package_collaborator_delete", **both)),
        (mine, lambda: change(row, sysadmin=True)),
        (mine, lambda: change(row, sysadmin=False)),
        (mine, lambda: change(row, state="deleted")),
        (mine, lambda: change(row, state="active")),
        (everybody, lambda: change(group, state="deleted")),
        (everybody, lambda: change(group, state="active")),
        (
            everybody,
            lambda: add(
                model.Member(
                    group=group,
                    table_name="group",
                    table_id=factories.Organization()["id"],
                    capacity="parent",
                )
            ),
        ),
    ]
    for number, (expected, go) in enumerate(ways):
        go()
        assert expected <= noted(), number


def test_of_a_statement_everybody_is_noted():
    for table, values in (
        (model.Member, {"state": "deleted"}),
        (model.PackageMember, {"capacity": "member"}),
        (model.User, {"sysadmin": False}),
        (model.Group, {"state": "active"}),
    ):
        model.Session.execute(sa.update(table_of(table)).values(values))
        model.Session.commit()
        assert noted() == {EVERYBODY}, table


def test_what_moves_no_label_is_not_noted(user):
    organization = factories.Organization()
    execute("DELETE FROM webhooks_right")
    change(model.User.get(user["id"]), fullname="Another name")
    change(model.Group.get(organization["id"]), title="Another title")
    model.Session.execute(sa.update(table_of(model.User)).values(fullname="All the same"))
    model.Session.commit()
    factories.Dataset(owner_org=organization["id"])
    assert noted() == set()


def test_what_is_rolled_back_is_not_noted(user):
    model.User.get(user["id"]).sysadmin = True
    model.Session.flush()
    model.Session.rollback()
    assert noted() == set()


def test_a_save_goes_through_where_it_cannot_be_noted(user):
    execute("ALTER TABLE webhooks_right RENAME TO away")
    try:
        change(model.User.get(user["id"]), sysadmin=True)
    finally:
        execute("ALTER TABLE away RENAME TO webhooks_right")
    assert execute('SELECT sysadmin FROM "user" WHERE id = :id', id=user["id"]) == [(True,)]
