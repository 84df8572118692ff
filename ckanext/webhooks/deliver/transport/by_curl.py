"""The engine for many: libcurl's multi interface, driven by whoever waits.

No thread but the resolver's: an endpoint that takes its time costs a socket.
"""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import pycurl

from ..attempt import KEPT_ANSWER_BYTES, READ_ANSWER_BYTES, Outcome, Request
from . import words
from .engine import MOST_HEAD_BYTES, MOST_HEADERS, Settings, drop_late, is_success
from .resolving import Addresses, Resolver
from .target import Target, checked, target

# As many slow endpoints are nothing that others notice, and cost 45 MB.
_PLACES = 2000
# Bytes, libcurl's least: with its usual 64 KiB these would cost 110 MB.
_UPLOAD_BUFFER = 16 * 1024
# Files that the process has open beside these sockets.
_OTHER_FILES = 256


class CurlEngine:
    """See :class:`~ckanext.webhooks.deliver.transport.Engine`.

    :param places: 0 for the usual number, or fewer where the system's limit
        of open files does not allow it
    """

    name = "curl"

    def __init__(self, settings: Settings, places: int = 0) -> None:
        self.places = _with_files(places or _PLACES)
        self._settings = settings
        self._resolver = Resolver(settings.allowed_networks)
        self._resolved: queue.SimpleQueue[tuple[_Transfer, Addresses | Exception]]
        self._resolved = queue.SimpleQueue()
        self._resolving: list[tuple[float, int, _Transfer]] = []
        self._count = itertools.count()
        self._under_way: dict[Any, _Transfer] = {}
        self._idle: list[Any] = []
        self._ended: list[tuple[Any, Outcome]] = []
        self._woken = threading.Event()
        self._poll = select.epoll()
        # What libcurl waits for; beside it the system watches what is kept.
        self._watched: set[int] = set()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.EPOLLIN)
        self._timer: float | None = None
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        # Kept and in use together.
        self._multi.setopt(pycurl.M_MAXCONNECTS, self.places)

    def start(self, key: Any, request: Request) -> None:
        transfer = _Transfer(key, request)
        try:
            transfer.headers = _lines(request.headers)
            transfer.target = goal = target(request.url, self._settings)
            found: Addresses | None = ("",)  # the proxy's
            if not self._settings.proxy:
                found = self._resolver.known(goal.host, goal.port)
        except ValueError as error:
            self._end(transfer, error=words.of(error))
            return
        if found is not None:
            self._dial(transfer, found)
            return
        heapq.heappush(self._resolving, (transfer.deadline, next(self._count), transfer))
        self._resolver.ask(goal.host, goal.port, lambda found: self._answer(transfer, found))

    def wait(self, seconds: float) -> list[tuple[Any, Outcome]]:
        until = time.monotonic() + seconds
        left = 0.0  # what is ready is taken in any case
        while True:
            self._turn(left)
            left = until - time.monotonic()
            if self._ended or self._woken.is_set() or left <= 0:
                self._woken.clear()
                ended, self._ended = self._ended, []
                return ended

    def wake(self) -> None:
        self._woken.set()
        self._ring()

    def close(self) -> None:
        for curl in self._under_way:
            self._multi.remove_handle(curl)
        for curl in (*self._under_way, *self._idle):
            curl.close()
        self._under_way.clear()
        self._idle.clear()
        self._multi.close()
        self._poll.close()
        bell, self._bell = self._bell, -1
        os.close(bell)

    # --- one turn of the loop

    def _turn(self, seconds: float) -> None:
        """Wait for whatever comes next, at most so long, and deal with all that came."""
        now = time.monotonic()
        until = min(
            now + seconds,
            self._timer if self._timer is not None else now + seconds,
            self._resolving[0][0] if self._resolving else now + seconds,
        )
        for fd, events in self._poll.poll(max(0.0, until - now)):
            if fd in self._watched:
                self._multi.socket_action(fd, _for_curl(events))
            elif fd == self._bell:
                with suppress(BlockingIOError):
                    os.eventfd_read(fd)
            else:  # something comes on a connection that is kept: libcurl looks when it needs it
                self._forget(fd)
        if self._timer is not None and self._timer <= time.monotonic():
            self._timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._take_resolved()
        self._take_ended()

    def _take_resolved(self) -> None:
        with suppress(queue.Empty):
            while True:
                transfer, found = self._resolved.get_nowait()
                if transfer.is_over:
                    continue
                transfer.resolve = time.monotonic() - transfer.started
                if isinstance(found, Exception):
                    self._end(transfer, error=words.of(found))
                else:
                    self._dial(transfer, found)
        now = time.monotonic()
        while self._resolving:
            deadline, _number, transfer = self._resolving[0]
            if deadline > now and not transfer.is_over and transfer.resolve is None:
                return
            heapq.heappop(self._resolving)
            if not transfer.is_over and transfer.resolve is None:
                transfer.resolve = now - transfer.started
                self._end(transfer, error=words.late(transfer.request.timeout))

    def _take_ended(self) -> None:
        left = 1
        while left:
            left, succeeded, failed = self._multi.info_read()
            for curl in succeeded:
                self._finish(curl, pycurl.E_OK, "")
            for curl, code, message in failed:
                self._finish(curl, code, message)

    # --- one transfer

    def _answer(self, transfer: _Transfer, found: Addresses | Exception) -> None:
        """Take what a thread has resolved."""
        self._resolved.put((transfer, found))
        self._ring()

    def _dial(self, transfer: _Transfer, found: Addresses) -> None:
        """Send to the first of some addresses, which has its part of the time."""
        left = transfer.deadline - time.monotonic()
        if left <= 0:
            self._end(transfer, error=words.late(transfer.request.timeout))
            return
        transfer.ip, *transfer.others = found
        curl = self._idle.pop() if self._idle else _new(self._settings)
        if not self._settings.proxy:
            ip = f"[{transfer.ip}]" if ":" in transfer.ip else transfer.ip
            curl.setopt(pycurl.CONNECT_TO, [f"::{ip}:{transfer.target.port}"])
        transfer.prepare(curl, left)
        transfer.dialled_at = time.monotonic()
        self._under_way[curl] = transfer
        self._multi.add_handle(curl)

    def _finish(self, curl: Any, code: int, message: str) -> None:
        transfer = self._under_way.pop(curl)
        transfer.measure(curl)
        status = curl.getinfo(pycurl.RESPONSE_CODE)
        errno = curl.getinfo(pycurl.OS_ERRNO) if code else 0
        self._multi.remove_handle(curl)
        curl.setopt(pycurl.POSTFIELDS, b"")  # it would keep the body in memory
        self._idle.append(curl)
        if transfer.others and not transfer.is_ready and code in _NEXT:
            self._dial(transfer, tuple(transfer.others))
        elif transfer.is_headed and (code == pycurl.E_OK or transfer.is_cut or is_success(status)):
            self._end(
                transfer,
                status=status,
                retry_after=transfer.retry_after,
                answer=transfer.body[:KEPT_ANSWER_BYTES],
            )
        else:
            self._end(transfer, error=_in_words(code, message, errno, transfer))

    def _end(self, transfer: _Transfer, **came: Any) -> None:
        transfer.is_over = True
        self._ended.append((transfer.key, transfer.outcome(**came)))

    # --- what libcurl asks for

    def _watch(self, what: int, fd: int, _multi: Any, _data: Any) -> None:
        if what == pycurl.POLL_REMOVE:
            # The system goes on: a connection that is kept is soon used again.
            self._watched.discard(fd)
            return
        events = (what & pycurl.POLL_IN and select.EPOLLIN) | (
            what & pycurl.POLL_OUT and select.EPOLLOUT
        )
        self._watched.add(fd)
        try:
            self._poll.modify(fd, events)
        except FileNotFoundError:  # it is new, or another that got an old one's number
            self._poll.register(fd, events)

    def _forget(self, fd: int) -> None:
        with suppress(OSError):  # closed already
            self._poll.unregister(fd)

    def _set_timer(self, milliseconds: int) -> None:
        self._timer = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def _ring(self) -> None:
        with suppress(OSError):  # closed meanwhile
            os.eventfd_write(self._bell, 1)


