"""How it goes: what ended, how long it took, and what waits."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from .. import quarantine
from ..model import WebhookState, epoch, when
from . import find, schema

# Ended deliveries that are counted, with their attempts: half a second's work.
MOST_ENDED = 50_000
# Those that wait are only counted, which costs less.
MOST_WAITING = 200_000
_PERCENTILES = (50, 95, 99)
_NAMES = [f"p{percentile}" for percentile in _PERCENTILES]


@tk.side_effect_free
def webhook_stats(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Say how a webhook's deliveries go; to sysadmins also how all of them do.

    You must own the webhook, or be a sysadmin.

    :param id: of the webhook (optional for sysadmins, who see the whole
        portal without it)
    :type id: string
    :param hours: count what ended in the last so many hours (default 24)
    :type hours: int

    :returns: ``since``, from when on was counted (later than asked where more
        than 50,000 ended); ``delivered``, ``failed`` and ``cancelled``;
        ``success_rate`` (of delivered and failed ones, from 0 to 1);
        ``latency``, in seconds from when an event was told to when it was
        delivered, where the first try did it, and ``duration`` of the
        attempts of all, each with p50, p95 and p99; and ``waiting``:
        ``events`` (how many of the portal are still to be dispatched), ``due``
        (how many deliveries are to be sent now), ``age`` (for how many seconds
        the first of all these has been due, leaving out what is put aside, see
        :func:`webhook_quarantine_list`), ``later`` (how many are under way
        or wait for the next try) and ``held_back``; of each, 200,000 stand for
        more. What is not known is none
    :rtype: dictionary
    """
    webhook_id = _wanted(context, data_dict)
    data = schema.validate(data_dict, schema.webhook_stats(), context)
    return measure(webhook_id, data["hours"], MOST_ENDED)


def measure(webhook_id: str | None, hours: float, most: int) -> dict[str, Any]:
    """Read what ``webhook_stats`` gives, for who may have it.

    :param webhook_id: None for the whole portal
    :param most: of what ended so many are counted, the newest
    """
    connection = model.Session.connection()
    ended = connection.execute(
        _ENDED[webhook_id is None],
        {"webhook_id": webhook_id, "end": when.END, "hours": hours, "most": most},
    ).one()
    waiting = connection.execute(
        _WAITING[webhook_id is None], {"webhook_id": webhook_id, "most": MOST_WAITING}
    ).one()
    return {
        "since": ended.since.isoformat(),
        "delivered": ended.delivered,
        "failed": ended.failed,
        "cancelled": ended.cancelled,
        "success_rate": _rate(ended.delivered, ended.failed),
        "latency": _percentiles(ended.latency),
        "duration": _percentiles(ended.duration),
        "waiting": {
            "events": waiting.events,
            "due": waiting.due,
            "age": None if waiting.age is None else round(float(waiting.age), 3),
            "later": waiting.later,
            "held_back": waiting.held_back,
        },
    }


def totals() -> dict[str, int]:
    """Count all that there has been, by the last number that was given.

    :returns: ``events`` that were dispatched, ``deliveries``, and ``attempts``
    """
    return dict(
        model.Session.connection().execute(_TOTALS, {"numbers": epoch.NUMBERS}).mappings().one()
    )


def standing() -> dict[str, int]:
    """Count what is not as it should be now.

    :returns: webhooks by their state; as ``failing`` those whose endpoint fails; as
        ``missed`` the datasets of which something could not be captured yet
    """
    return dict(model.Session.connection().execute(_STANDING).mappings().one())


def quarantined() -> dict[str, int]:
    """Count what is put aside by its kind: each of :class:`model.Kind` is there."""
    return quarantine.counts(model.Session.connection())


# The numbers that were given, not those that are left: a counter goes back by a restore alone.
_TOTALS = sa.text(
    """
    SELECT coalesce(pg_sequence_last_value('webhooks_event_order'), 0) % :numbers AS events,
           coalesce(pg_sequence_last_value(
               CAST(pg_get_serial_sequence('webhooks_delivery', 'id') AS regclass)), 0)
               AS deliveries,
           coalesce(pg_sequence_last_value(
               CAST(pg_get_serial_sequence('webhooks_attempt', 'id') AS regclass)), 0) AS attempts
    """
)
_STANDING = sa.text(
    "SELECT "
    + ", ".join(f"count(*) FILTER (WHERE state = '{s.value}') AS {s.value}" for s in WebhookState)
    + ", count(*) FILTER (WHERE state = 'active' AND failing_since IS NOT NULL) AS failing,"
    " (SELECT count(DISTINCT dataset_id) FROM webhooks_missed) AS missed"
    " FROM webhooks"
)


