"""Whatever fails for one of ten, and at whatever step: the nine arrive, and the tenth later."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import CodeType, FrameType

import pytest
from ckan.tests import factories
from ckan.tests.helpers import call_action

from .. import deliver, tasks
from .. import dispatch as dispatching
from ..deliver import books
from ..dispatch import dispatch, move_on, notice_rights
from .aside import kinds, refusing, try_again, waiting
from .callers import create, execute, join, leave
from .receiver import Receiver

pytestmark = pytest.mark.usefixtures("webhooks_db")

# What does nothing but go through a set, and is the same for whatever is in it.
LOOPS = {
    "loop.py:_rights_of_all",
    "loop.py:_send_all",
    "loop.py:_end",
    "claim.py:_events",
    "claim.py:<lambda>",
}
# Arguments that hold what is known of all members, whichever the call is about.
BESIDE = {"self", "claimed", "known", "rights", "entities"}
MEMBERS = 10
DISPATCH, DELIVER = (os.path.dirname(str(module.__file__)) for module in (dispatching, deliver))


def place(code: CodeType) -> str:
    return f"{os.path.basename(code.co_filename)}:{code.co_name}"


class Planted(Exception):
    pass


class Fault:
    """Sees the calls that have to do with one member, and makes one function fail for it.

    :param stage: the package whose functions may fail
    :param odd: texts by which that member is known
    :ivar seen: the functions that were called with it
    :ivar failing: the one that fails whenever it is
    """

    def __init__(self, stage: str, odd: set[str], failing: CodeType | None = None) -> None:
        self.stage = stage
        self.odd = odd
        self.failing = failing
        self.seen: dict[CodeType, None] = {}
        self.fired = 0

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if self.failing is not None and code is not self.failing:
            return
        if not code.co_filename.startswith(self.stage) or place(code) in LOOPS:
            return
        if not self._is_about_it(frame):
            return
        self.seen[code] = None
        if code is self.failing:
            self.fired += 1
            raise Planted(code.co_name)

    def _is_about_it(self, frame: FrameType) -> bool:
        names = set(frame.f_code.co_varnames[: frame.f_code.co_argcount]) - BESIDE
        said = " ".join(repr(frame.f_locals.get(name)) for name in names)
        return any(text in said for text in self.odd)


Trace = Callable[[Fault], AbstractContextManager[object]]
Reset = Callable[[], None]


@pytest.fixture
def trace() -> Trace:
    """Trace this thread, which drives, and the one that writes attempts down."""

    @contextmanager
    def tracing(fault: Fault) -> Iterator[None]:
        books._thread.submit(sys.settrace, fault).result()
        sys.settrace(fault)
        try:
            yield
        finally:
            sys.settrace(None)
            books._thread.submit(sys.settrace, None).result()

    return tracing


def work() -> None:
    try:
        tasks.work_once()
    except tasks.StageFailed:
        pass  # as the log says


def failed() -> list[str]:
    """Give the errors of attempts, which owners read."""
    rows = execute("SELECT error FROM webhooks_attempt WHERE error IS NOT NULL") or []
    return [row.error for row in rows]


class Ten:
    """Ten datasets, of which one is odd, told to one webhook.

    :param working: what a worker does
    """

    def __init__(self, receiver: Receiver, working: Callable[[], None] = work, **kind) -> None:
        self.receiver = receiver
        self.working = working
        self.datasets = [
            factories.Dataset(resources=[{"url": "http://example.com"}], **kind)["id"]
            for _ in range(MEMBERS)
        ]
        self.odd = self.datasets[6]
        self.longest = 0.0

    def arrived(self) -> set[str]:
        return {
            request.json["entity"]["id"]
            for request in self.receiver.requests
            if request.json["topic"] == "dataset/create"
        }

    def check(self, planted: AbstractContextManager[object], where: str) -> None:
        """Work with a fault, then without."""
        self.receiver.requests.clear()
        began = time.monotonic()
        with planted:
            self.working()
        self.longest = max(self.longest, time.monotonic() - began)
        others = set(self.datasets) - {self.odd}
        assert self.arrived() >= others, f"{where}: the nine"
        found = kinds() + failed()
        assert found or self.odd in self.arrived(), f"{where}: nobody knows of the tenth"
        assert len(found) <= 1, f"{where}: {found}"
        try_again()
        self.working()
        assert self.arrived() == set(self.datasets), f"{where}: the tenth"
        assert kinds() == [], where

    def check_calls(self, trace: Trace, stage: str, odd: set[str], reset: Reset) -> list[str]:
        """Do so for each function that has to do with the odd one; gives their names."""
        seeing = Fault(stage, odd)
        reset()
        self.check(trace(seeing), "no fault")
        names: list[str] = []
        wrong: list[str] = []
        for code in seeing.seen:
            fault = Fault(stage, odd, code)
            reset()
            try:
                self.check(trace(fault), place(code))
            except AssertionError as error:
                wrong.append(str(error).partition("\n")[0])
            if fault.fired:
                names.append(place(code))
        assert not wrong, "\n".join(wrong)
        return names

    def check_rows(self, points: Sequence[tuple[str, str, str]], reset: Reset) -> list[str]:
        """Do so for each row of the odd one that PostgreSQL refuses to write."""
        for event, table, condition in points:
            reset()
            self.check(refusing(event, table, condition), f"{event} {table}")
        return [f"{event} {table}" for event, table, _ in points]


def undispatched() -> None:
    """Have the log as capture left it."""
    execute("DELETE FROM webhooks_attempt")
    execute("DELETE FROM webhooks_delivery")
    execute("DELETE FROM webhooks_event WHERE source_id IS NOT NULL")
    execute(
        "UPDATE webhooks_event"
        " SET sequence = NULL, dispatched_at = NULL, due_at = NULL, held_from = NULL"
    )


def undelivered() -> None:
    """Have deliveries as dispatch left them."""
    execute("DELETE FROM webhooks_attempt")
    execute("UPDATE webhooks SET circuit = 'closed', failures = 0, failing_since = NULL")
    execute(
        "UPDATE webhooks_delivery SET status = 'pending', reason = NULL, tries = 0,"
        " ended_at = NULL, due_at = clock_timestamp()"
    )


def held_back() -> None:
    """Have deliveries wait in their webhook's own line, which takes the newest of each entity."""
    undelivered()
    execute("UPDATE webhooks_delivery SET due_at = NULL")
    execute("UPDATE webhooks SET next_at = clock_timestamp(), newest_only = true")


