"""Datasets made with CKAN's own form in its steps, in a browser, on a running stack."""

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
from .site import READY, Site

# Ubuntu has Chromium as a snap alone, which bin/test does not install.
pytestmark = pytest.mark.skipif(
    browser.missing() is not None, reason=f"{browser.missing()} is not installed"
)

FOLDER = Path(__file__).parents[3] / ".dev" / "run" / f"form-{os.getpid()}"
SAVE = "#dataset-edit button.btn-primary[name=save]"
# CKAN 2.12 alone has it.
UNPUBLISH = "#dataset-edit button[value=go-metadata-unpublish]"
# Longer than an event takes to arrive, so that silence says something.
QUIET = 2.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(FOLDER) as prepared:
        # One process with threads: each has to compile the templates of all pages.
        prepared.start_web("gunicorn", workers=1, threads=4)
        prepared.start_worker().await_output(READY)
        yield prepared
    shutil.rmtree(FOLDER)


@pytest.fixture(scope="module")
def ckan(site: Site) -> ckanapi.RemoteCKAN:
    return ckanapi.RemoteCKAN(site.url, apikey=site.token)


@pytest.fixture(scope="module")
def organization(ckan: ckanapi.RemoteCKAN) -> str:
    return ckan.action.organization_create(name="the-organization")["id"]


@pytest.fixture(scope="module")
def editor(site: Site, ckan: ckanapi.RemoteCKAN, organization: str) -> Iterator[Browser]:
    """A browser in which an editor of the organization has logged in."""
    password = secrets.token_hex(8)
    ckan.action.user_create(name="editor", email="editor@example.com", password=password)
    ckan.action.organization_member_create(id=organization, username="editor", role="editor")
    with Browser(FOLDER) as opened:
        opened.open(f"{site.url}/user/login")
        opened.type("#field-login", "editor")
        opened.type("#field-password", password)
        opened.submit("form button.btn-primary[type=submit]")
        yield opened


def subscriber(site: Site, ckan: ckanapi.RemoteCKAN, receiver: Receiver, organization=None) -> None:
    name = f"user-{secrets.token_hex(4)}"
    ckan.action.user_create(name=name, email=f"{name}@example.com", password=secrets.token_hex(8))
    if organization:
        ckan.action.organization_member_create(id=organization, username=name, role="member")
    token = ckan.action.api_token_create(user=name, name="t")["token"]
    own = ckanapi.RemoteCKAN(site.url, apikey=token)
    own.action.webhook_create(topic="*", address=receiver.url)


@pytest.fixture
def public(site, ckan) -> Iterator[Receiver]:
    """What somebody receives who sees public datasets alone."""
    with Receiver() as receiver:
        subscriber(site, ckan, receiver)
        yield receiver


@pytest.fixture
def member(site, ckan, organization) -> Iterator[Receiver]:
    """What a member of the organization receives."""
    with Receiver() as receiver:
        subscriber(site, ckan, receiver, organization)
        yield receiver


def first_step(site: Site, editor: Browser, organization: str, title: str, private: str) -> None:
    editor.open(f"{site.url}/dataset/new")
    # Before CKAN's scripts have put it there, they make no name from the title.
    editor.wait_for(".slug-preview")
    editor.type("#field-title", title)
    editor.choose("#field-organizations", organization)
    editor.choose("#field-private", private)
    editor.submit(SAVE)
    assert "/resource/new" in editor.location, editor.text


def resource_step(editor: Browser, url: str, button: str) -> None:
    if editor.has("#resource-link-button"):
        editor.click("#resource-link-button")
    editor.type("#field-resource-url", url)
    editor.submit(f"button[name=save][value={button}]")


def told(receiver: Receiver, count: int) -> list[str]:
    """Wait for so many messages, and see that no more follow."""
    receiver.wait(count)
    bodies = sorted((r.json for r in receiver.settle(QUIET)), key=lambda body: body["sequence"])
    return [body["topic"] for body in bodies]


def entity(receiver: Receiver, topic: str) -> dict:
    """Give the entity of the one message of a topic."""
    (found,) = (r.json["entity"] for r in receiver.requests if r.json["topic"] == topic)
    return found


def edit(site: Site, editor: Browser, name: str) -> None:
    """Open a dataset's form. A title that is emptied before CKAN's scripts run is taken for that
    of a new dataset, whose name follows it.
    """
    editor.open(f"{site.url}/dataset/edit/{name}")
    editor.wait_until(lambda: editor.run("return 'slug-preview-target' in ckan.module.instances"))


def test_a_public_dataset_is_told_at_the_last_step_and_not_before(
    site, editor, organization, public, member
):
    first_step(site, editor, organization, "By the form", "False")
    assert told(public, 0) == told(member, 0) == []
    resource_step(editor, "http://example.com/a.csv", "again")
    assert told(public, 0) == told(member, 0) == []
    resource_step(editor, "http://example.com/b.csv", "go-metadata")
    assert editor.location == f"{site.url}/dataset/by-the-form"
    created = ["dataset/create", "resource/create", "resource/create"]
    assert told(public, 3) == told(member, 3) == created
    shown = entity(public, "dataset/create")
    assert (shown["title"], shown["state"]) == ("By the form", "active")
    urls = [resource["url"] for resource in shown["resources"]]
    assert urls == ["http://example.com/a.csv", "http://example.com/b.csv"]

    public.clear()
    edit(site, editor, "by-the-form")
    editor.type("#field-title", "By the form again")
    editor.submit(SAVE)
    assert told(public, 1) == ["dataset/update"]
    assert public.requests[0].json["changed"] == ["title"]

    public.clear()
    edit(site, editor, "by-the-form")
    if editor.has(UNPUBLISH):
        editor.submit(UNPUBLISH)
        assert told(public, 3) == ["dataset/delete", "resource/delete", "resource/delete"]
        assert entity(public, "dataset/delete").keys() == {"id", "name", "type"}


def test_a_private_dataset_is_told_to_members_at_the_last_step(
    site, editor, organization, public, member
):
    first_step(site, editor, organization, "Private by the form", "True")
    assert told(member, 0) == []
    resource_step(editor, "http://example.com/a.csv", "go-metadata")
    assert told(member, 2) == ["dataset/create", "resource/create"]

    edit(site, editor, "private-by-the-form")
    editor.type("#field-title", "Still private")
    editor.submit(SAVE)
    assert told(member, 3)[2:] == ["dataset/update"]
    assert told(public, 0) == []


def test_a_form_that_is_left_before_the_last_step_is_told_to_nobody(
    site, editor, organization, public, member
):
    first_step(site, editor, organization, "Left alone", "False")
    resource_step(editor, "http://example.com/a.csv", "again")
    editor.open(site.url)
    assert told(public, 0) == told(member, 0) == []
