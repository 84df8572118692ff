"""What went wrong, in the same words whichever engine it happened to.

They are for the owner of the endpoint, who is to mend it. None of them
repeats anything of the request, whose headers may be secret.
"""

from __future__ import annotations

import socket

from .. import addresses

NOBODY_TRUSTED = (
    "the portal cannot read the certificates that it is to trust (ckanext.webhooks.ca_bundle), so"
    " nothing is sent over TLS; its operator is to mend that"
)
HEAD_TOO_LONG = "the answer has more than 99 headers, or more than 64 KiB of them"


def late(timeout: float) -> str:
    """Say that the deadline has passed.

    :param timeout: seconds
    """
    return f"no complete answer within {timeout:g} s"


def broken_off(_why: object = None) -> str:
    return "the connection ended before the answer was complete, or what came is broken"


def no_http(_why: object = None) -> str:
    return "the answer is not HTTP/1.1"


def unconnected(why: str | None) -> str:
    return f"could not connect: {why}"


def proxied(why: object) -> str:
    return f"the proxy refused: {why}"


def untrusted(why: object) -> str:
    return f"certificate refused: {why}"


def no_tls(why: object) -> str:
    return f"TLS failed: {why}"


def of(error: Exception) -> str:
    """Say what was wrong before anything was dialled."""
    if isinstance(error, addresses.RefusedAddress):
        return f"address refused: {error}"
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve: {error.strerror}"
    if isinstance(error, UnicodeError):
        return "the name does not resolve: it is no name"
    return str(error)
