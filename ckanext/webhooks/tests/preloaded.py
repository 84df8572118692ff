"""Starts CKAN's commands from a process that has imported CKAN.

To import CKAN, the plugins and Celery takes three of the four seconds of a core that a worker
takes to start, and the acceptance tests start CKAN some seventy times. Each command still is a
process of its own, which reads its configuration, loads its plugins and makes its application as
any other; what it has in common with its like is memory, and the seed of Python's hashes. Commands
of another environment, and those that tests give to a shell, start as they do for everybody.

``python -m ckanext.webhooks.tests.preloaded FD`` takes orders from a socket until that ends. For
each it forks a guard (see guard.py), and that forks the command.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import logging.config
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, Any

from . import guard
from .site import Guard, start_own_guard

ROOT = Path(__file__).parents[3]
# What a worker imports once it knows its configuration.
LATER = ("ckanext.activity.plugin", "ckanext.webhooks.plugin", "celery.bin.celery")
# Of an order, in bytes: what a socket of Linux takes at once unless it is told otherwise is more.
LONGEST_ORDER = 128 * 1024


class Preloaded:
    """The process that has imported CKAN, started when it is first wanted."""

    def __init__(self) -> None:
        self._orders: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start_guard(
        self, command: list[str], folder: Path, env: Mapping[str, str], log: IO[bytes]
    ) -> Guard:
        """Start a guard that runs a command: from here if that is a script of this Python."""
        if not _is_script(command[0]) or _of_its_start(env) != _of_its_start(os.environ):
            return start_own_guard(command, folder, env, log)
        if self._process is None or self._process.poll() is not None:
            self._begin(log)
        assert self._orders is not None
        order = json.dumps([command, str(folder), dict(env)]).encode()
        assert len(order) <= LONGEST_ORDER
        held, stdin = os.pipe()
        stdout, told = os.pipe()
        socket.send_fds(self._orders, [order], [held, told, log.fileno()])
        os.close(held)
        os.close(told)
        return Forked(open(stdin, "wb", 0), open(stdout, "rb", 0))

    def _begin(self, log: IO[bytes]) -> None:
        self.close()
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def close(self) -> None:
        """End it; what it has started goes on."""
        if self._orders and self._process:
            self._orders.close()
            self._process.wait()
            self._orders = self._process = None


def _is_script(name: str) -> bool:
    """Tell whether a command belongs to the Python that runs this, as ``ckan`` does."""
    path = Path(name)
    if path.parent != Path(sys.executable).parent:
        return False
    with open(path, "rb") as file:
        return file.readline().rstrip() == f"#!{sys.executable}".encode()


def _of_its_start(env: Mapping[str, str]) -> dict[str, str]:
    """Give what a process reads as it starts, and a forked one has from where it was forked."""
    read = ("PYTHON", "LD_", "LC_", "LANG", "TZ")
    return {
        name: value
        for name, value in env.items()
        if name.startswith(read) and name != "PYTHONUNBUFFERED"  # as these are anyway
    }


class Forked:
    """A guard that is not our child, with what we use of :class:`subprocess.Popen`.

    :ivar stdin: while it is open the command may run
    :ivar stdout: the command's pid, and when it has ended its exit code
    """

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self._code: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        """:raises subprocess.TimeoutExpired: it still runs"""
        code = self._read(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a preloaded command", timeout or 0)
        return code

    def _read(self, timeout: float | None) -> int | None:
        with self._lock:
            if self._code is None and self._is_told(timeout):
                # Without one the guard was killed.
                self._code = int(self.stdout.readline() or 128 + signal.SIGKILL)
            return self._code

    def _is_told(self, timeout: float | None) -> bool:
        waiting = select.poll()
        waiting.register(self.stdout, select.POLLIN)
        return bool(waiting.poll(None if timeout is None else max(0.0, timeout) * 1000))


def main(orders: socket.socket) -> None:
    """Take orders until nobody can give any, and run one where this is its command."""
    _import()
    command = _fork_guards(orders)
    if command is not None:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


def _import() -> None:
    """Import what every command of CKAN does, and then what a worker does."""
    import ckan.cli.cli
    import ckan.config.middleware

    before = set(logging.root.manager.loggerDict)
    for entry in entry_points(group="ckan.click_command"):
        entry.load()
    for module in LATER:
        importlib.import_module(module)
    later = set(logging.root.manager.loggerDict) - before

    def configure_logging(*arguments: Any, **options: Any) -> None:
        logging.config.fileConfig(*arguments, **options)
        # That silences all loggers that are there already. These come later in other processes.
        for name in later:
            logging.getLogger(name).disabled = False

    ckan.cli.loggingFileConfig = configure_logging
    gc.collect()
    gc.freeze()  # the forked share what nobody writes to


def _fork_guards(orders: socket.socket) -> list[str] | None:
    """:returns: in the process of a command, that; otherwise at the end None"""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the guards
    while True:
        order, files, _, _ = socket.recv_fds(orders, LONGEST_ORDER, 3)
        if not order:
            return None
        if os.fork() == 0:
            orders.close()
            return _guard(order, files)
        for file in files:
            os.close(file)


def _guard(order: bytes, files: list[int]) -> list[str]:
    """Fork a command, and watch it to its end.

    :returns: in the command's own process, that
    """
    command: list[str]
    command, folder, env = json.loads(order)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for ours, file in enumerate(files):
        os.dup2(file, ours)
        os.close(file)
    guard.prepare()
    begun, beginning = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(folder, env)
        os.close(begun)
        os.close(beginning)
        return command
    os.close(beginning)
    os.read(begun, 1)  # nothing, once it has the session by which it is killed
    os.close(begun)
    guard.tell(pid)
    guard.tell(guard.watch(pid))
    os._exit(0)


def _become(folder: str, env: Mapping[str, str]) -> None:
    """Make of this process what a program that was started has."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw: Any = open(number, "wb", 0, closefd=False)  # noqa: SIM115 - for as long as it runs
        like = getattr(sys, name)
        text = io.TextIOWrapper(raw, like.encoding, like.errors, write_through=True)
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
