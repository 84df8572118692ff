"""A webhook from its form to its end in a browser, on a running stack; with scripts and without."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import ckanapi
import pytest

from . import browser
from .browser import Browser
from .receiver import Receiver
from .site import Site
from .test_path import start_worker

# Ubuntu has Chromium as a snap alone, which bin/test does not install.
pytestmark = pytest.mark.skipif(
    browser.missing() is not None, reason=f"{browser.missing()} is not installed"
)

FOLDER = Path(__file__).parents[3] / ".dev" / "run" / f"pages-{os.getpid()}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(FOLDER) as prepared:
        prepared.start_web("gunicorn", workers=2)
        start_worker(prepared)
        yield prepared
    shutil.rmtree(FOLDER)


@pytest.fixture(scope="module")
def ckan(site: Site) -> ckanapi.RemoteCKAN:
    return ckanapi.RemoteCKAN(site.url, apikey=site.token)


@pytest.fixture(scope="module")
def password(ckan: ckanapi.RemoteCKAN) -> str:
    made = secrets.token_hex(8)
    ckan.action.user_create(name="publisher", email="publisher@example.com", password=made)
    ckan.action.organization_create(name="the-organization", title="The organization")
    return made


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def publisher(request, site: Site, password: str, tmp_path: Path) -> Iterator[Browser]:
    """A browser in which a user has logged in."""
    with Browser(tmp_path, scripts=request.param) as opened:
        opened.open(f"{site.url}/user/login")
        opened.type("#field-login", "publisher")
        opened.type("#field-password", password)
        opened.submit("form button.btn-primary[type=submit]")
        yield opened


def test_a_webhook_is_made_tried_looked_at_and_deleted(site, publisher, receiver):
    publisher.open(f"{site.url}/dashboard/webhooks")
    publisher.submit("a[href='/webhook/new']")

    # What is wrong is said, and what was filled in stays.
    publisher.type("#field-address", "http://10.0.0.1/")
    publisher.click("input[name=topic][value='dataset/*']")
    publisher.submit("button[name=save]")
    assert "The address is refused" in publisher.text
    publisher.type("#field-address", receiver.url)
    publisher.submit("button[name=example]")
    assert "dataset/update" in publisher.text
    publisher.submit("button[name=save]")
    assert "/secret" in publisher.location and "whsec_" in publisher.text

    publisher.submit("form[action$='/ping'] button")
    assert "/webhook/delivery/" in publisher.location
    assert "The endpoint answered" in publisher.text and "answer 200" in publisher.text
    (received,) = receiver.wait(1)
    assert received.json["topic"] == "ping"

    webhook = f"{site.url}/webhook/{received.json['webhook_id']}"
    publisher.open(webhook)
    assert "delivered" in publisher.text and "All is well" in publisher.text
    publisher.submit("form[action$='/switch'] button")
    assert "It is told nothing" in publisher.text
    publisher.submit("form[action$='/switch'] button")
    assert "It is told again" in publisher.text
    publisher.submit("a[href$='/delete']")
    publisher.submit("form[action$='/delete'] button")
    assert "The webhook was deleted" in publisher.text
    assert publisher.complaints() == []


def test_what_is_saved_unchanged_stays_as_it_was(site, ckan, publisher):
    token = ckan.action.api_token_create(user="publisher", name="t")["token"]
    own = ckanapi.RemoteCKAN(site.url, apikey=token)
    filters = {"organization": "the-organization", "tag": ["air", "water"], "type": "dataset"}
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
    assert publisher.complaints() == []


@pytest.mark.parametrize("publisher", [True], indirect=True, ids=["scripts"])
def test_the_example_follows_what_is_chosen(site, publisher):
    publisher.open(f"{site.url}/webhook/new")
    publisher.click("input[name=topic][value='resource/create']")
    publisher.click("input[name=format][value=cloudevents]")
    publisher.wait_until(lambda: "org.ckan.resource.create" in publisher.text)
    assert publisher.complaints() == []


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started
