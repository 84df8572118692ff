"""The books: what was committed, what was told of it, what arrived. No I/O.

What should be told is computed here anew, by the table of who may see what, from the
marks that PostgreSQL itself left in each transaction: nothing is taken from the
software that is judged.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# A dataset as a transaction left it: state, private, owner_org, digest of the rest, and
# resources, digests by id; None where it is gone.
Snapshot = Mapping[str, Any] | None


class Mark(NamedTuple):
    """A committed transaction that wrote to a dataset; ``at`` is by PostgreSQL's clock."""

    transaction: int
    dataset: str
    at: float
    after: Snapshot


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
    """

    webhook: str
    topics: str
    organizations: Collection[str] | None


class Delivery(NamedTuple):
    webhook: str
    event: str
    topic: str
    status: str
    reason: str | None


class Receipt(NamedTuple):
    """A request that came to the receiver; ``at`` is by this machine's clock.

    :ivar acted: the receiver did what it was asked to
    :ivar cut: and then the connection was cut, before it could say so
    :ivar wrong: what is wrong with it, empty where nothing is
    """

    webhook: str
    event: str
    at: float
    acted: bool
    cut: bool
    wrong: str


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
    events: Sequence[Event],
    subscribers: Sequence[Subscriber],
    deliveries: Sequence[Delivery],
    receipts: Sequence[Receipt],
    disturbances: Sequence[Disturbance],
) -> Balance:
    """Compare the books of a run that has come to rest."""
    changes = told(marks, events)
    missing, extra = compare_deliveries(changes.told, events, subscribers, deliveries)
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
    wanted = Counter(
        (change.event, subscriber.webhook, entity, topic)
        for change in changes
        for subscriber in subscribers
        for entity, topic in expected(change, by_id[change.event].dataset, subscriber)
    )
    there = Counter(
        (event.source or event.id, delivery.webhook, event.entity, delivery.topic)
        for delivery in deliveries
        for event in [by_id[delivery.event]]
    )
    return (
        [" ".join(key) for key in (wanted - there).elements()],
        [" ".join(key) for key in (there - wanted).elements()],
    )


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
