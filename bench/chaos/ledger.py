"""The books: what was committed, what was told of it, what arrived. No I/O.

What should be told is computed here anew, by the table of who may see what, from the
marks that PostgreSQL itself left in each transaction: nothing is taken from the
software that is judged.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# A dataset as a transaction left it: state, private, owner_org, digest of the rest, and
# resources, digests by id; title, and names of resources by id; None where it is gone.
Snapshot = Mapping[str, Any] | None


class Mark(NamedTuple):
    """A committed transaction that wrote to a dataset; ``at`` is by PostgreSQL's clock."""

    transaction: int
    dataset: str
    at: float
    after: Snapshot


class Membership(NamedTuple):
    """A committed change of who is in an organization; ``at`` is by PostgreSQL's clock."""

    user: str
    organization: str
    at: float
    is_in: bool


class Event(NamedTuple):
    """A row of the log.

    :ivar transaction: that wrote it; on a resource's event None
    :ivar source: the event of its dataset, where it is a resource's
    """

    id: str
    transaction: int | None
    dataset: str
    entity: str
    source: str | None
    at: float


class Subscriber(NamedTuple):
    """A webhook: ``topics`` is one of ``*``, ``dataset/*``, ``resource/*``.

    :ivar organizations: of its owner, None for a sysadmin
    :ivar moving: id of an owner who joins and leaves organizations meanwhile. What such a
        one is told depends on when it is told; judged is what is held at the end
    """

    webhook: str
    topics: str
    organizations: Collection[str] | None
    moving: str | None = None


class Delivery(NamedTuple):
    webhook: str
    event: str
    topic: str
    status: str
    reason: str | None
    entity: str = ""


class Receipt(NamedTuple):
    """A request that came to the receiver; ``at`` is by this machine's clock.

    :ivar acted: the receiver did what it was asked to
    :ivar cut: and then the connection was cut, before it could say so
    :ivar wrong: what is wrong with it, empty where nothing is
    :ivar called: the dataset's title or the resource's name, None where content is not told
    """

    webhook: str
    event: str
    at: float
    acted: bool
    cut: bool
    wrong: str
    topic: str
    entity: str
    dataset: str
    called: str | None
    sequence: int


class Disturbance(NamedTuple):
    """What may keep an answer from being written down, or a connection from being answered."""

    name: str
    began: float
    ended: float


class Change(NamedTuple):
    """What an event had to tell: a dataset as it was last told, and as it was then."""

    event: str
    before: Snapshot
    after: Snapshot


@dataclass
class Changes:
    """Marks against events.

    :ivar lost: datasets whose last changes no event tells
    :ivar uncommitted: events for which nothing was committed
    :ivar late: seconds from each change that its own transaction did not capture to
        the event that tells it
    """

    told: list[Change] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    uncommitted: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


@dataclass
class Balance:
    """What is to be nothing, as texts, and what is counted."""

    wrong: dict[str, list[str]]
    counts: dict[str, int]
    late: list[float]
    duplicates: Counter[str]

    @property
    def balanced(self) -> bool:
        return not any(self.wrong.values())


