"""Starts again what ended, as systemd or supervisord would."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ckanext.webhooks.tests.site import Process

# How often (seconds) it looks; so long a service manager waits before it starts one again.
LOOKS_EVERY = 0.2


@dataclass
class Kept:
    """A process that is to run, and what starts it again."""

    process: Process
    env: Mapping[str, str]
    is_wanted: bool = True


class Supervisor:
    """``with Supervisor(folder) as supervisor``: what is kept runs until the end.

    :ivar deaths: when something ended that nobody had told to, by name
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deaths: list[tuple[str, float]] = []
        self._kept: dict[str, Kept] = {}
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor")

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end_all()

    def end_all(self, but: Collection[str] = ()) -> None:
        """Watch no longer, and end what is kept: those first that use the others."""
        self._ending.set()
        self._thread.join()
        for name in reversed(self._kept):
            if name not in but:
                self[name].stop(5)

    def _watch(self) -> None:
        while not self._ending.wait(LOOKS_EVERY):
            with self._lock:
                for name, kept in self._kept.items():
                    if kept.is_wanted and not kept.process.alive:
                        self.deaths.append((name, time.time()))
                        kept.process.kill()  # closes what it left
                        self._start(name)

    def _start(self, name: str) -> None:
        kept = self._kept[name]
        kept.is_wanted = True
        with contextlib.suppress(OSError):  # tried again at the next look
            kept.process = Process(name, kept.process.command, self.folder, kept.env)

    def keep(self, name: str, command: list[str], env: Mapping[str, str]) -> Process:
        """Start a process, and keep it running."""
        return self.adopt(Process(name, command, self.folder, env), env)

    def adopt(self, process: Process, env: Mapping[str, str]) -> Process:
        """Keep a process running that was started elsewhere."""
        with self._lock:
            self._kept[process.name] = Kept(process, env)
        return process

    def __getitem__(self, name: str) -> Process:
        return self._kept[name].process

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._kept if name.startswith(prefix)]

    def kill(self, name: str) -> None:
        """Kill a process as if it had died: it is started again at once."""
        with self._lock:
            self[name].kill()
            self._start(name)

    def end(self, name: str) -> None:
        """End a process in the way that it is ended in an upgrade."""
        with self._lock:
            self._kept[name].is_wanted = False
        self[name].stop(20)

    def start_anew(self, name: str) -> None:
        """End a process in that way, and start it again."""
        self.end(name)
        with self._lock:
            self._start(name)

    @contextlib.contextmanager
    def without(self, name: str, number: int = signal.SIGKILL) -> Iterator[None]:
        """Have it killed for a while, by this signal."""
        with self._lock:
            self._kept[name].is_wanted = False
            self[name].signal(number)
            self[name].wait(20)
            self[name].kill()  # and what it left
        try:
            yield
        finally:
            with self._lock:
                self._start(name)

    @contextlib.contextmanager
    def instead_of(
        self, names: list[str], name: str, command: list[str], env: Mapping[str, str]
    ) -> Iterator[None]:
        """Keep another process running in the place of some; all are ended as in an upgrade."""
        for one in names:
            self.end(one)
        self.keep(name, command, env)
        try:
            yield
        finally:
            with self._lock:
                for one in names:
                    self._start(one)
            self.end(name)
            with self._lock:
                del self._kept[name]