class _Transfer:
    """A request on its way, and what came of it so far.

    :ivar ip: the address that it goes to, and ``others`` those that are left
    :ivar resolve: seconds, once it is known
    :ivar answered_at: when the head of the last answer began
    :ivar is_ready: a connection was there, or made with all its handshakes
    :ivar is_headed: the whole head of an answer came
    :ivar is_cut: as much of the body came as is read
    :ivar is_too_long: so did more of the head than is read
    """

    # What most of them never change is the class's: there are thousands a second.
    ip = ""
    others: Sequence[str] = ()
    dialled_at = 0.0
    answered_at: float | None = None
    resolve: float | None = None
    connect: float | None = None
    tls: float | None = None
    wait: float | None = None
    head_bytes = 0
    head_lines = 0
    retry_after: str | None = None
    body = b""
    is_ready = False
    is_headed = False
    is_cut = False
    is_too_long = False
    is_over = False
    target: Target
    headers: list[bytes]

    def __init__(self, key: Any, request: Request) -> None:
        self.key = key
        self.request = request
        self.started = time.monotonic()
        self.deadline = self.started + request.timeout

    def prepare(self, curl: Any, left: float) -> None:
        """Set what is this request's alone.

        :param left: seconds
        """
        curl.setopt(pycurl.URL, self.target.url)
        curl.setopt(pycurl.HTTPHEADER, self.headers)
        curl.setopt(pycurl.POSTFIELDS, self.request.body)
        milliseconds = _milliseconds(left)
        curl.setopt(pycurl.TIMEOUT_MS, milliseconds)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, milliseconds // (1 + len(self.others))))
        curl.setopt(pycurl.SOCKOPTFUNCTION, self._take_socket)
        curl.setopt(pycurl.HEADERFUNCTION, self._take_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._take_body)

    def measure(self, curl: Any) -> None:
        """Take the times of what libcurl has ended."""
        now = time.monotonic()
        took = now - self.dialled_at
        is_tls = self.target.url.startswith("https:")
        connected = curl.getinfo(pycurl.CONNECT_TIME)
        secured = curl.getinfo(pycurl.APPCONNECT_TIME) if is_tls else 0.0
        reached = curl.getinfo(pycurl.PRIMARY_IP)
        is_kept = reached and not curl.getinfo(pycurl.NUM_CONNECTS)
        self.is_ready = bool(is_kept or (secured if is_tls else connected))
        if not is_kept:
            self.connect = (self.connect or 0.0) + (connected or took)
            if is_tls and connected:
                self.tls = (secured or took) - connected
        if self.is_ready:
            # libcurl's own time of the start is that of the end, where it was in a hurry.
            ready_at = self.dialled_at + (secured or connected)
            self.wait = max(0.0, (self.answered_at or now) - ready_at)
        self.ip = reached or self.ip

    def outcome(self, **came: Any) -> Outcome:
        return Outcome(
            **came,
            dialled=self.ip or None,
            duration=time.monotonic() - self.started,
            resolve=self.resolve,
            connect=self.connect,
            tls=self.tls,
            wait=self.wait,
        )

    def _take_socket(self, fd: int, _purpose: int) -> int:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
        try:
            drop_late(connection, self.request.timeout)
        finally:
            connection.detach()  # it is libcurl's
        return pycurl.SOCKOPT_OK

    def _take_header(self, line: bytes) -> int | None:
        """:returns: -1 to end here, None to go on"""
        self.head_bytes += len(line)
        self.head_lines += 1
        if line in _END_OF_HEAD:
            self.is_headed = True
            return -1 if self.is_cut else None  # what follows a 101 is no answer
        if line.startswith(b"HTTP/"):  # an interim answer may have been before it
            self.answered_at = time.monotonic()
            self.retry_after = None
            self.head_lines = 0
            self.is_headed = False
            self.is_cut = line[8:12] == b" 101"
        elif line[:12].lower() == b"retry-after:" and self.retry_after is None:
            self.retry_after = line[12:].strip().decode("latin-1")
        self.is_too_long = self.head_bytes > MOST_HEAD_BYTES or self.head_lines > MOST_HEADERS
        return -1 if self.is_too_long else None

    def _take_body(self, part: bytes) -> int | None:
        self.body += part
        self.is_cut = len(self.body) >= READ_ANSWER_BYTES
        return -1 if self.is_cut else None


