"""One function from request to outcome, and the only outbound connection.

The name is resolved here, every answer is checked, and a checked address is
what is connected to, while SNI, certificate and Host stay the name's: a name
that changes between check and connect cannot lead elsewhere. ``post`` may be
called by many threads at once.
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from . import addresses
from .attempt import KEPT_ANSWER_BYTES, READ_ANSWER_BYTES, Outcome, Request

# getaddrinfo cannot be interrupted; these threads wait for it in our stead.
_RESOLVERS = 16
# Endpoints to which connections are kept, and connections kept to each.
_KEPT_ENDPOINTS = 100
_KEPT_CONNECTIONS = 8


def post(request: Request) -> Outcome:
    """Send one request; whatever happens is in the outcome.

    Redirects are not followed, the environment's proxies are not used, and
    at most :data:`READ_ANSWER_BYTES` of the answer are read, undecoded.
    """
    started = time.monotonic()
    _dial.deadline = started + request.timeout
    _dial.allowed_networks = request.allowed_networks
    _dial.dialled = None
    _dial.timed_out = False
    try:
        with _watched():
            outcome = _send(request)
    except Exception as error:  # whatever a library raises is an outcome
        outcome = Outcome(error=_in_words(error, request.timeout))
    return Outcome(
        status=outcome.status,
        error=outcome.error,
        retry_after=outcome.retry_after,
        answer=outcome.answer,
        dialled=_dial.dialled,
        duration=time.monotonic() - started,
    )


def _send(request: Request) -> Outcome:
    addresses.check_url(request.url, request.allowed_networks)
    prepared = requests.Request(
        "POST", request.url, headers=request.headers, data=request.body
    ).prepare()
    with _session().send(
        prepared,
        stream=True,
        allow_redirects=False,
        timeout=_remaining(),
        verify=True,
        proxies={},
    ) as response:
        answer = response.raw.read(READ_ANSWER_BYTES, decode_content=False)
        if _dial.timed_out:
            raise TimeoutError
        return Outcome(
            status=response.status_code,
            retry_after=response.headers.get("Retry-After"),
            answer=answer[:KEPT_ANSWER_BYTES],
        )


class _Dial(threading.local):
    """What the connection classes need of the attempt that this thread makes."""

    deadline: float = 0.0
    allowed_networks: tuple[str, ...] = ()
    dialled: str | None = None
    timed_out: bool = False


_dial = _Dial()


def _remaining() -> float:
    left = _dial.deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


_resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="webhooks-resolve")


def _resolve(host: str, port: int) -> list[str]:
    answer: Future[Any] = _resolvers.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = answer.result(_remaining())
    except FutureTimeout:
        answer.cancel()
        raise TimeoutError from None
    return list(dict.fromkeys(entry[4][0] for entry in found))


def _connect(host: str, port: int) -> socket.socket:
    """Resolve, check every answer, and connect to the first that accepts."""
    found = _resolve(host, port)
    for ip in found:
        addresses.check_ip(ip, _dial.allowed_networks)
    error: Exception = OSError(f"{host} has no address")
    for ip in found:
        _dial.dialled = ip
        try:
            return socket.create_connection((ip, port), timeout=_remaining())
        except OSError as failure:
            error = failure
    raise error


class _CheckedConnection(HTTPConnection):
    """Connects to a checked address, and can be cut off at the deadline."""

    _handle: socket.socket | None = None
    _ip: str | None = None

    def _new_conn(self) -> socket.socket:
        connected = _connect(self._dns_host, self.port or self.default_port)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # TLS takes the socket over; a second handle on it can still shut it.
        self._handle = socket.socket(fileno=os.dup(connected.fileno()))
        self._ip = _dial.dialled
        _watch(self._handle)
        return connected

    def request(self, *args: Any, **kwargs: Any) -> Any:
        if self._handle is not None:  # a connection that was kept
            _dial.dialled = self._ip
            _watch(self._handle)
        return super().request(*args, **kwargs)

    def close(self) -> None:
        super().close()
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()


class _CheckedTLSConnection(_CheckedConnection, HTTPSConnection):
    pass


class _CheckedPool(HTTPConnectionPool):
    ConnectionCls = _CheckedConnection


class _CheckedTLSPool(HTTPSConnectionPool):
    ConnectionCls = _CheckedTLSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _CheckedPool,
            "https": _CheckedTLSPool,
        }


_local = threading.local()


def _session() -> requests.Session:
    """Give this thread's session: requests does not promise to share one."""
    session: requests.Session | None = getattr(_local, "session", None)
    if session is None:
        session = _local.session = requests.Session()
        session.trust_env = False
        session.headers.clear()
        adapter = _Adapter(
            pool_connections=_KEPT_ENDPOINTS,
            pool_maxsize=_KEPT_CONNECTIONS,
            max_retries=urllib3.Retry(0, read=False),
        )
        session.mount("http://", adapter)
        session.mount("https://", adapter)
    return session