def balance(
    marks: Sequence[Mark],
    memberships: Sequence[Membership],
    events: Sequence[Event],
    subscribers: Sequence[Subscriber],
    deliveries: Sequence[Delivery],
    receipts: Sequence[Receipt],
    disturbances: Sequence[Disturbance],
) -> Balance:
    """Compare the books of a run that has come to rest."""
    changes = told(marks, events)
    missing, extra = compare_deliveries(changes.told, events, subscribers, deliveries)
    rights = Rights(marks, memberships)
    acted = defaultdict(list)
    for receipt in sorted(receipts, key=lambda receipt: receipt.at):
        if receipt.acted:
            acted[receipt.webhook, receipt.event].append(receipt)
    duplicates = Counter(_explained(acted.values(), disturbances))
    statuses = Counter(delivery.status for delivery in deliveries)
    known = {(delivery.webhook, delivery.event) for delivery in deliveries}
    return Balance(
        wrong={
            "lost: committed, and no event tells it": changes.lost,
            "lost: an event, and no delivery to who is to be told": missing,
            "lost: said to be delivered, and never arrived": [
                f"{d.event} for {d.webhook}"
                for d in deliveries
                if d.status == "delivered" and (d.webhook, d.event) not in acted
            ],
            "told, and never committed": changes.uncommitted,
            "delivered to who is not to be told, or twice in the tables": extra,
            "arrived, and nothing of it in the tables": [
                f"{event} at {webhook}" for webhook, event in acted if (webhook, event) not in known
            ],
            "arrived, and wrong": [
                f"{r.event} at {r.webhook}: {r.wrong}" for r in receipts if r.wrong
            ],
            "arrived at who could never read it": [
                found for subscriber in subscribers for found in leaks(rights, subscriber, receipts)
            ],
            "held at the end, and not what its owner may see": [
                found
                for subscriber in subscribers
                for found in differences(rights, subscriber, deliveries, receipts)
            ],
            "neither delivered nor ended with a reason": [
                f"{d.event} for {d.webhook} is {d.status}"
                for d in deliveries
                if d.status != "delivered" and not (d.status in ENDED and d.reason)
            ],
            "arrived twice without an explanation": [
                pair for pair in duplicates.elements() if pair.startswith(UNEXPLAINED)
            ],
        },
        counts={
            "committed changes": sum(1 for _ in _amounting(marks)),
            "changes of memberships": len(memberships),
            "changes of odd datasets": sum(
                mark.after is not None and mark.after["title"].startswith("odd-") for mark in marks
            ),
            "events": len(events),
            "deliveries": len(deliveries),
            **{status: statuses[status] for status in sorted(statuses)},
            "requests": len(receipts),
            "duplicates": sum(duplicates.values()),
        },
        late=changes.late,
        duplicates=duplicates,
    )


ENDED = ("failed", "cancelled")


# --- marks against events


def told(marks: Sequence[Mark], events: Sequence[Event]) -> Changes:
    """Say what each event of a dataset had to tell.

    What a transaction could not capture is told by the next event of that dataset,
    its own or one of a worker that found it: that one tells the net change.
    """
    of_dataset: dict[str, list[tuple[float, Mark | None, str | None]]] = defaultdict(list)
    own = {(e.transaction, e.dataset): e for e in events if e.source is None}
    for mark in marks:
        event = own.pop((mark.transaction, mark.dataset), None)
        of_dataset[mark.dataset].append((mark.at, mark, event.id if event else None))
    for found in own.values():
        of_dataset[found.dataset].append((found.at, None, found.id))
    changes = Changes()
    for dataset, line in of_dataset.items():
        _walk(dataset, sorted(line, key=lambda item: item[0]), changes)
    return changes


def _walk(
    dataset: str, line: Iterable[tuple[float, Mark | None, str | None]], changes: Changes
) -> None:
    last: Snapshot = None
    now: Snapshot = None
    missed: list[float] = []
    is_committed = False
    for at, mark, event in line:
        earlier, now = now, mark.after if mark is not None else now
        is_committed = is_committed or mark is not None
        if event is None:
            if amounts(earlier, now):
                missed.append(at)
            continue
        if not is_committed:
            changes.uncommitted.append(event)
        changes.told.append(Change(event, last, now))
        changes.late += [at - earlier_at for earlier_at in missed]
        last, missed, is_committed = now, [], False
    if amounts(last, now):
        changes.lost.append(dataset)


def amounts(before: Snapshot, after: Snapshot) -> bool:
    """Tell whether somebody is to be told of a change: a sysadmin sees all that is active."""
    seen = [snapshot for snapshot in (before, after) if sees(None, snapshot)]
    return bool(seen) and before != after


def _amounting(marks: Iterable[Mark]) -> Iterator[Mark]:
    now: dict[str, Snapshot] = {}
    for mark in sorted(marks, key=lambda mark: mark.at):
        if amounts(now.get(mark.dataset), mark.after):
            yield mark
        now[mark.dataset] = mark.after


