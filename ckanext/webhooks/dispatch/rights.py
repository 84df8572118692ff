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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from .. import difference, owners, quarantine, wellformed
from ..apart import apart
from ..model import Kind, Origin, State, connected, in_transaction
from ..model.base import BEGIN, array, may_be_of_one
from ..visibility import ALL, OwnerLabels, common, may_see, owner_labels, stored_labels
from . import write
from .events import Event

# Datasets per transaction, and events that it writes under the lock: some 100 ms. One dataset
# is never divided.
PAGE = 500
MAX_ROWS = 250
# Datasets that are tried in halves where a page fails.
_APART = 50
# Higher than that of any event: PostgreSQL's largest.
_ANY_NUMBER = 2**63 - 1

Result = TypeVar("Result")


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


def move_on() -> int:
    """Begin the moves that were noted, and move one owner by a page of datasets.

    :returns: how many moves are under way; 0 when there is nothing to do
    """
    with connected() as connection:
        if connection.execute(_IS_NOTED).scalar_one():
            under_reading(_notice_noted)
        if not _moves(connection.execute(_MOVES)):
            return 0
    try:
        return _move_first()
    except Exception as error:
        if not may_be_of_one(error):
            raise
    _move_apart()
    return 1


def _notice_noted(reading: Reading) -> None:
    with connected() as connection, in_transaction(connection, _NUMBER_UNDER_LOCK) as noted:
        if any(row.has_webhooks for row in noted):
            notice(connection, reading, is_all_told(connection))


def settle(
    connection: Connection, serving: Serving, dataset_ids: Sequence[str], numbers: write.Numbers
) -> None:
    """Tell owners who are being moved what that means for some datasets, which changed.

    :param numbers: for what they are told
    """
    for move in _moves(connection.execute(_MOVES)) if serving.is_moving else ():
        _tell_some(connection, move, dataset_ids, numbers)


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


def _move_first() -> int:
    """Move the first of those who are being moved by a page of datasets."""
    has_ended = False
    with connected() as connection, in_transaction(connection, _MOVES_UNDER_LOCK) as rows:
        moves = _moves(rows)
        if moves:
            has_ended = _move_page(connection, moves[0])
    if has_ended:
        # What was noted meanwhile of who was on the way.
        notice_rights()
    return len(moves)


def _move_page(connection: Connection, move: _Move) -> bool:
    """:returns: whether that was the last page"""
    page = connection.execute(_PAGE, {**_bounds(move), "count": PAGE}).all()
    told = _tell(connection, move, page, write.numbers(connection))
    if told == PAGE or told < len(page):
        _go_on(connection, move, page[told - 1].dataset_id)
        return False
    connection.execute(_END, {"user_id": move.user_id})
    return True


def _go_on(connection: Connection, move: _Move, cursor: str) -> None:
    connection.execute(_GO_ON, {"user_id": move.user_id, "cursor": cursor})


def _move_apart() -> None:
    """Tell what a move means for datasets that failed as a whole; put aside which fail alone."""
    with connected() as connection:
        moves = _moves(connection.execute(_MOVES))
        if not moves:
            return
        ids = connection.execute(_IDS, {**_bounds(moves[0]), "count": _APART}).scalars().all()
    apart(ids, partial(_move_some, moves[0]), partial(_put_aside, moves[0]), may_be_of_one)


def _move_some(move: _Move, dataset_ids: Sequence[str]) -> None:
    with _moving(move) as (connection, now):
        if now is not None:
            _tell_some(connection, now, dataset_ids, write.numbers(connection))
            _go_on(connection, now, dataset_ids[-1])


def _put_aside(move: _Move, dataset_id: str, error: Exception) -> None:
    with _moving(move) as (connection, now):
        if now is not None:
            quarantine.put_aside(
                connection,
                Kind.RIGHTS,
                f"{move.user_id} {dataset_id}",
                error,
                dataset_id=dataset_id,
                user_id=move.user_id,
                labels=stored_labels(move.labels),
            )
            _go_on(connection, now, dataset_id)


@contextmanager
def _moving(move: _Move) -> Iterator[tuple[Connection, _Move | None]]:
    """Give a move as it is now, under the lock; None where another worker has ended it."""
    with connected() as connection, in_transaction(connection, _MOVES_UNDER_LOCK) as rows:
        same = (now for now in _moves(rows) if replace(now, cursor=move.cursor) == move)
        yield connection, next(same, None)


