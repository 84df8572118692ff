"""What is read of processes and tables at one moment."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import psycopg2

TABLES = ("webhooks_event", "webhooks_delivery", "webhooks_attempt")
# Seconds between two looks at who waits for a lock, and for how long.
LOOKS_EVERY = 0.1


@dataclass(frozen=True)
class Part:
    """What one part of the stand holds, all its processes together.

    :ivar memory: MiB that are resident; of PostgreSQL what is its backends' own, since
        all of them have the shared buffers
    """

    memory: float
    files: int
    threads: int


@dataclass(frozen=True)
class Table:
    """:ivar size: MB, with its indexes"""

    rows: int
    dead: int
    size: float


@dataclass(frozen=True)
class Figures:
    """One interval of a run.

    :ivar at: seconds from the beginning, at its end
    :ivar arrived: deliveries in it
    :ivar p50, p99: milliseconds from commit to arrival, of those
    :ivar save: milliseconds of a save through CKAN's API, the median
    :ivar waited: milliseconds that somebody waited for a lock, at most
    :ivar transaction: milliseconds of the longest transaction, nearly
    """

    at: float
    arrived: int
    p50: float
    p99: float
    save: float
    waited: float
    transaction: float
    parts: Mapping[str, Part]
    tables: Mapping[str, Table]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def part(pids: Iterable[int], own: bool = False) -> Part:
    """Look at processes and what they started; who has ended meanwhile is left out.

    :param own: count what is not shared with others
    """
    memory, files, threads = 0, 0, 0
    for process in _with_children(pids):
        with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
            memory += process.memory_full_info().uss if own else process.memory_info().rss
            files += process.num_fds()
            threads += process.num_threads()
    return Part(memory / 2**20, files, threads)


def _with_children(pids: Iterable[int]) -> dict[psutil.Process, None]:
    found: dict[psutil.Process, None] = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found.update(dict.fromkeys([process, *process.children(recursive=True)]))
    return found


def backends(connection: Any) -> list[int]:
    """Give the processes of PostgreSQL that serve this database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        return [row[0] for row in cursor]


def tables(connection: Any) -> dict[str, Table]:
    """Count and measure the tables."""
    found = {}
    with connection.cursor() as cursor:
        for name in TABLES:
            cursor.execute(
                f"SELECT count(*), pg_total_relation_size('{name}'), (SELECT n_dead_tup"
                f" FROM pg_stat_user_tables WHERE relname = '{name}') FROM {name}"
            )
            rows, size, dead = cursor.fetchone()
            found[name] = Table(rows, dead, size / 1e6)
    return found


class Locks:
    """Looks at who waits, ten times a second; ``with Locks(url) as locks``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._waited = self._transaction = 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="locks")

    def __enter__(self) -> Locks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def take(self) -> tuple[float, float]:
        """Give the longest wait and the longest transaction since the last call, ms."""
        found = self._waited, self._transaction
        self._waited = self._transaction = 0.0
        return found

    def _watch(self) -> None:
        with contextlib.closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                while not self._ending.wait(LOOKS_EVERY):
                    cursor.execute(_LONGEST)
                    waited, transaction = cursor.fetchone()
                    self._waited = max(self._waited, float(waited))
                    self._transaction = max(self._transaction, float(transaction))


# Autovacuum is none that anybody waits for.
_LONGEST = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start))
           FILTER (WHERE wait_event_type = 'Lock'), 0) * 1000,
       coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) * 1000
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
