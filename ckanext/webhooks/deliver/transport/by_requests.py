"""The engine that is always there: requests, in a bounded pool of threads."""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse, IncompleteRead, LineTooLong
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from .. import addresses
from ..attempt import KEPT_ANSWER_BYTES, READ_ANSWER_BYTES, Outcome, Request
from . import words
from .engine import MOST_HEAD_BYTES, Settings, drop_late, is_success
from .resolving import Addresses, Resolver
from .target import NobodyTrusted, RefusedHeader, checked, target

# Threads: of more, CPython's lock has each wait for the others.
_PLACES = 64
# Endpoints to which connections are kept, as long as others are not newer.
_KEPT_ENDPOINTS = 100
# The operator chose the proxy; only endpoints are other people's choice.
_ANYWHERE = ("0.0.0.0/0", "::/0")


class RequestsEngine:
    """See :class:`~ckanext.webhooks.deliver.transport.Engine`.

    :param places: threads, 0 for the usual number
    """

    name = "requests"

    def __init__(self, settings: Settings, places: int = 0) -> None:
        self.places = places or _PLACES
        self._settings = settings
        self._resolver = Resolver(_ANYWHERE if settings.proxy else settings.allowed_networks)
        self._deadlines = _Deadlines()
        self._adapter = _Adapter(settings, self.places)
        self._threads = ThreadPoolExecutor(self.places, thread_name_prefix="webhooks-post")
        self._ended: queue.SimpleQueue[tuple[Any, Outcome] | None] = queue.SimpleQueue()

    def start(self, key: Any, request: Request) -> None:
        self._threads.submit(self._post, key, request)

    def wait(self, seconds: float) -> list[tuple[Any, Outcome]]:
        ended = []
        try:
            one = self._ended.get(block=seconds > 0, timeout=max(seconds, 0))
            while True:
                if one is not None:
                    ended.append(one)
                one = self._ended.get_nowait()
        except queue.Empty:
            return ended

    def wake(self) -> None:
        self._ended.put(None)

    def close(self) -> None:
        self._deadlines.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._adapter.close()

    def _post(self, key: Any, request: Request) -> None:
        attempt = _Attempt(self._resolver, self._deadlines, request.timeout)
        _current.attempt = attempt
        try:
            with self._deadlines.over(attempt):
                outcome = self._answer(attempt, request)
        except Exception as error:  # whatever a library raises is an outcome
            outcome = attempt.outcome(error=_in_words(error, attempt))
        self._ended.put((key, outcome))

    def _answer(self, attempt: _Attempt, request: Request) -> Outcome:
        prepared = requests.Request(
            "POST",
            target(request.url, self._settings).url,
            headers={name: checked(name, value) for name, value in request.headers.items()},
            data=request.body,
        ).prepare()
        while True:
            try:
                return self._send(attempt, prepared)
            except _Stale:
                continue
            except Exception as error:
                if not attempt.is_kept or attempt.is_answered or not _is_lost(error):
                    raise
                attempt.wants_new = True

    def _send(self, attempt: _Attempt, prepared: requests.PreparedRequest) -> Outcome:
        proxy = self._settings.proxy
        attempt.is_connected = attempt.is_kept = False
        with self._adapter.send(
            prepared,
            stream=True,
            timeout=attempt.remaining(),
            verify=True,
            proxies={"http": proxy, "https": proxy} if proxy else {},
        ) as response:
            try:
                answer = _body(attempt, response)
            except Exception:
                if not is_success(response.status_code):
                    raise
                answer = b""
            return attempt.outcome(
                status=response.status_code,
                retry_after=next(iter(response.raw.headers.getlist("Retry-After")), None),
                answer=answer[:KEPT_ANSWER_BYTES],
            )


def _body(attempt: _Attempt, response: requests.Response) -> bytes:
    """Read as much of an answer's body as is read at most."""
    answer: bytes = response.raw.read(READ_ANSWER_BYTES, decode_content=False)
    attempt.remaining()
    if len(answer) < READ_ANSWER_BYTES and response.raw.length_remaining:
        raise IncompleteRead(answer)  # urllib3 before 2 does not notice
    return answer