# --- the deadline: one thread shuts the sockets of attempts that are late


class _Watch:
    """A socket under a deadline, until the attempt ends."""

    def __init__(self, handle: socket.socket, dial: dict[str, Any]) -> None:
        self.handle: socket.socket | None = handle
        self.dial = dial


_watches: list[tuple[float, int, _Watch]] = []
_count = itertools.count()
_changed = threading.Condition()
_watcher: threading.Thread | None = None


@contextmanager
def _watched() -> Iterator[None]:
    _local.watches = []
    try:
        yield
    finally:
        with _changed:
            for watch in _local.watches:
                watch.handle = None


def _watch(handle: socket.socket) -> None:
    global _watcher
    watch = _Watch(handle, _dial.__dict__)
    _local.watches.append(watch)
    with _changed:
        heapq.heappush(_watches, (_dial.deadline, next(_count), watch))
        if _watcher is None or not _watcher.is_alive():
            _watcher = threading.Thread(
                target=_cut_off_late_ones, name="webhooks-deadline", daemon=True
            )
            _watcher.start()
        _changed.notify()


def _cut_off_late_ones() -> None:
    while True:
        with _changed:
            while not _watches:
                _changed.wait()
            deadline, _number, watch = _watches[0]
            if watch.handle is None:
                heapq.heappop(_watches)
                continue
            late = deadline - time.monotonic()
            if late > 0:
                _changed.wait(late)
                continue
            heapq.heappop(_watches)
            watch.dial["timed_out"] = True
            try:
                watch.handle.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was faster


def _in_words(error: BaseException, timeout: float) -> str:
    """Say what went wrong so that the owner of the endpoint can mend it."""
    reasons = list(_causes(error))
    if _dial.timed_out or any(
        isinstance(e, (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError))
        for e in reasons
    ):
        return f"no complete answer within {timeout:g} s"
    for reason in reasons:
        if isinstance(reason, addresses.RefusedAddress):
            return f"address refused: {reason}"
        if isinstance(reason, socket.gaierror):
            return f"the name does not resolve: {reason.strerror}"
    root = reasons[-1]
    return f"{type(root).__name__}: {root}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and what lies behind it, as requests and urllib3 wrap it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = error.args[0] if error.args else None
        wrapped = getattr(error, "reason", None) or inner
        error = (
            wrapped if isinstance(wrapped, BaseException) else error.__cause__ or error.__context__
        )


# --- provisional: replaced by the package


@__import__("dataclasses").dataclass(frozen=True)
class Settings:
    allowed_networks: tuple[str, ...] = ()
    proxy: str | None = None
    ca_bundle: str | None = None


class Engine:
    name = "requests"
    places = 64

    def __init__(self, settings: Settings, places: int = 0) -> None:
        import queue

        self.settings = settings
        self.pool = ThreadPoolExecutor(places or self.places, thread_name_prefix="webhooks-post")
        self.ended: Any = queue.SimpleQueue()

    def start(self, key: Any, request: Request) -> None:
        import dataclasses

        request = dataclasses.replace(request, allowed_networks=self.settings.allowed_networks)
        self.pool.submit(lambda: self.ended.put((key, post(request))))

    def wait(self, seconds: float) -> list[tuple[Any, Outcome]]:
        import queue

        found = []
        try:
            got = self.ended.get(timeout=max(seconds, 0.0001))
            while True:
                if got:
                    found.append(got)
                got = self.ended.get_nowait()
        except queue.Empty:
            return found

    def wake(self) -> None:
        self.ended.put(None)

    def close(self) -> None:
        self.pool.shutdown(wait=False)


def open_engine(settings: Settings, places: int = 0, name: str | None = None) -> Engine:
    return Engine(settings, places)
