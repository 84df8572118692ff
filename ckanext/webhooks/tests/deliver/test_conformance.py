"""What endpoints may do to whoever calls them, by each engine over real sockets.

One engine of each kind lives through all of it: what an endpoint did shows in
its own outcome, within its deadline, and neither in the next one nor in the
worker's memory.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import pytest

from ...deliver.attempt import KEPT_ANSWER_BYTES, Outcome
from ...deliver.transport import resolving
from .hostile import (
    ENGINES,
    HEADERS,
    OK,
    Authority,
    Behaviour,
    Sender,
    answering,
    dripping,
    over_tls,
    read_request,
    serving,
    silent,
)

# Most of it is waiting.
pytestmark = pytest.mark.acceptance

DEADLINE = 1.0
# Seconds by which an outcome may be late on a busy machine, and bytes by which the worker may grow.
MARGIN = 1.0
# Seconds for what has to come about: no endpoint keeps it waiting.
PATIENCE = 20.0
MOST_GROWTH = 20_000_000
SECRET = "very-secret-value"

LATE = f"no complete answer within {DEADLINE:g} s"
BROKEN = "the connection ended before the answer was complete"
NO_HTTP = "the answer is not HTTP/1.1"
TOO_LONG = "the answer has more than 99 headers, or more than 64 KiB of them"


@dataclass(frozen=True)
class Case:
    """What a server does, and what is to come of it.

    :param answer: what is kept of the body; None where that does not matter
    :param error: how the error begins, as a regular expression
    """

    behave: Behaviour
    status: int | None = None
    error: str | None = None
    answer: bytes | None = None
    retry_after: str | None = None
    body: bytes = b'{"a": 1}'

    def check(self, outcome: Outcome) -> None:
        assert (outcome.status, outcome.retry_after) == (self.status, self.retry_after), outcome
        if self.error is None:
            assert outcome.error is None
        else:
            assert outcome.error and re.match(self.error, outcome.error), outcome
        if self.answer is not None:
            assert outcome.answer == self.answer


# --- behaviours


def head(status: str, *lines: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode()


def sending(*parts: bytes, wait: bool = False) -> Behaviour:
    """Send this after the request, and hang up, or wait for the other side to do so."""

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        for part in parts:
            connection.sendall(part)
        if wait:
            silent(connection)

    return behave


def endless(prefix: bytes, drop: bytes) -> Behaviour:
    """Send without end, as fast as the other side reads."""

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(prefix)
        while True:
            connection.sendall(drop)

    return behave


def reset(connection: socket.socket) -> None:
    """Have the connection end with a reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_after_the_request(connection: socket.socket) -> None:
    read_request(connection)
    reset(connection)


def reset_within_the_body(status: str) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(head(status, "Content-Length: 100") + b"half")
        time.sleep(0.05)  # so that it is read before the reset makes it void
        reset(connection)

    return behave


def answer_before_the_body(answer: bytes) -> Behaviour:
    """Answer as soon as anything came, and read the rest afterwards."""

    def behave(connection: socket.socket) -> None:
        connection.recv(10)
        connection.sendall(answer)
        silent(connection)

    return behave


def never_reading(connection: socket.socket) -> None:
    time.sleep(DEADLINE + MARGIN)


def hanging_up(connection: socket.socket) -> None:
    pass


@lru_cache
def bomb() -> bytes:
    """Give 200 MB of noughts, packed into 199 kB.

    One of them is packed, and repeated: every lane makes it when it collects its tests.
    """
    million, count = bytes(1_000_000), 200
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(million) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(count):
        checksum = zlib.crc32(million, checksum)
    head_of_gzip = b"\x1f\x8b\x08" + bytes(7)
    end = b"\x03\x00" + struct.pack("<II", checksum, count * len(million))
    return head_of_gzip + packed * count + end


def send_bomb(connection: socket.socket) -> None:
    lines = ("Content-Encoding: gzip", f"Content-Length: {len(bomb())}")
    sending(head("200 OK", *lines) + bomb())(connection)


