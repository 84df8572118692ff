"""Whatever is decided in English is known to translators."""

from __future__ import annotations

import socket

import pytest

from .. import phrases
from ..deliver import addresses, health
from ..deliver.attempt import Outcome
from ..deliver.retry import Decision, Verdict, decide
from ..deliver.transport import target, words
from ..model import Circuit

UNKNOWN = "what a library said"


def refused(url: str) -> str:
    with pytest.raises(addresses.RefusedAddress) as error:
        addresses.check_url(url, ())
    return str(error.value)


def led_to(ip: str) -> addresses.RefusedAddress:
    with pytest.raises(addresses.RefusedAddress) as error:
        addresses.check_ip(ip, (), "inner.example.com", 80)
    return error.value


def answered(status: int) -> str:
    return str(decide(Outcome(status=status), 9, (), 0.0, 0.0).reason)


def gone(verdict: Verdict) -> str:
    failing = health.Health(Circuit.OPEN, 9, 1e6)
    return str(health.after(failing, Decision(verdict), 432_000, 0.0).disabled)


def header() -> str:
    with pytest.raises(target.RefusedHeader) as error:
        target.checked("X-Bad", "a\nb")
    return str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        *map(answered, (302, 404, 500)),
        *map(gone, (Verdict.DISABLE, Verdict.RETRY)),
        words.late(10.0),
        words.HEAD_TOO_LONG,
        words.broken_off(),
        words.no_http(),
        words.unconnected(UNKNOWN),
        words.proxied(UNKNOWN),
        words.untrusted(UNKNOWN),
        words.no_tls(UNKNOWN),
        words.of(socket.gaierror(-2, "Name or service not known")),
        words.of(UnicodeError()),
        words.NOBODY_TRUSTED,
        words.of(addresses.RefusedAddress(refused("http://10.0.0.1"))),
        words.of(led_to("10.0.0.1")),
        words.of(led_to("169.254.169.254")),
        phrases.for_owner(words.of(led_to("10.0.0.1"))),
        header(),
        *map(
            refused,
            (
                "https://example.com/" + "a" * 2048,
                "https://exam ple.com",
                "https://[::1",
                "ftp://example.com",
                "https://",
                "https://256.256.256.256",
                "https://me@example.com",
                "https://example.com:0",
                "https://a%25b.example.com",
                "http://169.254.169.254",
            ),
        ),
    ],
)
def test_a_reason_is_one_of_the_sentences(text):
    sentence, values = phrases.parts(text)
    assert sentence in (*phrases._WORDS, *phrases._SENTENCES)
    assert (sentence % values if values else sentence) == text


def test_each_kind_of_address_that_is_refused_has_a_word():
    assert {why for _network, why in addresses._REFUSED} <= set(phrases._WORDS)


@pytest.mark.parametrize("ip", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "fe80::1%lo"])
def test_the_owner_reads_of_a_name_that_it_is_refused_and_not_where_it_led(ip):
    said = words.of(led_to(ip))
    assert said.startswith(f"address refused: {ip} is not a public address (")
    assert phrases.for_owner(said) == (
        "address refused: the name leads to an address that is not public; the portal's operator"
        " may allow it by ckanext.webhooks.allowed_networks"
    )


@pytest.mark.parametrize("url", ["http://10.0.0.1", "http://0x7f.1/", "http://localhost"])
def test_what_a_url_says_by_itself_is_no_secret(url):
    assert phrases.for_owner(refused(url)) == refused(url)


def test_what_is_of_no_sentence_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(phrases.tk, "_", lambda text: {"private": "privat"}.get(text, text))
    assert phrases.translated(UNKNOWN) == UNKNOWN
    assert phrases.translated(f"could not connect: {UNKNOWN}") == f"could not connect: {UNKNOWN}"


def test_words_within_a_sentence_are_translated_too(monkeypatch):
    german = {
        "private": "privat",
        "address refused: %(why)s": "Adresse abgelehnt: %(why)s",
        phrases._SENTENCES[-1]: "%(address)s ist nicht öffentlich (%(why)s); siehe %(option)s",
    }
    monkeypatch.setattr(phrases.tk, "_", lambda text: german.get(text, text))
    assert phrases.translated(words.of(addresses.RefusedAddress(refused("http://10.0.0.1")))) == (
        "Adresse abgelehnt: 10.0.0.1 ist nicht öffentlich (privat);"
        " siehe ckanext.webhooks.allowed_networks"
    )
