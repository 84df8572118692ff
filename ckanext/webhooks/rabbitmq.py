"""RabbitMQ as the broker: its queues, and publishing that makes nobody wait.

Celery publishes as if it had all the time there is: it connects in several steps
and waits for each answer, without a limit for most. A save has 100 ms.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Any

import kombu
from celery import Celery
from celery.app.amqp import AMQP

# What could not be captured is told in messages of 40 kB at most. Without a worker
# they wait; what is dropped is found within the hour by its time.
_MOST_MISSED = 1000

# Connections on which nobody publishes now. In a process that was forked they are
# of the process that it was forked from.
_idle: list[kombu.Connection] = []
os.register_at_fork(after_in_child=_idle.clear)


class _Connection(kombu.Connection):
    """A connection to a broker that limits each consumer, not a channel as a whole.

    The latter, which Celery before 5.5 wants of RabbitMQ, quorum queues refuse.
    """

    @property
    def qos_semantics_matches_spec(self) -> bool:
        return True


class Broker(AMQP):
    """Celery's way to its broker."""

    Connection = _Connection


class _QuorumQueue(kombu.Queue):
    """A quorum queue that Celery takes for any other.

    For those that it knows, Celery 5.5 and later makes 28 queues for tasks with a
    countdown, of which there are none here.
    """

    def queue_declare(
        self, nowait: bool = False, passive: bool = False, channel: Any = None
    ) -> Any:
        quorum = kombu.Queue(
            self.name, max_length=self.max_length, queue_arguments={"x-queue-type": "quorum"}
        )
        return quorum.queue_declare(nowait, passive, channel or self.channel)


def is_amqp(url: str) -> bool:
    return url.startswith(("amqp://", "amqps://", "pyamqp://"))


def nudges(name: str) -> kombu.Queue:
    """Give the queue of nudges: one that waits stands for all before it."""
    return _QuorumQueue(name, routing_key=name, max_length=1)


def missed(name: str) -> kombu.Queue:
    """Give the queue of ids of datasets that could be neither captured nor noted."""
    return _QuorumQueue(name, routing_key=name, max_length=_MOST_MISSED)


def publish(app: Celery, publishing: Callable[[kombu.Connection], object], patience: float) -> None:
    """Publish on a connection that is kept, or else on a new one.

    :param publishing: does it on the connection that it is given
    :param patience: seconds to wait for each answer of the broker
    :raises Exception: whatever prevented it; the connection is given up then
    """
    connection = _open_one() or app.connection_for_write()
    try:
        # Each of the brokers that the URL may name is tried once.
        connection.ensure_connection(max_retries=max(0, len(connection.alt) - 1))
        connection.connection.sock.settimeout(patience)
        publishing(connection)
    except BaseException:
        # Without a word to the broker, who may not be listening.
        connection.collect()
        raise
    _idle.append(connection)


def _open_one() -> kombu.Connection | None:
    """Take an idle connection; one on which something came has mostly come to its end."""
    while _idle:
        connection = _idle.pop()
        came, _, _ = select.select([connection.connection.sock], [], [], 0)
        if not came:
            return connection
        connection.collect()
    return None
