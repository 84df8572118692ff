"""One request over real sockets, to servers that behave and that do not."""

from __future__ import annotations

import gzip
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ...deliver.addresses import RefusedAddress
from ...deliver.attempt import KEPT_ANSWER_BYTES, Request
from ...deliver.transport import Settings, engine_name, open_engine, resolving, words
from .hostile import (
    ENGINES,
    HEADERS,
    LOOPBACK,
    OK,
    Authority,
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

DEADLINE = 0.5
# What a machine with two busy cores may be late by.
MARGIN = 2.0


@pytest.fixture(params=ENGINES)
def send(request):
    sender = Sender(request.param)
    yield sender
    sender.close()


def rss() -> int:
    """Give the bytes of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_an_answer_is_an_outcome_with_all_that_came_back(send):
    with serving(answering(OK)) as server:
        outcome = send(server.url)
    assert (outcome.status, outcome.error, outcome.answer) == (200, None, b"thanks")
    assert outcome.dialled == "127.0.0.1"
    assert 0 < outcome.duration < 5


def test_what_is_sent_is_a_post_of_exactly_these_bytes_and_headers(send):
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


def test_the_host_header_is_the_name_s(send):
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
def test_every_status_is_given_as_it_came(send, status):
    answer = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    with serving(answering(answer)) as server:
        outcome = send(server.url)
    assert (outcome.status, outcome.error) == (status, None)


def test_a_failure_keeps_its_answer_and_retry_after(send):
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 14\r\n\r\nout for lunch."
    with serving(answering(answer)) as server:
        outcome = send(server.url)
    assert (outcome.status, outcome.retry_after) == (503, "120")
    assert outcome.answer == b"out for lunch."


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_is_not_followed(send, status):
    with serving(answering(OK)) as elsewhere:
        answer = f"HTTP/1.1 {status} X\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n"
        with serving(answering(answer.encode())) as server:
            outcome = send(server.url)
    assert (outcome.status, elsewhere.accepted) == (status, 0)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "１２７.0.0.1"]
)
def test_a_refused_address_is_not_connected_to(send, host):
    with serving(answering(OK)) as server:
        outcome = send(f"http://{host}:{server.port}/", allowed=())
        assert outcome.status is None
        assert "address refused" in outcome.error
        assert "ckanext.webhooks.allowed_networks" in outcome.error
        assert server.accepted == 0


def test_a_name_is_judged_by_each_address_that_it_resolves_to(send):
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


def test_a_name_that_does_not_resolve_is_an_error_that_says_so(send):
    outcome = send("http://no-such-name.invalid/", timeout=10)
    assert outcome.status is None
    assert outcome.dialled is None
    assert "the name does not resolve" in outcome.error


def test_a_refused_connection_is_an_error_that_says_so(send):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    outcome = send(f"http://127.0.0.1:{port}/")
    assert outcome.status is None
    assert "refused" in outcome.error.lower()
    assert outcome.dialled == "127.0.0.1"


def test_a_connection_that_is_hung_up_is_an_error(send):
    def behave(connection: socket.socket) -> None:
        read_request(connection)

    with serving(behave) as server:
        outcome = send(server.url)
    assert outcome.status is None
    assert outcome.error


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9\r\n", b"\x00" * 100, b"HTTP/1.1 abc\r\n"])
def test_what_is_no_http_is_an_error(send, answer):
    with serving(answering(answer)) as server:
        outcome = send(server.url, timeout=2)
    assert outcome.status is None
    assert outcome.error


@pytest.mark.parametrize(
    "behave",
    [
        silent,
        dripping(b"HTTP/1.1 200 OK\r\n", b"X-Drop: drop\r\n"),
        dripping(b"HTTP/1.1 200 O", b"K"),
        # Of 2xx the head alone is enough.
        dripping(b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n", b"drop"),
        dripping(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\ndrop\r\n"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["silence", "headers", "no line", "body", "chunks", "100 Continue"],
)
def test_the_deadline_covers_everything(send, behave):
    with serving(behave) as server:
        started = time.monotonic()
        outcome = send(server.url, timeout=DEADLINE)
        took = time.monotonic() - started
    assert DEADLINE * 0.9 <= took <= DEADLINE + MARGIN
    assert outcome.error == "no complete answer within 0.5 s"
    assert outcome.status is None
    assert outcome.dialled == "127.0.0.1"


def test_the_deadline_covers_a_receiver_that_does_not_read(send):
    with serving(lambda connection: server.closing.wait(10)) as server:
        started = time.monotonic()
        outcome = send(server.url, timeout=DEADLINE, body=b"x" * 50_000_000)
        took = time.monotonic() - started
    assert took <= DEADLINE + MARGIN
    assert outcome.error == "no complete answer within 0.5 s"


def test_the_deadline_covers_a_connection_that_is_not_accepted(send):
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


def test_one_attempt_s_deadline_leaves_the_next_one_alone(send):
    with serving(silent) as slow, serving(answering(OK, OK)) as server:
        assert send(slow.url, timeout=0.1).error
        assert send(server.url).status == 200
        time.sleep(0.2)
        assert send(server.url, timeout=2).status == 200


def test_a_deadline_that_passed_before_does_not_cut_a_kept_connection(send):
    """The watch of an attempt ends with it, though its connection lives on."""
    with serving(answering(OK, OK, OK)) as server:
        assert send(server.url, timeout=0.3).status == 200
        time.sleep(0.5)
        assert send(server.url, timeout=0.3).status == 200
        assert server.accepted == 1


def test_of_an_endless_body_no_more_is_kept_than_the_limit(send):
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


def test_endless_headers_are_an_error(send):
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


def test_a_compressed_answer_is_not_unpacked(send):
    packed = gzip.compress(b"0" * 50_000_000)
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(
        packed
    )
    with serving(answering(answer + packed)) as server:
        outcome = send(server.url)
    assert outcome.status == 200
    assert outcome.answer == packed[:KEPT_ANSWER_BYTES]


def test_a_connection_is_kept_for_the_next_request(send):
    with serving(answering(OK, OK, OK)) as server:
        outcomes = [send(server.url) for _ in range(3)]
        assert [o.status for o in outcomes] == [200, 200, 200]
        assert server.accepted == 1
    assert {o.dialled for o in outcomes} == {"127.0.0.1"}


def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure(send):
    with serving(answering(OK)) as server:
        assert send(server.url).status == 200
        time.sleep(0.1)
        assert send(server.url).status == 200
        assert server.accepted == 2


def test_a_kept_connection_is_not_a_way_around_the_allowed_networks(send):
    with serving(answering(OK, OK)) as server:
        assert send(server.url).status == 200
        assert "address refused" in send(server.url, allowed=()).error
        name = f"http://localhost:{server.port}/"
        assert send(name).status == 200
        assert "address refused" in send(name, allowed=()).error


def test_the_environment_s_proxies_and_netrc_are_not_used(send, monkeypatch, tmp_path):
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


def test_cookies_are_not_kept(send):
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
def test_a_url_that_was_stored_by_other_means_is_judged_too(send, url):
    outcome = send(url)
    assert outcome.status is None
    assert "address refused" in outcome.error


def test_a_silent_tls_server_is_cut_off_at_the_deadline(send):
    with serving(silent) as server:
        started = time.monotonic()
        outcome = send(f"https://localhost:{server.port}/", timeout=DEADLINE)
        took = time.monotonic() - started
    assert took <= DEADLINE + MARGIN
    assert outcome.error == "no complete answer within 0.5 s"


def test_nothing_is_sent_to_a_certificate_that_nobody_vouches_for(send, tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    received: list[bytes] = []
    behave = over_tls(authority.context(), lambda tls: received.append(tls.recv(65536)))
    # Whom to trust is not the environment's to say either.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, authority.bundle)
    with serving(behave) as server:
        outcome = send(f"https://localhost:{server.port}/")
    assert outcome.status is None
    assert "certificate" in outcome.error.lower()
    assert b"POST" not in b"".join(received)


def test_an_own_bundle_is_trusted_and_a_tls_connection_is_kept(send, tmp_path):
    authority = Authority(tmp_path)
    behave = over_tls(authority.context(), answering(OK, OK))
    with serving(behave) as server:
        url = f"https://localhost:{server.port}/"
        first, second = (send(url, ca_bundle=authority.bundle) for _ in range(2))
        assert (first.status, second.status, server.accepted) == (200, 200, 1)
    assert first.tls > 0 and first.connect > 0 and first.wait > 0
    assert (second.resolve, second.connect, second.tls) == (None, None, None)
    assert second.wait > 0


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_without_certificates_nothing_goes_over_tls_and_all_else_goes_on(send, tmp_path, content):
    file = tmp_path / "bundle.pem"
    if content is not None:
        file.write_text(content)
    bundle = str(file)
    for url, proxy in (
        ("https://localhost:1/", None),
        ("HTTPS://localhost:1/", None),
        ("https://localhost:1/", "http://localhost:1"),
        ("http://localhost:1/", "HTTPS://localhost:1"),
    ):
        outcome = send(url, proxy=proxy, ca_bundle=bundle)
        assert (outcome.error, outcome.dialled) == (words.NOBODY_TRUSTED, None)
    with serving(answering(OK)) as server:
        assert send(server.url, ca_bundle=bundle).status == 200


def test_a_bundle_that_is_mended_is_trusted_without_a_restart(send, tmp_path):
    authority = Authority(tmp_path)
    file = tmp_path / "bundle.pem"
    file.write_text("no certificate")
    with serving(over_tls(authority.context(), answering(OK))) as server:
        url = f"https://localhost:{server.port}/"
        assert send(url, ca_bundle=str(file)).error == words.NOBODY_TRUSTED
        file.write_bytes(Path(authority.bundle).read_bytes())
        assert send(url, ca_bundle=str(file)).status == 200


def test_many_may_be_under_way_at_once(send):
    """And each has its own outcome, whichever ends first."""
    with serving(answering(*[OK] * 200)) as server, serving(silent) as slow:
        engine = send.engine(Settings(LOOPBACK))
        for number in range(40):
            engine.start(
                number, Request(slow.url if number % 4 == 0 else server.url, HEADERS, b"{}", 1.0)
            )
        outcomes = {}
        began = time.monotonic()
        while len(outcomes) < 30:
            outcomes.update(engine.wait(5))
        assert time.monotonic() - began < 1
        while len(outcomes) < 40:
            outcomes.update(engine.wait(5))
    assert [outcomes[n].status for n in range(40)] == [None, 200, 200, 200] * 10


def test_2000_slow_endpoints_are_nothing_that_a_good_one_notices(say):
    """Connections that the kernel accepts and nobody serves; nothing is under way for long."""
    engine = open_engine(Settings(LOOPBACK), name="curl")
    memory, threads, files = rss(), threading.active_count(), open_files()
    behave = answering(*[OK] * 20)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as slow, serving(behave) as good:
        url = f"http://127.0.0.1:{slow.getsockname()[1]}/"
        for number in range(engine.places - 1):
            engine.start(number, Request(f"{url}{number}", HEADERS, b"x" * 4096, 30))
        engine.wait(0.2)
        times = []
        for _ in range(20):
            engine.start("good", Request(good.url, HEADERS, b"x" * 4096, 5))
            ((key, outcome),) = engine.wait(5)
            assert (key, outcome.status) == ("good", 200)
            times.append(outcome.duration)
        say(
            f"{engine.places - 1} slow endpoints: a good one answered within"
            f" {statistics.median(times) * 1000:.1f} ms (at most {max(times) * 1000:.1f});"
            f" {open_files() - files} sockets, {threading.active_count() - threads} threads,"
            f" {(rss() - memory) / 1e6:.0f} MB more"
        )
        engine.close()
    assert statistics.median(times) < 0.05
    assert (rss() - memory) / 1e6 < 100


def test_without_pycurl_there_is_requests():
    assert engine_name() == "curl"  # bin/test installs it
    source = """
import sys
sys.modules["pycurl"] = None
from ckanext.webhooks.deliver import transport
print(transport.open_engine(transport.Settings()).name)
"""
    command = [sys.executable, "-W", "ignore", "-c", source]
    assert subprocess.check_output(command, text=True).split() == ["requests"]


def test_a_wait_ends_when_it_is_called(send):
    engine = send.engine(Settings(LOOPBACK))
    began = time.monotonic()
    assert engine.wait(0.1) == []
    assert 0.09 < time.monotonic() - began < 1
    engine.wake()  # for the next one
    assert engine.wait(10) == []
    thread = threading.Timer(0.1, engine.wake)
    thread.start()
    assert engine.wait(10) == []
    assert time.monotonic() - began < 3
    thread.join()


def test_nothing_that_is_under_way_outlives_its_engine(send):
    with serving(silent) as server:
        engine = send.engines.pop(Settings(LOOPBACK), None) or send.engine(Settings(LOOPBACK))
        engine.start(1, Request(server.url, HEADERS, b"{}", 30))
        assert engine.wait(0.2) == []
        send.engines.clear()
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 2


def test_what_one_request_set_is_not_the_next_one_s(send):
    heads: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        for _ in range(2):
            heads.append(read_request(connection)[0])
            connection.sendall(
                OK.replace(b"\r\n", b"\r\nRetry-After: 7\r\n", 1) if len(heads) == 1 else OK
            )

    with serving(behave) as server:
        first = send(server.url, headers={**HEADERS, "X-Secret": "one", "X-Empty": ""})
        second = send(server.url, body=b"[]")
    assert (first.retry_after, second.retry_after) == ("7", None)
    assert b"X-Secret: one" in heads[0] and b"X-Empty:" in heads[0]
    assert b"X-Secret" not in heads[1] and b"Content-Length: 2" in heads[1]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_gets_all_and_the_names_are_its_own_to_resolve(send, scheme):
    heads: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        if scheme == "http":
            heads.append(read_request(connection)[0])
            connection.sendall(OK)
        else:
            heads.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with serving(behave) as proxy:
        own = proxy.url.replace("//", "//user:geheim@")
        outcome = send(f"{scheme}://no-such-name.invalid/x", allowed=(), proxy=own)
        assert (
            "address refused" in send(f"{scheme}://127.0.0.1/", allowed=(), proxy=proxy.url).error
        )
        assert (
            "address refused" in send(f"{scheme}://localhost/", allowed=(), proxy=proxy.url).error
        )
    assert b"\r\nproxy-authorization: basic " in heads[0].lower()
    assert "geheim" not in str(outcome)
    if scheme == "http":
        assert heads[0].startswith(b"POST http://no-such-name.invalid/x HTTP/1.1\r\n")
        assert (outcome.status, outcome.answer) == (200, b"thanks")
    else:
        assert heads[0].startswith(b"CONNECT no-such-name.invalid:443 HTTP/1.")
        assert outcome.status is None
        assert outcome.error.startswith("the proxy refused")


def test_with_a_proxy_an_address_of_this_machine_is_refused_as_well(send, monkeypatch):
    monkeypatch.setattr(resolving, "_is_bindable", {"8.8.8.8"}.__contains__)
    outcome = send("http://8.8.8.8:8983/", proxy="http://localhost:1")
    assert "this machine's own" in outcome.error


def test_an_address_of_this_machine_is_known_for_one_and_refused(monkeypatch):
    assert resolving.is_own("127.0.0.1") and resolving.is_own("::ffff:127.0.0.1")
    for ip in ("8.8.8.8", "192.0.2.1", "2606:4700:4700::1111"):
        assert not resolving.is_own(ip)
    monkeypatch.setattr(resolving, "_is_bindable", {"8.8.8.8"}.__contains__)
    with pytest.raises(RefusedAddress, match="this machine's own"):
        resolving.Resolver(()).known("8.8.8.8", 8983)
    assert resolving.Resolver(("8.8.8.8:8983",)).known("8.8.8.8", 8983) == ("8.8.8.8",)