NOTHING = "Content-Length: 0"
CHUNKED = "Transfer-Encoding: chunked"
GARBAGE = bytes(range(256)) * 8
KILOBYTE = b"x" * 1024

CASES = {
    # The connection
    "accepts and is silent": Case(silent, error=LATE),
    "reads nothing": Case(never_reading, error=LATE, body=bytes(8_000_000)),
    "hangs up at once": Case(hanging_up, error=BROKEN),
    "hangs up after the request": Case(sending(), error=BROKEN),
    "resets after the request": Case(reset_after_the_request, error=BROKEN),
    "answers before the body was read": Case(answer_before_the_body(OK), 200, answer=b"thanks"),
    "refuses before a large body was read": Case(
        answer_before_the_body(head("413 Too Large", NOTHING)), 413, body=bytes(8_000_000)
    ),
    # The head
    "drips the status line": Case(dripping(b"HTTP/1.1 200 O", b"K"), error=LATE),
    "drips headers": Case(dripping(b"HTTP/1.1 200 OK\r\n", b"X-Drop: drop\r\n"), error=LATE),
    "drips one header": Case(dripping(b"HTTP/1.1 200 OK\r\nX-Drop: ", b"x"), error=LATE),
    "endless headers": Case(endless(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 100), error=TOO_LONG),
    "one endless header": Case(endless(b"HTTP/1.1 200 OK\r\nA: ", KILOBYTE), error=TOO_LONG),
    "endless status line": Case(endless(b"HTTP/1.1 200 ", KILOBYTE), error=TOO_LONG),
    "Set-Cookie flood": Case(
        sending(head("200 OK", *[f"Set-Cookie: c{n}=v" for n in range(5000)], NOTHING)),
        error=TOO_LONG,
    ),
    "large Set-Cookie flood": Case(
        sending(head("200 OK", *[f"Set-Cookie: c{n}={'v' * 2000}" for n in range(90)], NOTHING)),
        error=TOO_LONG,
    ),
    "as many headers as are read": Case(
        sending(head("200 OK", *[f"A{n}: b" for n in range(98)], NOTHING)), 200
    ),
    "closes within the status line": Case(sending(b"HTTP/1.1 2"), error=BROKEN),
    "closes within a header": Case(sending(b"HTTP/1.1 200 OK\r\nContent-Le"), error=BROKEN),
    "closes between headers": Case(sending(b"HTTP/1.1 200 OK\r\nA: b\r\n"), error=BROKEN),
    "HTTP/0.9": Case(sending(b"<html>thanks</html>\n"), error=NO_HTTP),
    "no HTTP": Case(sending(b"SSH-2.0-OpenSSH_9\r\n"), error=NO_HTTP),
    "noughts": Case(sending(bytes(1000) + b"\n"), error=NO_HTTP),
    "a status that is none": Case(sending(b"HTTP/1.1 abc OK\r\n\r\n"), error=NO_HTTP),
    "HTTP/2 in clear text": Case(
        sending(head("200 OK", NOTHING).replace(b"/1.1", b"/2")), error=NO_HTTP
    ),
    # Interim answers
    "100": Case(sending(head("100 Continue") + OK, wait=True), 200, answer=b"thanks"),
    "103, then the answer": Case(
        sending(head("103 Early Hints", "Link: </a>", "Retry-After: 9") + OK, wait=True), 200
    ),
    "several of 1xx": Case(
        sending(head("100 Continue") * 3 + head("102 Processing") * 3 + OK, wait=True), 200
    ),
    "1xx storm": Case(endless(b"", head("102 Processing") * 100), error=TOO_LONG),
    "100 storm": Case(endless(b"", head("100 Continue") * 100), error=TOO_LONG),
    "drips 1xx": Case(dripping(b"", head("102 Processing")), error=LATE),
    "101": Case(
        sending(head("101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade"), wait=True),
        101,
    ),
    # The body
    "drips a body": Case(dripping(head("200 OK", "Content-Length: 9999"), b"drop"), 200),
    "drips a body without a length": Case(dripping(head("200 OK"), b"drop"), 200),
    "drips chunks": Case(dripping(head("200 OK", CHUNKED), b"4\r\ndrop\r\n"), 200),
    "endless body": Case(endless(head("200 OK"), KILOBYTE), 200, answer=KILOBYTE * 4),
    "gzip bomb": Case(send_bomb, 200, answer=bomb()[:KEPT_ANSWER_BYTES]),
    "chunks without end": Case(
        endless(head("200 OK", CHUNKED), b"400\r\n" + KILOBYTE + b"\r\n"), 200, answer=KILOBYTE * 4
    ),
    "one endless chunk": Case(
        endless(head("200 OK", CHUNKED) + b"7fffffff\r\n", KILOBYTE), 200, answer=KILOBYTE * 4
    ),
    "a bad chunk": Case(sending(head("200 OK", CHUNKED) + b"zz\r\nthanks\r\n0\r\n\r\n"), 200),
    "a negative chunk": Case(sending(head("200 OK", CHUNKED) + b"-5\r\nhello\r\n"), 200),
    "closes within a chunk": Case(sending(head("200 OK", CHUNKED) + b"6\r\ntha"), 200),
    "closes between chunks": Case(sending(head("200 OK", CHUNKED) + b"2\r\nth\r\n"), 200),
    "endless trailers": Case(
        endless(head("200 OK", CHUNKED) + b"2\r\nok\r\n0\r\n", b"A: b\r\n" * 100), 200
    ),
    "Content-Length too large": Case(
        sending(head("200 OK", "Content-Length: 100") + b"thanks"), 200
    ),
    "Content-Length too small": Case(
        sending(head("200 OK", "Content-Length: 4") + b"thanks"), 200, answer=b"than"
    ),
    "Content-Length that is none": Case(
        sending(head("200 OK", "Content-Length: many") + b"thanks"), error=NO_HTTP
    ),
    "closes within the body": Case(
        sending(head("200 OK", "Content-Length: 99999") + KILOBYTE), 200
    ),
    "resets within the body": Case(reset_within_the_body("200 OK"), 200),
    # The same, where the head says that it was not taken
    "500 with a bad chunk": Case(
        sending(head("500 Oops", CHUNKED) + b"zz\r\nsorry\r\n0\r\n\r\n"), error=BROKEN
    ),
    "500 with a negative chunk": Case(
        sending(head("500 Oops", CHUNKED) + b"-5\r\nsorry\r\n"), error=BROKEN
    ),
    "500, closes between chunks": Case(
        sending(head("500 Oops", CHUNKED) + b"2\r\nso\r\n"), error=BROKEN
    ),
    "500, closes within the body": Case(
        sending(head("500 Oops", "Content-Length: 99999") + KILOBYTE), error=BROKEN
    ),
    "500, resets within the body": Case(reset_within_the_body("500 Oops"), error=BROKEN),
    "500 with endless trailers": Case(
        endless(head("500 Oops", CHUNKED) + b"2\r\nok\r\n0\r\n", b"A: b\r\n" * 100),
        error=f"{TOO_LONG}|{LATE}",
    ),
    "a body that ends with the connection": Case(
        sending(head("200 OK") + b"thanks"), 200, answer=b"thanks"
    ),
    # The status
    "2xx with garbage": Case(
        sending(head("200 OK", "Content-Type: application/json", "Content-Length: 2048") + GARBAGE),
        200,
        answer=GARBAGE,
    ),
    "204": Case(sending(head("204 No Content"), wait=True), 204, answer=b""),
    "204 with a body": Case(sending(head("204 No Content") + b"but", wait=True), 204, answer=b""),
    "299": Case(sending(head("299 Fine", NOTHING)), 299),
    "300": Case(sending(head("300 Multiple Choices", NOTHING)), 300),
    "304": Case(sending(head("304 Not Modified"), wait=True), 304),
    "redirects to metadata": Case(
        sending(head("302 Found", "Location: http://169.254.169.254/latest/", NOTHING)), 302
    ),
    "redirects to a file": Case(
        sending(head("307 Elsewhere", "Location: file:///etc/passwd", NOTHING)), 307
    ),
    "410": Case(sending(head("410 Gone", NOTHING)), 410),
    "500 with 10 MB": Case(
        sending(head("500 Oops", "Content-Length: 10240000"), *[KILOBYTE] * 10_000),
        500,
        answer=KILOBYTE * 4,
    ),
    "503 that is slow": Case(
        dripping(head("503 Busy", "Retry-After: 5", "Content-Length: 100"), b"."), error=LATE
    ),
    **{
        f"429, Retry-After as {name}": Case(
            sending(head("429 Slow Down", f"Retry-After: {value}", NOTHING)), 429, retry_after=value
        )
        for name, value in {
            "seconds": "120",
            "a date": "Wed, 25 Nov 2026 01:00:00 GMT",
            "nonsense": "when hell freezes over; ü".replace("ü", "u"),
            "10 years": "315360000",
        }.items()
    },
}


