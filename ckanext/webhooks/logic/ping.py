"""A ping: what is sent to an endpoint to see whether it answers."""

from __future__ import annotations

import time
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from .. import config, queue
from ..model import Delivery, Webhook, ping_row, transaction
from ..phrases import translated
from . import attempts, find, sight

# Seconds for a worker to take a ping up, beside those that the attempt may take.
_TAKEN_WITHIN = 2.0
_LOOK_EVERY = 0.05


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
    found = attempts.of(delivery_id)
    if not found:
        raise tk.ValidationError({"id": [tk._("It was not sent: %s") % translated(ended.reason)]})
    shown = attempts.dictized(
        found[-1],
        Webhook.get(data_dict["id"]),
        shows_answers=True,
        shows_addresses=sight.shows_addresses(context),
    )
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
