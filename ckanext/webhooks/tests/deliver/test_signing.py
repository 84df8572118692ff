"""Signatures, against the specification's own library."""

from __future__ import annotations

import base64
import datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from ...deliver import signing
from ...encryption import new_secret

# The example of the Standard Webhooks libraries' tests and documentation.
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def now() -> int:
    return int(datetime.datetime.now(datetime.timezone.utc).timestamp())


def test_the_vector_of_the_specification():
    assert signing.sign(ID, TIMESTAMP, BODY, SECRET) == SIGNATURE
    moment = datetime.datetime.fromtimestamp(TIMESTAMP, datetime.timezone.utc)
    assert Webhook(SECRET).sign(ID, moment, BODY.decode()) == SIGNATURE


@pytest.mark.parametrize("body", [b"{}", b"", '{"title": "Flüsse, 川"}'.encode()])
def test_the_library_verifies_what_was_signed(body):
    secret = new_secret()
    headers = signing.headers("event-1", now(), body, [secret])
    Webhook(secret).verify(body.decode(), headers, json_parse=False)


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp", "secret"])
def test_whatever_is_changed_the_signature_does_not_fit(changed):
    secret, body = new_secret(), "{}"
    headers = signing.headers("event-1", now(), body.encode(), [secret])
    if changed == "body":
        body = "{ }"
    elif changed == "secret":
        secret = new_secret()
    else:
        headers[changed] = str(now() + 1) if changed.endswith("timestamp") else "event-2"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)


def test_during_a_rotation_receivers_of_either_secret_verify():
    new, old = new_secret(), new_secret()
    headers = signing.headers("event-1", now(), b"{}", [new, old])
    for secret in (new, old):
        Webhook(secret).verify("{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify("{}", headers)
    signatures = headers["webhook-signature"].split(" ")
    assert [s.split(",")[0] for s in signatures] == ["v1", "v1"]


def test_there_are_exactly_the_three_headers_as_text():
    headers = signing.headers("event-1", TIMESTAMP, b"{}", [SECRET])
    assert set(headers) == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    assert headers["webhook-timestamp"] == "1614265330"
    assert len(base64.b64decode(headers["webhook-signature"][3:])) == 32


def test_a_secret_of_another_form_is_an_error():
    with pytest.raises(ValueError, match="whsec_"):
        signing.sign("event-1", TIMESTAMP, b"", "secret")
