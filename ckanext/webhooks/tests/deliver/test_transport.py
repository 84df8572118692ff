"""One request over real sockets, to servers that behave and that do not."""

from __future__ import annotations

import datetime
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ...deliver.attempt import KEPT_ANSWER_BYTES, Outcome, Request
from ...deliver.transport import post

LOOPBACK = ("127.0.0.0/8", "::1/128")
DEADLINE = 0.5
# What a machine with two busy cores may be late by.
MARGIN = 0.5
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks"

Behaviour = Callable[[socket.socket], None]


class Server:
    """Accepts connections and lets a function have each, in a thread of its own.

    :ivar accepted: how many connections were made
    :ivar requests: heads and bodies that :func:`read_request` read
    """

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.accepted = 0
        self.closing = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.connections: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                connection, _peer = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.behave(connection)
            except OSError:
                pass  # the sender hung up, as it may

    def close(self) -> None:
        self.closing.set()
        for open_ in (self.listener, *self.connections):
            try:
                open_.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            open_.close()
        for thread in self.threads:
            thread.join(10)


@contextmanager
def serving(behave: Behaviour) -> Iterator[Server]:
    server = Server(behave)
    server.threads[0].start()
    try:
        yield server
    finally:
        server.close()


def read_request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Give head and body of one request; empty where the sender hung up."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = connection.recv(65536)
        if not more:
            return b"", b""
        got += more
    head, body = got.split(b"\r\n\r\n", 1)
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head, body


def answering(*answers: bytes) -> Behaviour:
    """Answer the requests of a connection in turn, then hang up."""

    def behave(connection: socket.socket) -> None:
        for answer in answers:
            if not read_request(connection)[0]:
                return
            connection.sendall(answer)

    return behave


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def dripping(prefix: bytes, drop: bytes) -> Behaviour:
    """Send a little at a time, for much longer than any deadline."""

    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(prefix)
        for _ in range(200):
            time.sleep(0.05)
            connection.sendall(drop)

    return behave


def send(
    url: str,
    timeout: float = 5.0,
    allowed: tuple[str, ...] = LOOPBACK,
    headers: dict[str, str] | None = None,
    body: bytes = b'{"a": 1}',
) -> Outcome:
    given = headers or {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    return post(Request(url, given, body, timeout, allowed))


def test_an_answer_is_an_outcome_with_all_that_came_back():
    with serving(answering(OK)) as server:
        outcome = send(server.url)
    assert (outcome.status, outcome.error, outcome.answer) == (200, None, b"thanks")
    assert outcome.dialled == "127.0.0.1"
    assert 0 < outcome.duration < 5


def test_what_is_sent_is_a_post_of_exactly_these_bytes_and_headers():
    heads: list[bytes] = []
    bodies: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        head, body = read_request(connection)
        heads.append(head)
        bodies.append(body)
        connection.sendall(OK)

    body = '{"title": "Flüsse"}'.encode() + bytes(range(256)) * 1000
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "ckanext-webhooks/1",
        "Accept-Encoding": "identity",
        "webhook-id": "e1",
        "X-Own": "yes",
    }
    with serving(behave) as server:
        send(f"{server.url}a%20b/ü?c=d&e#f", headers=headers, body=body)
    line, *rest = heads[0].decode().split("\r\n")
    assert line == "POST /a%20b/%C3%BC?c=d&e HTTP/1.1"
    sent = dict(header.split(": ", 1) for header in rest)
    assert sent.pop("Host") == f"127.0.0.1:{server.port}"
    assert sent.pop("Content-Length") == str(len(body))
    assert sent == headers
    assert bodies == [body]


def test_the_host_header_is_the_name_s():
    heads: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        heads.append(read_request(connection)[0])
        connection.sendall(OK)

    with serving(behave) as server:
        outcome = send(f"http://localhost:{server.port}/")
    assert outcome.status == 200
    assert f"Host: localhost:{server.port}".encode() in heads[0].split(b"\r\n")
    assert outcome.dialled == "127.0.0.1"


@pytest.mark.parametrize("status", [201, 204, 400, 404, 410, 500, 599])
def test_every_status_is_given_as_it_came(status):
    answer = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    with serving(answering(answer)) as server:
        outcome = send(server.url)
    assert (outcome.status, outcome.error) == (status, None)


