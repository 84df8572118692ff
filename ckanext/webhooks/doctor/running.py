"""Whether what delivers runs: the broker, workers, endpoints, the clocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from .. import owners, quarantine, queue
from ..model import Kind, transaction
from .finding import Finding, Level

# What is due is taken within a second; so much later, nobody is there to take it.
_LATE = 30.0
# A broker on the same network answers in milliseconds.
_BROKER_PATIENCE = 2.0
# A worker answers in milliseconds, and the whole time is waited: there may be others.
_WORKERS_PATIENCE = 1.0
# Seconds. NTP keeps clocks within milliseconds of each other.
_CLOCKS_APART = 1.0


def check_broker() -> Iterator[Finding]:
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


def check_worker() -> Iterator[Finding]:
    """By the tables: what is due and not taken says that nobody works, whoever answers."""
    try:
        with transaction() as connection:
            age, last = connection.execute(_WAITING).one()
    except SQLAlchemyError as error:
        yield Finding(Level.WRONG, f"worker: the tables cannot be read: {error}")
        return
    names = _answering()
    who = _who(names)
    if float(age) > _LATE:
        yield Finding(
            Level.WRONG,
            f"worker: something has been due for {float(age):.0f} s, and nobody took it; {who}",
            "look at its log; where that says nothing, start it again"
            if names
            else "start `ckan webhooks worker`; where one runs, look at its log",
        )
    elif names == []:
        seen = "no event was dispatched so far"
        if last is not None:
            seen = f"the last event was dispatched at {last:%Y-%m-%d %H:%M:%S %Z}"
        yield Finding(
            Level.ODD,
            f"worker: {who}; nothing waits that could go, and {seen}",
            "start `ckan webhooks worker`, unless `ckan webhooks deliver` runs by cron or"
            " --forever, which cannot be asked",
        )
    else:
        yield Finding(Level.GOOD, f"worker: nothing waits that could go; {who}")


def _answering() -> list[str] | None:
    """Name the workers that take from this portal's queue; None where the broker is away."""
    try:
        with queue.app.connection(connect_timeout=_BROKER_PATIENCE) as connection:
            inspect = queue.app.control.inspect(timeout=_WORKERS_PATIENCE, connection=connection)
            found: dict[str, Any] = inspect.active_queues() or {}
    except Exception:  # whatever the broker's client raises; check_broker says it
        return None
    ours = queue.app.conf.task_default_queue
    return sorted(name for name, queues in found.items() if any(q["name"] == ours for q in queues))


def _who(names: list[str] | None) -> str:
    if names is None:
        return "workers cannot be asked without the broker"
    return f"{', '.join(names) or 'none'} answered"


def check_missed() -> Iterator[Finding]:
    with transaction() as connection:
        count, since = connection.execute(_MISSED, {"late": _LATE}).one()
    if count:
        yield Finding(
            Level.WRONG,
            f"capture: changes of {count} datasets could not be captured, the first at"
            f" {since:%Y-%m-%d %H:%M:%S %Z}",
            "a worker tries again by itself, and its log says why it cannot",
        )
    else:
        yield Finding(Level.GOOD, "capture: nothing is missing")


def check_quarantine() -> Iterator[Finding]:
    with transaction() as connection:
        counts = quarantine.counts(connection)
        oldest = quarantine.waiting(connection, limit=1)
    if oldest:
        found = ", ".join(f"{counts[kind]} {_PUT_ASIDE[kind]}" for kind in counts if counts[kind])
        (first,) = oldest
        yield Finding(
            Level.WRONG,
            f"quarantine: {found} failed and are put aside, the oldest ({first.kind} {first.key})"
            f" since {first.put_aside_at:%Y-%m-%d %H:%M:%S %Z}: {first.reason}",
            "`ckan webhooks quarantine list` shows what; mend the cause and `retry`, or `give-up`",
        )
    else:
        yield Finding(Level.GOOD, "quarantine: nothing is put aside")


# What there is several of.
_PUT_ASIDE = {
    Kind.EVENT.value: "event(s)",
    Kind.RIGHTS.value: "change(s) of rights",
    Kind.DELIVERY.value: "deliveries",
    Kind.WEBHOOK.value: "webhook(s)",
}


def check_endpoints() -> Iterator[Finding]:
    with transaction() as connection:
        failing, disabled = connection.execute(_ILL).one()
    if failing or disabled:
        yield Finding(
            Level.ODD,
            f"endpoints: {failing} fail, {disabled} webhooks were disabled",
            "`ckan webhooks list` shows which, and `show` why; their owners were told by mail",
        )
    else:
        yield Finding(Level.GOOD, "endpoints: none fails")


def check_rights() -> Iterator[Finding]:
    """Whose labels cannot be read is told nothing until they can be."""
    with transaction() as connection:
        user_ids = connection.execute(_OWNERS).scalars().all()
    standing = owners.standing(user_ids)
    unknown = [user_id for user_id, owner in standing.items() if owner.labels is None]
    if unknown:
        yield Finding(
            Level.WRONG,
            f"rights: what {len(unknown)} owners may see cannot be read, of {unknown[0]} for"
            " example; until it can be, they are told nothing",
            "look at the plugin that implements IPermissionLabels: this extension's log has its"
            " error",
        )
    else:
        yield Finding(Level.GOOD, f"rights: of {len(standing)} owners they can be read")


def check_clock() -> Iterator[Finding]:
    """Every time is PostgreSQL's; a receiver compares that of the signature with its own."""
    before = time.time()
    with transaction() as connection:
        theirs = float(connection.execute(_NOW).scalar_one())
    after = time.time()
    apart = max(before - theirs, theirs - after, 0.0)
    if apart > _CLOCKS_APART:
        yield Finding(
            Level.ODD,
            f"clock: this machine and PostgreSQL are {apart:.1f} s apart",
            "set both by NTP. PostgreSQL's time is what is signed, and receivers refuse what is"
            " more than 5 minutes off",
        )
    else:
        yield Finding(Level.GOOD, "clock: this machine and PostgreSQL agree")


CHECKS = (
    check_broker,
    check_worker,
    check_missed,
    check_quarantine,
    check_rights,
    check_endpoints,
    check_clock,
)
# What is put aside is not due; check_quarantine says that.
_WAITING = sa.text(
    f"""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - least(
        (SELECT min(due_at) FROM webhooks_delivery d
         WHERE status = 'pending' AND due_at IS NOT NULL AND {quarantine.DELIVERY_GOES_ON}),
        (SELECT captured_at FROM webhooks_event e
         WHERE sequence IS NULL AND {quarantine.DATASET_GOES_ON}
         ORDER BY position LIMIT 1))), 0),
        (SELECT dispatched_at FROM webhooks_event
         WHERE sequence IS NOT NULL ORDER BY sequence DESC LIMIT 1)
    """
)
_MISSED = sa.text(
    """
    SELECT count(DISTINCT dataset_id), min(missed_at) FROM webhooks_missed
    WHERE missed_at < clock_timestamp() - :late * interval '1 second'
    """
)
_OWNERS = sa.text("SELECT DISTINCT user_id FROM webhooks WHERE state = 'active'")
_NOW = sa.text("SELECT extract(epoch FROM clock_timestamp())")
_ILL = sa.text(
    """
    SELECT count(*) FILTER (WHERE state = 'active' AND failing_since IS NOT NULL),
           count(*) FILTER (WHERE state = 'disabled')
    FROM webhooks
    """
)
