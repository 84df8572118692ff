"""An endpoint shows that it wants to be called, before it is told anything."""

from __future__ import annotations

import json
import threading

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories
from ckan.tests.helpers import changed_config

from ... import queue, tasks
from ..callers import call, create, stored
from ..receiver import Received, Receiver

pytestmark = [
    pytest.mark.usefixtures("webhooks_db"),
    pytest.mark.ckan_config("ckanext.webhooks.verify", True),
]


def echo(request: Received) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, request.body


def row(hook: str):
    return next(r for r in stored() if r.id == hook)


def topics(receiver: Receiver) -> list[str]:
    return [request.json["topic"] for request in receiver.requests]


def challenge(receiver: Receiver) -> str:
    return receiver.requests[-1].json["challenge"]


def test_an_endpoint_that_answers_with_the_challenge_is_told_from_then_on(receiver):
    user = factories.User()
    hook = create(user, address=receiver.url)
    shown = call(user, "webhook_show", id=hook)
    assert shown["state"] == "unverified" and "webhook_verify" in shown["state_reason"]
    assert [w["id"] for w in call(user, "webhook_list", state="unverified")] == [hook]
    # Who reads the API knows nothing of what the endpoint receives.
    assert row(hook).challenge not in json.dumps([shown, call(user, "webhook_list")])
    factories.Dataset()
    tasks.work_once()
    assert topics(receiver) == ["ping"], "it is told nothing"
    assert row(hook).state == "unverified", "2xx alone is no answer"
    assert [d.topic for d in stored("webhooks_delivery")] == ["ping"]

    receiver.respond = echo
    call(user, "webhook_patch", id=hook, address=receiver.url + "/other")
    tasks.work_once()
    shown = call(user, "webhook_show", id=hook)
    assert (shown["state"], shown["state_reason"]) == ("active", None)
    assert row(hook).challenge is None
    factories.Dataset()
    tasks.work_once()
    assert topics(receiver) == ["ping", "ping", "dataset/create"]


def test_its_owner_may_confirm_what_the_endpoint_received(receiver):
    user, stranger = factories.User(), factories.User()
    hook = create(user, address=receiver.url)
    tasks.work_once()
    for wrong in ("guess", "é", "x" * 10_000):
        with pytest.raises(tk.ValidationError) as error:
            call(user, "webhook_verify", id=hook, challenge=wrong)
        assert list(error.value.error_dict) == ["challenge"]
    with pytest.raises(tk.ObjectNotFound):
        call(stranger, "webhook_verify", id=hook, challenge=challenge(receiver))
    assert row(hook).state == "unverified"
    shown = call(user, "webhook_verify", id=hook, challenge=challenge(receiver))
    assert shown["state"] == "active"
    with pytest.raises(tk.ValidationError, match="active"):
        call(user, "webhook_verify", id=hook, challenge=challenge(receiver))
    factories.Dataset()
    tasks.work_once()
    assert topics(receiver) == ["ping", "dataset/create"]


def test_a_ping_sends_the_challenge_once_more_and_shows_it_to_nobody(receiver, monkeypatch):
    user = factories.User()
    hook = create(user, address=receiver.url)
    tasks.work_once()
    # The worker that webhook_ping waits for; an endpoint that shows all it gets, but in an error.
    monkeypatch.setattr(queue, "nudge", lambda: threading.Thread(target=tasks.work_once).start())
    receiver.respond = lambda request: (500, {}, request.body)
    answer = call(user, "webhook_ping", id=hook)
    assert answer["http_status"] == 500
    sent = [request.json["challenge"] for request in receiver.requests]
    assert sent == [row(hook).challenge] * 2
    listed = call(user, "webhook_delivery_list", id=hook)
    shown = [call(user, "webhook_delivery_show", id=one["id"]) for one in listed["deliveries"]]
    assert sent[0] not in json.dumps([answer, listed, shown])
    assert row(hook).state == "unverified"
    receiver.respond = echo
    call(user, "webhook_ping", id=hook)
    assert row(hook).state == "active"


def test_a_new_address_is_to_be_verified_and_nothing_else(receiver):
    user = factories.User()
    receiver.respond = echo
    hook = create(user, address=receiver.url)
    tasks.work_once()
    # Disabled and enabled again, it is what it was.
    call(user, "webhook_patch", id=hook, state="disabled")
    assert call(user, "webhook_patch", id=hook, state="active")["state"] == "active"
    call(user, "webhook_patch", id=hook, description="d", topic="dataset/*")
    assert row(hook).state == "active"
    factories.Dataset()
    tasks.dispatch()
    moved = call(user, "webhook_patch", id=hook, address=receiver.url + "/b")
    assert moved["state"] == "unverified" and moved["health"]["missed_since"]
    first, waited, ping = stored("webhooks_delivery")
    assert (waited.status, waited.topic) == ("cancelled", "dataset/create")
    assert "not verified" in waited.reason
    assert (ping.topic, ping.status, ping.address) == ("ping", "pending", receiver.url + "/b")
    assert first.event_id != ping.event_id and ping.event_id.startswith("ping_")


def test_no_detour_leads_around_it(receiver):
    user = factories.User()
    hook = create(user, address=receiver.url)
    before = row(hook).challenge

    def state() -> str:
        return call(user, "webhook_show", id=hook)["state"]

    call(user, "webhook_patch", id=hook, description="d")
    call(user, "webhook_patch", id=hook, state="active")
    call(user, "webhook_update", id=hook, topic="*", address=receiver.url)
    assert state() == "unverified" and row(hook).challenge == before
    assert len(stored("webhooks_delivery")) == 1, "it is asked once"
    call(user, "webhook_patch", id=hook, state="disabled")
    assert state() == "disabled"
    call(user, "webhook_patch", id=hook, address=receiver.url + "/b")
    assert state() == "disabled" and row(hook).challenge != before
    call(user, "webhook_patch", id=hook, state="active")
    assert state() == "unverified"
    # An older challenge confirms nothing.
    with pytest.raises(tk.ValidationError):
        call(user, "webhook_verify", id=hook, challenge=before)


def test_where_the_portal_asks_for_it_no_more_the_owner_goes_on(receiver):
    user = factories.User()
    hook = create(user, address=receiver.url)
    with changed_config("ckanext.webhooks.verify", False):
        assert call(user, "webhook_patch", id=hook, description="d")["state"] == "active"
        assert call(user, "webhook_show", id=create(user))["state"] == "active"
    # And what was active before it was asked for stays so.
    call(user, "webhook_patch", id=hook, description="e")
    assert row(hook).state == "active"