# --- engines, each for the whole module


@pytest.fixture(scope="module", params=ENGINES)
def send(request: pytest.FixtureRequest) -> Iterator[Sender]:
    sender = Sender(request.param)
    with serving(answering(OK)) as server:
        sender(server.url)
    bomb()
    sender.memory = memory()  # type: ignore[attr-defined]
    yield sender
    sender.close()


def memory() -> int:
    """Give the bytes of memory that this process has, its servers included."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def in_time() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began <= DEADLINE + MARGIN


def is_unharmed(send: Sender) -> None:
    with serving(answering(OK)) as good:
        assert send(good.url).status == 200


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_endpoint_that(send, case):
    with serving(case.behave) as server, in_time():
        outcome = send(server.url, timeout=DEADLINE, body=case.body)
    case.check(outcome)
    assert outcome.dialled == "127.0.0.1"
    assert abs(outcome.duration - DEADLINE) <= MARGIN or outcome.error != LATE
    is_unharmed(send)


def test_an_endpoint_that_refuses(send):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with in_time():
        outcome = send(f"http://127.0.0.1:{port}/", timeout=DEADLINE)
    assert outcome.error == "could not connect: Connection refused"
    assert (outcome.dialled, outcome.wait) == ("127.0.0.1", None)


@contextmanager
def not_accepting(ip: str, port: int = 0) -> Iterator[int]:
    """Have a queue of one that is full: the next connection waits for its handshake."""
    with socket.socket() as listener:
        listener.bind((ip, port))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for one in waiting:
            one.close()


def test_an_endpoint_that_does_not_accept(send):
    with not_accepting("127.0.0.1") as port, in_time():
        outcome = send(f"http://127.0.0.1:{port}/", timeout=DEADLINE)
    assert outcome.error == LATE
    assert abs(outcome.connect - DEADLINE) <= MARGIN
    assert (outcome.tls, outcome.wait) == (None, None)


def test_an_endpoint_that_redirects_to_itself(send):
    with serving(silent) as server:
        server.behave = sending(head("301 Here", f"Location: {server.url}", NOTHING))
        assert send(server.url, timeout=PATIENCE).status == 301
        assert server.accepted == 1


def test_an_endpoint_that_resets_a_fresh_connection_is_not_called_twice(send):
    with serving(reset_after_the_request) as server:
        assert send(server.url, timeout=PATIENCE).error.startswith(BROKEN)
        assert server.accepted == 1


def test_an_endpoint_that_breaks_off_on_a_kept_connection_is_not_called_twice(send):
    """It began to answer, so it had the request."""

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nA")

    with serving(behave) as server:
        assert send(server.url, timeout=PATIENCE).status == 200
        assert send(server.url, timeout=PATIENCE).error.startswith(BROKEN)
        assert server.accepted == 1


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


# A server's hello of TLS 1.0 with TLS_RSA_WITH_AES_128_CBC_SHA, which no OpenSSL gives any more.
TLS_1_0 = bytes.fromhex("160301002a 02000026 0301".replace(" ", "")) + bytes(32) + b"\0\x00\x2f\x00"


def saying(answer: bytes) -> Behaviour:
    """Answer the handshake's first bytes with these."""

    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)
        silent(connection)

    return behave


