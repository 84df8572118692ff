"""What a worker does when it is nudged, and at each tick without a nudge."""

from __future__ import annotations

import logging
import threading
import time
import uuid

from ckan import model

from . import queue
from .deliver import deliver_due
from .dispatch import dispatch, move_on, notice_rights
from .sweep import sweep

log = logging.getLogger(__name__)

# Without a nudge, what is due is found so often (seconds).
TICK = 1.0
# What only time makes necessary is looked at so often (seconds).
SWEEP_EVERY = 60.0


# Set when this process is to end: what is under way is finished, no more begun.
stopping = threading.Event()


@queue.app.task(name=queue.WORK)
def work() -> None:
    """Take everything that waits through dispatch and delivery."""
    work_once()


def work_once() -> int:
    """Dispatch what was captured and send what is due, until nothing is.

    :returns: how many attempts were made
    """
    try:
        while dispatch() + move_on() and not stopping.is_set():
            pass
        return deliver_due(stopping.is_set)
    finally:
        model.Session.remove()


def tick() -> None:
    """Work once a second until :data:`stopping` is set, whatever happens meanwhile."""
    next_sweep = 0.0
    while not stopping.is_set():
        try:
            work_once()
            if time.monotonic() >= next_sweep:
                next_sweep = time.monotonic() + SWEEP_EVERY
                _sweep()
        except Exception:
            log.exception(
                "webhooks [%s]: this round failed and the next one starts in %g s. If it goes"
                " on, look at PostgreSQL and at the lines below.",
                uuid.uuid4(),
                TICK,
            )
        stopping.wait(TICK)


def _sweep() -> None:
    try:
        sweep()
        notice_rights()
    finally:
        model.Session.remove()