def test_a_failure_keeps_its_answer_and_retry_after():
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 14\r\n\r\nout for lunch."
    with serving(answering(answer)) as server:
        outcome = send(server.url)
    assert (outcome.status, outcome.retry_after) == (503, "120")
    assert outcome.answer == b"out for lunch."


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_is_not_followed(status):
    with serving(answering(OK)) as elsewhere:
        answer = f"HTTP/1.1 {status} X\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n"
        with serving(answering(answer.encode())) as server:
            outcome = send(server.url)
    assert (outcome.status, elsewhere.accepted) == (status, 0)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "１２７.0.0.1"]
)
def test_a_refused_address_is_not_connected_to(host):
    with serving(answering(OK)) as server:
        outcome = send(f"http://{host}:{server.port}/", allowed=())
        assert outcome.status is None
        assert "address refused" in outcome.error
        assert "ckanext.webhooks.allowed_networks" in outcome.error
        assert server.accepted == 0


def test_a_name_is_judged_by_each_address_that_it_resolves_to():
    """The machine's own name is no address by itself, and leads to it."""
    name = socket.gethostname()
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(name, 80)}
    except OSError:
        found = set()
    outcome = send(f"http://{name}:9/", timeout=2, allowed=())
    assert outcome.status is None
    if any(ip.startswith(("127.", "10.", "172.", "192.168.")) for ip in found):
        assert "address refused" in outcome.error
        assert outcome.dialled is None


def test_a_name_that_does_not_resolve_is_an_error_that_says_so():
    outcome = send("http://no-such-name.invalid/", timeout=10)
    assert outcome.status is None
    assert outcome.dialled is None
    assert "the name does not resolve" in outcome.error


def test_a_refused_connection_is_an_error_that_says_so():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    outcome = send(f"http://127.0.0.1:{port}/")
    assert outcome.status is None
    assert "refused" in outcome.error.lower()
    assert outcome.dialled == "127.0.0.1"


def test_a_connection_that_is_hung_up_is_an_error():
    def behave(connection: socket.socket) -> None:
        read_request(connection)

    with serving(behave) as server:
        outcome = send(server.url)
    assert outcome.status is None
    assert outcome.error


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9\r\n", b"\x00" * 100, b"HTTP/1.1 abc\r\n"])
def test_what_is_no_http_is_an_error(answer):
    with serving(answering(answer)) as server:
        outcome = send(server.url, timeout=2)
    assert outcome.status is None
    assert outcome.error


@pytest.mark.parametrize(
    "behave",
    [
        silent,
        dripping(b"HTTP/1.1 200 OK\r\n", b"X-Drop: drop\r\n"),
        dripping(b"", b"H"),
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"drop"),
        dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\ndrop\r\n"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["silence", "headers", "no line", "body", "chunks", "100 Continue"],
)
def test_the_deadline_covers_everything(behave):
    with serving(behave) as server:
        started = time.monotonic()
        outcome = send(server.url, timeout=DEADLINE)
        took = time.monotonic() - started
    assert DEADLINE * 0.9 <= took <= DEADLINE + MARGIN
    assert outcome.error == "no complete answer within 0.5 s"
    assert outcome.status is None
    assert outcome.dialled == "127.0.0.1"


def test_the_deadline_covers_a_receiver_that_does_not_read():
    with serving(lambda connection: server.closing.wait(10)) as server:
        started = time.monotonic()
        outcome = send(server.url, timeout=DEADLINE, body=b"x" * 50_000_000)
        took = time.monotonic() - started
    assert took <= DEADLINE + MARGIN
    assert outcome.error == "no complete answer within 0.5 s"


def test_the_deadline_covers_a_connection_that_is_not_accepted():
    # A queue of one that is full: the next connection waits for its handshake.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        started = time.monotonic()
        outcome = send(f"http://127.0.0.1:{address[1]}/", timeout=DEADLINE)
        took = time.monotonic() - started
        for one in waiting:
            one.close()
    assert took <= DEADLINE + MARGIN
    assert outcome.error == "no complete answer within 0.5 s"


def test_one_attempt_s_deadline_leaves_the_next_one_alone():
    with serving(silent) as slow, serving(answering(OK, OK)) as server:
        assert send(slow.url, timeout=0.1).error
        assert send(server.url).status == 200
        time.sleep(0.2)
        assert send(server.url, timeout=2).status == 200


def test_a_deadline_that_passed_before_does_not_cut_a_kept_connection():
    """The watch of an attempt ends with it, though its connection lives on."""
    with serving(answering(OK, OK, OK)) as server:
        assert send(server.url, timeout=0.3).status == 200
        time.sleep(0.5)
        assert send(server.url, timeout=0.3).status == 200
        assert server.accepted == 1


