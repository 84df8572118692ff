"""A webhook from its form to its end in a browser, on a running stack; with scripts and without."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import ckanapi
import pytest

from ..receiver import Receiver, accept
from ..site import Site
from . import Browser, missing

pytestmark = [
    pytest.mark.acceptance,
    # Ubuntu has Chromium as a snap alone, which bin/test does not install.
    pytest.mark.skipif(missing() is not None, reason=f"{missing()} is not installed"),
]


@pytest.fixture(scope="module", params=[True, False], ids=["scripts", "no scripts"])
def publisher(request, ckan, organization: str, open_as) -> Iterator[Browser]:
    """Somebody who publishes datasets, and has logged in."""
    with open_as("publisher", request.param) as opened:
        ckan.action.organization_member_create(id=organization, username="publisher", role="editor")
        yield opened


def test_a_webhook_from_its_form_to_its_end(site, ckan, organization, publisher, receiver):
    name = f"trees-{uuid.uuid4().hex[:8]}"
    webhook = registered(site, publisher, receiver)
    dataset = ckan.action.package_create(name=name, owner_org=organization)
    receiver.wait(2)
    a_change_arrives(site, publisher, receiver, webhook, dataset)
    it_fails_and_is_mended(site, publisher, receiver, webhook, dataset)
    all_is_told_again(publisher, receiver, webhook, dataset)
    its_secret_is_rotated(publisher, webhook)
    it_ends(publisher, webhook)
    assert publisher.complaints() == []


def registered(site: Site, me: Browser, receiver: Receiver) -> str:
    """Fill in the form, wrong at first, and send a test; gives the webhook's page."""
    me.open(f"{site.url}/dashboard/webhooks")
    me.submit("a[href='/webhook/new']")
    me.type("#field-address", "http://10.0.0.1/")
    me.click("input[name=topic][value='dataset/*']")
    me.submit("button[name=save]")
    assert "The address is refused" in me.text
    me.type("#field-address", receiver.url)
    me.submit("button[name=example]")
    assert "dataset/update" in me.text
    me.submit("button[name=save]")
    assert "/secret" in me.location and "whsec_" in me.text

    me.submit("form[action$='/ping'] button")
    assert "/webhook/delivery/" in me.location
    assert "The endpoint answered" in me.text and "answer 200" in me.text
    (received,) = receiver.wait(1)
    assert received.json["topic"] == "ping"
    return f"{site.url}/webhook/{received.json['webhook_id']}"


def a_change_arrives(
    site: Site, me: Browser, receiver: Receiver, webhook: str, dataset: dict
) -> None:
    edit_dataset(me, site, dataset, "Trees of the city")
    assert receiver.wait(3)[-1].json["entity"]["title"] == "Trees of the city"
    see(me, webhook, "dataset/update")
    assert "All is well" in me.text
    me.open(f"{site.url}/dataset/webhooks/{dataset['id']}")
    assert "title" in me.text
    assert receiver.url in me.run("return document.body.textContent")


def it_fails_and_is_mended(
    site: Site, me: Browser, receiver: Receiver, webhook: str, dataset: dict
) -> None:
    receiver.respond = lambda request: (500, {}, b"out of order")
    edit_dataset(me, site, dataset, "Trees of the city, by age")
    see(me, webhook, "It has been failing since")
    me.open(f"{site.url}/dashboard/webhooks")
    assert "failing" in me.text
    receiver.respond = accept
    me.open(webhook)
    me.submit("form[action$='/ping'] button")
    assert "The endpoint answered" in me.text
    see(me, webhook, "All is well")


def all_is_told_again(me: Browser, receiver: Receiver, webhook: str, dataset: dict) -> None:
    before = len(receiver.settle())
    me.open(webhook)
    me.submit("a[href$='/replay']")
    me.type("#field-since", "2020-01-01T00:00:00Z")
    me.submit("form[method=post] .form-actions button.btn-primary")
    assert "would be sent again" in me.text
    me.submit("form[method=post] .form-actions button.btn-primary")
    assert "to be sent again" in me.text
    receiver.wait(before + 1)
    again = [request.json for request in receiver.settle()[before:]]
    told = [body["entity"]["id"] for body in again if body["topic"].startswith("dataset/")]
    assert dataset["id"] in told


def its_secret_is_rotated(me: Browser, webhook: str) -> None:
    shown = "return document.getElementById('webhook-secret').textContent"
    me.open(webhook)
    me.submit("a[href$='/secret']")
    old = me.run(shown)
    me.submit("form[action$='/rotate'] button")
    assert "There is a new secret" in me.text and old in me.text
    assert me.run(shown) != old


def it_ends(me: Browser, webhook: str) -> None:
    me.open(webhook)
    me.submit("form[action$='/switch'] button")
    assert "It is told nothing" in me.text
    me.submit("form[action$='/switch'] button")
    assert "It is told again" in me.text
    me.submit("a[href$='/delete']")
    me.submit("form[action$='/delete'] button")
    assert "The webhook was deleted" in me.text


def edit_dataset(me: Browser, site: Site, dataset: dict, title: str) -> None:
    me.open(f"{site.url}/dataset/edit/{dataset['id']}")
    me.type("#field-title", title)
    me.submit("#dataset-edit button.btn-primary[name=save]")


def see(me: Browser, page: str, text: str) -> None:
    """Look at a page until it says something.

    Until that is in it, it is but fetched: to show it takes the browser five times as long.
    """
    fetch = "return fetch(arguments[0]).then(answer => answer.text())"

    def says() -> bool:
        if text not in me.run(fetch, page):
            return False
        me.open(page)
        return text in me.text

    me.wait_until(says)


def test_what_is_saved_unchanged_stays_as_it_was(site, ckan, organization, publisher):
    token = ckan.action.api_token_create(user="publisher", name="t")["token"]
    own = ckanapi.RemoteCKAN(site.url, apikey=token)
    filters = {"organization": "city-council", "tag": ["air", "water"], "type": "dataset"}
    hook = own.action.webhook_create(
        topic=["resource/*", "dataset/create"],  # as the form has them
        address="https://example.com/callback",
        filters=filters,
        headers={"X-Key": "k"},
        max_rate=7,
    )
    before = own.action.webhook_show(id=hook)
    publisher.open(f"{site.url}/webhook/{hook}/edit")
    publisher.submit("button[name=save]")
    assert "The webhook was changed" in publisher.text
    assert own.action.webhook_show(id=hook) == before
    own.action.webhook_delete(id=hook)
    assert publisher.complaints() == []


@pytest.mark.parametrize("publisher", [True], indirect=True, ids=["scripts"])
def test_the_example_follows_what_is_chosen(site, publisher):
    publisher.open(f"{site.url}/webhook/new")
    publisher.click("input[name=topic][value='resource/create']")
    publisher.click("input[name=format][value=cloudevents]")
    publisher.wait_until(lambda: "org.ckan.resource.create" in publisher.text)
    assert publisher.complaints() == []
