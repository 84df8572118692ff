"""Secrets at rest, and the form of a signing secret."""

from __future__ import annotations

import base64

import pytest
from cryptography.fernet import Fernet

from .. import encryption

OLD = Fernet.generate_key().decode()
NEW = Fernet.generate_key().decode()
FOREIGN = Fernet.generate_key().decode()


def whsec(length: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(length))).decode()


def test_what_was_encrypted_is_read_again_and_shows_nothing():
    token = encryption.encrypt("whsec_geheim ü", [NEW])
    assert "geheim" not in token
    assert encryption.decrypt(token, [NEW]) == "whsec_geheim ü"
    assert encryption.encrypt("whsec_geheim ü", [NEW]) != token


def test_the_first_key_writes_and_every_key_reads():
    by_old = encryption.encrypt("text", [OLD])
    by_new = encryption.encrypt("text", [NEW, OLD])
    assert encryption.decrypt(by_old, [NEW, OLD]) == "text"
    assert encryption.decrypt(by_new, [NEW]) == "text"
    with pytest.raises(encryption.UnreadableSecret):
        encryption.decrypt(by_new, [OLD])


def test_after_a_rotation_the_old_key_is_not_needed():
    token = encryption.reencrypt(encryption.encrypt("text", [OLD]), [NEW, OLD])
    assert encryption.decrypt(token, [NEW]) == "text"


@pytest.mark.parametrize(
    "token",
    # With an id: it is another one in each process.
    [pytest.param(encryption.encrypt("text", [OLD]), id="by another key"), "", "no token", "ü"],
)
def test_what_no_key_reads_says_which_option_to_look_at(token):
    for act in (encryption.decrypt, encryption.reencrypt):
        with pytest.raises(encryption.UnreadableSecret, match=r"ckanext\.webhooks\.secret_keys"):
            act(token, [NEW, FOREIGN])


@pytest.mark.parametrize("keys", [[], [""], ["short"], [NEW[:-4]], ["ü" * 44], [NEW, "bad"]])
def test_a_bad_key_is_an_error(keys):
    with pytest.raises(ValueError):
        encryption.encrypt("text", keys)


def test_the_key_from_the_sites_secret_is_always_the_same():
    key = encryption.derived_key("site secret")
    assert key == encryption.derived_key("site secret") != encryption.derived_key("other")
    # Written down: another value would make every stored secret unreadable.
    assert key == "bpxlQjRslBm4mMLbi0HUisA_pEHohUiQ7PKLDEgv4lU="
    assert encryption.decrypt(encryption.encrypt("text", [key]), [key]) == "text"
    assert len(base64.urlsafe_b64decode(encryption.derived_key(""))) == 32


def test_a_new_secret_is_32_random_bytes_in_the_form_of_the_spec():
    secret = encryption.new_secret()
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret[6:], validate=True)) == 32
    assert secret != encryption.new_secret()
    assert len(encryption.secret_bytes(secret)) == 32


@pytest.mark.parametrize("length", [24, 32, 64])
def test_a_secret_may_stand_for_24_to_64_bytes(length):
    assert encryption.secret_bytes(whsec(length)) == bytes(range(length))


@pytest.mark.parametrize(
    ("secret", "wrong"),
    [
        ("", "must start with whsec_"),
        (whsec(32)[6:], "must start with whsec_"),
        ("WHSEC_" + whsec(32)[6:], "must start with whsec_"),
        ("whsec_", "24 to 64 bytes, not 0"),
        (whsec(23), "24 to 64 bytes, not 23"),
        (whsec(65), "24 to 64 bytes, not 65"),
        ("whsec_not base64!", "must be base64"),
        ("whsec_" + "ü" * 40, "must be base64"),
        (whsec(32)[:-1], "must be base64"),
        (whsec(32) + "\n", "must be base64"),
        # urlsafe base64 is another alphabet, which other libraries refuse.
        ("whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), "must be base64"),
    ],
)
def test_a_secret_of_another_form_says_what_is_wrong(secret, wrong):
    with pytest.raises(ValueError, match=wrong):
        encryption.secret_bytes(secret)
