"""What became of what was told: deliveries, and one with its request."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from .. import config, topics
from ..deliver import Logged, logged, message, replaced
from ..model import Delivery, State, Status, Webhook, when
from ..topics import PING
from ..visibility import Sending
from . import attempts, find, schema, sight
from .shown import moment

# Rows of one webhook that a page looks at, where only some are wanted: tens of
# milliseconds, however few of a million are.
_LOOKED_AT = 10_000


@tk.side_effect_free
def webhook_delivery_list(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """List what a webhook was told, the newest first. You must own it, or be a sysadmin.

    Ask again with ``cursor`` set to that of the answer for what is older,
    for as long as there is one.

    :param id: of the webhook
    :type id: string
    :param status: ``pending``, ``delivered``, ``failed`` or ``cancelled`` (optional)
    :type status: string
    :param topic: only this topic, or pattern of topics; also ``ping`` (optional)
    :type topic: string
    :param since: only what was told at this time or later, as in
        ``2026-11-24T18:27:56Z`` (optional)
    :type since: string
    :param until: only what was told before this time (optional)
    :type until: string
    :param cursor: only what is older than this (optional)
    :type cursor: int
    :param limit: at most so many (default 100, at most 1000); there may be
        fewer although there is a cursor
    :type limit: int

    :returns: ``deliveries``, each with id, webhook_id, event_id, topic,
        sequence, status, ``reason`` (of the last failure, or of the
        cancellation; ``superseded``: what it said may not be read by the
        owner any more, and the newest state is told where it may be), tries,
        created_at, ``next_try`` (none while it is held back), ended_at, and
        ``coalesced``: how many older ones it stands for; and ``cursor``, none
        where there is nothing older
    :rtype: dictionary
    """
    webhook = find.webhook("webhook_delivery_list", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_delivery_list(), context)
    connection = model.Session.connection()
    since, until = data.get("since"), data.get("until")
    table = Delivery.__table__
    first, end = when.bounds(connection, table.c.id, table.c.created_at, since, until)
    status, topic = data.get("status"), data.get("topic")
    is_chosen = status not in (None, Status.PENDING.value) or any((topic, since, until))
    connection.exec_driver_sql(f"SET LOCAL {_BITMAPS} = off")
    found = connection.execute(
        _LISTED,
        {
            "webhook": webhook.id,
            "first": first,
            "end": min(end, data.get("cursor", when.END)),
            "ended": status != Status.PENDING.value,
            "pending": status in (None, Status.PENDING.value),
            "status": status,
            "topics": None if topic is None else [t for t in _TOPICS if _is_meant(t, topic)],
            "since": since,
            "until": until,
            "looked_at": _LOOKED_AT if is_chosen else data["limit"],
            "limit": data["limit"],
        },
    ).all()
    connection.exec_driver_sql(f"SET LOCAL {_BITMAPS} TO DEFAULT")
    # There is one row at least: it says how far was looked.
    shows_addresses = sight.shows_addresses(context)
    deliveries = [_dictize(row, shows_addresses) for row in found if row.id is not None]
    cursor = found[0].oldest
    if len(deliveries) == data["limit"]:
        cursor = deliveries[-1]["id"]
    return {"deliveries": deliveries, "cursor": cursor}


_TOPICS = (*topics.TOPICS, PING)
# Of what is held back PostgreSQL thinks that there is little, whatever there is, and would
# fetch and sort it all rather than follow the index.
_BITMAPS = "enable_bitmapscan"


def _is_meant(topic: str, wanted: str) -> bool:
    return wanted == topic or (topic != PING and wanted in topics.matching(topic))


# An index for each: of what ended, of what is held back, and of all that is due
# or waits for its next try, in which one webhook's are looked for. Pairs are
# compared, since of `webhook_id = …` PostgreSQL may think that following the
# primary key finds some soon, which it does not where others' are newer.
_COLUMNS = """
    id, webhook_id, event_id, topic, sequence, status, reason, tries, created_at, due_at, ended_at,
    coalesced
"""
_NEWEST = f"""
    SELECT {_COLUMNS} FROM webhooks_delivery
    WHERE (webhook_id, id) >= (:webhook, :first) AND (webhook_id, id) < (:webhook, :end)
        AND {{which}}
    ORDER BY webhook_id DESC, id DESC LIMIT :looked_at
