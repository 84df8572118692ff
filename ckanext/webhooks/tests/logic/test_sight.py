"""What is asked for while nobody knows what may be seen is an error, not an empty answer."""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories

from ... import owners, tasks
from ..callers import call, create, execute

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
