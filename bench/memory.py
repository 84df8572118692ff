"""How much memory one worker takes while it works off 100,000 deliveries that are due."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.stand import Stand
from ckanext.webhooks.dispatch import dispatch

WEBHOOKS = 1_000
DUE = 100_000


@dataclass(frozen=True)
class Run:
    """Mebibytes of one worker's resident memory, what it shares with others included.

    :ivar idle: at most, with nothing to do
    :ivar working: at most, until nothing was due any more
    """

    idle: float
    working: float


def measure(stand: Stand, due: int = DUE) -> Run:
    """Start a worker beside an empty table, and stop it while the table fills.

    One that starts beside a full one compares log and catalogue, and cancels what
    waits of these datasets, which no catalogue has. No worker runs on the stand
    before, and none after it.
    """
    (worker,) = stand.start_workers()
    idle = _peak(worker.pid)
    stand.subscribe(WEBHOOKS)
    process = psutil.Process(worker.pid)
    process.suspend()
    stand.commit(due // WEBHOOKS)
    while dispatch():
        pass
    process.resume()
    stand.settle()
    working = _peak(worker.pid)
    delivered = stand.delivered()
    assert delivered == due, f"{delivered} of {due} are delivered"
    stand.endpoints.take()
    stand.site.stop_workers()
    return Run(idle, working)


def _peak(pid: int) -> float:
    """Read what the kernel noted as the most that was resident (MiB)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel notes no VmHWM")
