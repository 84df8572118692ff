"""Celery's application, and the nudge that the web process gives a worker.

A nudge carries nothing: the tables say what is to be done, and the sweep
finds it within a second without any nudge. So a nudge may fail, but it must
never make a save wait.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

from celery import Celery

from . import config

log = logging.getLogger(__name__)

WORK = "webhooks.work"
RECONCILE = "webhooks.reconcile"

# Connecting and sending each wait so long at most: 100 ms in all.
_PATIENCE = 0.05
# After a failure, this process does not try again for so long (seconds).
_QUIET_FOR = 30.0
# A nudge that nobody took by then has been overtaken by the sweep.
_EXPIRES_AFTER = 60

# Ids in one message: 40 kB, and a minute of a worker's time at most.
_MOST_IN_A_MESSAGE = 1000

app = Celery("ckanext.webhooks", set_as_current=False)
_quiet_until = 0.0


def configure() -> None:
    """Set Celery up for this portal, in a process that only nudges.

    The worker sets its own time limits: see ``worker``.
    """
    app.conf.update(
        broker_url=config.broker_url(),
        # CKAN's background jobs and other portals may share the broker.
        task_default_queue=f"ckan:{config.site_id()}:webhooks",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        # Threads: the driver of deliveries is one per process, and the sweep
        # runs beside it. See worker.
        worker_pool="threads",
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=_PATIENCE,
        broker_transport_options={
            "socket_timeout": _PATIENCE,
            "socket_connect_timeout": _PATIENCE,
            "max_retries": 0,
            "retry_on_timeout": False,
        },
        redis_socket_timeout=_PATIENCE,
        redis_socket_connect_timeout=_PATIENCE,
        redis_retry_on_timeout=False,
    )


def nudge() -> None:
    """Tell a worker that there is something to do, or give up at once.

    A broker that is down or silent costs this process at most 100 ms, and is
    then left alone for 30 s.
    """
    _send(WORK, "the sweep finds the event within a second if a worker runs")


def report_missed(dataset_ids: Sequence[str]) -> None:
    """Ask a worker to capture again what could not be captured; likewise."""
    for first in range(0, len(dataset_ids), _MOST_IN_A_MESSAGE):
        some = list(dataset_ids[first : first + _MOST_IN_A_MESSAGE])
        _send(RECONCILE, "the worker finds what was missed within the hour", some)


def _send(task: str, otherwise: str, *args: Any) -> None:
    global _quiet_until
    if time.monotonic() < _quiet_until:
        return
    try:
        app.send_task(task, args, retry=False, ignore_result=True, expires=_EXPIRES_AFTER)
    except Exception as error:
        _quiet_until = time.monotonic() + _QUIET_FOR
        log.warning(
            "webhooks [%s]: no worker was nudged (%s: %s); %s. Is the broker up? Not trying"
            " again for %d s.",
            uuid.uuid4(),
            type(error).__name__,
            error,
            otherwise,
            _QUIET_FOR,
        )