def tell_aside(aside: Any) -> None:
    """Tell what was put aside of a move: what the user was told under then, and is now.

    :param aside: a row of ``webhooks_quarantine``
    """
    values = {"user_id": aside.user_id}
    with connected() as connection, in_transaction(connection, _SERVED_UNDER_LOCK, values) as rows:
        for served in rows:
            now = served.labels if served.next_labels is None else served.next_labels
            move = _Move(
                aside.user_id, owner_labels(aside.labels), owner_labels(now), _ANY_NUMBER, ""
            )
            ids = {"ids": [aside.dataset_id]}
            seen = connection.execute(_ONE, {**_bounds(move), **ids}).all()
            _tell(connection, move, seen, write.numbers(connection))
        write.hold_from(connection, aside.dataset_id, aside.sequence)
        quarantine.release(connection, [aside.id])


def _bounds(move: _Move) -> dict[str, Any]:
    """Give what tells the datasets that a move may be about, in the database."""
    if move.labels is ALL or move.next_labels is ALL:
        moved = None
    else:
        moved = sorted(set(move.labels) ^ set(move.next_labels))
    return {
        "user_id": move.user_id,
        "cursor": move.cursor,
        "since": move.since,
        "moved": moved,
        "signs": array(wellformed.SIGNS),
    }


def _tell_some(
    connection: Connection, move: _Move, dataset_ids: Sequence[str], numbers: write.Numbers
) -> None:
    seen = connection.execute(_SOME, {**_bounds(move), "ids": list(dataset_ids)}).all()
    while seen:
        seen = seen[_tell(connection, move, seen, numbers) :]


def _tell(connection: Connection, move: _Move, seen: Sequence[Any], numbers: write.Numbers) -> int:
    """Tell an owner the difference that a move makes for some datasets.

    :returns: for how many of them: the first, as many as are written at once
    """
    events: list[Event] = []
    count = 0
    for row in seen:
        if len(events) >= MAX_ROWS:
            break
        events += _events(row, move, numbers.now)
        count += 1
    if events:
        numbers.give(events)
        write.write_events(connection, events)
        write.write(connection, _pairs(events, move.user_id))
    return count


def _pairs(events: Iterable[Event], user_id: str) -> Iterator[dict[str, Any]]:
    for event in events:
        before, after = event.row["labels_before"], event.row["labels"]
        pair = write.pair(event, user_id, before is not None, after is not None)
        if pair:
            yield pair


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
_MOVES = sa.text(
    """
    SELECT user_id, labels, next_labels, since, cursor FROM webhooks_served
    WHERE next_labels IS NOT NULL ORDER BY user_id
    """
)
_MOVES_UNDER_LOCK = sa.text(f"{BEGIN} {write.LOCK} {_MOVES}")
_SERVED_UNDER_LOCK = sa.text(
    f"""{BEGIN} {write.LOCK}
    SELECT labels, next_labels FROM webhooks_served WHERE user_id = :user_id
    """
)
_GO_ON = sa.text("UPDATE webhooks_served SET cursor = :cursor WHERE user_id = :user_id")
_END = sa.text(
    """
    UPDATE webhooks_served
    SET labels = next_labels, next_labels = NULL, since = NULL, cursor = NULL
    WHERE user_id = :user_id
    """
)
# Datasets that were told before the move began: those that the log has told since were
# moved then.
_WHERE = """WHERE e.version IS NOT NULL AND e.sequence <= :since AND e.dataset_id > :cursor
        AND e.labels IS NOT NULL
        AND (CAST(:moved AS text[]) IS NULL OR e.labels && CAST(:moved AS text[]))
        AND NOT EXISTS (
            SELECT FROM webhooks_event newer
            WHERE newer.dataset_id = e.dataset_id AND newer.version > e.version
                AND newer.sequence IS NOT NULL)"""
# The newest state of each. PostgreSQL may be unable to read what an earlier
# version kept. What is a resource is for difference.resources, as here.
_SEEN = f"""
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
    {_WHERE}
"""
# What was put aside of the user's moves is told later, from what was told before it.
_GOES_ON = """NOT EXISTS (
    SELECT FROM webhooks_quarantine q
    WHERE q.kind = 'rights' AND q.key = CAST(:user_id AS text) || ' ' || e.dataset_id)"""
_IS_ONE_OF = "e.dataset_id = ANY(CAST(:ids AS text[]))"
_PAGE = sa.text(f"{_SEEN} AND {_GOES_ON} ORDER BY e.dataset_id LIMIT :count")
_SOME = sa.text(f"{_SEEN} AND {_GOES_ON} AND {_IS_ONE_OF} ORDER BY e.dataset_id")
_ONE = sa.text(f"{_SEEN} AND {_IS_ONE_OF}")
# Without content, which may be what fails.
_IDS = sa.text(
    f"""
    SELECT e.dataset_id FROM webhooks_event e {_WHERE} AND {_GOES_ON}
    ORDER BY e.dataset_id LIMIT :count
    """
)