def unmoved(organization: str) -> None:
    """Have the owner told what was told before joining the organization."""
    execute("DELETE FROM webhooks_attempt")
    execute("DELETE FROM webhooks_delivery")
    execute("DELETE FROM webhooks_event WHERE source_id IS NOT NULL")
    execute(f"UPDATE webhooks_served SET labels = labels - 'member-{organization}'")


def move() -> None:
    notice_rights()
    while dispatch() or move_on():
        pass
    work()


def test_isolation_of_each_step_of_each_stage(receiver, user, trace, say):
    create(user, topic="dataset/create", address=receiver.url)
    ten = Ten(receiver)
    odd = f"dataset_id = ''{ten.odd}''"
    of_it = f"event_id IN (SELECT id FROM webhooks_event WHERE {odd})"
    points = ten.check_calls(trace, DISPATCH, {ten.odd}, undispatched)
    points += ten.check_rows(
        [
            ("UPDATE", "webhooks_event", f"NEW.{odd} AND NEW.sequence IS NOT NULL"),
            ("INSERT", "webhooks_event", f"NEW.{odd}"),
            ("INSERT", "webhooks_delivery", f"NEW.{of_it}"),
        ],
        undispatched,
    )
    events = execute(f"SELECT id FROM webhooks_event WHERE dataset_id = '{ten.odd}'") or []
    points += ten.check_calls(trace, DELIVER, {row.id for row in events}, undelivered)
    of_its_delivery = f"delivery_id IN (SELECT id FROM webhooks_delivery WHERE {of_it})"
    rows = [
        ("UPDATE", "webhooks_delivery", f"NEW.{of_it}"),
        ("UPDATE", "webhooks_delivery", f"NEW.{of_it} AND NEW.status = ''delivered''"),
        ("INSERT", "webhooks_attempt", f"NEW.{of_its_delivery}"),
    ]
    points += ten.check_rows(rows, undelivered)
    points += [f"{point} (held back)" for point in ten.check_rows(rows, held_back)]
    longest = ten.longest

    organization = factories.Organization()
    join(organization, user)
    ten = Ten(receiver, move, owner_org=organization["id"], private=True)
    move()
    points += ten.check_calls(trace, DISPATCH, {ten.odd}, partial(unmoved, organization["id"]))
    say(f"isolation: {len(points)} points of injection: {', '.join(points)}")
    say(f"isolation: the longest round beside a fault took {max(longest, ten.longest):.2f} s")
    assert len(points) >= 60


