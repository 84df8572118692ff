"""The log as a feed: what a receiver that was down asks for."""

from __future__ import annotations

import json
import uuid
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from .. import logs, topics
from ..deliver import Logged, logged, message, replaced
from ..model import epoch
from ..owners import Since
from ..visibility import ALL, OwnerLabels, Replaced, Sending, may_see, told
from . import schema, sight

log = logs.logger(__name__)

# Events whose content is read at once, and bytes of content after which a page
# ends early: both bound what one request holds in memory.
_CHUNK = 50
_MAX_PAGE_BYTES = 8 * 1024 * 1024


@tk.side_effect_free
def webhook_event_list(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """List what happened to the datasets and resources that you may see, in order.

    It says the same as deliveries do, so that a receiver which was down can
    make up for it; from the start, it gives every dataset there is. Ask again
    with ``after`` set to the ``cursor`` of the answer for as long as there is
    ``more``. Nothing that commits late gets a number below a cursor. An event
    appears once a worker has taken it up. What has been hidden from you since
    is left out. A version that was replaced before you could see it has no
    content here: of ``entity`` there is ``id`` and ``type``, and ``name`` is
    none; the newest version of each dataset has it. A resource that is as it was
    has content, and if its dataset was renamed or moved to another organization
    since, ``dataset`` is its ``id`` and ``type`` alone. That your own rights
    changed is in it as long as you have an
    active webhook. Events older than ``ckanext.webhooks.retention_days`` go,
    except the newest of each dataset: after a longer absence start anew.

    :param after: the cursor: only events with a higher sequence (default 0). One that
        the log does not know is refused: the database was restored since, so start
        anew, and take away what you have and it does not name
    :type after: int
    :param topic: only this topic, or pattern of topics (optional)
    :type topic: string
    :param limit: at most so many (default 100, at most 1000); there may be
        fewer although there is more
    :type limit: int

    :returns: ``events``, each with event_id, topic, occurred_at, sequence,
        epoch, entity, of resources ``dataset`` and of updates ``changed``;
        ``cursor``; and ``more``
    :rtype: dictionary
    """
    tk.check_access("webhook_event_list", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_event_list(), context)
    user = model.User.get(context["user"])
    if user is None:  # auth was ignored, and what may be seen depends on who asks
        raise tk.NotAuthorized(tk._("The feed is somebody's: log in, or send an API token"))
    labels, since = sight.labels_of(user.id), sight.since_of(user.id)
    connection = model.Session.connection()
    _check_cursor(connection, data["after"])
    found = connection.execute(
        _FOUND,
        {
            "after": data["after"],
            "limit": data["limit"],
            "user_id": user.id,
            "labels": None if labels is ALL else sorted(labels),
        },
    ).all()
    events: list[dict[str, Any]] = []
    cursor, size = data["after"], 0
    for start in range(0, len(found), _CHUNK):
        chunk = found[start : start + _CHUNK]
        ids = [row.id for row in chunk]
        by_id, old = logged(connection, ids), replaced(connection, ids)
        for row in chunk:
            event = _told(by_id[row.id], labels, since, old[row.id])
            if event is not None and _is_wanted(event["topic"], data.get("topic")):
                events.append(event)
        cursor = chunk[-1].sequence
        size += sum(row.size for row in chunk)
        if size > _MAX_PAGE_BYTES:
            break
    return {
        "events": events,
        "cursor": cursor,
        "more": len(found) == data["limit"] or (bool(found) and cursor < found[-1].sequence),
    }


# A first choice by what an index of labels would tell; `told` and `sending`
# have the last word.
_FOUND = sa.text(
    """
    SELECT e.id, e.sequence, coalesce(octet_length(coalesce(e.content, source.content)), 0) AS size
    FROM webhooks_event e LEFT JOIN webhooks_event source ON source.id = e.source_id
    WHERE e.sequence > :after
        AND (e.user_id = :user_id OR e.user_id IS NULL AND (
            CAST(:labels AS text[]) IS NULL
            OR e.labels && CAST(:labels AS text[])
            OR e.labels_before && CAST(:labels AS text[])))
    ORDER BY e.sequence LIMIT :limit
    """
)


def _check_cursor(connection: Any, after: int) -> None:
    """Refuse a cursor of what the log does not have: silence would be taken for "no news".

    :raises ValidationError: the database was restored since, or it is another portal's
    """
    end = epoch.end(connection, after)
    if after <= end:
        return
    why = tk._(
        "The log knows no number from %d to this one: it was restored from a back-up, or is"
        " another portal's. Begin anew at 0, and take away what you have and it does not name"
    )
    raise tk.ValidationError({"after": [why % (end + 1)]})


def _told(event: Logged, labels: OwnerLabels, since: Since, old: Replaced) -> dict[str, Any] | None:
    """Say what somebody with these labels is told of an event, None where nothing."""
    row = event.row
    if row.user_id is not None:  # it was made for this user
        before, after = row.labels_before is not None, row.labels is not None
    else:
        before, after = may_see(row.labels_before, labels), may_see(row.labels, labels)
    verb = told(before, after, row.changed is None or bool(row.changed))
    what = event.sending_again(verb, labels, since, old) if verb else Sending.NOTHING
    if what is Sending.NOTHING:
        return None
    said = {
        "event_id": row.id,
        "topic": f"{row.entity_type}/{verb}",
        "occurred_at": message.timestamp(row.occurred_at),
        "sequence": row.sequence,
        "epoch": epoch.of(row.sequence),
        "entity": _entity(row, what),
    }
    if row.entity_type == "resource":
        said["dataset"] = message.reference_of(row, what)
    if verb == "update":
        said["changed"] = row.changed
    return said


def _is_wanted(topic: str, wanted: str | None) -> bool:
    return wanted is None or wanted in topics.matching(topic)


def _entity(row: Any, what: Sending) -> Any:
    """Give the entity; of one that cannot be read, that it happened: the page is of others, too."""
    try:
        return json.loads(message.entity_of(row, what))
    except Exception:
        log.exception(
            "webhooks [%s]: the content of event %s cannot be read; the feed gives it without."
            " Please report this with the lines below.",
            uuid.uuid4(),
            row.id,
        )
        return json.loads(message.entity_of(row, Sending.MARKER))
