"""Moving owners to the labels that they have now: what that adds and takes is told.

An owner who joins an organization is told its datasets as creates, and as
deletes when leaving it, though no dataset changed. That is a *move* from the
labels that the owner was served under to those that CKAN gives now. It goes
through the newest state of each dataset in pages, each a transaction of its
own, so that a sysadmin's 100,000 datasets make nobody else wait; datasets
that change meanwhile are moved first.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import difference, quarantine, wellformed
from ..apart import apart
from ..model import Kind, Origin, State, connected, in_transaction
from ..model.base import BEGIN, array, may_be_of_one
from ..visibility import ALL, OwnerLabels, may_see, owner_labels, stored_labels
from . import rights, write
from .events import Event

# Datasets per transaction, and events that it writes under the lock: some 100 ms. One dataset
# is never divided.
PAGE = 500
MAX_ROWS = 250
# Datasets that are tried in halves where a page fails.
_APART = 50
# Higher than that of any event: PostgreSQL's largest.
_ANY_NUMBER = 2**63 - 1


@dataclass(frozen=True)
class _Move:
    """An owner on the way from some labels to others; see ``model.Served``."""

    user_id: str
    labels: OwnerLabels
    next_labels: OwnerLabels
    since: int
    cursor: str


def move_on() -> int:
    """Begin the moves that were noted, and move one owner by a page of datasets.

    :returns: how many moves are under way; 0 when there is nothing to do
    """
    rights.notice_noted()
    with connected() as connection:
        if not connection.execute(_MOVES).all():
            return 0
    try:
        return _move_first()
    except Exception as error:
        if not may_be_of_one(error):
            raise
    if not rights.put_aside_unservable():
        _move_apart()
    return 1


def settle(
    connection: Connection,
    serving: rights.Serving,
    dataset_ids: Sequence[str],
    numbers: write.Numbers,
) -> None:
    """Tell owners who are being moved what that means for some datasets, which changed.

    :param numbers: for what they are told
    """
    for move in _moves(connection.execute(_MOVES)) if serving.is_moving else ():
        _tell_some(connection, move, dataset_ids, numbers)


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
        rights.notice_rights()
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


def take_in(connection: Connection, user_id: str) -> None:
    """Have a move that is under way take in what was told while nobody told its owner."""
    connection.execute(_TAKE_IN, {"user_id": user_id})


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
        write.write(connection, events, _pairs(events, move.user_id))
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
    for entity in entities(seen):
        yield event(seen, entity, move.user_id, now, before, after)


def newest(connection: Connection, dataset_ids: Iterable[str]) -> dict[str, Any]:
    """Give the newest state that was told of each of some datasets, if somebody may see it."""
    bounds = {
        "cursor": "",
        "since": _ANY_NUMBER,
        "moved": None,
        "signs": array(wellformed.SIGNS),
        "user_id": None,
    }
    seen = connection.execute(_ONE, {**bounds, "ids": list(dataset_ids)})
    return {row.dataset_id: row for row in seen}


def entities(seen: Any) -> list[tuple[str, str]]:
    """Give type and id of a dataset and its resources.

    :param seen: a row of :func:`newest`
    """
    # Whatever a plugin shows, an entity is told once.
    resources = [("resource", id_) for id_ in dict.fromkeys(_resource_ids(seen))]
    return [("dataset", seen.dataset_id), *resources]


def event(
    seen: Any, entity: tuple[str, str], user_id: str, now: Any, before: bool, after: bool
) -> Event:
    """Give the event that tells one user of a state that was told before.

    :param seen: the state: a row of :func:`newest`
    :param entity: type and id
    :param before, after: the user knew it before; is to know it after it
    """
    entity_type, entity_id = entity
    known = seen.facets
    if seen.may_be_unread and not after:
        known = {**known, "dataset": [seen.dataset_id, None]}
    return Event(
        {
            "id": str(uuid.uuid4()),
            "origin": Origin.RIGHTS.value,
            "user_id": user_id,
            "entity_type": entity_type,
            "entity_id": entity_id,
            "dataset_id": seen.dataset_id,
            "source_id": seen.id,
            "state": (State.ACTIVE if after else State.HIDDEN).value,
            "labels_before": seen.labels if before else None,
            "labels": seen.labels if after else None,
            "facets_before": known,
            "facets": known,
            "occurred_at": now,
            "captured_at": now,
            # What the user knew last may be any state before it.
            "changed": None if before and after else [],
            "content": None,
        },
        is_new=True,
    )


def _resource_ids(seen: Any) -> list[str]:
    if seen.odd_content is None:
        return list(seen.resource_ids)
    return [r["id"] for r in difference.resources(wellformed.loads(seen.odd_content))]


_MOVES = sa.text(
    f"""
    SELECT user_id, labels, next_labels, since, cursor FROM webhooks_served s
    WHERE next_labels IS NOT NULL AND EXISTS (
        SELECT FROM webhooks w WHERE w.user_id = s.user_id AND {quarantine.WEBHOOK_GOES_ON})
    ORDER BY user_id
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
_TAKE_IN = sa.text(
    """
    UPDATE webhooks_served SET since = (SELECT coalesce(max(sequence), 0) FROM webhooks_event)
    WHERE user_id = :user_id AND next_labels IS NOT NULL
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
# The newest state of each. One that was told while a change of the user's rights was noted and
# had no number yet may have come after that change: the user may never have read what it is
# called. PostgreSQL may be unable to read what an earlier version kept. What is a resource is for
# difference.resources, as here.
_SEEN = f"""
    SELECT e.id, e.dataset_id, e.labels, e.facets,
           CAST(:user_id AS text) IS NOT NULL AND EXISTS (
               SELECT FROM webhooks_right r
               WHERE (r.user_id = CAST(:user_id AS text) OR r.user_id IS NULL)
                   AND (r.sequence IS NULL OR r.sequence > e.sequence)
                   AND r.noted_at <= e.dispatched_at) AS may_be_unread,
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