def _new(settings: Settings) -> Any:
    """Open a handle, and set what is the same for all requests.

    What is not, is set for each, so that nothing is left of the one before.
    """
    curl = pycurl.Curl()
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    curl.setopt(pycurl.HTTP09_ALLOWED, 0)
    curl.setopt(pycurl.FOLLOWLOCATION, 0)
    curl.setopt(pycurl.PATH_AS_IS, 1)
    curl.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
    curl.setopt(pycurl.NOPROXY, "")
    curl.setopt(pycurl.TCP_NODELAY, 1)
    curl.setopt(pycurl.UPLOAD_BUFFERSIZE, _UPLOAD_BUFFER)
    curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    curl.setopt(pycurl.SSL_VERIFYPEER, 1)
    curl.setopt(pycurl.SSL_VERIFYHOST, 2)
    curl.setopt(pycurl.CAINFO, settings.certificates)
    curl.setopt(pycurl.PROXY, settings.proxy or "")  # "": not the environment's either
    if settings.proxy:
        curl.setopt(pycurl.PROXY_CAINFO, settings.certificates)
    return curl


def _lines(headers: dict[str, str]) -> list[bytes]:
    """Write headers as libcurl wants them, without those that it would add.

    :raises RefusedHeader: one has characters that it may not have
    """
    return [*_without(tuple(headers)), *(_line(name, value) for name, value in headers.items())]


