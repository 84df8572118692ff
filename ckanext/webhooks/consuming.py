"""A worker's connection to its broker, which may come and go, and answer what it likes.

The tables say what is to be done, so a worker without a broker works, a second later. Celery
ends where its broker answers errors: where a Redis may not be written to, or has no memory left.
"""

from __future__ import annotations

import uuid
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer

from . import logs, tasks

log = logs.logger(__name__)

# Seconds between two tries.
_PAUSE = 5.0
_LOOK_EVERY = 0.1


class Persistent(Consumer):  # type: ignore[misc]  # of a library without types
    """Celery's consumer, to which every error is one of the connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection_errors = (Exception,)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let the connection go, say so, and wait: at once it would most likely fail again."""
        super().on_connection_error_after_connected(exc)
        _go_without(exc)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Say so and wait."""
        super().on_connection_error_before_connected(exc)
        _go_without(exc)


def _go_without(error: Exception) -> None:
    log.error(
        "webhooks [%s]: the broker does not serve (%s: %s); the worker goes on by the tables, and"
        " asks it again in %g s. See ckanext.webhooks.broker_url and the broker's own log.",
        uuid.uuid4(),
        type(error).__name__,
        error,
        _PAUSE,
    )
    tries = round(_PAUSE / _LOOK_EVERY)
    while tries and not tasks.stopping.wait(_LOOK_EVERY) and not _is_ending():
        tries -= 1


def _is_ending() -> bool:
    # Celery says so by an exit code, of which 0 is one.
    codes = (state.should_stop, state.should_terminate)
    return any(code is not None and code is not False for code in codes)
