"""What failed alone and was put aside: shown, tried at once, or given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model
from sqlalchemy.engine import Connection

from .. import quarantine, queue
from ..apart import apart
from ..dispatch import purged
from ..model import STILL_PENDING, Kind, Webhook, WebhookState, dispatch_lock
from ..model.base import gave_up_waiting, may_be_of_one
from ..quarantine import LIVE
from . import schema, states
from .saving import commit
from .shown import moment

# Milliseconds. A round of dispatch may take seconds; a worker has a row for milliseconds, and
# where each waits for the other it is not the worker that PostgreSQL is to end, after 1 s.
_DISPATCH_PATIENCE = 10_000
_ROW_PATIENCE = 500

# What its owner reads: not the error, in which PostgreSQL may quote what others wrote.
_DELIVERY_GIVEN_UP = "a sysadmin gave it up, since the portal could not send it"
_WEBHOOK_GIVEN_UP = "a sysadmin gave it up, since the portal could not write what it is told"


@tk.side_effect_free
def webhook_quarantine_list(context: Any, data_dict: dict[str, Any]) -> list[dict[str, Any]]:
    """List what failed alone and was put aside, the oldest first. For sysadmins.

    What is put aside is tried again by itself, after pauses that grow from
    5 seconds to an hour. Mostly the list is empty.

    :param limit: at most so many (default 100, at most 1000)
    :type limit: int

    :returns: each with id; ``kind``: ``event``, ``rights``, ``delivery`` or
        ``webhook``; what it is about by event_id, delivery_id, webhook_id or
        user_id (of ``rights``), and dataset_id, the dataset whose later
        events wait, none where it is not that; ``reason``, the last error;
        tries, put_aside_at and next_try_at
    :rtype: list of dictionaries
    """
    tk.check_access("webhook_quarantine_list", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_quarantine_list(), context)
    found = quarantine.waiting(model.Session.connection(), data["limit"])
    return [_dictized(row) for row in found]


def webhook_quarantine_retry(context: Any, data_dict: dict[str, Any]) -> int:
    """Have a worker try at once what was put aside, not after its pause. For sysadmins.

    It is tried within seconds. Where it fails again it stays put aside, and
    its pause goes on growing.

    :param id: of what is put aside, see :func:`webhook_quarantine_list`
        (optional, all of it without)
    :type id: int

    :returns: how many are due now; one that a worker is trying at this
        moment is not counted
    :rtype: int
    """
    tk.check_access("webhook_quarantine_retry", context, data_dict)
    data = schema.validate(data_dict, schema.maybe_number(), context)
    id_ = data.get("id")
    connection = model.Session.connection()
    if id_ is not None:
        _require(connection, _FOUND, id_)
    count = int(connection.execute(_RETRY, {"id": id_}).rowcount)
    commit(context)
    queue.nudge()
    return count


def webhook_quarantine_give_up(context: Any, data_dict: dict[str, Any]) -> int:
    """Give up what was put aside, so that nothing waits for it any more. For sysadmins.

    An event is told to nobody, and stays in the log and in the feed; the
    later events of its dataset go on. That a user's rights to a dataset
    changed is not told. A delivery is cancelled. A webhook is disabled, and
    its owner may enable it again.

    :param id: of what is put aside, see :func:`webhook_quarantine_list`
    :type id: int

    :returns: the id
    :rtype: int
    """
    tk.check_access("webhook_quarantine_give_up", context, data_dict)
    id_ = schema.validate(data_dict, schema.only_number(), context)["id"]
    connection = model.Session.connection()
    kind = _require(connection, _FOUND, id_).kind
    try:
        if kind in (Kind.EVENT.value, Kind.RIGHTS.value):
            _patience(connection, _DISPATCH_PATIENCE)
            dispatch_lock(connection)
        _patience(connection, _ROW_PATIENCE)
        row = _require(connection, _LOCKED, id_)
        _GIVE_UP[row.kind](connection, row)
        quarantine.release(connection, [id_])
    except sa.exc.OperationalError as error:
        if not gave_up_waiting(error):
            raise
        model.Session.rollback()
        why = tk._("A worker has it at this moment: ask again")
        raise tk.ValidationError({"id": [why]}) from None
    commit(context)
    queue.nudge()
    return int(id_)


def _require(connection: Connection, query: Any, id_: int) -> Any:
    """:raises ObjectNotFound: nothing of that number is put aside"""
    row = connection.execute(query, {"id": id_}).one_or_none()
    if row is None:
        model.Session.rollback()
        raise tk.ObjectNotFound(
            tk._("Nothing is put aside under the number %d: it went through, or was given up") % id_
        )
    return row


def _patience(connection: Connection, milliseconds: int) -> None:
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")


def _dictized(row: Any) -> dict[str, Any]:
    def of(kind: Kind) -> Any:
        return row.key if row.kind == kind.value else None

    delivery_id = of(Kind.DELIVERY)
    return {
        "id": row.id,
        "kind": row.kind,
        "event_id": of(Kind.EVENT),
        "delivery_id": None if delivery_id is None else int(delivery_id),
        "webhook_id": of(Kind.WEBHOOK),
        "user_id": row.user_id,
        "dataset_id": row.dataset_id,
        "reason": row.reason,
        "tries": row.tries,
        "put_aside_at": moment(row.put_aside_at),
        "next_try_at": moment(row.due_at),
    }


def _give_up_event(connection: Connection, row: Any) -> None:
    _hold_from(connection, row)
    _write_or_delete(connection, _NUMBER_EVENT, _DELETE_EVENT, id=row.key)
    if connection.execute(_IS_PURGED, {"id": row.key}).scalar():
        purged.blank(connection, [row.dataset_id])


def _give_up_rights(connection: Connection, row: Any) -> None:
    """Nothing but the row of what is put aside says that they are still to be told."""
    _hold_from(connection, row)


def _give_up_delivery(connection: Connection, row: Any) -> None:
    _write_or_delete(
        connection,
        _CANCEL_DELIVERY,
        _DELETE_DELIVERY,
        id=int(row.key),
        reason=_DELIVERY_GIVEN_UP,
    )


def _give_up_webhook(connection: Connection, row: Any) -> None:
    webhook = model.Session.get(Webhook, row.key, populate_existing=True)
    if webhook is None:
        return
    if webhook.state != WebhookState.DISABLED.value:
        states.disable(webhook, _WEBHOOK_GIVEN_UP)
    connection.execute(_MISSED_SINCE, {"id": row.key, "sequence": row.sequence})


_GIVE_UP: dict[str, Callable[[Connection, Any], None]] = {
    Kind.EVENT.value: _give_up_event,
    Kind.RIGHTS.value: _give_up_rights,
    Kind.DELIVERY.value: _give_up_delivery,
    Kind.WEBHOOK.value: _give_up_webhook,
}


def _hold_from(connection: Connection, row: Any) -> None:
    """Say of what waited that it is older than its number will be, as dispatch does.

    Of an event that cannot be written this cannot be said, but then it is not dispatched, too.
    """
    waiting = connection.execute(_WAITING, {"dataset_id": row.dataset_id}).scalars().all()

    def hold(ids: Sequence[str]) -> None:
        with connection.begin_nested():
            connection.execute(_HOLD_FROM, {"ids": list(ids), "number": row.sequence})

    apart(waiting, hold, lambda _id, _error: None, may_be_of_one)


def _write_or_delete(connection: Connection, writing: Any, deleting: Any, **values: Any) -> None:
    """Write a row; where what is in it keeps PostgreSQL from that, delete it."""
    try:
        with connection.begin_nested():
            connection.execute(writing, values)
    except sa.exc.DBAPIError as error:
        if not may_be_of_one(error):
            raise
        connection.execute(deleting, {"id": values["id"]})


_FOUND = sa.text(f"SELECT q.* FROM webhooks_quarantine q WHERE q.id = :id AND {LIVE}")
_LOCKED = sa.text(f"{_FOUND.text} FOR UPDATE OF q")
# What another has locked is being tried at this moment. Nobody waits here with locks of
# others in hand.
_RETRY = sa.text(
    f"""
    WITH asked AS MATERIALIZED (
        SELECT q.id, CASE WHEN q.kind = 'delivery' AND NOT q.is_stuck
            THEN CAST(q.key AS bigint) END AS delivery_id, q.due_at
        FROM webhooks_quarantine q
        WHERE q.id = coalesce(CAST(:id AS bigint), q.id) AND {LIVE}
        ORDER BY q.id FOR UPDATE OF q SKIP LOCKED),
    locked AS MATERIALIZED (
        SELECT d.id, asked.id AS asked_id FROM asked JOIN webhooks_delivery d
            ON d.id = asked.delivery_id AND d.due_at = asked.due_at
        WHERE {STILL_PENDING}
        FOR UPDATE OF d SKIP LOCKED),
    now AS MATERIALIZED (SELECT clock_timestamp() AS at),
    moved AS (
        UPDATE webhooks_delivery d SET due_at = now.at FROM locked, now WHERE d.id = locked.id
        RETURNING locked.asked_id)
    UPDATE webhooks_quarantine q SET due_at = now.at FROM asked, now
    WHERE q.id = asked.id
        AND (asked.delivery_id IS NULL OR q.id IN (SELECT asked_id FROM moved))
    """
)
_WAITING = sa.text(
    "SELECT id FROM webhooks_event WHERE dataset_id = :dataset_id AND sequence IS NULL"
    " ORDER BY position"
)
_HOLD_FROM = sa.text(
    "UPDATE webhooks_event SET held_from = coalesce(held_from, :number)"
    " WHERE id = ANY(CAST(:ids AS text[]))"
)
# Under dispatch's lock, which lets nobody else give numbers.
_NUMBER_EVENT = sa.text(
    """
    UPDATE webhooks_event
    SET sequence = nextval('webhooks_event_order'), dispatched_at = clock_timestamp()
    WHERE id = :id AND sequence IS NULL
    """
)
_IS_PURGED = sa.text("SELECT state = 'purged' FROM webhooks_event WHERE id = :id")
_DELETE_EVENT = sa.text("DELETE FROM webhooks_event WHERE id = :id AND sequence IS NULL")
_CANCEL_DELIVERY = sa.text(
    """
    UPDATE webhooks_delivery
    SET status = 'cancelled', reason = :reason, ended_at = clock_timestamp()
    WHERE id = :id AND status = 'pending'
    """
)
_DELETE_DELIVERY = sa.text("DELETE FROM webhooks_delivery WHERE id = :id AND status = 'pending'")
# It was told nothing of what came after: a replay is to begin there.
_MISSED_SINCE = sa.text(
    """
    UPDATE webhooks SET missed_since = least(missed_since, (
        SELECT dispatched_at FROM webhooks_event WHERE sequence > :sequence
        ORDER BY sequence LIMIT 1))
    WHERE id = :id
    """
)
