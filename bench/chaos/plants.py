"""Workers without one of the safeguards: a run with them must fail.

CKAN_INI=… CHAOS_PLANT=lease-off celery -A bench.chaos.plants worker
"""

from __future__ import annotations

import os
import threading

from ckanext.webhooks import config, tasks
from ckanext.webhooks.deliver import claim
from ckanext.webhooks.worker import app

__all__ = ["app"]


def lease_off() -> None:
    """What is taken is due at once again, and sent although its lease is over."""
    claim.LEASE_MARGIN = -config.timeout()
    claim.Claimed.is_over = lambda self: False  # type: ignore[method-assign]


def sweep_off() -> None:
    """What was missed, and what time alone makes necessary, nobody looks for."""
    tasks.keep_reconciled = lambda: None
    tasks.keep_captured = lambda: None
    tasks._sweep = lambda: None


def nudge_only() -> None:
    """Nobody looks for what is due, unless a nudge comes."""
    work = tasks._work

    def work_if_nudged() -> tuple[int, int]:
        is_ticking = threading.current_thread().name == "webhooks-tick"
        return (0, 0) if is_ticking else work()

    tasks._work = work_if_nudged


{f.__name__.replace("_", "-"): f for f in (lease_off, sweep_off, nudge_only)}[
    os.environ["CHAOS_PLANT"]
]()
