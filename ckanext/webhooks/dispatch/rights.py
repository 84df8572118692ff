"""Under which labels each owner is told, and when these are not those of now any more.

What that means for datasets that did not change, ``moves`` tells.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from .. import owners, quarantine
from ..model import connected, in_transaction
from ..model.base import BEGIN
from ..visibility import OwnerLabels, common, owner_labels, stored_labels
from . import write

Result = TypeVar("Result")


@dataclass(frozen=True)
class Serving:
    """Under which labels owners are told.

    :param labels: by user id; those that an owner is being moved to
    :param held_back: somebody gained rights that are not given yet
    :param is_moving: somebody is being moved
    """

    labels: dict[str, OwnerLabels]
    held_back: bool
    is_moving: bool


@dataclass(frozen=True)
class Reading:
    """What the owners of webhooks may see, as it was read before the lock was taken.

    A labels plugin may take its time, or fail: nobody waits for it under the lock, or in
    a transaction. What has changed since the reading, the lock's holder is told by the
    tables.

    :param standing: of the owners who may have webhooks, by user id
    :param owners: the ids of all who have active webhooks
    :param served: the rows of ``webhooks_served`` as they were, by user id
    :param notes: the ids of the changes of rights that were noted and had no number
    :param number: the highest number of the others
    """

    standing: Mapping[str, owners.Owner]
    owners: frozenset[str]
    served: Mapping[str, Any]
    notes: Sequence[int]
    number: int


class _Outdated(Exception):
    """Somebody has webhooks who had none when rights were read."""


def under_reading(work: Callable[[Reading], Result], notes: Any = None) -> Result:
    """Read what owners may see, and do a work of one transaction with that.

    :param work: may raise what :func:`notice` raises where it has to be done anew
    :param notes: a row of ``_NOTES`` that was read just now
    """
    while True:
        try:
            return work(_read(notes or _notes()))
        except _Outdated:
            notes = None


def if_something_waits(work: Callable[[Reading], Result]) -> Result | None:
    """Do so, unless nothing waits to be told: that is asked much more often than it is so."""
    notes = _notes()
    return under_reading(work, notes) if notes.is_waiting else None


def _notes() -> Any:
    with connected() as connection:
        return connection.execute(_NOTES).one()


def _read(notes: Any) -> Reading:
    """:param notes: read before: what is noted later may not be known to CKAN's answers"""
    with connected() as connection:
        rows = connection.execute(_OWNERS, {"notes": [], "number": 0}).all()
    served = {row.user_id: (row.labels, row.next_labels) for row in rows}
    standing = owners.standing(served)
    # Another worker may have asked CKAN later than this one.
    changed = [
        row.user_id
        for row in rows
        if row.next_labels is None
        and row.labels is not None
        and (labels := standing[row.user_id].labels) is not None
        and labels != owner_labels(row.labels)
    ]
    standing.update(owners.standing_now(changed))
    # Owners who may not subscribe any more are paused by the sweep; until
    # then nothing is written for them.
    subscribing = {id_: owner for id_, owner in standing.items() if owner.may_subscribe}
    return Reading(subscribing, frozenset(served), served, notes.ids or [], notes.number)


def notice_rights() -> None:
    """Begin to move the owners whose labels are not those they were told under."""
    under_reading(_notice_rights)


def _notice_rights(reading: Reading) -> None:
    with connected() as connection, in_transaction(connection, _NUMBER_UNDER_LOCK):
        notice(connection, reading, is_all_told(connection))


def notice_noted() -> None:
    """Do so, and give the changes of rights that were noted their number, if there are any."""
    with connected() as connection:
        is_noted = connection.execute(_IS_NOTED).scalar_one()
    if is_noted:
        under_reading(_notice_noted)


def _notice_noted(reading: Reading) -> None:
    with connected() as connection, in_transaction(connection, _NUMBER_UNDER_LOCK) as noted:
        if any(row.has_webhooks for row in noted):
            notice(connection, reading, is_all_told(connection))


def is_all_told(connection: Connection) -> bool:
    return not connection.execute(_IS_WAITING).scalar_one()


