"""Endpoints for the benches: one process, one thread, and little work for each request.

Listens on several of this machine's own addresses, so that not all is one
host, and prints its port. Paths say how an endpoint behaves: ``/good…`` answers at
once, ``/slow…`` after five seconds, ``/drip…`` a byte a second without end, ``/hang…`` never.
At SIGTERM it writes what arrived at ``/good…``, one line each: the
``webhook-id`` and the time, in seconds of this machine's monotonic clock,
which all its processes share.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

SLOW = 5.0
HOSTS = [f"127.0.0.{n}" for n in range(1, 9)]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"

arrived: list[tuple[bytes, float]] = []


class Endpoint(asyncio.Protocol):
    """One connection. Reads whole requests, however they are cut."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end]
            whole = end + 4 + int(_header(head, b"content-length") or 0)
            if len(self.buffer) < whole:
                return
            self.buffer = self.buffer[whole:]
            self.answer(head)

    def answer(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path.startswith(b"/good"):
            arrived.append((_header(head, b"webhook-id"), time.monotonic()))
            self.transport.write(OK)
        elif path.startswith(b"/slow"):
            asyncio.get_running_loop().call_later(SLOW, self.transport.write, OK)
        elif path.startswith(b"/drip"):
            self.transport.write(ENDLESS)
            self.drip()

    def drip(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b".")
            asyncio.get_running_loop().call_later(1, self.drip)


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip()
    return b""


async def serve(path: str) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(Endpoint, HOSTS[0], 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    others = [await loop.create_server(Endpoint, host, port, backlog=4096) for host in HOSTS[1:]]
    print(port, flush=True)
    await ended.wait()
    for one in (server, *others):
        one.close()
    with open(path + ".part", "wb") as log:
        log.writelines(b"%s %.6f\n" % line for line in arrived)
    os.replace(path + ".part", path)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
