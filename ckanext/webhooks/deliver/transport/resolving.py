"""Names to checked addresses.

getaddrinfo cannot be interrupted and takes as long as a name's server likes,
so threads wait for it: one for a name, whoever asks for it meanwhile.
"""

from __future__ import annotations

import ipaddress
import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from .. import addresses

# Two users' webhooks (100 each unless the portal says otherwise), all at names
# whose servers never answer, leave threads for others. One is about 50 kB.
_MOST_THREADS = 256
# Seconds that an answer is used again: the events of one change in CKAN go out
# together, and a name that moves is followed within the first retries.
_FRESH = 10.0
_MOST_KEPT = 10_000
# A name may have any number of addresses; that many are called in turn, so
# that each gets a fair part of the time.
_MOST_CALLED = 4

# For documentation. A machine that can bind it can bind any (ip_nonlocal_bind).
_NOBODYS = "192.0.2.1"

Addresses = tuple[str, ...]
Answered = Callable[["Addresses | Exception"], None]


class Resolver:
    """Resolves names and checks every address, so that one that is refused refuses all.

    :param allowed_networks: see :func:`addresses.check_ip`
    """

    def __init__(self, allowed_networks: Sequence[str]) -> None:
        self._allowed = tuple(allowed_networks)
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, int], tuple[float, Addresses]] = {}
        self._asked: dict[str, list[tuple[int, Answered]]] = {}
        self._queue: deque[str] = deque()
        self._threads = 0

    def known(self, host: str, port: int) -> Addresses | None:
        """Give the addresses of what need not be asked for.

        :raises addresses.RefusedAddress: the host is an address that may not be called
        """
        kept = self._kept.get((host, port))
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return None
        return self._check(host, port, (host,))

    def ask(self, host: str, port: int, answered: Answered) -> None:
        """Have a name resolved.

        :param answered: called once, in another thread, with the addresses in
            the order in which to call them, or with what went wrong
        """
        with self._lock:
            waiting = self._asked.get(host)
            if waiting is not None:
                waiting.append((port, answered))
                return
            self._asked[host] = [(port, answered)]
            self._queue.append(host)
            if self._threads >= _MOST_THREADS:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="webhooks-resolve", daemon=True).start()
        except RuntimeError as error:  # the system allows no more
            self._go_without(host, error)

    def _go_without(self, host: str, error: Exception) -> None:
        """Leave a name to the threads that there are, or give it up where there is none."""
        with self._lock:
            self._threads -= 1
            if self._threads or host not in self._queue:
                return
            self._queue.remove(host)
            waiting = self._asked.pop(host)
        for _port, answered in waiting:
            answered(error)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                host = self._queue.popleft()
            found: list[str] | Exception
            try:
                found = _look_up(host)
            except (OSError, ValueError) as error:  # ValueError: no name at all, by IDNA
                found = error
            with self._lock:
                waiting = self._asked.pop(host)
            for port, answered in waiting:
                answered(self._answer(host, port, found))

    def _answer(self, host: str, port: int, found: list[str] | Exception) -> Addresses | Exception:
        if isinstance(found, Exception):
            return found
        try:
            return self._check(host, port, found)
        except addresses.RefusedAddress as error:
            return error

    def _check(self, host: str, port: int, found: Sequence[str]) -> Addresses:
        for ip in found:
            addresses.check_ip(ip, self._allowed, host, port, is_own(ip))
        called = tuple(itertools.islice(_alternating(found), _MOST_CALLED))
        with self._lock:
            now = time.monotonic()
            if len(self._kept) >= _MOST_KEPT:
                self._kept = {k: v for k, v in self._kept.items() if v[0] > now}
            if len(self._kept) < _MOST_KEPT:
                self._kept[host, port] = (now + _FRESH, called)
        return called


def _look_up(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    if not found:
        raise socket.gaierror(socket.EAI_NODATA, "it has no address")
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_own(ip: str) -> bool:
    """Tell whether an address, or one within it, is this machine's: only such can be bound."""
    address = ipaddress.ip_address(ip.split("%", 1)[0])
    every = (address, *addresses.embedded(address))
    return any(_is_bindable(str(each)) for each in every) and not _is_bindable(_NOBODYS)


def _is_bindable(ip: str) -> bool:
    try:
        with socket.socket(_family(ip), socket.SOCK_DGRAM) as bound:
            bound.bind((ip, 0))
    except OSError:
        return False
    return True


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def _alternating(found: Iterable[str]) -> Iterable[str]:
    """Take the families in turn (RFC 8305, section 4), else in the order that is given.

    Where one family does not work here, the other one has its turn early.
    """
    families: dict[bool, list[str]] = {}
    for ip in found:
        families.setdefault(":" in ip, []).append(ip)
    for row in itertools.zip_longest(*families.values()):
        yield from (ip for ip in row if ip is not None)