# --- events against deliveries


def sees(organizations: Collection[str] | None, dataset: Snapshot) -> bool:
    """Apply the rule by which CKAN shows datasets."""
    if dataset is None or dataset["state"] != "active":
        return False
    return organizations is None or not dataset["private"] or dataset["owner_org"] in organizations


def expected(change: Change, dataset: str, subscriber: Subscriber) -> Iterator[tuple[str, str]]:
    """Give the entity and the topic of all that a subscriber is to be told of a change."""
    before = change.before if sees(subscriber.organizations, change.before) else None
    after = change.after if sees(subscriber.organizations, change.after) else None
    resources = (before or {}).get("resources", {}), (after or {}).get("resources", {})
    told_of = [("dataset", dataset, before, after)]
    told_of += [
        ("resource", id_, resources[0].get(id_), resources[1].get(id_))
        for id_ in resources[0].keys() | resources[1].keys()
    ]
    for kind, id_, was, is_ in told_of:
        topic = f"{kind}/{_verb(was, is_)}"
        if was != is_ and subscriber.topics in ("*", f"{kind}/*"):
            yield id_, topic


def _verb(before: object, after: object) -> str:
    if before is None:
        return "create"
    return "delete" if after is None else "update"


def compare_deliveries(
    changes: Iterable[Change],
    events: Iterable[Event],
    subscribers: Sequence[Subscriber],
    deliveries: Iterable[Delivery],
) -> tuple[list[str], list[str]]:
    """Give the deliveries that are missing, and those that should not be there."""
    by_id = {event.id: event for event in events}
    moving = {subscriber.webhook for subscriber in subscribers if subscriber.moving}
    wanted = Counter(
        (change.event, subscriber.webhook, entity, topic)
        for change in changes
        for subscriber in subscribers
        if not subscriber.moving
        for entity, topic in expected(change, by_id[change.event].dataset, subscriber)
    )
    there = Counter(
        (event.source or event.id, delivery.webhook, event.entity, delivery.topic)
        for delivery in deliveries
        if delivery.webhook not in moving
        for event in [by_id[delivery.event]]
    )
    return (
        [" ".join(key) for key in (wanted - there).elements()],
        [" ".join(key) for key in (there - wanted).elements()],
    )


# --- receipts against what could be read

# A transaction leaves its mark so long (seconds) before others see it, on a slow database.
VISIBLE_WITHIN = 2.0


class Rights:
    """Which version of a dataset was there when, and who was in which organization."""

    def __init__(self, marks: Iterable[Mark], memberships: Iterable[Membership]) -> None:
        self.versions: dict[str, list[Mark]] = defaultdict(list)
        for mark in sorted(marks, key=lambda mark: mark.at):
            self.versions[mark.dataset].append(mark)
        self._moves: dict[str, list[Membership]] = defaultdict(list)
        for membership in sorted(memberships, key=lambda membership: membership.at):
            self._moves[membership.user].append(membership)

    def organizations(
        self, subscriber: Subscriber, since: float = math.inf, until: float = math.inf
    ) -> list[Collection[str] | None]:
        """Give the organizations of an owner at each moment of a time; by default at the end."""
        if subscriber.moving is None:
            return [subscriber.organizations]
        found: list[Collection[str] | None] = []
        now = frozenset[str]()
        for move in self._moves[subscriber.moving]:
            if move.at > until:
                break
            if move.at > since:
                found.append(now)
            now = now | {move.organization} if move.is_in else now - {move.organization}
        return [*found, now]


