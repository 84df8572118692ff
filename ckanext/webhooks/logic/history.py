"""What became of deliveries in each step of time: what pages draw."""

from __future__ import annotations

import datetime
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from ..model import Delivery, when
from . import find, schema

# Deliveries of one webhook and day that are looked at: a page of 25 webhooks and 14 days
# reads 17,500 rows then, in some 50 ms, whatever there is.
MOST_OF_A_DAY = 50
# Evenly spread deliveries that stand for a step of the portal's: 48 steps read 24,000 rows.
SAMPLE = 500
_NAMES = ("p50", "p95", "p99")


@tk.side_effect_free
def webhook_history(context: Any, data_dict: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Say for each of the last days what became of what webhooks were told.

    Of a webhook and day, the newest 50 deliveries that ended are counted.
    You must own the webhooks, or be a sysadmin.

    :param ids: of at most 100 webhooks
    :type ids: list of strings
    :param days: so many of UTC, the last one of which is today (default 14,
        at most 31)
    :type days: int

    :returns: for each id its days, the oldest first, each with ``day`` (as
        2026-11-24), ``delivered``, ``failed`` and ``cancelled``
    :rtype: dictionary
    """
    find.require_login(context)
    data = schema.validate(data_dict, schema.webhook_history(), context)
    for id_ in data["ids"]:
        find.webhook("webhook_history", context, {"id": id_})
    days = _last_days(data["days"])
    history = {
        id_: [{"day": day.date().isoformat(), **_NOTHING} for day in days] for id_ in data["ids"]
    }
    firsts = _firsts(days)
    found = model.Session.execute(
        _OF_DAYS,
        {
            "ids": data["ids"],
            "firsts": firsts,
            "ends": [*firsts[1:], when.END],
            "most": MOST_OF_A_DAY,
        },
    )
    for row in found:
        history[row.id][row.number - 1].update(
            delivered=row.delivered, failed=row.failed, cancelled=row.cancelled
        )
    return history


@tk.side_effect_free
def webhook_load(context: Any, data_dict: dict[str, Any]) -> list[dict[str, Any]]:
    """Say how many deliveries there were, and how fast they were. For sysadmins.

    A step is judged by up to 500 deliveries, evenly spread over it.

    :param hours: of the last so many hours (default 24)
    :type hours: int
    :param steps: in so many steps (default 48, at most 96)
    :type steps: int

    :returns: steps, the oldest first, each with ``since``, ``told`` (how many
        deliveries there were to be made), ``success_rate`` (from 0 to 1), and
        ``latency`` in seconds from when an event was told to when it was
        delivered, where the first try did it, with p50, p95 and p99. What is
        not known is none
    :rtype: list of dictionaries
    """
    tk.check_access("webhook_load", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_load(), context)
    step = datetime.timedelta(hours=data["hours"]) / data["steps"]
    now = _now()
    starts = [now - n * step for n in range(data["steps"], 0, -1)]
    firsts = _firsts([*starts, now])
    load = []
    for start, first, end in zip(starts, firsts[:-1], firsts[1:], strict=True):
        load.append({"since": start.isoformat(), **_NOT_KNOWN, "told": max(end - first, 0)})
    found = model.Session.execute(
        _OF_STEPS, {"firsts": firsts[:-1], "ends": firsts[1:], "sample": SAMPLE}
    )
    for row in found:
        ended = row.delivered + row.failed
        load[row.number - 1].update(
            success_rate=row.delivered / ended if ended else None,
            latency=dict(zip(_NAMES, row.latency or (None,) * 3, strict=True)),
        )
    return load


_NOTHING = {"delivered": 0, "failed": 0, "cancelled": 0}
_NOT_KNOWN = {"success_rate": None, "latency": dict.fromkeys(_NAMES)}


def _now() -> datetime.datetime:
    now: datetime.datetime = model.Session.execute(sa.text("SELECT clock_timestamp()")).scalar()
    return now.astimezone(datetime.timezone.utc)


def _last_days(count: int) -> list[datetime.datetime]:
    today = _now().replace(hour=0, minute=0, second=0, microsecond=0)
    return [today - datetime.timedelta(days=n) for n in range(count - 1, -1, -1)]


def _firsts(moments: list[datetime.datetime]) -> list[int]:
    """Give the first delivery of each time; where there is none yet, the one that comes next."""
    connection, table = model.Session.connection(), Delivery.__table__
    newest = connection.execute(sa.text("SELECT max(id) FROM webhooks_delivery")).scalar()
    found = when.firsts(connection, table.c.id, table.c.created_at, moments)
    return [min(first, (newest or 0) + 1) for first in found]


_COUNTS = """
    count(*) FILTER (WHERE status = 'delivered') AS delivered,
    count(*) FILTER (WHERE status = 'failed') AS failed,
    count(*) FILTER (WHERE status = 'cancelled') AS cancelled
"""
_STEPS = "unnest(CAST(:firsts AS bigint[]), CAST(:ends AS bigint[])) WITH ORDINALITY"
# Pairs, for which see deliveries.
_OF_DAYS = sa.text(
    f"""
    SELECT asked.id, step.number, {_COUNTS}
    FROM unnest(CAST(:ids AS text[])) asked (id)
        CROSS JOIN {_STEPS} step (first, "end", number)
        CROSS JOIN LATERAL (
            SELECT status, topic FROM webhooks_delivery
            WHERE (webhook_id, id) >= (asked.id, step.first)
                AND (webhook_id, id) < (asked.id, step."end") AND ended_at IS NOT NULL
            ORDER BY webhook_id DESC, id DESC LIMIT :most) newest
    WHERE topic <> 'ping'
    GROUP BY asked.id, step.number
    """
)
_OF_STEPS = sa.text(
    f"""
    SELECT step.number, {_COUNTS},
        percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
            ORDER BY CAST(extract(epoch FROM ended_at - created_at) AS float))
            FILTER (WHERE status = 'delivered' AND tries = 1) AS latency
    FROM {_STEPS} step (first, "end", number)
        CROSS JOIN LATERAL generate_series(
            step.first, step."end" - 1, greatest((step."end" - step.first) / :sample, 1)) chosen
        CROSS JOIN LATERAL (
            -- A fence: by the key, rather than by reading all there are.
            SELECT status, topic, tries, created_at, ended_at FROM webhooks_delivery
            WHERE id = chosen OFFSET 0) sampled
    WHERE topic <> 'ping'
    GROUP BY step.number
    """
)
