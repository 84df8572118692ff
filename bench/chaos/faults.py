"""The faults: each is a context, begun when it is entered and over when it is left.

They break what a portal's operator has seen break, from outside: by signals, locks
and full disks. Only the supervisor starts again what they killed.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil

from bench.chaos import endpoint, writer
from bench.chaos.endpoint import Mode
from bench.chaos.stand import MOVING, Stand, await_ready

ODD = Path(__file__).with_name("odd")
# Seconds by which a clock is off: longer than any tolerance of a receiver's.
CLOCK_OFF = 3600
# Seconds for which somebody stays in an organization, or out of it.
STAYS = 0.8
# Seconds for which an answer is waited for in the midst of a fault.
SOON = 5.0
# Seconds for which a slow database is stopped, and in which it works, by turns.
STOPPED, WORKING = 0.09, 0.01


Breaking = Callable[[Stand, int], AbstractContextManager[None]]


def _a_worker(stand: Stand, draw: int) -> str:
    workers = stand.supervisor.names("worker")
    return workers[draw % len(workers)]


@contextmanager
def worker_killed(stand: Stand, draw: int) -> Iterator[None]:
    stand.supervisor.kill(_a_worker(stand, draw))
    yield


@contextmanager
def workers_killed(stand: Stand, draw: int) -> Iterator[None]:
    for name in stand.supervisor.names("worker"):
        stand.supervisor.kill(name)
    yield


@contextmanager
def worker_frozen(stand: Stand, draw: int) -> Iterator[None]:
    process = stand.supervisor[_a_worker(stand, draw)]
    process.freeze()
    try:
        yield
    finally:
        process.thaw()


@contextmanager
def web_killed(stand: Stand, draw: int) -> Iterator[None]:
    """Kill the processes that serve, in the midst of a save; gunicorn's master starts others."""
    for process in _serving(stand):
        process.kill()
    yield


@contextmanager
def web_frozen(stand: Stand, draw: int) -> Iterator[None]:
    """What they hold locked in the midst of a save stays so."""
    processes = _serving(stand)
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def _serving(stand: Stand) -> list[psutil.Process]:
    """Give the processes that serve, as soon as one of them has written and not committed."""
    processes = psutil.Process(stand.supervisor["web"].pid).children()
    patience = time.monotonic() + 5
    while not stand.tables.someone_writes() and time.monotonic() < patience:
        time.sleep(0.002)
    return processes


@contextmanager
def redis_killed(stand: Stand, draw: int) -> Iterator[None]:
    """It keeps nothing on disk, so what it had is gone."""
    with stand.supervisor.without("redis"):
        yield


@contextmanager
def redis_silent(stand: Stand, draw: int) -> Iterator[None]:
    """Connections are accepted, and nothing is answered."""
    process = stand.supervisor["redis"]
    process.freeze()
    try:
        yield
    finally:
        process.thaw()


@contextmanager
def database_killed(stand: Stand, draw: int) -> Iterator[None]:
    """SIGQUIT is PostgreSQL's immediate stop: nothing is written, all is to be recovered."""
    with stand.supervisor.without("postgresql", signal.SIGQUIT):
        yield


@contextmanager
def database_slow(stand: Stand, draw: int) -> Iterator[None]:
    """Whatever it does takes ten times as long."""
    server = psutil.Process(stand.supervisor["postgresql"].pid)
    over = threading.Event()
    slowing = threading.Thread(target=_slow_down, args=(server, over), name="slowing")
    slowing.start()
    try:
        yield
    finally:
        over.set()
        slowing.join()


def _slow_down(server: psutil.Process, over: threading.Event) -> None:
    while not over.wait(WORKING):
        stopped = server.children()
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        over.wait(STOPPED)
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def tables_locked(stand: Stand, draw: int) -> Iterator[None]:
    """Somebody holds the log and the deliveries locked, as a migration would.

    At times what was missed cannot be noted either.
    """
    tables = "webhooks_event, webhooks_delivery" + (", webhooks_missed" if draw % 2 else "")
    with stand.tables.connected() as cursor:
        cursor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def disk_full(stand: Stand, draw: int) -> Iterator[None]:
    assert stand.disk is not None
    ballast = stand.disk / "ballast"
    try:
        _fill(stand.disk, ballast)
        yield
    finally:
        ballast.unlink()


def _fill(disk: Path, ballast: Path) -> None:
    """Take all that is free; PostgreSQL goes on writing, so that is less at each try."""
    with open(ballast, "wb") as file:
        while True:
            free = os.statvfs(disk)
            try:
                os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize or 1)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                if not free.f_bavail:
                    return
            else:
                return