TLS: dict[str, tuple[Callable[[Authority], Behaviour], str | None]] = {
    "is verified": (lambda a: over_tls(a.context(), answering(OK)), None),
    "expired": (
        lambda a: over_tls(a.context(days=-1), answering(OK)),
        "certificate refused: .*expired",
    ),
    "wrong host": (
        lambda a: over_tls(a.context("elsewhere.test"), answering(OK)),
        "certificate refused: .*localhost",
    ),
    "self-signed": (
        lambda a: over_tls(a.context(self_signed=True), answering(OK)),
        "certificate refused: .*self.signed",
    ),
    "TLS 1.0": (lambda _a: saying(TLS_1_0), "TLS failed: "),
    "hangs in the handshake": (lambda _a: silent, LATE),
    "hangs up in the handshake": (lambda _a: hanging_up, "TLS failed: |" + BROKEN),
    "refuses the handshake": (lambda _a: saying(b"\x15\x03\x01\0\x02\x02\x46"), "TLS failed: "),
    "plain HTTP": (lambda _a: saying(OK), "TLS failed: "),
    "is silent after the handshake": (lambda a: over_tls(a.context(), silent), LATE),
    "drips": (lambda a: over_tls(a.context(), dripping(head("500 Oops"), b".")), LATE),
    # As Python's http.server does.
    "ends a body without a length by hanging up, unannounced": (
        lambda a: over_tls(a.context(), answering(head("200 OK") + b"thanks")),
        None,
    ),
}


