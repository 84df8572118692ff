"""From a committed change to a signed POST, within one process."""

from __future__ import annotations

import pytest
from ckan.tests import factories
from ckan.tests.helpers import call_action
from standardwebhooks import Webhook as Verifier

from .. import tasks
from .receiver import Receiver

pytestmark = pytest.mark.usefixtures("webhooks_db")


def test_a_change_becomes_a_signed_post():
    user = factories.User()
    context = {"user": user["name"], "ignore_auth": False}
    with Receiver() as receiver:
        hook = call_action("webhook_create", context, topic="*", address=receiver.url + "/x")
        secret = call_action("webhook_secret_show", context, id=hook)["secret"]
        dataset = factories.Dataset(resources=[{"url": "http://example.com/a.csv"}])
        assert tasks.work_once() == 2
        for request in receiver.requests:
            Verifier(secret).verify(request.body.decode(), request.headers)
        bodies = [r.json for r in receiver.requests]
    assert sorted(b["topic"] for b in bodies) == ["dataset/create", "resource/create"]
    by_topic = {b["topic"]: b for b in bodies}
    assert by_topic["dataset/create"]["entity"]["id"] == dataset["id"]
    assert by_topic["resource/create"]["entity"]["package_id"] == dataset["id"]
