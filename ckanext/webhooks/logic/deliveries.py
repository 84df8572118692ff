"""What became of what was told: deliveries, one with its request, and a ping."""

from __future__ import annotations

import time
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from .. import config, owners, queue, topics
from ..deliver import logged, message
from ..model import Attempt, Delivery, State, Status, Webhook, ping_row, transaction, when
from ..topics import PING
from ..visibility import Sending
from . import find, schema

# Rows of one webhook that a page looks at, where only some are wanted: tens of
# milliseconds, however few of a million are.
_LOOKED_AT = 10_000
# Seconds for a worker to take a ping up, beside those that the attempt may take.
_TAKEN_WITHIN = 2.0
_LOOK_EVERY = 0.05
_MASKED = "***"


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
        cancellation), tries, created_at, ``next_try`` (none while it is held
        back), ended_at, and ``coalesced``: how many older ones it stands
        for; and ``cursor``, none where there is nothing older
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
    # There is one row at least: it says how far was looked.
    deliveries = [_dictize(row) for row in found if row.id is not None]
    cursor = found[0].oldest
    if len(deliveries) == data["limit"]:
        cursor = deliveries[-1]["id"]
    return {"deliveries": deliveries, "cursor": cursor}


_TOPICS = (*topics.TOPICS, PING)


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
        have been kept), ``dialled``, http_status, error, and ``answer``, the
        first 4 KiB; and ``request``: method, url, headers, body as text or
        none, and ``body_note``, which says why there is none or less. Of the
        headers, your own are masked, ``webhook-timestamp`` is that of the
        last attempt, and ``webhook-signature`` is not kept
    :rtype: dictionary
    """
    delivery = find.delivery("webhook_delivery_show", context, data_dict)
    webhook = Webhook.get(delivery.webhook_id)
    body, note, shows_answers = _body(delivery, webhook)
    attempts = _attempts(delivery.id)
    return {
        **_dictize(delivery),
        "attempts": [_attempt(row, webhook, shows_answers) for row in attempts],
        "request": {
            "method": "POST",
            "url": _url(delivery, webhook),
            "headers": _headers(delivery, webhook, attempts),
            "body": body,
            "body_note": note,
        },
    }


def webhook_ping(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Send a ping at once, to see whether the endpoint answers.

    A worker sends it, whatever state the webhook is in, and once; this waits
    for it. What comes of it counts as a success of the webhook's, and not as
    a failure. You must own the webhook, or be a sysadmin.

    :param id: of the webhook
    :type id: string

    :returns: the attempt, as :func:`webhook_delivery_show` gives it, with
        ``delivery_id``
    :rtype: dictionary
    """
    webhook = find.webhook("webhook_ping", context, data_dict)
    delivery_id = _write_ping(webhook)
    # Another process is to see it, and no transaction is open while this waits.
    model.repo.commit()
    queue.nudge()
    ended = _wait(delivery_id) or _withdraw(delivery_id)
    found = _attempts(delivery_id)
    if not found:
        raise tk.ValidationError({"id": [tk._("It was not sent: %s") % ended.reason]})
    shown = _attempt(found[-1], Webhook.get(data_dict["id"]), shows_answers=True)
    return {"delivery_id": delivery_id, **shown}


def _write_ping(webhook: Any) -> int:
    connection = model.Session.connection()
    connection.execute(_LOCK, {"id": webhook.id})
    if connection.execute(_PINGS, {"id": webhook.id}).first() is not None:
        model.Session.rollback()
        message_ = tk._("A ping is under way already: wait for it. Is a worker running?")
        raise tk.ValidationError({"id": [message_]})
    table = Delivery.__table__
    added = connection.execute(sa.insert(table).values(ping_row(webhook)).returning(table.c.id))
    return int(added.scalar_one())


def _wait(delivery_id: int) -> Any:
    """Give the row of a delivery once it has ended, or None after a while."""
    until = time.monotonic() + config.timeout() + _TAKEN_WITHIN
    while time.monotonic() < until:
        with transaction() as connection:
            row = connection.execute(_ENDED, {"id": delivery_id}).first()
        if row is not None:
            return row
        time.sleep(_LOOK_EVERY)
    return None


def _withdraw(delivery_id: int) -> Any:
    """Take a ping back that nobody waits for any more; give its row where it has ended.

    :raises ValidationError: it has not
    """
    with transaction() as connection:
        withdrawn = connection.execute(_WITHDRAW, {"id": delivery_id}).first()
        ended = connection.execute(_ENDED, {"id": delivery_id}).first()
    if withdrawn is not None:
        why = tk._("No worker took it: is one running? `ckan webhooks worker` is one")
    elif ended is None:
        why = tk._("It is still under way: webhook_delivery_show has it by the id %d") % delivery_id
    else:
        return ended
    raise tk.ValidationError({"id": [why]})


_LOCK = sa.text("SELECT FROM webhooks WHERE id = :id FOR NO KEY UPDATE")
# All pings have this sequence, which has an index.
_PINGS = sa.text(
    "SELECT FROM webhooks_delivery"
    " WHERE sequence = 0 AND webhook_id = :id AND status = 'pending' AND topic = 'ping'"
)
_ENDED = sa.text("SELECT reason FROM webhooks_delivery WHERE id = :id AND ended_at IS NOT NULL")
_WITHDRAW = sa.text(
    """
    UPDATE webhooks_delivery
    SET status = 'cancelled', reason = 'no worker took it in time', ended_at = clock_timestamp()
    WHERE id = :id AND status = 'pending' AND due_at <= statement_timestamp() RETURNING id
    """
)


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
    labels = owners.standing([webhook.user_id])[webhook.user_id].labels
    what = event.sending(delivery.topic.split("/")[1], labels)
    if what is Sending.NOTHING:
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


def _headers(delivery: Any, webhook: Any, attempts: list[Any]) -> dict[str, str]:
    names = (webhook.header_names() if webhook is not None else None) or []
    headers = message.headers(delivery.format, dict.fromkeys(names, _MASKED))
    headers["webhook-id"] = delivery.event_id
    if attempts:
        headers["webhook-timestamp"] = str(int(attempts[-1].sent_at.timestamp()))
    return headers


def _attempts(delivery_id: int) -> list[Any]:
    query = model.Session.query(Attempt).filter(Attempt.delivery_id == delivery_id)
    return list(query.order_by(Attempt.number, Attempt.id))


def _attempt(row: Any, webhook: Any, shows_answers: bool) -> dict[str, Any]:
    answer = row.answer if shows_answers else None
    if answer and webhook is not None and webhook.challenge:
        answer = answer.replace(webhook.challenge, _MASKED)
    return {
        "number": row.number,
        "sent_at": row.sent_at.isoformat(),
        "duration": _seconds(row.duration),
        "resolve": _seconds(row.resolve),
        "connect": _seconds(row.connect),
        "tls": _seconds(row.tls),
        "wait": _seconds(row.wait),
        "dialled": row.dialled,
        "http_status": row.http_status,
        "error": row.error,
        "answer": answer,
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _dictize(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "webhook_id": row.webhook_id,
        "event_id": row.event_id,
        "topic": row.topic,
        "sequence": row.sequence,
        "status": row.status,
        "reason": row.reason,
        "tries": row.tries,
        "created_at": row.created_at.isoformat(),
        "next_try": _moment(row.due_at) if row.status == Status.PENDING.value else None,
        "ended_at": _moment(row.ended_at),
        "coalesced": row.coalesced,
    }


def _moment(value: Any) -> str | None:
    return value.isoformat() if value is not None else None
