"""Taking nudges from the broker, in a worker.

A nudge is not a task of Celery's: it says nothing that the tables do not say, so it need
not be acknowledged, traced or tried again. That alone takes more of a processor than
dispatching and sending what it is about.
"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kombu
from celery import bootsteps

from . import logs, queue, tasks

log = logs.logger(__name__)

# While one thread drives deliveries, the other dispatches.
_THREADS = 2
_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="webhooks-work")
# One that waits for a thread stands for all that come after it.
_waits = threading.Lock()


class Nudges(bootsteps.ConsumerStep):  # type: ignore[misc]  # of a library without types
    """The part of Celery's consumer that takes nudges.

    https://docs.celeryq.dev/en/stable/userguide/extending.html#custom-message-consumers
    """

    def get_consumers(self, channel: Any) -> list[kombu.Consumer]:
        return [kombu.Consumer(channel, [queue.nudges()], on_message=_take, no_ack=True)]


def finish() -> None:
    """Wait for what has been begun."""
    _pool.shutdown()


def _take(_message: kombu.Message) -> None:
    if _waits.acquire(blocking=False):
        _pool.submit(_work)


def _work() -> None:
    _waits.release()
    try:
        tasks.work_once()
    except tasks.StageFailed:
        pass  # it was logged, and the next look is within a second
    except Exception:
        log.exception(
            "webhooks [%s]: what a nudge began failed; the next look is within %g s. If it goes"
            " on, look at PostgreSQL and at the lines below.",
            uuid.uuid4(),
            tasks.TICK,
        )


queue.app.steps["consumer"].add(Nudges)