def test_of_an_endless_body_no_more_is_kept_than_the_limit():
    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"endless " * 1000)

    with serving(behave) as server:
        outcome = send(server.url, timeout=2)
    assert outcome.status == 200
    assert len(outcome.answer) == KEPT_ANSWER_BYTES
    assert outcome.duration < 1


def test_endless_headers_are_an_error():
    def behave(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X-Drop: drop\r\n" * 100)

    with serving(behave) as server:
        outcome = send(server.url, timeout=2)
    assert outcome.status is None
    assert outcome.error
    assert outcome.duration < 2


def test_a_compressed_answer_is_not_unpacked():
    packed = gzip.compress(b"0" * 50_000_000)
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(
        packed
    )
    with serving(answering(answer + packed)) as server:
        outcome = send(server.url)
    assert outcome.status == 200
    assert outcome.answer == packed[:KEPT_ANSWER_BYTES]


def test_a_connection_is_kept_for_the_next_request():
    with serving(answering(OK, OK, OK)) as server:
        outcomes = [send(server.url) for _ in range(3)]
        assert [o.status for o in outcomes] == [200, 200, 200]
        assert server.accepted == 1
    assert {o.dialled for o in outcomes} == {"127.0.0.1"}


def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure():
    with serving(answering(OK)) as server:
        assert send(server.url).status == 200
        time.sleep(0.1)
        assert send(server.url).status == 200
        assert server.accepted == 2


def test_a_kept_connection_is_not_a_way_around_the_allowed_networks():
    with serving(answering(OK, OK)) as server:
        assert send(server.url).status == 200
        assert "address refused" in send(server.url, allowed=()).error
        name = f"http://localhost:{server.port}/"
        assert send(name).status == 200
        assert "address refused" in send(name, allowed=()).error


def test_the_environment_s_proxies_and_netrc_are_not_used(monkeypatch, tmp_path):
    heads: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        heads.append(read_request(connection)[0])
        connection.sendall(OK)

    netrc = tmp_path / "netrc"
    netrc.write_text("default login admin password secret\n")
    with serving(answering(OK)) as proxy, serving(behave) as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("NETRC", str(netrc))
        assert send(server.url).status == 200
        assert proxy.accepted == 0
    assert b"authorization" not in heads[0].lower()


def test_cookies_are_not_kept():
    heads: list[bytes] = []
    answer = OK.replace(b"\r\n", b"\r\nSet-Cookie: a=b\r\n", 1)

    def behave(connection: socket.socket) -> None:
        for _ in range(2):
            heads.append(read_request(connection)[0])
            connection.sendall(answer)

    with serving(behave) as server:
        send(server.url)
        send(server.url)
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "http://", "http://u:p@127.0.0.1/", "nonsense", ""]
)
def test_a_url_that_was_stored_by_other_means_is_judged_too(url):
    outcome = send(url)
    assert outcome.status is None
    assert "address refused" in outcome.error


def test_a_silent_tls_server_is_cut_off_at_the_deadline():
    with serving(silent) as server:
        started = time.monotonic()
        outcome = send(f"https://localhost:{server.port}/", timeout=DEADLINE)
        took = time.monotonic() - started
    assert took <= DEADLINE + MARGIN
    assert outcome.error == "no complete answer within 0.5 s"


def test_nothing_is_sent_to_a_certificate_that_nobody_vouches_for(tmp_path, monkeypatch):
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    received: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            received.append(tls.recv(65536))

    # Whom to trust is not the environment's to say either.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
    with serving(behave) as server:
        outcome = send(f"https://localhost:{server.port}/")
    assert outcome.status is None
    assert "certificate" in outcome.error.lower()
    assert b"POST" not in b"".join(received)


def test_many_threads_may_send_at_once():
    outcomes: list[Outcome] = []
    with serving(answering(*[OK] * 20)) as server, serving(silent) as slow:

        def several() -> None:
            outcomes.extend(send(server.url) for _ in range(10))

        threads = [threading.Thread(target=several) for _ in range(8)]
        threads += [threading.Thread(target=send, args=(slow.url, 0.2)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert [o.status for o in outcomes] == [200] * 80


def self_signed(folder) -> str:
    """Write a key and a certificate for ``localhost`` into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "localhost.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return str(file)
