"""What a worker does when it is nudged, and at each tick without a nudge.

Each stage is supervised by itself: what fails in one is logged, stops no other, and is
tried again.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from ckan import model

from . import capture, logs, queue
from .deliver import deliver_due
from .dispatch import Dispatched, dispatch, move_on, notice_rights, tell_newest, try_again
from .sweep import STEPS, tell_owners, trim_log

log = logs.logger(__name__)

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
# What was put aside is looked at in each round that finds nothing else, and once a second where
# there is always something.
_next_trial = 0.0
# Ids of datasets that are still to be noted as missed.
_unnoted: set[str] = set()


class StageFailed(Exception):
    """A stage failed, as the log says in full; the others were done."""


@dataclass
class _Supervision:
    stage: str
    has_failed: bool = False


@contextmanager
def _supervised(
    stage: str, again_in: float = TICK, look_at: str = "PostgreSQL"
) -> Iterator[_Supervision]:
    """Log what fails in a stage, and go on.

    :param again_in: seconds after which the stage is called again at the latest
    """
    supervision = _Supervision(stage)
    try:
        yield supervision
    except StageFailed:  # a part of this one, which was logged
        supervision.has_failed = True
    except Exception:
        supervision.has_failed = True
        model.Session.remove()
        log.exception(
            "webhooks [%s]: %s failed, and is tried again within %g s; everything else goes on."
            " If it goes on, look at %s and at the lines below.",
            uuid.uuid4(),
            stage,
            again_in,
            look_at,
        )


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
    :raises StageFailed: one of the two could not be done
    """
    _sets, attempts = _work()
    return attempts


def _work() -> tuple[int, int]:
    """:returns: how many sets were dispatched, and how many attempts made"""
    sets = attempts = 0
    try:
        with _supervised("dispatch") as dispatching:
            sets = _dispatch_all()
        with _supervised("delivery") as delivering:
            attempts = deliver_due(tell_newest, stopping.is_set)
    finally:
        model.Session.remove()
    if failed := [each.stage for each in (dispatching, delivering) if each.has_failed]:
        raise StageFailed(f"{' and '.join(failed)} failed: CKAN's log says why")
    return sets, attempts


def _dispatch_all() -> int:
    """Dispatch until nothing waits; while another thread does, that one goes on for us.

    :returns: how many sets there were
    :raises StageFailed: changes could not be dispatched, or owners not be moved
    """
    global _next_round, _next_trial
    sets = 0
    has_failed = False
    _nudged.set()
    while _nudged.is_set() and _dispatching.acquire(blocking=False):
        try:
            _nudged.clear()
            more = True
            while more and not stopping.is_set():
                time.sleep(max(0.0, _next_round - time.monotonic()))
                _next_round = time.monotonic() + ROUND
                done: Dispatched | None = None
                moves = 0
                with _supervised("dispatch of changes") as dispatching:
                    done = dispatch()
                sets += done is not None
                if done and done.changes >= BURST and not done.left:
                    _next_round = time.monotonic() + GATHER
                with _supervised("telling owners what their rights changed") as moving:
                    if done is None or (done.is_moving and not done.left):
                        moves = move_on()
                with _supervised("trying what was put aside") as trying:
                    if done is None or time.monotonic() >= _next_trial:
                        _next_trial = time.monotonic() + TICK
                        try_again()
                has_failed = any(each.has_failed for each in (dispatching, moving, trying))
                more = not has_failed and bool((done and done.left) or moves)
        finally:
            _dispatching.release()
    if has_failed:
        raise StageFailed
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
        except StageFailed:
            wait = TICK
        if time.monotonic() >= next_sweep:
            next_sweep = time.monotonic() + SWEEP_EVERY
            _sweep()
        stopping.wait(wait)
    for thread in reconciling:
        thread.join()
    # CKAN's mailer sets no time limit; what it has not sent by then is lost.
    mailing.join(MAIL_PATIENCE)


def keep_told(translating: Callable[[], AbstractContextManager[Any]]) -> None:
    """Mail to owners what is due, beside everything else: a mail server may be slow."""
    while not stopping.wait(SWEEP_EVERY):
        look_at = "PostgreSQL, at the options smtp.*"
        with _supervised("mail to owners", SWEEP_EVERY, look_at), translating():
            tell_owners()
        model.Session.remove()


def keep_captured() -> None:
    """Capture each second what saves could not, beside everything else: it may be much."""
    while not stopping.is_set():
        with _supervised("noting what was missed"):
            _note_missed()
        with _supervised("capture of what was missed"):
            capture.capture_missed(stopping.is_set)
        model.Session.remove()
        stopping.wait(TICK)


def keep_reconciled() -> None:
    """Compare log and catalogue at once and hourly.

    The first time seeds the log of a portal that had datasets before it.
    """
    next_all = time.monotonic()
    while not stopping.is_set():
        now = time.monotonic()
        if now >= next_all:
            with _supervised("comparing log and catalogue", RECONCILE_AGAIN_AFTER) as reconciling:
                _log_missed(Counter(capture.reconcile(stopping.is_set)))
            next_all = now + (RECONCILE_AGAIN_AFTER if reconciling.has_failed else RECONCILE_EVERY)
            with _supervised("trimming the log", RECONCILE_EVERY):
                trim_log()
            model.Session.remove()
        stopping.wait(TICK)


def _log_missed(found: Counter[capture.Found]) -> None:
    if found[capture.Found.MISSED]:
        log.info(
            "webhooks: %d datasets were not what the log said, and were captured",
            found[capture.Found.MISSED],
        )


def _sweep() -> None:
    for step in (*STEPS, notice_rights):
        with _supervised(step.__name__.replace("_", " "), SWEEP_EVERY):
            step()
    model.Session.remove()
