"""CKAN inside Celery: ``celery -A ckanext.webhooks.worker worker``.

``CKAN_INI`` names the portal's configuration. ``ckan webhooks worker`` does
the same with the configuration that it was given.

The pool is one of threads, in one process: deliveries wait for endpoints,
not for a processor, and a second thread ticks so that no second process is
needed for the schedule. More workers are started for more load; any number
of them may run.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import ckan.plugins.toolkit as tk
import click
from celery import signals
from celery.exceptions import ImproperlyConfigured
from ckan import model as ckan_model

from . import config, logs, model, nudged, queue, tasks
from .model.base import HOW_TO_MIGRATE

log = logs.logger(__name__)

# Longer than in the web process: here nobody waits, and a broker that answers
# late is better than one that was given up.
_PATIENCE = 5.0


def load_ckan() -> Callable[[], AbstractContextManager[Any]]:
    """Load CKAN, unless the process has it already.

    :returns: what gives a context in which CKAN knows the portal's language
    """
    command = click.get_current_context(silent=True)
    if command and "flask_app" in command.meta:  # one of CKAN's, which has loaded it
        return command.meta["flask_app"].test_request_context
    if "ckanext.webhooks.minimum_auth" in tk.config:
        return nullcontext
    from ckan.cli import load_config
    from ckan.config.middleware import make_app

    # CKAN's own commands get their contexts in the same way.
    return make_app(load_config())._wsgi_app.test_request_context


def report_unreadable_secrets() -> None:
    """Log that what is stored cannot be signed with, rather than at each delivery."""
    why = model.Webhook.unreadable()
    ckan_model.Session.remove()
    if why is not None:
        log.error(
            "webhooks [%s]: no delivery can be signed: the newest secret was %s. Give this worker"
            " and the web processes the same %s.",
            uuid.uuid4(),
            why,
            config.key_option(),
        )


def configure() -> None:
    """Set Celery up as a worker of this portal.

    :raises ImproperlyConfigured: the tables are missing
    """
    if model.missing_tables():
        raise ImproperlyConfigured(
            f"The tables of the webhooks plugin are missing: {HOW_TO_MIGRATE}"
        )
    report_unreadable_secrets()
    queue.configure()
    queue.app.conf.update(
        broker_connection_timeout=_PATIENCE,
        broker_transport_options={
            "socket_connect_timeout": _PATIENCE,
            "socket_keepalive": True,
            # A worker that a vanished broker left waiting notices by this.
            "health_check_interval": 10,
        },
        redis_socket_timeout=None,
        redis_socket_connect_timeout=_PATIENCE,
        # A broker that is away comes back; nobody has to start the worker then.
        broker_connection_max_retries=None,
        worker_consumer="ckanext.webhooks.consuming:Persistent",
    )


# Seconds. A thread that waits for the interpreter waits for so long where another
# is at work; Python's 5 ms, once for each statement, would be most of a delivery.
sys.setswitchinterval(0.0005)
_translating = load_ckan()
configure()
app = queue.app

_ticking: list[threading.Thread] = []


# Not when the worker is ready, which it is not before its broker is: what is due does
# not wait for a broker.
@signals.celeryd_after_setup.connect
def _start_ticking(instance: Any, **_: Any) -> None:
    pool = instance.pool_cls.__module__.rsplit(".", 1)[-1]
    if pool not in ("thread", "solo"):
        click.echo(
            "The webhooks worker runs with --pool threads (the default here): the thread that"
            " ticks would not survive a fork. Start more workers instead.",
            err=True,
        )
        # Celery logs an exception and goes on; of SystemExit its version 5.2 makes success.
        os._exit(os.EX_USAGE)
    tasks.stopping.clear()
    thread = threading.Thread(
        target=tasks.tick, args=(_translating,), name="webhooks-tick", daemon=True
    )
    thread.start()
    _ticking.append(thread)


@signals.worker_shutting_down.connect
def _stop_ticking(**_: Any) -> None:
    tasks.stopping.set()


@signals.worker_shutdown.connect
def _finish(**_: Any) -> None:
    # Celery gives up without the other signal where its broker goes in the midst of
    # a task. Half a worker would tick on, and nobody would start it again.
    tasks.stopping.set()
    nudged.finish()
    for thread in _ticking:
        thread.join()
