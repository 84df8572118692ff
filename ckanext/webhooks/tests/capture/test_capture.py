"""The event rows that real CKAN actions leave."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ...model import Event

pytestmark = pytest.mark.usefixtures("webhooks_db")


def events():
    table = Event.__table__
    return model.Session.execute(sa.select(table).order_by(table.c.position)).all()


def test_create_writes_one_row_with_content():
    dataset = factories.Dataset(resources=[{"url": "http://example.com/a.csv"}])
    (event,) = events()
    assert event.dataset_id == dataset["id"]
    assert (event.labels_before, event.labels) == (None, ["public"])
    assert event.version == 1
    content = json.loads(event.content)
    assert content["resources"][0]["url"] == "http://example.com/a.csv"


def test_update_patch_delete_purge():
    user = factories.Sysadmin()
    dataset = factories.Dataset()
    ctx = {"user": user["name"]}
    call_action("package_patch", ctx, id=dataset["id"], title="New")
    call_action("package_patch", ctx, id=dataset["id"], title="New")
    call_action("package_delete", ctx, id=dataset["id"])
    call_action("dataset_purge", ctx, id=dataset["id"])
    rows = events()
    assert [(e.version, e.state, e.labels_before, e.labels) for e in rows] == [
        (1, "active", None, ["public"]),
        (2, "active", ["public"], ["public"]),
        (3, "deleted", ["public"], None),
    ]
    assert json.loads(rows[2].content)["title"] == "New"