@pytest.mark.parametrize(("behave", "error"), TLS.values(), ids=TLS)
def test_tls_that(send, authority, behave, error):
    with serving(behave(authority)) as server, in_time():
        outcome = send(
            f"https://localhost:{server.port}/", timeout=DEADLINE, ca_bundle=authority.bundle
        )
    if error is None:
        assert outcome.status == 200
        return
    assert outcome.status is None
    assert re.match(error, outcome.error), outcome
    is_unharmed(send)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_endpoint_that_closes_kept_connections(send, authority, scheme):
    """One that is closed when it is used again is replaced, and that is no try of its own."""

    def closing(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)
        read_request(connection)  # and says nothing to it
        reset(connection)

    behave = over_tls(authority.context(), closing) if scheme == "https" else closing
    with serving(behave) as server:
        for _ in range(2):
            outcome = send(
                f"{scheme}://localhost:{server.port}/", DEADLINE, ca_bundle=authority.bundle
            )
            assert outcome.status == 200
        assert server.accepted == 2


# --- names


class Names:
    """Stands in for the system's resolver.

    :ivar a: a name that no other test asks for, as the thread of one may still be at work
    :ivar b: another
    :ivar answers: for each name what is answered in turn, the last one for ever
    :ivar asked: the names, as often as they were asked for
    """

    _number = itertools.count()

    def __init__(self) -> None:
        self.a, self.b = (f"{letter}{next(self._number)}.test" for letter in "ab")
        self.answers: dict[str, list[list[str] | Callable[[], list[str]]]] = {}
        self.asked: list[str] = []

    def __call__(self, host: str, *_args: object, **_kwargs: object) -> list[tuple]:
        self.asked.append(host)
        answers = self.answers[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        found = answer() if callable(answer) else answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0)) for ip in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    return names


def no_such_name() -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def no_answer() -> list[str]:
    time.sleep(4 * DEADLINE)
    return ["127.0.0.1"]


def test_a_name_that_does_not_exist(send, names):
    names.answers[names.a] = [no_such_name]
    outcome = send(f"http://{names.a}/", timeout=PATIENCE)
    assert outcome.error == "the name does not resolve: Name or service not known"
    assert (outcome.dialled, outcome.connect, outcome.wait) == (None, None, None)
    assert outcome.resolve >= 0


def test_a_name_that_is_none(send):
    outcome = send(f"http://{'a' * 70}.test/", timeout=PATIENCE)
    assert re.match("the name does not resolve|address refused", outcome.error)


def test_a_name_that_has_no_address(send, names):
    names.answers[names.a] = [[]]
    assert send(f"http://{names.a}/", timeout=PATIENCE).error.startswith(
        "the name does not resolve: "
    )