def test_isolation_of_what_is_told_as_it_is_now(receiver, user, trace, say):
    """The creates of ten datasets wait, which were made public before their owner left."""
    create(user, topic="dataset/create", address=receiver.url)
    organization = factories.Organization()
    join(organization, user)
    ten = Ten(receiver, owner_org=organization["id"], private=True)
    while dispatch():
        pass
    for id_ in ten.datasets:
        call_action("package_patch", id=id_, private=False)
    while dispatch():
        pass
    leave(organization, user)
    notice_rights()
    while move_on():
        pass
    (last,) = execute("SELECT max(sequence) AS sequence FROM webhooks_event") or []

    def untold() -> None:
        execute("DELETE FROM webhooks_event WHERE sequence > :last", last=last.sequence)
        execute("DELETE FROM webhooks_delivery WHERE sequence > :last", last=last.sequence)
        undelivered()

    points = ten.check_calls(trace, DISPATCH, {ten.odd}, untold)
    points += ten.check_rows(
        [("INSERT", "webhooks_event", f"NEW.dataset_id = ''{ten.odd}''")], untold
    )
    say(f"isolation: {len(points)} more: {', '.join(points)}")
    assert len(points) >= 8


def test_isolation_of_a_webhook_that_cannot_be_told(receiver):
    """Its filters are what no version of this software writes."""
    hooks = [
        create(factories.User(), topic="dataset/create", address=f"{receiver.url}?{n}")
        for n in range(MEMBERS)
    ]
    execute("UPDATE webhooks SET filters = '3' WHERE id = :id", id=hooks[3])
    dataset = factories.Dataset(resources=[{"url": "http://example.com"}])
    work()
    assert len(receiver.requests) == MEMBERS - 1
    assert kinds() == ["webhook"]
    later = factories.Dataset()
    work()
    try_again()
    work()
    assert kinds() == ["webhook"], "the cause is not gone"
    execute("UPDATE webhooks SET filters = '{}' WHERE id = :id", id=hooks[3])
    try_again()
    work()
    work()
    assert kinds() == []
    # Both are under way at once, and may arrive in any order.
    bodies = sorted((r.json for r in receiver.requests), key=lambda body: body["sequence"])
    told = [body["entity"]["id"] for body in bodies if body["webhook_id"] == hooks[3]]
    assert told == [dataset["id"], later["id"]]


ROW = "webhooks_served"


class TenOwners:
    """Ten owners with a webhook each, who joined an organization; the row of one is odd."""

    def __init__(self, receiver: Receiver, served: bool = True) -> None:
        self.receiver = receiver
        self.organization = factories.Organization()
        self.users = [factories.User() for _ in range(MEMBERS)]
        self.hooks = [
            create(user, topic="dataset/*", address=f"{receiver.url}?{number}")
            for number, user in enumerate(self.users)
        ]
        self.odd = self.users[3]["id"]
        if not served:
            execute(f"DELETE FROM {ROW}")

    def private(self) -> str:
        return str(factories.Dataset(owner_org=self.organization["id"], private=True)["id"])

    def told(self) -> list[set[tuple[str, str]]]:
        """Work; give the verbs and datasets that each of the ten was told."""
        work()
        notice_rights()
        for _ in range(3):
            work()
        bodies = [request.json for request in self.receiver.requests]
        self.receiver.clear()
        return [
            {(b["topic"], b["entity"]["id"]) for b in bodies if b["webhook_id"] == hook}
            for hook in self.hooks
        ]

    def check(self, told: set[tuple[str, str]], odd: set[tuple[str, str]]) -> None:
        expected = [told] * MEMBERS
        expected[3] = odd
        assert self.told() == expected