def _wanted(context: Any, data_dict: dict[str, Any]) -> str | None:
    """Give the id of the webhook that is asked for, None for the whole portal."""
    if data_dict.get("id"):
        return str(find.webhook("webhook_stats", context, data_dict).id)
    tk.check_access("webhook_stats", context, data_dict)
    return None


def _rate(delivered: int, failed: int) -> float | None:
    return round(delivered / (delivered + failed), 6) if delivered + failed else None


def _percentiles(values: list[float] | None) -> dict[str, float | None]:
    """Name percentiles, in seconds; where nothing was timed there are none."""
    if values is None:
        return dict.fromkeys(_NAMES)
    return dict(zip(_NAMES, (round(value, 6) for value in values), strict=True))


_CONTINUOUS = f"percentile_cont(ARRAY[{', '.join(str(p / 100) for p in _PERCENTILES)}])"


def _ended(newest: str) -> Any:
    """Write the statement that counts what ended.

    :param newest: the newest that ended, in the order of an index
    """
    return sa.text(
        f"""
    WITH newest AS MATERIALIZED (
        SELECT id, topic, status, tries, created_at, ended_at FROM webhooks_delivery
        WHERE {newest} LIMIT :most),
    asked AS (SELECT clock_timestamp() - :hours * interval '1 hour' AS since),
    counted AS (
        SELECT newest.* FROM newest, asked WHERE ended_at >= since AND topic <> 'ping')
    SELECT (SELECT CASE WHEN count(ended_at) < :most THEN since
                ELSE greatest(since, min(ended_at)) END
            FROM asked LEFT JOIN newest ON true GROUP BY since) AS since,
        count(*) FILTER (WHERE status = 'delivered') AS delivered,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
        {_CONTINUOUS} WITHIN GROUP (
            ORDER BY CAST(extract(epoch FROM ended_at - created_at) AS float))
            FILTER (WHERE status = 'delivered' AND tries = 1) AS latency,
        (SELECT {_CONTINUOUS} WITHIN GROUP (ORDER BY duration)
         FROM counted CROSS JOIN LATERAL (
            -- A fence: by the index, however many of all attempts these are.
            SELECT duration FROM webhooks_attempt WHERE delivery_id = counted.id OFFSET 0) attempts
        ) AS duration
    FROM counted
    """
    )


def _waiting(whose: str) -> Any:
    """Write the statement that counts what has not ended."""
    pending = f"FROM webhooks_delivery d WHERE status = 'pending' AND {whose}"
    # What is put aside is not due, however long ago it was.
    due = f"{pending} AND due_at <= (SELECT now FROM now) AND {quarantine.DELIVERY_GOES_ON}"
    return sa.text(
        f"""
    WITH now AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT
        (SELECT count(*) FROM (
            SELECT FROM webhooks_event WHERE sequence IS NULL LIMIT :most) events) AS events,
        (SELECT count(*) FROM (
            SELECT {due} LIMIT :most) due) AS due,
        -- An event is due as soon as it is there: where nobody works, it alone says so.
        extract(epoch FROM (SELECT now FROM now) - least(
            (SELECT captured_at FROM webhooks_event e
             WHERE sequence IS NULL AND {quarantine.DATASET_GOES_ON} ORDER BY position LIMIT 1),
            (SELECT due_at {due} ORDER BY due_at LIMIT 1))) AS age,
        (SELECT count(*) FROM (
            SELECT {pending} AND due_at > (SELECT now FROM now) LIMIT :most) later) AS later,
        (SELECT count(*) FROM (
            SELECT {pending} AND due_at IS NULL LIMIT :most) held_back) AS held_back
    """
    )


# Of one webhook, and of the whole portal.
_ENDED = (
    _ended(
        # Pairs, for which see deliveries.
        "(webhook_id, id) >= (:webhook_id, 0) AND (webhook_id, id) <= (:webhook_id, :end)"
        " AND ended_at IS NOT NULL ORDER BY webhook_id DESC, id DESC"
    ),
    _ended("ended_at IS NOT NULL ORDER BY ended_at DESC"),
)
_WAITING = (_waiting("webhook_id = :webhook_id"), _waiting("true"))