def notice(connection: Connection, reading: Reading, all_told: bool) -> Serving:
    """Begin the moves that are due.

    Who has gained a right may not be told what was captured before: that may have
    been mended first, in order to be shown. So while something waits to be told,
    rights are taken alone, and given when everything is told.

    Whose labels could not be read, or may be others than when they were, is told under
    those of before: whether that may be sent is asked again then.

    :param all_told: nothing waits
    :raises _Outdated: somebody is not in the reading
    """
    rows = connection.execute(
        _OWNERS, {"notes": list(reading.notes), "number": reading.number}
    ).all()
    if not reading.owners >= {row.user_id for row in rows}:
        raise _Outdated
    rows = [row for row in rows if row.user_id in reading.standing]
    served = {
        row.user_id: owner_labels(row.labels if row.next_labels is None else row.next_labels)
        for row in rows
        if row.labels is not None
    }
    now = {
        row.user_id: labels
        for row in rows
        if (labels := reading.standing[row.user_id].labels) is not None
    }
    stand = {id_: labels for id_, labels in now.items() if id_ not in served}
    move = {
        row.user_id: now[row.user_id]
        for row in rows
        if row.user_id in served
        and row.user_id in now
        and row.next_labels is None
        and not row.is_noted
        and reading.served[row.user_id] == (row.labels, row.next_labels)
        and served[row.user_id] != now[row.user_id]
    }
    given = move if all_told else {id_: common(served[id_], move[id_]) for id_ in move}
    _stand(connection, stand)
    begun = {id_: labels for id_, labels in given.items() if labels != served[id_]}
    _begin(connection, begun)
    is_moving = bool(begun) or any(row.next_labels is not None for row in rows)
    return Serving({**served, **stand, **given}, given != move, is_moving)


def _stand(connection: Connection, labels: Mapping[str, OwnerLabels]) -> None:
    """Note what owners see who were told nothing so far."""
    if labels:
        connection.execute(
            _STAND,
            {
                "user_ids": list(labels),
                "labels": [json.dumps(stored_labels(of_owner)) for of_owner in labels.values()],
            },
        )


def _begin(connection: Connection, moves: Mapping[str, OwnerLabels]) -> None:
    for user_id, labels in moves.items():
        connection.execute(_BEGIN, {"user_id": user_id, "labels": stored_labels(labels)})


_IS_WAITING = sa.text(
    "SELECT EXISTS (SELECT FROM webhooks_event e"
    f" WHERE sequence IS NULL AND {quarantine.DATASET_GOES_ON})"
)
# That somebody's rights may have changed, as SQL.
IS_NOTED = "EXISTS (SELECT FROM webhooks_right WHERE sequence IS NULL)"
_IS_NOTED = sa.text(f"SELECT {IS_NOTED}")
# One number for all, higher than that of any event that was told so far.
_NUMBER_UNDER_LOCK = sa.text(
    f"""{BEGIN} {write.LOCK}
    WITH number AS MATERIALIZED (SELECT nextval('webhooks_event_order') AS next WHERE {IS_NOTED})
    UPDATE webhooks_right r SET sequence = number.next FROM number
    WHERE r.sequence IS NULL
    RETURNING r.user_id IS NULL OR EXISTS (
        SELECT FROM webhooks w WHERE w.user_id = r.user_id AND w.state = 'active') AS has_webhooks
    """
)
# What was noted so far; a number is given under the lock.
_NOTES = sa.text(
    f"""
    SELECT array_agg(id) FILTER (WHERE sequence IS NULL) AS ids,
           coalesce((SELECT max(sequence) FROM webhooks_right), 0) AS number,
           EXISTS (SELECT FROM webhooks_event e
                   WHERE sequence IS NULL AND {quarantine.DATASET_GOES_ON}) AS is_waiting
    FROM webhooks_right WHERE sequence IS NULL
    """
)
# And whether anything was noted since.
_OWNERS = sa.text(
    """
    WITH noted AS MATERIALIZED (
        SELECT user_id FROM webhooks_right
        WHERE (sequence IS NULL OR sequence > :number)
            AND id <> ALL(CAST(:notes AS bigint[])))
    SELECT user_id, s.labels, s.next_labels, EXISTS (
               SELECT FROM noted WHERE noted.user_id = w.user_id OR noted.user_id IS NULL
           ) AS is_noted
    FROM (SELECT DISTINCT user_id FROM webhooks WHERE state = 'active') w
        LEFT JOIN webhooks_served s USING (user_id)
    """
)
_STAND = sa.text(
    """
    INSERT INTO webhooks_served (user_id, labels)
    SELECT user_id, CAST(labels AS jsonb)
    FROM unnest(CAST(:user_ids AS text[]), CAST(:labels AS text[])) AS new(user_id, labels)
    ON CONFLICT (user_id) DO NOTHING
    """
)
_BEGIN = sa.text(
    """
    UPDATE webhooks_served
    SET next_labels = :labels, cursor = '',
        since = (SELECT coalesce(max(sequence), 0) FROM webhooks_event)
    WHERE user_id = :user_id
    """
).bindparams(sa.bindparam("labels", type_=JSONB))