def test_a_name_server_that_does_not_answer(send, names):
    """It delays no other name, and all that wait for this one share one question."""
    names.answers.update({names.a: [no_answer], names.b: [["127.0.0.1"]]})
    with serving(answering(OK)) as server:
        with in_time():
            outcome = send(f"http://{names.a}/", timeout=DEADLINE)
        assert outcome.error == LATE
        assert abs(outcome.resolve - DEADLINE) <= MARGIN
        assert outcome.connect is None
        began = time.monotonic()
        assert send(f"http://{names.b}:{server.port}/", timeout=PATIENCE).status == 200
        assert time.monotonic() - began < 2 * DEADLINE
        assert send(f"http://{names.a}:81/", timeout=0.1).error
    assert names.asked.count(names.a) == 1
    # A thread that still waits would resolve what later tests ask for.
    while any(thread.name == "webhooks-resolve" for thread in threading.enumerate()):
        time.sleep(0.05)


def test_a_name_that_changes_between_check_and_dial(send, names):
    names.answers[names.a] = [["127.0.0.1"], ["10.0.0.1"]]
    with serving(answering(OK)) as server:
        outcome = send(f"http://{names.a}:{server.port}/", timeout=PATIENCE)
    assert (outcome.status, outcome.dialled) == (200, "127.0.0.1")
    assert names.asked.count(names.a) == 1


def test_a_name_that_moves(send, names, monkeypatch):
    """A connection that is kept is one to an address that the name still has."""
    monkeypatch.setattr(resolving, "_FRESH", 0)
    names.answers[names.a] = [["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]]
    with (
        serving(answering(OK, OK, OK)) as old,
        serving(answering(OK), "127.0.0.2", old.port) as new,
    ):
        dialled = [send(f"http://{names.a}:{old.port}/", PATIENCE).dialled for _ in range(3)]
        assert dialled == ["127.0.0.1", "127.0.0.1", "127.0.0.2"]
        assert (old.accepted, new.accepted) == (1, 1)


def test_two_names_of_one_address_share_no_connection(send, names):
    names.answers.update({names.a: [["127.0.0.1"]], names.b: [["127.0.0.1"]]})
    with serving(answering(OK, OK)) as server:
        for name in (names.a, names.b, names.a):
            assert send(f"http://{name}:{server.port}/", PATIENCE).status == 200
        assert server.accepted == 2


def test_no_thread_to_resolve_in(send, names, monkeypatch):
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    names.answers[names.a] = [["127.0.0.1"]]
    with serving(answering(OK, OK)) as server:
        assert send(server.url).status == 200  # requests has its threads by now
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            outcome = send(f"http://{names.a}:{server.port}/", PATIENCE)
        assert "can't start new thread" in outcome.error
        assert send(f"http://{names.a}:{server.port}/", PATIENCE).status == 200


@pytest.mark.parametrize("private", ["10.0.0.1", "::1", "169.254.169.254", "fe80::1%lo"])
def test_a_name_with_public_and_private_addresses(send, names, private):
    names.answers[names.a] = [["127.0.0.1", "8.8.8.8", private]]
    with serving(answering(OK)) as server:
        outcome = send(f"http://{names.a}:{server.port}/", PATIENCE, allowed=("127.0.0.0/8",))
        assert outcome.error.startswith(f"address refused: {private} is not a public address")
        assert (outcome.dialled, server.accepted) == (None, 0)


@pytest.mark.parametrize("last", ["127.0.0.1", "10.0.0.1"])
def test_a_name_with_500_addresses(send, names, last):
    """All are checked, and some are called: the first one that answers will do."""
    names.answers[names.a] = [
        ["127.0.0.1", *[f"127.1.{n // 250}.{n % 250}" for n in range(498)], last]
    ]
    with serving(answering(OK)) as server, in_time():
        outcome = send(f"http://{names.a}:{server.port}/", timeout=DEADLINE)
    assert outcome.status == (200 if last == "127.0.0.1" else None)
    assert outcome.dialled == ("127.0.0.1" if last == "127.0.0.1" else None)


def test_a_name_with_500_addresses_at_which_nobody_is(send, names):
    names.answers[names.a] = [[f"127.1.{n // 250}.{n % 250}" for n in range(500)]]
    with in_time():
        outcome = send(f"http://{names.a}:9/", timeout=DEADLINE)
    assert outcome.error == "could not connect: Connection refused"


@pytest.mark.parametrize("dead", [["127.0.0.2"], ["::1", "127.0.0.2"]])
def test_a_name_whose_first_address_refuses(send, names, dead):
    names.answers[names.a] = [[*dead, "127.0.0.1"]]
    with serving(answering(OK)) as server, in_time():
        outcome = send(f"http://{names.a}:{server.port}/", timeout=DEADLINE)
    assert (outcome.status, outcome.dialled) == (200, "127.0.0.1")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_whose_first_address_is_silent(send, names, authority, scheme):
    names.answers["localhost"] = [["127.0.0.2", "127.0.0.1"]]
    behave = over_tls(authority.context(), answering(OK)) if scheme == "https" else answering(OK)
    with serving(behave) as server, not_accepting("127.0.0.2", server.port), in_time():
        outcome = send(f"{scheme}://localhost:{server.port}/", DEADLINE, ca_bundle=authority.bundle)
    assert (outcome.status, outcome.dialled) == (200, "127.0.0.1")
    # Half of what was left then: on a busy machine TLS takes some time to set up.
    before = outcome.duration - outcome.connect - (outcome.tls or 0) - outcome.wait
    assert outcome.connect >= (DEADLINE - before) / 2 - 0.05


# --- what an owner may have written


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/\r\nX-Injected: yes",
        "http://127.0.0.1:{port}/ HTTP/1.1\r\nX-Injected: yes",
        "http://127.0.0.1:{port}\r\n/",
        "http://127.0.0.1:{port}/\x00",
        "http://u:p@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}\\@example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:{port}/_POST",
    ],
)
def test_a_url_that_hides_something(send, url):
    with serving(answering(OK)) as server:
        outcome = send(url.format(port=server.port), timeout=PATIENCE)
        assert outcome.error.startswith("address refused: ")
        assert server.accepted == 0