@contextmanager
def receiver_killed(stand: Stand, draw: int) -> Iterator[None]:
    with stand.supervisor.without("receiver"):
        yield


@contextmanager
def _receiver(stand: Stand, mode: Mode) -> Iterator[None]:
    endpoint.set_mode(stand.port, mode)
    try:
        yield
    finally:
        endpoint.set_mode(stand.port, Mode.GOOD)


def receiver_500(stand: Stand, draw: int) -> AbstractContextManager[None]:
    return _receiver(stand, Mode.FAILING)


def receiver_cut(stand: Stand, draw: int) -> AbstractContextManager[None]:
    return _receiver(stand, Mode.CUTTING)


def receiver_slow(stand: Stand, draw: int) -> AbstractContextManager[None]:
    return _receiver(stand, Mode.SLOW)


@contextmanager
def rights(stand: Stand, draw: int) -> Iterator[None]:
    """Somebody joins an organization and leaves it, again and again, while the receiver fails."""
    over = threading.Event()
    moving = threading.Thread(target=_move, args=(stand, over, draw), name="moving")
    with _receiver(stand, Mode.FAILING):
        moving.start()
        try:
            yield
        finally:
            over.set()
            moving.join()


def _move(stand: Stand, over: threading.Event, draw: int) -> None:
    client = writer.Writer(stand.site.url, stand.site.token, draw, SOON)
    who = {"id": writer.ORGANIZATION, "username": MOVING}
    enters = bool(draw % 2)
    while not over.is_set():
        if enters:
            client.call("organization_member_create", {**who, "role": "member"})
        else:
            client.call("organization_member_delete", who)
        enters = not enters
        over.wait(STAYS)


@contextmanager
def poison(stand: Stand, draw: int) -> Iterator[None]:
    """What JSON can hold and PostgreSQL, UTF-8 or a reader of JSON cannot is among the writes."""
    client = writer.Writer(stand.site.url, stand.site.token, draw, SOON)
    # CKAN takes some at least, unless something else is broken at the same time.
    patience = time.monotonic() + SOON
    while not client.write_odd() and time.monotonic() < patience:
        time.sleep(0.2)
    yield


@contextmanager
def clock_off(stand: Stand, draw: int) -> Iterator[None]:
    """One worker alone delivers, whose clock is an hour fast or slow."""
    off = str(CLOCK_OFF if draw % 2 else -CLOCK_OFF)
    names = stand.supervisor.names("worker")
    with _odd_worker(stand, "odd-clock", names, CHAOS_CLOCK_OFF=off):
        yield


@contextmanager
def two_sweepers(stand: Stand, draw: int) -> Iterator[None]:
    """Beside the workers a third that knows nothing of Celery does the same."""
    command = [*stand.worker[:-1], "deliver", "--forever"]
    with stand.supervisor.instead_of([], "sweeper", command, stand.site.environment()):
        yield


@contextmanager
def version_before(stand: Stand, draw: int) -> Iterator[None]:
    """In the midst of an upgrade: a worker of the earlier version beside a new one."""
    before = str(stand.before)
    names = [_a_worker(stand, draw)]
    with _odd_worker(stand, "before", names, CHAOS_VERSION_BEFORE=before):
        yield


@contextmanager
def _odd_worker(stand: Stand, name: str, names: list[str], **odd: str) -> Iterator[None]:
    """Have a worker in the place of others; it is over when they are there again."""
    env = stand.site.environment({**odd, "PYTHONPATH": str(ODD)})
    with stand.supervisor.instead_of(names, name, stand.worker, env):
        await_ready(stand.supervisor, name)
        yield
    for one in names:
        await_ready(stand.supervisor, one)


BREAKING: dict[str, Breaking] = {
    function.__name__.replace("_", "-"): function
    for function in (
        worker_killed,
        workers_killed,
        worker_frozen,
        web_killed,
        web_frozen,
        redis_killed,
        redis_silent,
        database_killed,
        database_slow,
        tables_locked,
        disk_full,
        receiver_killed,
        receiver_500,
        receiver_cut,
        receiver_slow,
        rights,
        poison,
        clock_off,
        two_sweepers,
        version_before,
    )
}
# Of these an answer may be lost that had arrived, or a lease run out.
LOSE_ANSWERS = frozenset(
    {
        "worker-killed",
        "workers-killed",
        "worker-frozen",
        "database-killed",
        "disk-full",
        "receiver-killed",
    }
)
