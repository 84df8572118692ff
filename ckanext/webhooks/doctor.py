"""What deliveries depend on, looked at one after the other, with what to do.

Each check gives what it found; none raises for what it looks for.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ckan.plugins as p
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from . import config, queue
from .deliver import engine_name
from .model import missing_tables, transaction
from .model.base import HOW_TO_MIGRATE

# What is due is taken within a second; so much later, nobody is there to take it.
_LATE = 30.0
# A broker on the same network answers in milliseconds.
_BROKER_PATIENCE = 2.0


class Level(enum.Enum):
    """How a thing is."""

    GOOD = "good"
    ODD = "odd"  # it works, but something is not as it should be
    WRONG = "wrong"  # it keeps webhooks from being called


@dataclass(frozen=True)
class Finding:
    """
    :param what: what was found, in words
    :param advice: what to do about it, empty where nothing is to be done
    """

    level: Level
    what: str
    advice: str = ""


def findings() -> Iterator[Finding]:
    """Look at everything. Without tables, there is nothing further to look at."""
    if missing_tables():
        yield Finding(Level.WRONG, "tables: missing, or of an older version", HOW_TO_MIGRATE)
        return
    yield Finding(Level.GOOD, "tables: as this version wants them")
    for check in _CHECKS:
        yield from check()


def _options() -> Iterator[Finding]:
    mistakes = list(config.mistakes())
    for mistake in mistakes:
        yield Finding(Level.WRONG, f"options: {mistake}")
    if not mistakes:
        yield Finding(Level.GOOD, "options: all make sense")


def _engine() -> Iterator[Finding]:
    if engine_name() == "curl":
        yield Finding(Level.GOOD, "engine: curl")
    else:
        yield Finding(
            Level.ODD,
            "engine: requests, which takes a thread for each request under way",
            "for thousands of endpoints install pycurl: pip install 'ckanext-webhooks[curl]'",
        )


def _broker() -> Iterator[Finding]:
    try:
        with queue.app.connection(connect_timeout=_BROKER_PATIENCE) as connection:
            connection.ensure_connection(max_retries=1, timeout=_BROKER_PATIENCE)
    except Exception as error:
        yield Finding(
            Level.ODD,
            f"broker: {type(error).__name__}: {error}",
            "deliveries go out a second later without it; see ckanext.webhooks.broker_url",
        )
    else:
        yield Finding(Level.GOOD, "broker: it answers")


def _worker() -> Iterator[Finding]:
    """By the tables: what is due and not taken says that nobody works."""
    try:
        with transaction() as connection:
            age = float(connection.execute(_OLDEST).scalar_one())
    except SQLAlchemyError as error:
        yield Finding(Level.WRONG, f"worker: the tables cannot be read: {error}")
        return
    if age > _LATE:
        yield Finding(
            Level.WRONG,
            f"worker: something has been due for {age:.0f} s, and nobody took it",
            "start `ckan webhooks worker`; where one runs, look at its log",
        )
    else:
        yield Finding(Level.GOOD, "worker: nothing waits that could go")


def _failing() -> Iterator[Finding]:
    with transaction() as connection:
        failing, disabled = connection.execute(_ILL).one()
    if failing or disabled:
        yield Finding(
            Level.ODD,
            f"endpoints: {failing} fail, {disabled} webhooks were disabled",
            "webhook_list shows which, with the reason; their owners were told by mail",
        )
    else:
        yield Finding(Level.GOOD, "endpoints: none fails")


def _redaction() -> Iterator[Finding]:
    """An extension that chains package_show may leave out fields for some readers."""
    names = [
        plugin.name
        for plugin in p.PluginImplementations(p.IActions)
        if "package_show" in plugin.get_actions()
    ]
    if names and config.entity() == "full":
        yield Finding(
            Level.ODD,
            f"content: package_show is changed by {', '.join(names)}",
            "where that leaves out fields for some readers, set ckanext.webhooks.entity = stub:"
            " one body cannot suit them all",
        )


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _options,
    _engine,
    _broker,
    _worker,
    _failing,
    _redaction,
)
_OLDEST = sa.text(
    """
    SELECT coalesce(extract(epoch FROM clock_timestamp() - least(
        (SELECT min(due_at) FROM webhooks_delivery
         WHERE status = 'pending' AND due_at IS NOT NULL),
        (SELECT captured_at FROM webhooks_event
         WHERE sequence IS NULL ORDER BY position LIMIT 1))), 0)
    """
)
_ILL = sa.text(
    """
    SELECT count(*) FILTER (WHERE state = 'active' AND failing_since IS NOT NULL),
           count(*) FILTER (WHERE state = 'disabled')
    FROM webhooks
    """
)
