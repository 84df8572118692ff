"""What an engine is: from requests to outcomes, many at a time."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any, Protocol

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from ... import outbound
from ..attempt import Outcome, Request

# What is read of an answer's head, its interim (1xx) ones included: servers
# and proxies bound it at 8 to 64 KiB themselves, and http.client at as many
# lines, of which the last one is empty.
MOST_HEAD_BYTES = 64 * 1024
MOST_HEADERS = 99
# Seconds after its timeout within which a request that was given up may still arrive. More than
# none, so that the timeout is what an attempt says; less than a lease lasts longer than the
# timeout, so that nobody else has sent the delivery meanwhile.
UNACKNOWLEDGED_GRACE = 2.0


@dataclass(frozen=True)
class Settings:
    """What holds for all requests of an engine.

    :param allowed_networks: what may be called although it is not public, see
        :func:`ckanext.webhooks.deliver.addresses.check_ip`
    :param proxy: URL of the proxy that all requests go through
    :param ca_bundle: file of the certificates that are trusted, in place of
        those that requests brings
    :ivar has_certificates: nobody is trusted where they cannot be read
    """

    allowed_networks: tuple[str, ...] = ()
    proxy: str | None = None
    ca_bundle: str | None = None
    has_certificates: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        try:
            if self.ca_bundle:
                outbound.check_certificates(self.ca_bundle)
        except ValueError:
            # A part of what settings are, so that a file that is mended opens another engine.
            object.__setattr__(self, "has_certificates", False)

    @property
    def certificates(self) -> str:
        """The file of those that are trusted, whichever it is."""
        return self.ca_bundle or DEFAULT_CA_BUNDLE_PATH


class Engine(Protocol):
    """Sends requests side by side; whatever an endpoint does is in the outcome.

    Redirects are not followed, the environment's proxies, .netrc and
    certificates are not used, cookies are not kept, and at most
    :data:`~ckanext.webhooks.deliver.attempt.READ_ANSWER_BYTES` of an answer
    are read, undecoded. Whose head says success has taken what it was sent, also where its
    body does not come whole or in time. A kept connection that turns out to be closed before
    anything of an answer came is replaced once, which is no other attempt.

    :ivar name: ``curl`` or ``requests``
    :ivar places: how many requests it is made to have under way
    """

    name: str
    places: int

    def start(self, key: Any, request: Request) -> None:
        """Start a request; never blocks. For one thread at a time, as ``wait`` is.

        :param key: what its outcome is given with
        """

    def wait(self, seconds: float) -> list[tuple[Any, Outcome]]:
        """Give what has ended, as soon as something has, or none after a time."""
        ...

    def wake(self) -> None:
        """Make a wait return, the current one or else the next. For any thread."""

    def close(self) -> None:
        """Close all connections; what is under way is given up."""


def is_success(status: int) -> bool:
    return 200 <= status < 300


def drop_late(connection: socket.socket, timeout: float) -> None:
    """Have the system forget what it could not bring across in time.

    Otherwise it goes on after the socket is closed, for minutes, and a request
    that was given up arrives once the network is back (RFC 5482, and
    ``TCP_USER_TIMEOUT`` of Linux, tcp(7)).

    :param timeout: of the request, seconds
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = round((timeout + UNACKNOWLEDGED_GRACE) * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