@lru_cache(maxsize=4096)
def _line(name: str, value: str) -> bytes:
    value = checked(name, value)
    # An empty one ends in a semicolon, since with a colon it would be left out.
    return (f"{name}: {value}" if value else f"{name};").encode("latin-1")


@lru_cache(maxsize=256)
def _without(names: tuple[str, ...]) -> list[bytes]:
    given = {name.lower() for name in names}
    return [
        f"{name}:".encode()
        for name in ("Accept", "Content-Type", "Expect")
        if name.lower() not in given
    ]


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))  # 0 is for ever


def _for_curl(events: int) -> int:
    found = 0
    if events & ~select.EPOLLOUT:
        found |= pycurl.CSELECT_IN
    if events & ~select.EPOLLIN:
        found |= pycurl.CSELECT_OUT
    return found


def _with_files(places: int) -> int:
    """Have the system allow as many open files as that takes.

    :returns: how many places the limit leaves
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = places + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(places, soft - _OTHER_FILES))
    return places


# Nothing was sent yet, and another address may do better.
_NEXT = {pycurl.E_COULDNT_CONNECT, pycurl.E_OPERATION_TIMEDOUT}
_WORDS: dict[int, Callable[[object], str]] = {
    pycurl.E_SSL_CONNECT_ERROR: words.no_tls,
    pycurl.E_SSL_CIPHER: words.no_tls,
    pycurl.E_PEER_FAILED_VERIFICATION: words.untrusted,
    pycurl.E_GOT_NOTHING: words.broken_off,
    pycurl.E_PARTIAL_FILE: words.broken_off,
    pycurl.E_RECV_ERROR: words.broken_off,
    pycurl.E_SEND_ERROR: words.broken_off,
    pycurl.E_UNSUPPORTED_PROTOCOL: words.no_http,  # HTTP/0.9
    8: words.no_http,  # CURLE_WEIRD_SERVER_REPLY, which has no name in pycurl, nor has the next
    pycurl.E_OK: words.broken_off,  # libcurl does not mind a head that is not whole
}
_TOO_LARGE = 100  # CURLE_TOO_LARGE
_END_OF_HEAD = (b"\r\n", b"\n")


def _in_words(code: int, message: str, errno: int, transfer: _Transfer) -> str:
    if transfer.is_too_long or code == _TOO_LARGE:
        return words.HEAD_TOO_LONG
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return words.late(transfer.request.timeout)
    if message.startswith("CONNECT tunnel failed"):
        return words.proxied(message)
    if code == pycurl.E_COULDNT_CONNECT:
        return words.unconnected(os.strerror(errno) if errno else message)
    return _WORDS[code](message) if code in _WORDS else f"curl {code}: {message}"