"""
_LISTED = sa.text(
    f"""
    WITH due AS MATERIALIZED (
        SELECT {_COLUMNS} FROM webhooks_delivery
        WHERE :pending AND status = 'pending' AND due_at IS NOT NULL AND webhook_id = :webhook),
    looked_at AS (
        SELECT * FROM (
            ({_NEWEST.format(which=":ended AND ended_at IS NOT NULL")})
            UNION ALL
            ({_NEWEST.format(which=":pending AND status = 'pending' AND due_at IS NULL")})
            UNION ALL
            (SELECT * FROM due WHERE id >= :first AND id < :end)
        ) found ORDER BY id DESC LIMIT :looked_at)
    SELECT reached.oldest, wanted.*
    FROM (SELECT CASE WHEN count(*) = :looked_at THEN min(id) END AS oldest FROM looked_at) reached
        LEFT JOIN LATERAL (
            SELECT * FROM looked_at
            WHERE (CAST(:status AS text) IS NULL OR status = :status)
                AND (CAST(:topics AS text[]) IS NULL OR topic = ANY(CAST(:topics AS text[])))
                AND (CAST(:since AS timestamptz) IS NULL OR created_at >= :since)
                AND (CAST(:until AS timestamptz) IS NULL OR created_at < :until)
            ORDER BY id DESC LIMIT :limit) wanted ON true
    ORDER BY id DESC
    """
)


@tk.side_effect_free
def webhook_delivery_show(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Show a delivery with its request and its attempts.

    You must own its webhook, or be a sysadmin. The body is made again from
    the log, for what the webhook's owner may see now: what has been hidden
    from the owner or purged since is not shown, nor what the endpoint
    answered, in which it may be repeated.

    :param id: of the delivery, see :func:`webhook_delivery_list`
    :type id: int

    :returns: what :func:`webhook_delivery_list` says of it; ``attempts``,
        each with number, sent_at, duration (seconds), of these resolve,
        connect, tls and wait (none where there was none: a connection may
        have been kept), ``dialled`` (an address that is not public, and to
        which a name led, is shown to sysadmins alone, here as in the error),
        http_status, error, and ``answer``, the first 4 KiB; and ``request``:
        method, url, headers, body as text or none, and ``body_note``, which
        says why there is none or less. Of the headers, your own are masked,
        ``webhook-timestamp`` is that of the last attempt, and
        ``webhook-signature`` is not kept
    :rtype: dictionary
    """
    delivery = find.delivery("webhook_delivery_show", context, data_dict)
    webhook = Webhook.get(delivery.webhook_id)
    body, note, shows_answers = _body(delivery, webhook)
    tries, shows_addresses = attempts.of(delivery.id), sight.shows_addresses(context)
    return {
        **_dictize(delivery, shows_addresses),
        "attempts": [
            attempts.dictized(row, webhook, shows_answers, shows_addresses) for row in tries
        ],
        "request": {
            "method": "POST",
            "url": _url(delivery, webhook),
            "headers": _headers(delivery, webhook, tries),
            "body": body,
            "body_note": note,
        },
    }


def _body(delivery: Any, webhook: Any) -> tuple[str | None, str | None, bool]:
    """Make a body again, as the worker does.

    :returns: the text; what is to be said of it; and whether what the
        endpoint answered may be shown
    """
    if webhook is None:
        return None, tk._("Whose sight counts is not known: the webhook was deleted"), False
    if delivery.topic == PING:
        return _ping(delivery, webhook)
    event = logged(model.Session.connection(), [delivery.event_id]).get(delivery.event_id)
    if event is None:
        return None, tk._("The event is not in the log any more"), False
    return _of_event(event, delivery, webhook)


def _of_event(event: Logged, delivery: Any, webhook: Any) -> tuple[str | None, str | None, bool]:
    labels = sight.labels_if_known(webhook.user_id)
    if labels is None:
        return None, tk._("What its receiver may see cannot be read at the moment"), False
    verb = delivery.topic.split("/")[1]
    if event.is_old(delivery):
        how_much = replaced(model.Session.connection(), [event.row.id])[event.row.id]
        since, is_again = sight.since_of(webhook.user_id), event.is_told_again(delivery)
        what = event.sending_old(verb, labels, since, how_much, is_again)
    else:
        what = event.sending(verb, labels)
    if what in (Sending.NOTHING, Sending.NEWEST):
        note = tk._("What it said has been purged since, or its receiver may not see it any more")
        return None, note, False
    facts = message.facts_of(event.row, delivery, webhook.user_id, config.site_url(), what)
    body = message.compose(facts, delivery.format).decode()
    if what is Sending.STUB and event.row.state == State.DELETED.value:
        # It was sent with content, if it was before that had to go.
        return body, tk._("Only which one it was may still be shown"), False
    return body, None, True


def _ping(delivery: Any, webhook: Any) -> tuple[str, str | None, bool]:
    body = message.ping(
        delivery.event_id,
        delivery.created_at,
        config.site_url(),
        delivery.address,
        webhook.id,
        webhook.user_id,
        delivery.format,
        None,
    )
    # Who reads it here has not shown that the endpoint is theirs.
    note = tk._("The challenge in it is not shown") if webhook.challenge else None
    return body.decode(), note, True


def _url(delivery: Any, webhook: Any) -> str:
    # What is still to be sent goes to where the webhook is now.
    is_pending = webhook is not None and delivery.status == Status.PENDING.value
    return str(webhook.address if is_pending else delivery.address)


def _headers(delivery: Any, webhook: Any, tries: list[Any]) -> dict[str, str]:
    names = (webhook.header_names() if webhook is not None else None) or []
    headers = message.headers(delivery.format, dict.fromkeys(names, attempts.MASKED))
    headers["webhook-id"] = delivery.event_id
    if tries:
        headers["webhook-timestamp"] = str(int(tries[-1].sent_at.timestamp()))
    return headers


def _dictize(row: Any, shows_addresses: bool) -> dict[str, Any]:
    return {
        "id": row.id,
        "webhook_id": row.webhook_id,
        "event_id": row.event_id,
        "topic": row.topic,
        "sequence": row.sequence,
        "status": row.status,
        "reason": attempts.shown_reason(row.reason, shows_addresses),
        "tries": row.tries,
        "created_at": row.created_at.isoformat(),
        "next_try": moment(row.due_at) if row.status == Status.PENDING.value else None,
        "ended_at": moment(row.ended_at),
        "coalesced": row.coalesced,
    }
