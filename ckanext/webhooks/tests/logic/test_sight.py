"""What may be seen counts at the moment of asking; where nobody knows it, that is an error."""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories

from ... import owners, tasks
from ..callers import call, create, execute, join

pytestmark = pytest.mark.usefixtures("webhooks_db")


def test_nothing_is_concluded_from_labels_that_cannot_be_read(user, receiver, directory):
    hook = create(user, address=receiver.url, topic="dataset/create")
    factories.Dataset(title="The title")
    tasks.work_once()
    (delivery,) = execute("SELECT id FROM webhooks_delivery")
    assert "The title" in call(user, "webhook_delivery_show", id=delivery.id)["request"]["body"]
    directory.away_for = {user["id"]}
    owners.forget()
    for action, data in (
        ("webhook_event_list", {}),
        ("webhook_replay", {"id": hook, "since": "2000-01-01"}),
        ("webhook_create", {"topic": "*", "address": receiver.url}),
    ):
        with pytest.raises(tk.ValidationError) as error:
            call(user, action, **data)
        assert "ask again later" in str(error.value.error_dict["user"]), action
    shown = call(user, "webhook_delivery_show", id=delivery.id)["request"]
    assert shown["body"] is None
    assert "cannot be read at the moment" in shown["body_note"]


def test_who_left_a_moment_ago_is_shown_nothing_more(user, receiver):
    organization = factories.Organization()
    join(organization, user)
    hook = create(user, address=receiver.url, topic="dataset/create")
    factories.Dataset(owner_org=organization["id"], private=True, title="The title")
    tasks.work_once()
    (delivery,) = execute("SELECT id FROM webhooks_delivery")
    assert "The title" in str(call(user, "webhook_event_list"))
    assert "The title" in call(user, "webhook_delivery_show", id=delivery.id)["request"]["body"]
    remove_member = {"id": organization["id"], "username": user["name"]}
    call(factories.Sysadmin(), "organization_member_delete", **remove_member)
    assert call(user, "webhook_event_list")["events"] == []
    assert call(user, "webhook_delivery_show", id=delivery.id)["request"]["body"] is None
    assert call(user, "webhook_replay", id=hook, since="2000-01-01")["deliveries"] == 0


def test_who_joined_a_moment_ago_may_ask_at_once(user):
    organization = factories.Organization()
    factories.Dataset(owner_org=organization["id"], private=True, title="The title")
    tasks.work_once()
    assert call(user, "webhook_event_list")["events"] == []
    member = {"id": organization["id"], "username": user["name"], "role": "member"}
    call(factories.Sysadmin(), "organization_member_create", **member)
    (event,) = call(user, "webhook_event_list")["events"]
    assert event["entity"]["title"] == "The title"
