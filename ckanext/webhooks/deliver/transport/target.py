"""Where a request goes and what its head says, before anything is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import requests

from .. import addresses
from . import words
from .engine import Settings
from .resolving import is_own

# RFC 9110, sections 5.1 and 5.5; what else is in a value could begin a header of its own.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")


class RefusedHeader(ValueError):
    """A header that HTTP does not allow; the text does not repeat its value."""


class NobodyTrusted(ValueError):
    """What goes over TLS cannot be verified, so it does not go."""


@dataclass(frozen=True)
class Target:
    """A URL as it is sent.

    :param url: in ASCII: the name in IDNA, the path percent-encoded
    :param host: the name or address, as it is resolved
    """

    url: str
    host: str
    port: int


# Webhooks that a worker calls again and again; one entry is about 1 KB.
@lru_cache(maxsize=4096)
def target(url: str, settings: Settings) -> Target:
    """Check a URL and prepare it.

    :raises addresses.RefusedAddress: it may not be called
    :raises NobodyTrusted: it would go over TLS
    """
    addresses.check_url(url, settings.allowed_networks, is_own)
    check_trust(url, settings)
    prepared = requests.PreparedRequest()
    try:
        prepared.prepare_url(url, None)
    except requests.RequestException as error:
        raise addresses.RefusedAddress(f"is not a URL: {error}") from None
    written = str(prepared.url)
    parts = urlsplit(written)
    host = str(parts.hostname).replace("%25", "%")  # a zone, as RFC 6874 writes it
    return Target(written, host, parts.port or addresses.DEFAULT_PORTS[parts.scheme])


def check_trust(url: str, settings: Settings) -> None:
    """:raises NobodyTrusted: it would go over TLS, and there is nothing to verify that by"""
    if not settings.has_certificates and "https" in map(_scheme, (url, settings.proxy or "")):
        raise NobodyTrusted(words.NOBODY_TRUSTED)


def _scheme(url: str) -> str:
    return urlsplit(url).scheme


# Most of what is sent is sent again: only a signature is always another.
@lru_cache(maxsize=4096)
def checked(name: str, value: str) -> str:
    """Give a header's value as it is sent, of a header that cannot be taken for others.

    :raises RefusedHeader: name or value has characters that it may not have
    """
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise RefusedHeader(
            f"the header {name!r} has characters that HTTP does not allow; it was not sent"
        )
    return value.strip()
