"""The values that pass between the steps of a delivery.

Named tuples: frozen dataclasses take several times as long to make, and these
are made thousands of times a second.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# What is kept of an answer: enough for an error message.
KEPT_ANSWER_BYTES = 4 * 1024
# What is read of it before the connection is closed.
READ_ANSWER_BYTES = 16 * 1024


class Request(NamedTuple):
    """One POST, ready to be sent.

    :param url: as registered
    :param headers: all that this software sets
    :param body: the bytes that were signed
    :param timeout: seconds for everything, from resolving to the last byte
    """

    url: str
    headers: dict[str, str]
    body: bytes
    timeout: float


class Outcome(NamedTuple):
    """What came of a request: an answer, or an error.

    :param status: HTTP status; None where no complete answer came
    :param error: what went wrong; None where an answer came
    :param retry_after: the header of that name, as it was sent
    :param answer: the first bytes of the body
    :param dialled: the IP address that was connected to
    :param duration: seconds in all
    :param resolve: seconds until the name was resolved; None, as of the next
        three, where it did not come to that or was not necessary, as with a
        connection that was kept
    :param connect: seconds until the connection was accepted
    :param tls: seconds of the TLS handshake
    :param wait: seconds from the request to the answer's head
    """

    status: int | None = None
    error: str | None = None
    retry_after: str | None = None
    answer: bytes = b""
    dialled: str | None = None
    duration: float = 0.0
    resolve: float | None = None
    connect: float | None = None
    tls: float | None = None
    wait: float | None = None


class Attempted(NamedTuple):
    """A claimed delivery with what its attempt came to.

    :param delivery: the row as it was claimed
    :param until: when its lease ends, as PostgreSQL writes it
    :param sent_at: the signed time, seconds since 1970, by PostgreSQL's clock
    """

    delivery: Any
    until: str
    sent_at: int
    outcome: Outcome
