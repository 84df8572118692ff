"""Celery's application, and the nudge that the web process gives a worker.

A nudge carries nothing: the tables say what is to be done, and the sweep
finds it within a second without any nudge. So a nudge may fail, but it must
never make a save wait.
"""

from __future__ import annotations

import functools
import json
import time
import uuid
from collections.abc import Callable, Sequence

import kombu
import redis
from celery import Celery

from . import config, logs, rabbitmq, redis_broker

log = logs.logger(__name__)

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

# A message that waits will be taken after what was committed before this, so it
# stands for that, too: a burst of saves is one message, and without a worker nothing
# piles up.
_PUSH_UNLESS_ONE_WAITS = """
if redis.call('LLEN', KEYS[1]) == 0 then redis.call('LPUSH', KEYS[1], ARGV[1]) end
"""

app = Celery("ckanext.webhooks", amqp=rabbitmq.Broker, set_as_current=False)
_quiet_until = 0.0


def configure() -> None:
    """Set Celery up for this portal, in a process that only nudges.

    The worker sets its own time limits: see ``worker``.
    """
    missed = f"{_name()}-missed"
    url = config.broker_url()
    _redis.cache_clear()  # it goes by the certificates, too
    app.conf.update(
        redis_broker.celery_settings(url)
        if redis_broker.is_redis(url)
        else {"broker_url": url, "broker_use_ssl": None}
    )
    app.conf.update(
        task_default_queue=missed,
        task_queues=[rabbitmq.missed(missed)],
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
            "confirm_publish": True,
        },
        redis_socket_timeout=_PATIENCE,
        redis_socket_connect_timeout=_PATIENCE,
        redis_retry_on_timeout=False,
    )


def _name() -> str:
    # CKAN's background jobs and other portals may share the broker.
    return f"ckan:{config.site_id()}:webhooks"


def nudges() -> kombu.Queue:
    """Give the queue of nudges, for which a worker has a consumer of its own."""
    return rabbitmq.nudges(_name())


def nudge() -> None:
    """Tell a worker that there is something to do, or give up at once.

    A broker that is down or silent costs this process at most 100 ms, and is
    then left alone for 30 s.
    """
    if time.monotonic() >= _quiet_until:
        _try(
            _push
            if redis_broker.is_redis(app.conf.broker_url)
            else functools.partial(_send, WORK, queue=nudges()),
            "the sweep finds the event within a second if a worker runs",
        )


def report_missed(dataset_ids: Sequence[str]) -> bool:
    """Ask a worker to capture what could be neither captured nor noted in the tables.

    This is tried also where the broker failed a moment ago: nothing else knows of it. Such
    a save may wait its 100 ms.

    :returns: the broker has it
    """
    for first in range(0, len(dataset_ids), _MOST_IN_A_MESSAGE):
        some = list(dataset_ids[first : first + _MOST_IN_A_MESSAGE])
        is_told = _try(
            functools.partial(_send, RECONCILE, some),
            "what was missed is noted with this process's next transaction",
        )
        if not is_told:
            return False
    return True


def _try(telling: Callable[[], None], otherwise: str) -> bool:
    global _quiet_until
    try:
        telling()
    except Exception as error:
        _quiet_until = time.monotonic() + _QUIET_FOR
        log.warning(
            "webhooks [%s]: no worker was nudged (%s: %s); %s. Is the broker up? Not trying"
            " to nudge again for %d s.",
            uuid.uuid4(),
            type(error).__name__,
            error,
            otherwise,
            _QUIET_FOR,
        )
        return False
    return True


def _send(task: str, *args: object, **options: object) -> None:
    sending = functools.partial(
        app.send_task,
        task,
        args,
        retry=False,
        ignore_result=True,
        expires=_EXPIRES_AFTER,
        **options,
    )
    if rabbitmq.is_amqp(app.conf.broker_url):
        rabbitmq.publish(app, lambda connection: sending(connection=connection), _PATIENCE)
    else:
        sending()


def _push() -> None:
    """Put a nudge into Redis without Celery, which takes 0.7 ms more of a save for it."""
    name = _name()
    _redis(app.conf.broker_url).eval(_PUSH_UNLESS_ONE_WAITS, 1, name, _message(name))


@functools.cache
def _redis(url: str) -> redis.Redis:
    return redis_broker.client(
        {"broker_url": url, "broker_use_ssl": app.conf.broker_use_ssl}, _PATIENCE
    )


def _message(queue: str) -> str:
    """Give a call of :data:`WORK` in Celery's message protocol 2, as kombu has it in Redis."""
    id_ = str(uuid.uuid4())
    return json.dumps(
        {
            "headers": {"lang": "py", "task": WORK, "id": id_, "root_id": id_},
            "properties": {
                "correlation_id": id_,
                "delivery_tag": id_,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "delivery_mode": 2,
                "priority": 0,
                "body_encoding": "base64",
            },
            "content-type": "application/json",
            "content-encoding": "utf-8",
            # No arguments: [[], {}, {}]
            "body": "W1tdLCB7fSwge31d",
        }
    )