def leaks(rights: Rights, subscriber: Subscriber, receipts: Iterable[Receipt]) -> Iterator[str]:
    """Name what a subscriber got of versions that its owner could read at no time."""
    for receipt in receipts:
        if receipt.webhook != subscriber.webhook or receipt.called is None:
            continue
        line = rights.versions.get(receipt.dataset, [])
        ends = [*(mark.at for mark in line[1:]), math.inf]
        if not any(
            sees(organizations, mark.after)
            for mark, end in zip(line, ends, strict=False)
            if _called(receipt, mark.after) == receipt.called
            for organizations in rights.organizations(
                subscriber, mark.at - VISIBLE_WITHIN, end + VISIBLE_WITHIN
            )
        ):
            yield f"{receipt.event} at {receipt.webhook}: {receipt.topic} {receipt.called}"


def _called(receipt: Receipt, dataset: Snapshot) -> str | None:
    if dataset is None:
        return None
    if receipt.topic.startswith("dataset/"):
        return str(dataset["title"])
    name = dataset["names"].get(receipt.entity)
    return None if name is None else str(name)


def differences(
    rights: Rights,
    subscriber: Subscriber,
    deliveries: Iterable[Delivery],
    receipts: Sequence[Receipt],
) -> Iterator[str]:
    """Compare what a subscriber made of what it got with what its owner may see at the end.

    What failed for good, and was not told since, it cannot know.
    """
    held = _held(subscriber, receipts)
    unknown = {
        delivery.entity
        for delivery in deliveries
        if delivery.webhook == subscriber.webhook and delivery.status == "failed"
    }
    (organizations,) = rights.organizations(subscriber)
    visible = {
        (kind, id_): called
        for dataset, line in rights.versions.items()
        if sees(organizations, line[-1].after)
        for kind, id_, called in _entities(dataset, line[-1].after)
        if subscriber.topics in ("*", f"{kind}/*")
    }
    for kind, id_ in held.keys() | visible.keys():
        has, is_ = held.get((kind, id_)), visible.get((kind, id_))
        if has != is_ and id_ not in unknown:
            yield f"{kind} {id_} at {subscriber.webhook} is {has}, and CKAN says {is_}"


def _held(subscriber: Subscriber, receipts: Iterable[Receipt]) -> dict[tuple[str, str], str]:
    """Do what a receiver does: drop of each entity what is older than what it has."""
    held: dict[tuple[str, str], str] = {}
    newest: dict[str, int] = {}
    for receipt in receipts:
        if receipt.webhook != subscriber.webhook or not receipt.acted:
            continue
        if receipt.sequence < newest.get(receipt.entity, 0):
            continue
        newest[receipt.entity] = receipt.sequence
        kind, verb = receipt.topic.split("/")
        if verb == "delete":
            held.pop((kind, receipt.entity), None)
        else:
            held[kind, receipt.entity] = str(receipt.called)
    return held


def _entities(dataset: str, snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    assert snapshot is not None
    yield "dataset", dataset, str(snapshot["title"])
    for id_, name in snapshot["names"].items():
        yield "resource", id_, str(name)


# --- what arrived twice

UNEXPLAINED = "unexplained"
# So long (seconds) after an answer may it be written down, and so long is a clock off here.
SETTLED_WITHIN = 2.0


def _explained(
    acted: Iterable[Sequence[Receipt]], disturbances: Sequence[Disturbance]
) -> Iterator[str]:
    for receipts in acted:
        for first, second in itertools.pairwise(receipts):
            yield explain(first, second, disturbances)


def explain(first: Receipt, second: Receipt, disturbances: Iterable[Disturbance]) -> str:
    """Say why a receiver acted twice: the first time's answer was lost, and by what."""
    if first.cut:
        return "the connection was cut after the receiver acted"
    for disturbance in disturbances:
        if (
            disturbance.began - SETTLED_WITHIN <= first.at <= disturbance.ended + SETTLED_WITHIN
            and second.at >= disturbance.began
        ):
            return disturbance.name
    return f"{UNEXPLAINED}: {first.event} at {first.webhook}, {second.at - first.at:.1f} s apart"


def first_after(receipts: Sequence[Receipt], at: float) -> float | None:
    """Give the seconds from a time to the first that was acted on after it."""
    after = [receipt.at for receipt in receipts if receipt.acted and receipt.at >= at]
    return min(after) - at if after else None
