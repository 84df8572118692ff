"""The web side is untouchable: what a save costs while one thing or another is broken.

In each state the same dataset is saved by its API, and before and after it with nothing
broken; then the state ends, and what was not captured is waited for: nobody helps.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from bench.chaos import faults, ledger
from bench.chaos.stand import Database, Stand, standing
from bench.chaos.writer import ORGANIZATION, Writer

# Saves in each state: the lock ends after 30 s, and each may wait for it for 200 ms.
SAVES = 20
# A web process leaves a broker that failed alone for so long (seconds), and notices
# nothing more of it; nor does it report then what it could not capture.
QUIET = 30.0
# Seconds in which all must be told when the state is over: what was missed is looked
# for every 30 s.
PATIENCE = 90.0

SWITCH = "capture-fails"
# While a file is there, capture has a bug.
BUG = f"""
from ckanext.webhooks.capture import record

right = record.record


def record_or_fail(session, dataset_id, touched):
    if os.path.exists(os.path.join(os.path.dirname(ini), "{SWITCH}")):
        raise RuntimeError("planted")
    return right(session, dataset_id, touched)


record.record = record_or_fail
"""


@dataclass(frozen=True)
class Cost:
    """The saves of one state; milliseconds of each.

    :ivar went_through: how many of those in the state did
    :ivar told_after: seconds from the state's end until all was told, None where it was not
    :ivar logged: lines that this extension wrote to the log of the web processes
    """

    state: str
    healthy: list[float]
    broken: list[float]
    went_through: int
    told_after: float | None
    logged: list[str]

    @property
    def added(self) -> float:
        return statistics.median(self.broken) - statistics.median(self.healthy)

    @property
    def is_good(self) -> bool:
        return (
            self.went_through == len(self.broken)
            and self.told_after is not None
            and len(self.logged) <= len(self.broken)
            and all(_says_what_to_do(line) for line in self.logged)
        )


def _says_what_to_do(line: str) -> bool:
    """Tell whether a line has an id to refer to, or names the command that mends it."""
    return re.search(r"webhooks \[[0-9a-f-]{36}\]: .*; ", line) is not None or "run `" in line


@contextmanager
def _no_worker(stand: Stand) -> Iterator[None]:
    with ExitStack() as stack:
        for name in stand.supervisor.names("worker"):
            stack.enter_context(stand.supervisor.without(name))
        yield


@contextmanager
def _redis_full(stand: Stand) -> Iterator[None]:
    with redis.Redis.from_url(stand.site.redis_url) as connection:
        connection.config_set("maxmemory-policy", "noeviction")
        connection.config_set("maxmemory", 1)
        try:
            yield
        finally:
            connection.config_set("maxmemory", 0)


@contextmanager
def _bug(stand: Stand) -> Iterator[None]:
    switch = stand.site.folder / SWITCH
    switch.touch()
    try:
        yield
    finally:
        switch.unlink()


@contextmanager
def _no_table(stand: Stand) -> Iterator[None]:
    """Before the migration of an upgrade: a worker does not start without its tables."""
    with _no_worker(stand):
        _execute(stand, "ALTER TABLE webhooks_event RENAME TO webhooks_event_away")
        try:
            yield
        finally:
            _execute(stand, "ALTER TABLE webhooks_event_away RENAME TO webhooks_event")


@contextmanager
def _locked(stand: Stand) -> Iterator[None]:
    with stand.tables.connected() as cursor:
        cursor.execute("LOCK TABLE webhooks_event IN ACCESS EXCLUSIVE MODE")
        until = time.monotonic() + 30
        yield
        time.sleep(max(0.0, until - time.monotonic()))


def _execute(stand: Stand, sql: str) -> None:
    with stand.tables.connected() as cursor:
        cursor.execute(sql)


STATES: dict[str, Callable[[Stand], AbstractContextManager[None]]] = {
    "no worker": _no_worker,
    "Redis stopped": lambda stand: faults.redis_killed(stand, 0),
    "Redis silent": lambda stand: faults.redis_silent(stand, 0),
    "Redis out of memory": _redis_full,
    "a bug in capture": _bug,
    "the event table is missing": _no_table,
    "the event table locked, 30 s": _locked,
}


def measure(folder: Path, database: Database | None) -> Iterator[Cost]:
    """Yield what a save costs in each state.

    :param folder: for the site
    """
    with standing(folder, database, wsgi=BUG) as stand:
        client = Writer(stand.site.url, stand.site.token, 0)
        data = {"name": "saved", "owner_org": ORGANIZATION, "resources": [{"url": "http://a"}]}
        client.call("package_create", data)
        _save(client)  # each web process has then done it once
        for state, breaking in STATES.items():
            time.sleep(QUIET)
            healthy = _save(client)
            seen = len(stand.supervisor["web"].output())
            with breaking(stand):
                broken = _save(client)
            logged = _ours(stand.supervisor["web"].output()[seen:])
            told_after = _all_told(stand)
            # Before and after: whatever else this machine does changes slowly.
            healthy += _save(client)
            yield Cost(
                state,
                [took for _status, took in healthy],
                [took for _status, took in broken],
                sum(status == 200 for status, _took in broken),
                told_after,
                logged,
            )


def _save(client: Writer) -> list[tuple[int, float]]:
    """Save again and again; the status and the milliseconds of each."""
    saves = []
    for _ in range(SAVES):
        began = time.perf_counter()
        title = f"Title {time.monotonic_ns()}"
        status, _dataset = client.call("package_patch", {"id": "saved", "title": title})
        saves.append((status, (time.perf_counter() - began) * 1000))
    return saves


def _ours(log: str) -> list[str]:
    """Give the warnings and errors of this extension; the lines below each are its traceback."""
    return re.findall(r"^.* (?:WARNI|ERROR) *\[ckanext\.webhooks\..*$", log, re.M)


def _all_told(stand: Stand) -> float | None:
    began = time.monotonic()
    while (waited := time.monotonic() - began) < PATIENCE:
        lost = ledger.told(stand.tables.marks(), stand.tables.events()).lost
        if not lost and not stand.tables.under_way():
            return waited
        time.sleep(0.5)
    return None


def head() -> str:
    return (
        f"{'':30} {'saved':>8} {'healthy p50':>12} {'p50':>9} {'added':>9} {'worst':>9}"
        f" {'lines logged':>13} {'all told after':>15}"
    )


def line(cost: Cost) -> str:
    told = "NOT TOLD" if cost.told_after is None else f"{cost.told_after:.1f} s"
    return (
        f"{cost.state:30} {cost.went_through:>4}/{len(cost.broken):<3}"
        f" {statistics.median(cost.healthy):>9.0f} ms {statistics.median(cost.broken):>6.0f} ms"
        f" {cost.added:>6.0f} ms {max(cost.broken):>6.0f} ms {len(cost.logged):>13} {told:>15}"
    )
