"""How much memory one worker takes while it works off 100,000 deliveries that are due."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    """Start a worker, twice: beside an empty table and beside a full one.

    No worker runs on the stand before, and none after it.
    """
    stand.start_workers()
    idle = _peak(stand.site.workers[0].pid)
    stand.site.stop_workers()
    stand.subscribe(WEBHOOKS)
    stand.commit(due // WEBHOOKS)
    while dispatch():
        pass
    worker = stand.start_worker()
    stand.settle()
    working = _peak(worker.pid)
    delivered = stand.delivered()
    # A worker that starts compares log and catalogue, and tells more.
    assert delivered >= due, f"{delivered} of {due} are delivered"
    stand.endpoints.take()
    stand.site.stop_workers()
    return Run(idle, working)


def _peak(pid: int) -> float:
    """Read what the kernel noted as the most that was resident (MiB)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel notes no VmHWM")