@pytest.mark.parametrize(
    "labels", ["3", "null", '"public"', '{"public": 1}', "[1]", '["public", null]']
)
def test_isolation_of_an_owner_whose_labels_as_told_cannot_be_read(receiver, labels):
    ten = TenOwners(receiver)
    for user in ten.users:
        join(ten.organization, user)
    ten.told()
    execute(f"UPDATE {ROW} SET labels = :labels WHERE user_id = :id", labels=labels, id=ten.odd)
    told = {("dataset/create", factories.Dataset()["id"])}
    ten.check(told, set())
    assert waiting() == [("webhook", ten.hooks[3])]
    try_again()
    ten.check(set(), set())
    assert waiting() == [("webhook", ten.hooks[3])], "the cause is not gone"
    execute(
        f"UPDATE {ROW} SET labels = (SELECT labels FROM {ROW} WHERE user_id = :other) - :creator"
        " WHERE user_id = :id",
        id=ten.odd,
        other=ten.users[0]["id"],
        creator=f"creator-{ten.users[0]['id']}",
    )
    try_again()
    ten.check(set(), told)
    assert waiting() == []


@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
def test_isolation_of_an_owner_whose_labels_as_told_cannot_be_written(receiver, event):
    ten = TenOwners(receiver, served=event == "UPDATE")
    inside = ("dataset/create", ten.private())
    if event == "UPDATE":
        ten.told()
        for user in ten.users:
            join(ten.organization, user)
    with refusing(event, ROW, f"NEW.user_id = ''{ten.odd}''"):
        public = ("dataset/create", factories.Dataset()["id"])
        told = {public, inside} if event == "UPDATE" else {public}
        ten.check(told, set())
        assert waiting() == [("webhook", ten.hooks[3])]
        try_again()
        ten.check(set(), set())
        assert waiting() == [("webhook", ten.hooks[3])], "the cause is not gone"
    try_again()
    ten.check(set(), told)
    assert waiting() == []


def test_isolation_of_an_owner_who_cannot_be_moved_on(receiver):
    """What changes meanwhile is beyond the move; who is told again loses sight of it, too."""
    ten = TenOwners(receiver)
    for user in ten.users:
        join(ten.organization, user)
    inside = [ten.private() for _ in range(2)]
    ten.told()
    for user in ten.users:
        leave(ten.organization, user)
    notice_rights()
    with refusing("UPDATE", ROW, f"NEW.user_id = ''{ten.odd}''"):
        gone = {("dataset/delete", id_) for id_ in inside}
        ten.check(gone, set())
        assert waiting() == [("webhook", ten.hooks[3])]
        call_action("package_patch", id=inside[0], title="Not for who left")
        ten.check(set(), set())
    try_again()
    ten.check(set(), gone)
    assert waiting() == []


def test_isolation_of_an_owner_whose_move_cannot_be_read(receiver):
    ten = TenOwners(receiver)
    for user in ten.users:
        join(ten.organization, user)
    ten.told()
    execute(
        f"UPDATE {ROW} SET next_labels = '3', since = 0, cursor = '' WHERE user_id = '{ten.odd}'"
    )
    told = {("dataset/create", ten.private())}
    ten.check(told, set())
    assert waiting() == [("webhook", ten.hooks[3])]
    execute(f"UPDATE {ROW} SET next_labels = NULL")
    try_again()
    ten.check(set(), told)
    assert waiting() == []
