"""Under which labels each owner is told, and what it means when these change.

An owner who joins an organization is told its datasets as creates, and as
deletes when leaving it, though no dataset changed. That is a *move* from the
labels that the owner was served under to those that CKAN gives now. It goes
through the newest state of each dataset in pages, each a transaction of its
own, so that a sysadmin's 100,000 datasets make nobody else wait; datasets
that change meanwhile are moved first.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from .. import difference, owners, wellformed
from ..model import Origin, State, connected, in_transaction
from ..model.base import BEGIN, array
from ..visibility import ALL, OwnerLabels, common, may_see, owner_labels, stored_labels
from . import write
from .events import Event

# Datasets per transaction: some ten thousand rows where each has many resources.
PAGE = 500


@dataclass(frozen=True)
class _Move:
    """An owner on the way from some labels to others; see ``model.Served``."""

    user_id: str
    labels: OwnerLabels
    next_labels: OwnerLabels
    since: int
    cursor: str


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


def notice_rights() -> None:
    """Begin to move the owners whose labels are not those they were told under."""
    with connected() as connection, in_transaction(connection, _NUMBER_UNDER_LOCK):
        notice(connection, is_all_told(connection))


def move_on() -> int:
    """Begin the moves that were noted, and move one owner by a page of datasets.

    :returns: how many moves are under way; 0 when there is nothing to do
    """
    with connected() as connection:
        if connection.execute(_IS_NOTED).scalar_one():
            with in_transaction(connection, _NUMBER_UNDER_LOCK) as noted:
                if any(row.has_webhooks for row in noted):
                    notice(connection, is_all_told(connection))
        if not _moves(connection.execute(_MOVES)):
            return 0
        with in_transaction(connection, _MOVES_UNDER_LOCK) as rows:
            moves = _moves(rows)
            if moves:
                _move_page(connection, moves[0])
    return len(moves)


def settle(connection: Connection, dataset_ids: Sequence[str], numbers: write.Numbers) -> Serving:
    """Say under which labels each owner is told of changes of some datasets.

    Owners who are being moved are first told what that means for these.

    :param numbers: for what they are told
    """
    serving = notice(connection, all_told=False)
    for move in _moves(connection.execute(_MOVES)) if serving.is_moving else ():
        seen = connection.execute(_SOME, {**_bounds(move), "ids": list(dataset_ids)}).all()
        _tell(connection, move, seen, numbers)
    return serving


def is_all_told(connection: Connection) -> bool:
    return not connection.execute(_IS_WAITING).scalar_one()


def notice(connection: Connection, all_told: bool) -> Serving:
    """Begin the moves that are due.

    Who has gained a right may not be told what was captured before: that may have
    been mended first, in order to be shown. So while something waits to be told,
    rights are taken alone, and given when everything is told.

    Whose labels cannot be read is told under those of before: whether that may be
    sent is asked again then.

    :param all_told: nothing waits
    """
    rows = connection.execute(_OWNERS).all()
    # Owners who may not subscribe any more are paused by the sweep; until
    # then nothing is written for them.
    standing = {
        user_id: owner
        for user_id, owner in owners.standing(row.user_id for row in rows).items()
        if owner.may_subscribe
    }
    served = {
        row.user_id: owner_labels(row.labels if row.next_labels is None else row.next_labels)
        for row in rows
        if row.labels is not None and row.user_id in standing
    }
    moving = {row.user_id for row in rows if row.next_labels is not None}
    changed = [
        user_id
        for user_id, owner in standing.items()
        if user_id not in moving
        and owner.labels is not None
        and served.get(user_id) != owner.labels
    ]
    # Another worker may have asked CKAN later than this one.
    owners.forget(changed)
    now = {
        user_id: owner.labels
        for user_id, owner in owners.standing(changed).items()
        if owner.labels is not None
    }
    stand = {id_: labels for id_, labels in now.items() if id_ not in served}
    move = {id_: labels for id_, labels in now.items() if id_ in served}
    given = move if all_told else {id_: common(served[id_], move[id_]) for id_ in move}
    _stand(connection, stand)
    begun = {id_: labels for id_, labels in given.items() if labels != served[id_]}
    _begin(connection, begun)
    return Serving({**served, **stand, **given}, given != move, bool(moving or begun))


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


def _moves(rows: Iterable[Any]) -> list[_Move]:
    return [
        _Move(
            row.user_id,
            owner_labels(row.labels),
            owner_labels(row.next_labels),
            row.since,
            row.cursor,
        )
        for row in rows
    ]


def _move_page(connection: Connection, move: _Move) -> None:
    page = connection.execute(_PAGE, {**_bounds(move), "count": PAGE}).all()
    _tell(connection, move, page, write.numbers(connection))
    if len(page) == PAGE:
        values = {"user_id": move.user_id, "cursor": page[-1].dataset_id}
        connection.execute(_GO_ON, values)
    else:
        connection.execute(_END, {"user_id": move.user_id})
        # What was noted meanwhile of who was on the way.
        notice(connection, is_all_told(connection))


def _bounds(move: _Move) -> dict[str, Any]:
    """Give what tells the datasets that a move may be about, in the database."""
    if move.labels is ALL or move.next_labels is ALL:
        moved = None
    else:
        moved = sorted(set(move.labels) ^ set(move.next_labels))
    signs = array(wellformed.SIGNS)
    return {"cursor": move.cursor, "since": move.since, "moved": moved, "signs": signs}


def _tell(connection: Connection, move: _Move, seen: Sequence[Any], numbers: write.Numbers) -> None:
    """Tell an owner the difference that a move makes for some datasets."""
    events = [event for row in seen for event in _events(row, move, numbers.now)]
    if not events:
        return
    numbers.give(events)
    write.write_events(connection, events)
    pairs = (
        write.pair(
            event,
            move.user_id,
            event.row["labels_before"] is not None,
            event.row["labels"] is not None,
        )
        for event in events
    )
    write.write_deliveries(connection, (pair for pair in pairs if pair))


def _events(seen: Any, move: _Move, now: Any) -> Iterator[Event]:
    before = may_see(seen.labels, move.labels)
    after = may_see(seen.labels, move.next_labels)
    if before == after:
        return
    # Whatever a plugin shows, an entity is told once.
    resources = [("resource", id_) for id_ in dict.fromkeys(_resource_ids(seen))]
    entities = [("dataset", seen.dataset_id), *resources]
    for entity_type, entity_id in entities:
        yield Event(
            {
                "id": str(uuid.uuid4()),
                "origin": Origin.RIGHTS.value,
                "user_id": move.user_id,
                "entity_type": entity_type,
                "entity_id": entity_id,
                "dataset_id": seen.dataset_id,
                "source_id": seen.id,
                "state": (State.ACTIVE if after else State.HIDDEN).value,
                "labels_before": seen.labels if before else None,
                "labels": seen.labels if after else None,
                "facets_before": seen.facets,
                "facets": seen.facets,
                "occurred_at": now,
                "captured_at": now,
                "changed": [],
                "content": None,
            },
            is_new=True,
        )


def _resource_ids(seen: Any) -> list[str]:
    if seen.odd_content is None:
        return list(seen.resource_ids)
    return [r["id"] for r in difference.resources(wellformed.loads(seen.odd_content))]


_IS_WAITING = sa.text("SELECT EXISTS (SELECT FROM webhooks_event WHERE sequence IS NULL)")
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
_OWNERS = sa.text(
    """
    SELECT user_id, s.labels, s.next_labels
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
_MOVES = sa.text(
    """
    SELECT user_id, labels, next_labels, since, cursor FROM webhooks_served
    WHERE next_labels IS NOT NULL ORDER BY user_id
    """
)
_MOVES_UNDER_LOCK = sa.text(f"{BEGIN} {write.LOCK} {_MOVES}")
_GO_ON = sa.text("UPDATE webhooks_served SET cursor = :cursor WHERE user_id = :user_id")
_END = sa.text(
    """
    UPDATE webhooks_served
    SET labels = next_labels, next_labels = NULL, since = NULL, cursor = NULL
    WHERE user_id = :user_id
    """
)
# The newest state of datasets that were told before the move began: those that
# the log has told since were moved then. PostgreSQL may be unable to read what an earlier
# version kept. What is a resource is for difference.resources, as here.
_SEEN = """
    SELECT e.id, e.dataset_id, e.labels, e.facets,
           CASE WHEN is_odd THEN e.content END AS odd_content,
           CASE WHEN NOT is_odd THEN ARRAY(
               SELECT resource ->> 'id'
               FROM (SELECT CAST(e.content AS jsonb) -> 'resources' AS shown
                     OFFSET 0) dataset,
                   jsonb_array_elements(
                       CASE jsonb_typeof(shown) WHEN 'array' THEN shown END) resource
               WHERE jsonb_typeof(resource -> 'id') = 'string')
           END AS resource_ids
    FROM webhooks_event e, LATERAL (
        SELECT EXISTS (SELECT FROM unnest(CAST(:signs AS text[])) sign
                       WHERE strpos(e.content, sign) > 0) AS is_odd) content
    WHERE e.version IS NOT NULL AND e.sequence <= :since AND e.dataset_id > :cursor
        AND e.labels IS NOT NULL
        AND (CAST(:moved AS text[]) IS NULL OR e.labels && CAST(:moved AS text[]))
        AND NOT EXISTS (
            SELECT FROM webhooks_event newer
            WHERE newer.dataset_id = e.dataset_id AND newer.version > e.version
                AND newer.sequence IS NOT NULL)
"""
_PAGE = sa.text(f"{_SEEN} ORDER BY e.dataset_id LIMIT :count")
_SOME = sa.text(f"{_SEEN} AND e.dataset_id = ANY(CAST(:ids AS text[])) ORDER BY e.dataset_id")
