"""What a worker does when it is nudged, and at each tick without a nudge."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ckan import model

from . import capture, queue
from .deliver import deliver_due
from .dispatch import dispatch, move_on, notice_rights
from .sweep import sweep, tell_owners, trim_log

log = logging.getLogger(__name__)

# Without a nudge, what is due is found so often (seconds).
TICK = 1.0
# The same while there is something at each look: a web process whose nudge
# failed sends none for a while, and a portal that is being written to should
# not notice. Ten looks a second are a fiftieth of a processor.
BUSY_TICK = 0.1
# Rounds of dispatch begin so far apart (seconds), so that what is committed in a burst
# is some sets rather than many: a set of one costs as much as one of ten. A change that
# comes alone does not wait.
ROUND = 0.005
# Where a round found so many changes, more are on their way: they gather for so long
# (seconds). At 5,000 commits in a row a worker takes a fifth less of a processor by that. At
# 150 a second a round finds two or three, also after it waited, and none waits longer.
BURST = 4
GATHER = 0.01
# What only time makes necessary is looked at so often (seconds).
SWEEP_EVERY = 60.0
# A mail under way gets so long (seconds) when the worker ends.
MAIL_PATIENCE = 10.0
# Log and catalogue are compared so often (seconds): it reads every dataset's row.
RECONCILE_EVERY = 3600.0
# A comparison that failed is begun again so long after it began (seconds).
RECONCILE_AGAIN_AFTER = 30.0

# Set when this process is to end: what is under way is finished, no more begun.
stopping = threading.Event()
# Nudges that come together are one: a burst of saves is not as many rounds.
_dispatching = threading.Lock()
_nudged = threading.Event()
_next_round = 0.0
# Ids of datasets that are still to be noted as missed.
_unnoted: set[str] = set()


@queue.app.task(name=queue.RECONCILE)
def note_missed(dataset_ids: list[str]) -> None:
    """Note as missed what a web process could not; it is captured within a second."""
    _unnoted.update(dataset_ids)
    _note_missed()


def _note_missed() -> None:
    if ids := _unnoted.copy():
        capture.note_missed(ids)
        _unnoted.difference_update(ids)


def work_once() -> int:
    """Dispatch what was captured and send what is due, until nothing is.

    :returns: how many attempts were made
    """
    _sets, attempts = _work()
    return attempts


def _work() -> tuple[int, int]:
    """:returns: how many sets were dispatched, and how many attempts made"""
    try:
        return _dispatch_all(), deliver_due(stopping.is_set)
    finally:
        model.Session.remove()


def _dispatch_all() -> int:
    """Dispatch until nothing waits; while another thread does, that one goes on for us.

    :returns: how many sets there were
    """
    global _next_round
    sets = 0
    _nudged.set()
    while _nudged.is_set() and _dispatching.acquire(blocking=False):
        try:
            _nudged.clear()
            more = True
            while more and not stopping.is_set():
                time.sleep(max(0.0, _next_round - time.monotonic()))
                _next_round = time.monotonic() + ROUND
                done = dispatch()
                sets += done is not None
                if done and done.changes >= BURST and not done.left:
                    _next_round = time.monotonic() + GATHER
                is_moving = done is None or done.is_moving
                more = bool(done and done.left) or bool(is_moving and move_on())
        finally:
            _dispatching.release()
    return sets


def tick(translating: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
    """Work once a second until :data:`stopping` is set, whatever happens meanwhile.

    :param translating: gives a context in which CKAN knows the portal's language
    """
    reconciling = [
        threading.Thread(target=keep_reconciled, name="webhooks-reconcile", daemon=True),
        threading.Thread(target=keep_captured, name="webhooks-missed", daemon=True),
    ]
    for thread in reconciling:
        thread.start()
    mailing = threading.Thread(
        target=keep_told, args=(translating,), name="webhooks-mail", daemon=True
    )
    mailing.start()
    next_sweep, wait = 0.0, TICK
    while not stopping.is_set():
        try:
            wait = BUSY_TICK if any(_work()) else min(2 * wait, TICK)
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
        stopping.wait(wait)
    for thread in reconciling:
        thread.join()
    # CKAN's mailer sets no time limit; what it has not sent by then is lost.
    mailing.join(MAIL_PATIENCE)


def keep_told(translating: Callable[[], AbstractContextManager[Any]]) -> None:
    """Mail to owners what is due, beside everything else: a mail server may be slow."""
    while not stopping.wait(SWEEP_EVERY):
        try:
            with translating():
                tell_owners()
        except Exception:
            log.exception(
                "webhooks [%s]: owners could not be told by mail; this is tried again in %g s."
                " If it goes on, look at PostgreSQL, at the options smtp.* and at the lines below.",
                uuid.uuid4(),
                SWEEP_EVERY,
            )
        finally:
            model.Session.remove()


def keep_captured() -> None:
    """Capture each second what saves could not, beside everything else: it may be much."""
    while not stopping.is_set():
        try:
            _note_missed()
            capture.capture_missed(stopping.is_set)
        except Exception:
            log.exception(
                "webhooks [%s]: what was missed could not be captured; this is tried again in"
                " %g s. If it goes on, look at PostgreSQL and at the lines below.",
                uuid.uuid4(),
                TICK,
            )
        finally:
            model.Session.remove()
        stopping.wait(TICK)


def keep_reconciled() -> None:
    """Compare log and catalogue at once and hourly.

    The first time seeds the log of a portal that had datasets before it.
    """
    next_all = time.monotonic()
    while not stopping.is_set():
        now = time.monotonic()
        try:
            if now >= next_all:
                next_all = now + RECONCILE_EVERY
                _log_missed(Counter(capture.reconcile(stopping.is_set)))
                trim_log()
        except Exception:
            next_all = now + RECONCILE_AGAIN_AFTER
            log.exception(
                "webhooks [%s]: log and catalogue could not be compared; this is tried again in"
                " %g s. If it goes on, look at PostgreSQL and at the lines below.",
                uuid.uuid4(),
                RECONCILE_AGAIN_AFTER,
            )
        finally:
            model.Session.remove()
        stopping.wait(TICK)


def _log_missed(found: Counter[capture.Found]) -> None:
    if found[capture.Found.MISSED]:
        log.info(
            "webhooks: %d datasets were not what the log said, and were captured",
            found[capture.Found.MISSED],
        )


def _sweep() -> None:
    try:
        sweep()
        notice_rights()
    finally:
        model.Session.remove()