def test_a_url_whose_escapes_stay_escaped(send):
    heads: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        heads.append(read_request(connection)[0])
        connection.sendall(OK)

    with serving(behave) as server:
        assert send(f"{server.url}%0d%0aX-Injected:%20yes?q=%0d%0aX").status == 200
    assert heads[0].lower().startswith(b"post /%0d%0ax-injected:%20yes?q=%0d%0ax http/1.1\r\n")
    assert b"\r\nX-Injected" not in heads[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", f"{SECRET}\r\nX-Injected: yes"),
        ("X-A", f"{SECRET}\nX-Injected: yes"),
        ("X-A", f"{SECRET}\r"),
        ("X-A", f"{SECRET}\x00"),
        ("X-A", f"{SECRET}€"),
        ("X-A: b\r\nX-Injected", SECRET),
        ("X A", SECRET),
        ("", SECRET),
    ],
)
def test_a_header_that_hides_another(send, name, value):
    with serving(answering(OK)) as server:
        outcome = send(server.url, timeout=PATIENCE, headers={**HEADERS, name: value})
        assert outcome.status is None
        assert outcome.error.startswith("the header ")
        assert SECRET not in outcome.error
        assert server.accepted == 0


@pytest.mark.parametrize(
    "behave",
    [
        sending(),
        silent,
        sending(b"HTTP/1.1 200 OK\r\nA"),
        sending(b"no\n"),
        reset_after_the_request,
    ],
)
def test_no_error_repeats_a_header(send, behave):
    with serving(behave) as server:
        outcome = send(server.url, timeout=DEADLINE, headers={**HEADERS, "Authorization": SECRET})
    assert outcome.error
    assert SECRET not in outcome.error


# --- at the end


def test_the_worker_has_not_grown(send, say):
    growth = memory() - send.memory
    say(
        f"conformance, {send.name}: {len(CASES) + len(TLS)} behaviours of endpoints and others;"
        f" memory grew by {growth / 1e6:.1f} MB, servers included"
    )
    assert growth < MOST_GROWTH
