"""Endpoints for the benches: one process, one thread, and little work for each request.

Listens on several of this machine's own addresses, so that not all is one
host, and prints its port. Paths say how an endpoint behaves: ``/good…`` answers at
once, ``/slow…`` after five seconds, ``/drip…`` a byte a second without end, ``/hang…`` never.
``GET /count`` tells how many requests came to ``/good…``, and ``GET /taken`` what
they were, one line each, and forgets them: the ``webhook-id``, the path and the time, in
seconds of this machine's monotonic clock, which all its processes share. It ends with
its standard input: whichever way the bench ends, so does this.

No library: the fastest of the usual ones takes as long for a request as the
worker that is measured.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import os
import select
import socket
import time
from dataclasses import dataclass, field

SLOW = 5.0
HOSTS = [f"127.0.0.{n}" for n in range(1, 9)]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
INPUT = 0
# What is read at once; a request of 4 KB is one read.
MOST = 1 << 16


@dataclass
class Connection:
    """One connection, and what is known of the request that is being read.

    :ivar head: the begin of a head that is not whole
    :ivar missing: bytes of the body that are still to come
    :ivar waits: the head of the request that they belong to
    """

    socket: socket.socket
    head: bytes = b""
    missing: int = 0
    waits: bytes = b""


@dataclass
class Endpoints:
    """All of them, and what arrived at those that are good: the heads of requests, and when."""

    poll: select.epoll = field(default_factory=select.epoll)
    connections: dict[int, Connection] = field(default_factory=dict)
    later: list[tuple[float, int, Connection, bytes]] = field(default_factory=list)
    arrived: list[tuple[bytes, float]] = field(default_factory=list)

    def serve(self) -> None:
        listening: dict[int, socket.socket] = {}
        port = 0
        for host in HOSTS:
            one = socket.create_server((host, port), backlog=4096)
            one.setblocking(False)
            port = one.getsockname()[1]
            listening[one.fileno()] = one
            self.poll.register(one.fileno(), select.EPOLLIN)
        self.poll.register(INPUT, select.EPOLLIN)
        print(port, flush=True)
        while True:
            wait = max(0.0, self.later[0][0] - time.monotonic()) if self.later else None
            for number, _ in self.poll.poll(wait):
                if connection := self.connections.get(number):
                    self.read(number, connection)
                elif number == INPUT:
                    return
                else:
                    self.accept(listening[number])
            while self.later and self.later[0][0] <= time.monotonic():
                _, number, connection, answer = heapq.heappop(self.later)
                if self.connections.get(number) is connection:
                    self.send(number, answer)
                    if answer == b".":
                        self.put_off(1, number, answer)

    def accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted, _ = listening.accept()
                accepted.setblocking(False)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections[accepted.fileno()] = Connection(accepted)
                self.poll.register(accepted.fileno(), select.EPOLLIN)

    def read(self, number: int, connection: Connection) -> None:
        """Read what came, and answer each request that is whole."""
        try:
            data = os.read(number, MOST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            del self.connections[number]
            connection.socket.close()  # which ends its place in the poll, too
            return
        if connection.missing:
            # Of a body only its length counts.
            if len(data) < connection.missing:
                connection.missing -= len(data)
                return
            data, connection.missing = data[connection.missing :], 0
            self.answer(number, connection.waits)
        elif connection.head:
            data, connection.head = connection.head + data, b""
        while data:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                connection.head = data
                return
            head = data[:end]
            whole = end + 4 + int(value(head, b"Content-Length") or 0)
            if len(data) < whole:
                connection.missing, connection.waits = whole - len(data), head
                return
            self.answer(number, head)
            data = data[whole:]

    def answer(self, number: int, head: bytes) -> None:
        if head.startswith(b"POST /good"):
            self.arrived.append((head, time.monotonic()))
            self.send(number, OK)
        elif head.startswith(b"POST /slow"):
            self.put_off(SLOW, number, OK)
        elif head.startswith(b"POST /drip"):
            self.send(number, ENDLESS)
            self.put_off(1, number, b".")
        elif head.startswith(b"GET /count"):
            self.give(number, b"%d" % len(self.arrived))
        elif head.startswith(b"GET /taken"):
            self.give(number, b"".join(map(line, self.arrived)))
            self.arrived.clear()

    def send(self, number: int, answer: bytes) -> None:
        # Who has hung up is noticed when it is read from.
        with contextlib.suppress(OSError):
            os.write(number, answer)

    def put_off(self, seconds: float, number: int, answer: bytes) -> None:
        at = time.monotonic() + seconds
        # Of one connection no two are put off, so that these are never compared.
        heapq.heappush(self.later, (at, number, self.connections[number], answer))

    def give(self, number: int, body: bytes) -> None:
        """Answer the bench, which waits for it."""
        connection = self.connections[number].socket
        connection.setblocking(True)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        connection.setblocking(False)


def value(head: bytes, name: bytes) -> bytes:
    """Give the value of a header, empty where it is missing."""
    start = head.find(b"\r\n%b: " % name)
    if start < 0:
        # Somebody who writes it otherwise.
        lower = b"\r\n%b:" % name.lower()
        start = head.lower().find(lower)
        if start < 0:
            return b""
    start = head.index(b":", start) + 1
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def line(arrived: tuple[bytes, float]) -> bytes:
    head, at = arrived
    return b"%b %b %.6f\n" % (value(head, b"webhook-id") or b"-", head.split(b" ", 2)[1], at)


if __name__ == "__main__":
    # Nothing here makes cycles, and looking for them in 100,000 arrivals takes time.
    gc.disable()
    Endpoints().serve()
