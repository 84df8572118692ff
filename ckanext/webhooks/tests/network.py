"""Machines of a test's own: namespaces of the network, each with an address, on one bridge.

Nothing of it is seen from outside, and it is gone with the processes that hold it, so
also after ``kill -9``. Root can do it, and so can a user whom the kernel lets make user
namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from .site import Process

HUB = "10.213.0.1"
_IS_ROOT = os.geteuid() == 0
# A user has the rights to do it only in a user namespace, of which the hub's is the one.
_NEW = ["unshare", "--net"] if _IS_ROOT else ["unshare", "--user", "--map-root-user", "--net"]
_USER = [] if _IS_ROOT else ["--user", "--preserve-credentials"]

# A socket belongs to the namespace in which it was made, whoever uses it.
_LISTEN = """
import socket, sys
listening = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=128)
socket.send_fds(socket.socket(fileno=0), [b"."], [listening.fileno()])
"""


def why_not() -> str:
    """Say why there can be no such machines here; empty where there can."""
    try:
        subprocess.run([*_NEW, "ip", "link", "add", "b0", "type", "bridge"], check=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return f"neither root nor allowed to make user namespaces, or no iproute2: {error}"
    return ""


class Network:
    """``with Network(folder, 3) as network:`` has machines 1, 2 and 3, and the hub.

    :param folder: for logs
    :ivar addresses: of the machines
    """

    def __init__(self, folder: Path, machines: int) -> None:
        self._folder = folder
        self.addresses = [f"10.213.0.{1 + number}" for number in range(1, machines + 1)]
        self._holders: list[Process] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Network:
        self._thread.start()
        self._hold(_NEW)
        # Its own address, not one of its ports', at which it would also hear a machine that is cut.
        self._ip(0, "link add bridge0 address 02:00:0a:d5:00:01 type bridge")
        self._ip(0, f"addr add {HUB}/24 dev bridge0")
        self._ip(0, "link set bridge0 up")
        for number, address in enumerate(self.addresses, 1):
            holder = self._hold([*self._enter(0, net=False), "unshare", "--net"])
            self._ip(0, f"link add port{number} type veth peer name eth0 netns {holder.pid}")
            self._ip(0, f"link set port{number} master bridge0")
            self._ip(0, f"link set port{number} up")
            self._ip(number, f"addr add {address}/24 dev eth0")
            self._ip(number, "link set eth0 up")
            self._ip(number, "link set lo up")
        return self

    def __exit__(self, *error: object) -> None:
        for holder in self._holders:
            holder.kill()
        asyncio.run_coroutine_threadsafe(_end_others(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def inside(self, number: int) -> list[str]:
        """Give what a command begins with that is to run on a machine; 0 is the hub."""
        return self._enter(number, net=True)

    def cut(self, number: int) -> None:
        """Pull a machine's cable: what is sent to it or by it gets lost, and nobody is told."""
        self._ip(0, f"link set port{number} nomaster")

    def mend(self, number: int) -> None:
        self._ip(0, f"link set port{number} master bridge0")

    def listen(self, port: int) -> socket.socket:
        """Listen on the hub, from this process."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, "-I", "-c", _LISTEN, HUB, str(port)]
            subprocess.run(
                [*self.inside(0), *command], stdin=theirs.fileno(), check=True, timeout=10
            )
            _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=descriptor)

    def forward(self, url: str) -> str:
        """Let the machines reach a server of this one.

        :returns: its URL as they have it
        """
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        listening = self.listen(parts.port)
        starting = _forward(listening, parts.hostname, parts.port)
        asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        who = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{who}{'@' * bool(who)}{HUB}:{parts.port}"))

    def _hold(self, command: list[str]) -> Process:
        """Start a process in whose namespace a machine is."""
        name = f"machine-{len(self._holders)}"
        holder = Process(name, [*command, "sleep", "infinity"], self._folder, os.environ)
        self._holders.append(holder)
        mine = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{holder.pid}/ns/net") == mine:
            if not holder.alive:
                raise holder.error("could not be made")
        return holder

    def _enter(self, number: int, *, net: bool) -> list[str]:
        if not net and not _USER:
            return []
        target = ["nsenter", "--target", str(self._holders[number].pid), *_USER]
        return [*target, "--net"] if net else target

    def _ip(self, number: int, command: str) -> None:
        subprocess.run([*self.inside(number), "ip", *command.split()], check=True, timeout=10)


async def _forward(listening: socket.socket, host: str, port: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there = await asyncio.open_connection(host, port)
            await asyncio.gather(_pass(reader, there[1]), _pass(there[0], writer))

    await asyncio.start_server(connected, sock=listening)


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
