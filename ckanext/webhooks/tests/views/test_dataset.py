"""What was told about a dataset, on its page and by the action behind it."""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories

from ...logic import told
from ..callers import call, create, join
from ..logic.test_deliveries import end, tell

pytestmark = [
    pytest.mark.usefixtures("webhooks_db"),
    # CKAN shows a dataset as its index has it, if that is not older.
    pytest.mark.ckan_config("ckan.search.solr_commit", True),
]


@pytest.fixture
def editor():
    return factories.User()


@pytest.fixture
def dataset(editor, user):
    """One that an editor may edit, and that two others are told of."""
    create(user, address="http://theirs.example.com")
    create(editor, address="http://mine.example.com")
    organization = factories.Organization()
    join(organization, editor, "editor")
    made = factories.Dataset(name="air", owner_org=organization["id"])
    tell()
    end()
    return made


def test_editors_see_what_was_told_and_to_how_many(visit, editor, sysadmin, dataset):
    call(factories.Sysadmin(), "package_patch", id="air", title="Better air")
    factories.Resource(package_id=dataset["id"])
    tell()
    page = visit(editor).get("/dataset/webhooks/air").body
    assert "title" in page and "resource" in page and ">2</td>" in page
    assert "mine.example.com" in page and "theirs.example.com" not in page
    page = sysadmin.get("/dataset/webhooks/air").body
    assert "mine.example.com" in page and "theirs.example.com" in page
    assert "/dataset/webhooks/air" in visit(editor).get("/dataset/edit/air").body


def test_it_comes_in_pages(editor, dataset):
    for n in range(3):
        call(factories.Sysadmin(), "package_patch", id="air", title=f"Title {n}")
        tell()
    found, before = [], None
    while True:
        given = {} if before is None else {"before": before}
        page = call(editor, "webhook_dataset_told", id="air", limit=1, **given)
        found += [event["sequence"] for event in page["events"]]
        before = page["before"]
        if before is None:
            break
    assert len(found) == 4 and found == sorted(found, reverse=True)


def test_of_very_many_only_some_are_counted(editor, dataset, monkeypatch):
    monkeypatch.setattr(told, "MOST", 1)
    (event,) = call(editor, "webhook_dataset_told", id="air")["events"]
    assert event["webhooks"] == 1


def test_others_see_nothing(visit, user, owner, sysadmin, dataset):
    owner.get("/dataset/webhooks/air", 403)
    visit().get("/dataset/webhooks/air", 302)
    sysadmin.get("/dataset/webhooks/no-such", 404)
    for caller in (None, user):
        with pytest.raises(tk.NotAuthorized):
            call(caller, "webhook_dataset_told", id="air")
    for odd in ("x", "-1", "9" * 30):
        sysadmin.get("/dataset/webhooks/air", before=odd)
        with pytest.raises(tk.ValidationError):
            call(factories.Sysadmin(), "webhook_dataset_told", id="air", before=odd)


def test_a_dataset_of_which_nothing_is_known_says_so(sysadmin):
    factories.Dataset(name="quiet")
    assert "Nothing so far" in sysadmin.get("/dataset/webhooks/quiet").body