class _Attempt:
    """What the connection classes need of the attempt that their thread makes.

    :ivar dialled: the address that is connected to
    :ivar is_connected: it was, or something was sent to it
    :ivar is_kept: the connection was there already
    :ivar is_answered: something of an answer came
    :ivar is_late: the deadline has passed, and the sockets are shut
    :ivar is_over: nobody need shut them any more
    :ivar wants_new: a kept connection will not do
    """

    def __init__(self, resolver: Resolver, deadlines: _Deadlines, timeout: float) -> None:
        self.resolver = resolver
        self.deadlines = deadlines
        self.timeout = timeout
        self.started = time.monotonic()
        self.deadline = self.started + timeout
        self.handles: list[socket.socket] = []
        self.phases: dict[str, float] = {}
        self.dialled: str | None = None
        self.is_connected = False
        self.is_kept = False
        self.is_answered = False
        self.is_late = False
        self.is_over = False
        self.wants_new = False

    def remaining(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0 or self.is_late:
            raise TimeoutError
        return left

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a part of the attempt, also one that fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = time.monotonic() - began

    def outcome(self, **came: Any) -> Outcome:
        return Outcome(
            **{**came, **self.phases},
            dialled=self.dialled,
            duration=time.monotonic() - self.started,
        )


class _Current(threading.local):
    attempt: _Attempt


_current = _Current()


# --- connections: to checked addresses, cut off at the deadline


def _connect(attempt: _Attempt, host: str, port: int) -> socket.socket:
    """Connect to the first address that accepts; each has its part of the time."""
    found = _resolve(attempt, host, port)
    error: OSError | None = None
    with attempt.phase("connect"):
        for number, ip in enumerate(found):
            attempt.dialled = ip
            try:
                connected = _connect_to(ip, port, attempt.remaining() / (len(found) - number))
            except OSError as failure:
                error = failure
                continue
            connected.settimeout(attempt.remaining())
            drop_late(connected, attempt.timeout)
            return connected
    raise error or OSError("it has no address")


def _resolve(attempt: _Attempt, host: str, port: int) -> Addresses:
    known = attempt.resolver.known(host, port)
    if known is not None:
        return known
    answer: Future[Addresses | Exception] = Future()
    with attempt.phase("resolve"):
        attempt.resolver.ask(host, port, answer.set_result)
        try:
            found = answer.result(attempt.remaining())
        except FutureTimeout:
            raise TimeoutError from None
    if isinstance(found, Exception):
        raise found
    return found


def _connect_to(ip: str, port: int, timeout: float) -> socket.socket:
    # Not socket.create_connection, which resolves, if only an address.
    connected = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    try:
        connected.settimeout(timeout)
        connected.connect((ip, port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connected.close()
        raise
    return connected


class _Head:
    """The lines of an answer's head, and no more of them than is reasonable."""

    def __init__(self, file: Any, attempt: _Attempt) -> None:
        self.file = file
        self.left = MOST_HEAD_BYTES
        self.attempt = attempt

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self.file.readline(self.left + 1)
        self.attempt.is_answered = self.attempt.is_answered or bool(line)
        self.left -= len(line)
        if self.left < 0:
            raise LineTooLong("header line")
        if not line.endswith(b"\n"):  # http.client takes that for the end of the head
            raise ConnectionResetError("closed within the head")
        return line

    def close(self) -> None:
        self.file.close()


class _Response(HTTPResponse):
    """Skips every interim answer (RFC 9110, section 15.2), and bounds the head."""

    def begin(self) -> None:
        head: Any = _Head(self.fp, _current.attempt)
        self.fp = head
        super().begin()
        if self.fp is not None:
            self.fp = head.file
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.replace(", ", "").isdigit()):
            raise HTTPException("Content-Length is no number")

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200 or status == 101:
                return version, status, reason
            while self.fp.readline().strip():
                pass


class _Stale(Exception):
    """A kept connection will not do; urllib3 closes it, and the next one is tried."""


class _Connection(HTTPConnection):
    """Connects to a checked address, and can be cut off at the deadline."""

    response_class = _Response
    _ip: str | None = None

    def _new_conn(self) -> socket.socket:
        attempt = _current.attempt
        connected = _connect(attempt, self._dns_host, self.port or self.default_port)
        self._ip = attempt.dialled
        attempt.is_connected = True
        attempt.deadlines.watch(attempt, connected)
        return connected

    def request(self, *args: Any, **kwargs: Any) -> Any:
        attempt = _current.attempt
        if self.sock is not None and not attempt.is_connected:  # it was kept
            found = _resolve(attempt, self._dns_host, self.port or self.default_port)
            if attempt.wants_new or self._ip not in found:
                raise _Stale
            attempt.is_kept = attempt.is_connected = True
            attempt.dialled = self._ip
            attempt.deadlines.watch(attempt, self.sock)
        return super().request(*args, **kwargs)

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        with _current.attempt.phase("wait"):
            return super().getresponse(*args, **kwargs)


class _TLSConnection(_Connection, HTTPSConnection):
    def connect(self) -> None:
        attempt = _current.attempt
        began = time.monotonic()
        try:
            super().connect()
        finally:
            if attempt.is_connected:
                took = time.monotonic() - began
                before = attempt.phases.get("resolve", 0.0) + attempt.phases.get("connect", 0.0)
                attempt.phases["tls"] = max(0.0, took - before)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


_POOLS = {"http": _Pool, "https": _TLSPool}


class _Adapter(HTTPAdapter):
    """A requests adapter without a session, which threads could not share.

    :param most: connections kept to one endpoint
    """

    def __init__(self, settings: Settings, most: int) -> None:
        # Made once: to read the certificates takes longer than a handshake.
        self._context = create_urllib3_context()
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.has_certificates:
            self._context.load_verify_locations(settings.certificates)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.check_hostname = True
        super().__init__(
            pool_connections=_KEPT_ENDPOINTS,
            pool_maxsize=most,
            max_retries=urllib3.Retry(0, read=False),
        )

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(
            proxy, ssl_context=self._context, proxy_ssl_context=self._context, **kwargs
        )
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave it to the context: requests would add its own certificates to it."""
        conn.cert_reqs = "CERT_REQUIRED"


class _Deadlines:
    """One thread that shuts the sockets of attempts that are late.

    A timeout of a socket is one per read, which a server that drips never meets.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = itertools.count()
        self._attempts: list[tuple[float, int, _Attempt]] = []
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @contextmanager
    def over(self, attempt: _Attempt) -> Iterator[None]:
        with self._changed:
            heapq.heappush(self._attempts, (attempt.deadline, next(self._count), attempt))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="webhooks-deadline", daemon=True
                )
                self._thread.start()
            if self._attempts[0][2] is attempt:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                attempt.is_over = True
                for handle in attempt.handles:
                    handle.close()

    def watch(self, attempt: _Attempt, connection: socket.socket) -> None:
        """Have a connection shut when its attempt is late."""
        # A second handle on it: TLS takes the first one over, and a connection that is
        # not to be kept gives it away while the answer is yet to be read.
        handle = socket.socket(fileno=os.dup(connection.fileno()))
        with self._changed:
            attempt.handles.append(handle)
            if attempt.is_late:
                _shut(attempt)

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            for _deadline, _number, attempt in self._attempts:
                _shut(attempt)
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                if not self._attempts:
                    self._changed.wait()
                    continue
                deadline, _number, attempt = self._attempts[0]
                early = deadline - time.monotonic()
                if early > 0 and not attempt.is_over:
                    self._changed.wait(early)
                    continue
                heapq.heappop(self._attempts)
                _shut(attempt)


def _shut(attempt: _Attempt) -> None:
    if attempt.is_over:
        return
    attempt.is_late = True
    for handle in attempt.handles:
        with suppress(OSError):  # the other side was faster
            handle.shutdown(socket.SHUT_RDWR)


# --- words


def _in_words(error: BaseException, attempt: _Attempt) -> str:
    causes = list(_causes(error))

    def cause(*kinds: type[BaseException]) -> Any:
        return next((e for e in causes if isinstance(e, kinds)), None)

    if attempt.is_late or cause(TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError):
        return words.late(attempt.timeout)
    before = cause(
        addresses.RefusedAddress, NobodyTrusted, RefusedHeader, socket.gaierror, UnicodeError
    )
    if before:
        return words.of(before)
    if why := cause(ssl.SSLCertVerificationError):
        return words.untrusted(why.verify_message)
    why = next((e for e in causes if isinstance(e, OSError) and e.errno), None)
    if why and not attempt.is_connected:
        return words.unconnected(why.strerror)
    return _of_an_answer(causes, cause)


def _of_an_answer(causes: list[BaseException], cause: Any) -> str:
    if "Tunnel connection failed" in str(causes[-1]):
        return words.proxied(causes[-1])
    if why := cause(ssl.SSLError):
        return words.no_tls(why.reason or why)
    if cause(LineTooLong) or any("got more than" in str(e) for e in causes):
        return words.HEAD_TOO_LONG
    # A chunk's negative length is a plain ValueError.
    if cause(IncompleteRead, ConnectionError) or type(causes[0]) is ValueError:
        return words.broken_off()
    if cause(HTTPException, urllib3.exceptions.HTTPError):
        return words.no_http()
    return f"{type(causes[-1]).__name__}: {causes[-1]}"


def _is_lost(error: BaseException) -> bool:
    """Tell whether the other side closed the connection."""
    lost = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    return any(isinstance(e, lost) for e in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and what lies behind it, as requests and urllib3 wrap it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = next((arg for arg in reversed(error.args) if isinstance(arg, BaseException)), None)
        wrapped = getattr(error, "reason", None)
        if not isinstance(wrapped, BaseException):
            wrapped = inner or error.__cause__ or error.__context__
        error = wrapped
