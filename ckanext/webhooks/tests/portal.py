"""A small portal with users who subscribe, and the truth about what each may read.

What is asked here is asked of CKAN itself (its permission labels after each
operation, ``package_search`` and ``package_show`` at the end), never of this
extension.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model
from ckan.lib import search
from ckan.lib.plugins import get_permission_labels
from ckan.tests.helpers import call_action
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import ObjectDeletedError
from standardwebhooks import Webhook as Verifier

from .. import capture, encryption, sweep, tasks
from ..deliver import deliver_due
from ..dispatch import dispatch, notice_rights, tell_newest
from . import tables
from .mirror import Message, Mirror
from .receiver import Answer, Received, Receiver, accept

USERS = ("sysadmin", "editor", "member", "nobody", "collaborator")
ORGANIZATIONS = ("alpha", "beta")
REFUSALS = (
    tk.NotAuthorized,
    tk.ObjectNotFound,
    tk.ValidationError,
    # CKAN does not purge a dataset that has collaborators: PostgreSQL refuses it.
    IntegrityError,
    # CKAN 2.10 and 2.11 lose the extras where one transaction sets them twice.
    ObjectDeletedError,
    # CKAN 2.12's package_update counts on resources that its session has not read.
    IndexError,
)

_MARKER = re.compile(r"zq\d+zq")
_PAGE = 3
_PAGE_OF_FEED = 50
# What the labels of users stand on: to ask CKAN for them costs 5 ms a user.
_RIGHTS = sa.text(
    """
    SELECT md5(concat(
        (SELECT string_agg(concat_ws(' ', id, state, sysadmin), ',' ORDER BY id) FROM "user"),
        (SELECT string_agg(concat_ws(' ', id, state), ',' ORDER BY id) FROM "group"),
        (SELECT string_agg(concat_ws(' ', id, group_id, table_id, capacity, state), ','
                           ORDER BY id) FROM member),
        (SELECT string_agg(concat_ws(' ', user_id, package_id, capacity), ','
                           ORDER BY user_id, package_id) FROM package_member)))
    """
)


# Since before anything was told.
_EVER = "2000-01-01T00:00:00Z"
# Time passes: pauses between tries, and those of a circuit that is open.
_ALL_IS_DUE = sa.text(
    """
    UPDATE webhooks_delivery SET due_at = clock_timestamp() WHERE status = 'pending';
    UPDATE webhooks SET next_at = clock_timestamp() WHERE next_at IS NOT NULL
    """
)
# What waits to be told to a user, by what it waits for.
_WAITING = sa.text(
    """
    SELECT (SELECT count(*) FROM webhooks_event WHERE sequence IS NULL) AS dispatch,
           count(*) FILTER (WHERE d.tries = 0) AS send,
           count(*) FILTER (WHERE d.tries > 0) AS retry
    FROM webhooks_delivery d JOIN webhooks w ON w.id = d.webhook_id
        JOIN "user" u ON u.id = w.user_id
    WHERE u.name = :user AND d.status = 'pending'
    """
)
_BETWEEN = {
    "dispatch": "between a change and its dispatch",
    "send": "between dispatch and send",
    "retry": "between a failed send and its retry",
}


class Wrong(AssertionError):
    """A subscriber was told something wrong."""


class Different(Wrong):
    """A mirror is not what CKAN says."""


class Leaked(Wrong):
    """Something was sent to somebody who may not have it."""


@dataclass
class Totals:
    """What was done and found, over many portals.

    :ivar rights: when what a user may see became more ("given") or less ("taken")
    """

    sequences: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    rights: Counter[str] = field(default_factory=Counter)
    events: int = 0
    deliveries: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    oddities: Counter[str] = field(default_factory=Counter)
    differences: int = 0
    leaks: int = 0
    wrongs: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield f"sequences: {self.sequences}"
        yield f"operations: {self.operations.total()}, of which CKAN refused {self.refused}"
        yield from (f"  {name}: {n}" for name, n in sorted(self.operations.items()))
        yield f"moments of rights: {self.rights.total()}"
        yield from (f"  {name}: {n}" for name, n in sorted(self.rights.items()))
        yield f"events: {self.events}"
        yield f"deliveries: {self.deliveries}"
        yield from (f"  {name}: {n}" for name, n in sorted(self.endings.items()))
        yield from (f"  {name}: {n}" for name, n in sorted(self.oddities.items()))
        yield f"differences: {self.differences}"
        yield f"leaks: {self.leaks}"


@dataclass
class Subscriber:
    """A webhook, whose it is, and what its receiver made of what it was sent."""

    user: str
    filters: dict[str, str]
    hook: str
    verifier: Verifier
    mirror: Mirror = field(default_factory=Mirror)

    def __str__(self) -> str:
        return f"{self.user} {self.filters or 'without a filter'}"

    def wants(self, dataset: dict[str, Any]) -> bool:
        """Tell whether the filters match a dataset as ``package_show`` has it."""
        values: dict[str, set[str]] = {
            "organization": {dataset["owner_org"]},
            "group": {group["id"] for group in dataset["groups"]},
            "dataset": {dataset["id"], dataset["name"]},
            "tag": {tag["name"] for tag in dataset["tags"]},
            "type": {dataset["type"]},
        }
        return all(value in values[facet] for facet, value in self.filters.items())


@dataclass
class _Reader:
    """A user, as CKAN's rule knows one.

    :ivar markers: of everything that this user could read at some committed moment
    :ivar active: the account is not deleted
    :ivar was_away: it was once; of what was to be told meanwhile nothing is promised but the feed
    :ivar moved: how the rights changed since the user last asked for something: given, taken
    """

    labels: frozenset[str] = frozenset()
    sysadmin: bool = False
    markers: set[str] = field(default_factory=set)
    active: bool = True
    was_away: bool = False
    moved: set[str] = field(default_factory=set)

    def become(self, labels: frozenset[str], sysadmin: bool, active: bool) -> set[str]:
        """Have other rights from now on; says whether some were given, and some taken."""
        before = (self.labels, self.sysadmin)
        self.labels, self.sysadmin, self.active = labels, sysadmin, active
        self.was_away |= not active
        moved = set()
        if sysadmin > before[1] or labels - before[0]:
            moved.add("given")
        if sysadmin < before[1] or before[0] - labels:
            moved.add("taken")
        self.moved |= moved
        return moved

    def may_see(self, labels: frozenset[str] | None) -> bool:
        return labels is not None and (self.sysadmin or not self.labels.isdisjoint(labels))


class Portal:
    """CKAN with nothing in it but five users, two organizations, a group and ten webhooks.

    :ivar failing: topics that begin with this are answered with 503
    """

    def __init__(self, receiver: Receiver, totals: Totals) -> None:
        self.receiver = receiver
        self.totals = totals
        self.failing: str | None = None
        self._markers = 0
        self._readers = {name: _Reader() for name in USERS}
        self._done: list[str] = []
        # Under which labels the content of each dataset may be published.
        self._publishable: dict[str, frozenset[str] | None] = {}
        self._rights: Any = None
        self._clear()
        self._settle_in()
        self.subscribers = list(self._subscribe())
        notice_rights()
        self.observe()
        for reader in self._readers.values():
            reader.moved.clear()
        receiver.clear()
        receiver.respond = self._answer

    def _clear(self) -> None:
        tables.empty()
        tables.empty_ours()

    def _settle_in(self) -> None:
        """On the model itself: it is the same in every portal, and has to be quick."""
        people = {name: model.User(name=name, sysadmin=name == "sysadmin") for name in USERS}
        places = {
            name: model.Group(name=name, type="organization", is_organization=True)
            for name in ORGANIZATIONS
        }
        group = model.Group(name="group")
        model.Session.add_all([*people.values(), *places.values(), group])
        model.Session.flush()
        for place, name, role in (("alpha", "editor", "editor"), ("beta", "member", "member")):
            model.Session.add(
                model.Member(
                    group=places[place],
                    table_id=people[name].id,
                    table_name="user",
                    capacity=role,
                )
            )
        model.Session.commit()
        self.organizations = {name: place.id for name, place in places.items()}
        self.group = group.id

    def _subscribe(self) -> Iterator[Subscriber]:
        filters = {
            "sysadmin": {"type": "special"},
            "editor": {"organization": self.organizations["alpha"]},
            "member": {"group": self.group},
            "nobody": {"tag": "red"},
            "collaborator": {"dataset": "picked"},
        }
        formats = ("classic", "standard", "cloudevents")
        secret = encryption.new_secret()
        for i, user in enumerate(USERS):
            for chosen in ({}, filters[user]):
                hook = self.act(
                    user,
                    "webhook_create",
                    topic="*",
                    address=f"{self.receiver.url}/{user}/{'some' if chosen else 'all'}",
                    filters=chosen,
                    format=formats[i % 3],
                    secret=secret,
                )
                yield Subscriber(user, chosen, hook, Verifier(secret))

    # --- what users do

    def marker(self) -> str:
        """Give a text that is nowhere yet, fit for names and titles alike."""
        self._markers += 1
        return f"zq{self._markers}zq"

    def call(self, by: str, action: str, /, **data: Any) -> Any:
        """Let a user do one thing; None where CKAN refuses."""
        with self.request(action):
            return self.act(by, action, **data)
        return None

    def act(self, by: str, action: str, more: dict[str, Any] | None = None, /, **data: Any) -> Any:
        """Do one thing with a user's rights, within a request.

        :param more: of the context
        """
        self._done.append(f"{by}: {action} {data}")
        return call_action(action, {"user": by, "ignore_auth": False, **(more or {})}, **data)

    @contextmanager
    def request(self, name: str) -> Iterator[None]:
        """Do something as one request does, and see what it means for everybody."""
        self.totals.operations[name] += 1
        self._done.append(name)
        model.Session.remove()
        try:
            yield
        except REFUSALS:
            self.totals.refused += 1
            model.Session.rollback()
        finally:
            model.Session.remove()
        self.observe()

    def datasets(self) -> list[str]:
        return [row.id for row in model.Session.query(model.Package.id)]

    def resources_of(self, dataset: str) -> list[str]:
        package = model.Session.get(model.Package, dataset)
        return [r.id for r in package.resources] if package else []

    # --- what is true

    def observe_meanwhile(self) -> None:
        """Observe beside a session that is at work: another thread has another one."""
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.observe).result()

    def observe(self) -> None:
        """Ask CKAN what each user may read now."""
        rule = get_permission_labels()
        anybodys = frozenset(rule.get_user_dataset_labels(None))
        rights = model.Session.execute(_RIGHTS).scalar_one()
        if rights != self._rights:
            self._rights = rights
            for name, reader in self._readers.items():
                user = model.User.get(name)
                active = user.state == model.State.ACTIVE
                labels = frozenset(rule.get_user_dataset_labels(user) if active else ())
                self._note_moment(name, reader.become(labels, active and user.sysadmin, active))
        packages = {package.id: package for package in model.Session.query(model.Package)}
        for id_ in self._publishable.keys() - packages.keys():
            self._publishable[id_] = None
        for id_, package in packages.items():
            if package.state == model.State.ACTIVE:
                labels = frozenset(rule.get_dataset_labels(package))
                self._publishable[id_] = labels
                markers = self._markers_of(id_)
                for reader in self._readers.values():
                    # What is public also those read whose account is deleted.
                    if reader.may_see(labels) or not labels.isdisjoint(anybodys):
                        reader.markers |= markers
            elif package.state != model.State.DELETED:
                self._publishable[id_] = None
        model.Session.remove()

    def _note_moment(self, user: str, moved: set[str]) -> None:
        """Count what waited to be told to a user whose rights have changed."""
        waiting = model.Session.execute(_WAITING, {"user": user}).mappings().one() if moved else {}
        for what, count in waiting.items():
            if count:
                self.totals.rights.update(f"{how} {_BETWEEN[what]}" for how in moved)

    def _note_asking(self, user: str, what: str) -> None:
        moved, self._readers[user].moved = self._readers[user].moved, set()
        self.totals.rights.update(f"{how} before {what}" for how in moved)

    def _markers_of(self, dataset: str) -> set[str]:
        shown = call_action("package_show", {"use_cache": False}, id=dataset)
        return set(_MARKER.findall(json.dumps(shown)))

    def readable(self, user: str) -> list[dict[str, Any]]:
        """Give what CKAN gives this user: the search's ids, each shown."""
        found: list[str] = []
        while True:
            page = self.act(
                user,
                "package_search",
                q="*:*",
                include_private=True,
                rows=_PAGE,
                start=len(found),
                sort="id asc",
            )
            found += [dataset["id"] for dataset in page["results"]]
            if len(found) >= page["count"]:
                break
        shown = [self.act(user, "package_show", id=id_) for id_ in found]
        return [json.loads(json.dumps(dataset)) for dataset in shown]

    def reindex(self) -> None:
        """Bring the search index up to date; not all of CKAN's actions do."""
        search.clear_all()
        search.rebuild(package_ids=self.datasets())
        search.commit()
        model.Session.remove()

    # --- what is told

    def dispatch(self) -> None:
        """Decide who is told, and let the sending wait."""
        while dispatch():
            pass
        model.Session.remove()

    def deliver(self) -> int:
        """Dispatch and send what waits, and look at each request that arrives.

        :returns: how many requests arrived
        """
        return self._watch(tasks.work_once)

    def send(self) -> int:
        """Send what was dispatched before, as a worker does whose dispatch is behind."""
        return self._watch(partial(deliver_due, tell_newest))

    def _watch(self, work: Callable[[], object]) -> int:
        with model.meta.engine.begin() as connection:
            connection.execute(_ALL_IS_DUE)
        self.receiver.clear()
        work()
        model.Session.remove()
        self._judge(leak for request in self.receiver.requests for leak in self._look_at(request))
        return len(self.receiver.requests)

    def _judge(self, found: Iterable[str]) -> None:
        leaks = list(found)
        self.totals.leaks += len(leaks)
        if leaks:
            raise self._wrong(Leaked, leaks)

    # --- what is asked for

    def read_feed(self, user: str) -> Mirror:
        """Have a user read the feed from its start, and look at each event.

        :returns: what is known by it
        """
        mirror = Mirror()
        if not self._readers[user].active:
            return mirror
        self._note_asking(user, "reading the feed")
        cursor, more = 0, True
        while more:
            page = self.act(user, "webhook_event_list", after=cursor, limit=_PAGE_OF_FEED)
            model.Session.remove()
            cursor, more = page["cursor"], page["more"]
            for event in page["events"]:
                kind, verb = event["topic"].split("/")
                message = Message(kind, verb, event["entity"], event["sequence"])
                mirror.take(message)
                self._judge(self._leaks(user, f"{user} read of", message, json.dumps(event)))
        return mirror

    def replay(self, user: str) -> None:
        """Have all webhooks of a user told again all there is, and look at what is sent."""
        self._note_asking(user, "a replay")
        for subscriber in self._of(user):
            self.call(user, "webhook_replay", id=subscriber.hook, since=_EVER)
        self.deliver()

    def redeliver(self, user: str, which: int) -> None:
        """Have a delivery of each webhook of a user made again, and look at what is sent.

        :param which: of those that ended
        """
        self._note_asking(user, "a redelivery")
        for subscriber in self._of(user):
            ended = self._ended(subscriber.hook)
            if ended:
                self.call(user, "webhook_redeliver", id=ended[which % len(ended)])
        self.deliver()

    def _of(self, user: str) -> list[Subscriber]:
        return [s for s in self.subscribers if s.user == user]

    def _ended(self, hook: str) -> list[int]:
        ended = sa.text(
            "SELECT id FROM webhooks_delivery"
            " WHERE webhook_id = :hook AND ended_at IS NOT NULL ORDER BY id"
        )
        return list(model.Session.execute(ended, {"hook": hook}).scalars())

    def _wrong(self, kind: type[Wrong], lines: list[str]) -> Wrong:
        """Keep it: Hypothesis ignores what is found where it breaks a sequence off."""
        text = "\n".join([*lines, "after:", *self._done])
        self.totals.wrongs.append(text)
        return kind(text)

    def _answer(self, request: Received) -> Answer:
        return (503, {}, b"") if self._fails(Message.of(request)) else accept(request)

    def _fails(self, message: Message) -> bool:
        return self.failing is not None and message.kind.startswith(self.failing)

    def _look_at(self, request: Received) -> Iterator[str]:
        """Take a request, and say what of it this subscriber should not have got."""
        self.totals.deliveries += 1
        _, user, which = request.path.split("/")
        (subscriber,) = (
            s for s in self.subscribers if (s.user, bool(s.filters)) == (user, which == "some")
        )
        text = request.body.decode()
        subscriber.verifier.verify(text, request.headers)
        message = Message.of(request)
        if not self._fails(message):
            subscriber.mirror.take(message)
        # An endpoint that answers 503 has read the request all the same.
        yield from self._leaks(user, f"{subscriber} was sent", message, text)

    def _leaks(self, user: str, told: str, message: Message, text: str) -> Iterator[str]:
        """Say what a user should not have got of a message.

        Neither what this user could never read, such as what was replaced before it was
        shown to this user, nor content of what may not be seen any more.
        """
        reader = self._readers[user]
        told = f"{told} {message.kind}/{message.verb}"
        unread = set(_MARKER.findall(text)) - reader.markers
        if unread:
            yield f"{told} with {sorted(unread)}, which this user could never read: {text}"
        if not message.is_stub and not reader.may_see(self._publishable.get(message.dataset_id)):
            yield f"{told} with content that this user may not see any more: {text}"

    def settle(self) -> None:
        """Deliver everything, with all endpoints up, and compare every mirror with CKAN."""
        self.failing = None
        while self.deliver():
            pass
        sweep.sweep()
        if any(reader.was_away for reader in self._readers.values()):
            # Whose webhooks are taken up again may have other rights since, as is seen each minute.
            notice_rights()
        while self.deliver():
            pass
        if missed := Counter(capture.reconcile())[capture.Found.MISSED]:
            raise Wrong(f"{missed} datasets are not what the log says")
        self.reindex()
        if self.deliver():
            raise Wrong("a rebuild of the search index was told to somebody")
        found = list(self._differences())
        self.totals.differences += len(found)
        if found:
            raise self._wrong(Different, found)

    def _differences(self) -> Iterator[str]:
        for user, reader in self._readers.items():
            if not reader.active:
                continue
            readable = [d for d in self.readable(user) if d["type"] != "harvest"]
            feed = self.read_feed(user)
            yield from (f"{user}'s feed: {line}" for line in feed.differences(readable))
            for subscriber in () if reader.was_away else self._of(user):
                wanted = [dataset for dataset in readable if subscriber.wants(dataset)]
                yield from (f"{subscriber}: {d}" for d in subscriber.mirror.differences(wanted))

    def count(self) -> None:
        """Add what happened here to the totals."""
        self.totals.sequences += 1
        with model.meta.engine.connect() as connection:
            self.totals.events += connection.execute(
                sa.text("SELECT count(*) FROM webhooks_event")
            ).scalar_one()
            for status, reason, n in connection.execute(
                sa.text("SELECT status, reason, count(*) FROM webhooks_delivery GROUP BY 1, 2")
            ):
                self.totals.endings[f"{status}: {reason}" if reason else status] += n
        for subscriber in self.subscribers:
            self.totals.oddities += subscriber.mirror.oddities


def filled(marker: Callable[[], str], value: Any) -> Any:
    """Put a new marker wherever a value holds ``...``."""
    fill = partial(filled, marker)
    if value is ...:
        return marker()
    if isinstance(value, dict):
        return {key: fill(v) for key, v in value.items()}
    if isinstance(value, list):
        return [fill(v) for v in value]
    return value
