"""What ``bin/chaos`` judges by, and a short run of it: books that are wrong are found."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.chaos import faults, ledger, schedule
from bench.chaos.ledger import (
    Delivery,
    Disturbance,
    Event,
    Mark,
    Membership,
    Receipt,
    Subscriber,
)
from bench.chaos.schedule import FAULTS

ROOT = Path(__file__).parents[3]

SYSADMIN = Subscriber("of-sysadmin", "*", None)
MEMBER = Subscriber("of-member", "*", ["org"])
PUBLIC = Subscriber("of-public", "*", [])
MOVING = Subscriber("of-moving", "*", [], "moving")


def dataset(rest="1", private=False, state="active", **resources):
    return {
        "state": state,
        "private": private,
        "owner_org": "org",
        "rest": rest,
        "resources": resources,
        "title": rest,
        "names": resources,
    }


def books(subscribers=(PUBLIC,), **changes):
    """Give books that balance: a dataset was created, told and delivered; then change some."""
    kept = {
        "marks": [Mark(1, "d", 10.0, dataset())],
        "events": [Event("e", 1, "d", "d", None, 9.9)],
        "deliveries": [Delivery("of-public", "e", "dataset/create", "delivered", None)],
        "receipts": [received("of-public", "dataset/create", "1")],
        "memberships": [],
        "disturbances": [],
    }
    return ledger.balance(subscribers=list(subscribers), **{**kept, **changes})


def received(webhook, topic, called, event="e", sequence=1):
    return Receipt(webhook, event, 11.0, True, False, "", topic, "d", "d", called, sequence)


def wrongs(balance):
    return {what: cases for what, cases in balance.wrong.items() if cases}


# --- the schedule


def test_a_seed_gives_the_same_schedule():
    assert schedule.draw(1, 300, list(FAULTS)) == schedule.draw(1, 300, list(FAULTS)[::-1])
    assert schedule.draw(1, 300, list(FAULTS)) != schedule.draw(2, 300, list(FAULTS))


@pytest.mark.parametrize("seed", range(20))
def test_each_fault_comes_before_any_comes_again(seed):
    names = [n for moment in schedule.draw(seed, 1800, list(FAULTS)) for n in moment.faults]
    for count in range(1, len(names)):
        times = Counter(names[:count])
        assert max(times.values()) - min(times[name] for name in FAULTS) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_two_faults_at_once_are_of_different_things(seed):
    moments = schedule.draw(seed, 1800, list(FAULTS))
    assert any(len(moment.faults) == 2 for moment in moments)
    for moment in moments:
        on = [FAULTS[name].on for name in moment.faults]
        assert len(on) == len(set(on))


def test_a_fault_that_starts_a_worker_begins_while_its_broker_is_there():
    moments = [m for seed in range(20) for m in schedule.draw(seed, 1800, list(FAULTS))]
    drawn = [moment.faults for moment in moments]
    assert ("clock-off", "redis-killed") in drawn
    assert all(FAULTS[faults[-1]].on != "worker" for faults in drawn if len(faults) > 1)


def test_a_disk_that_fills_meanwhile_is_full_all_the_same(tmp_path, monkeypatch):
    asked = []

    def allocate(_file, _from, size):
        asked.append(size)
        if len(asked) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    with faults.disk_full(SimpleNamespace(disk=tmp_path), 0):
        assert len(asked) == 2
    assert not (tmp_path / "ballast").exists()


def test_a_schedule_fills_its_time_and_no_more():
    moments = schedule.draw(1, 300, list(FAULTS))
    assert 260 < sum(moment.pause + moment.lasts for moment in moments) <= 300
    (moment,) = schedule.draw(1, 1, ["worker-frozen"])
    assert moment.pause == 0


def test_each_fault_of_the_schedule_can_be_done():
    assert set(FAULTS) == set(faults.BREAKING)
    assert set(FAULTS) >= faults.LOSE_ANSWERS


# --- the books


def test_books_that_balance():
    balance = books()
    assert balance.balanced, wrongs(balance)
    assert balance.counts["committed changes"] == 1


def test_a_change_that_no_event_tells_is_lost():
    found = wrongs(books(events=[], deliveries=[], receipts=[]))
    assert found["lost: committed, and no event tells it"] == ["d"]


def test_what_a_transaction_could_not_capture_may_be_told_by_a_later_one():
    marks = [Mark(1, "d", 10.0, dataset("1")), Mark(2, "d", 12.0, dataset("2"))]
    for event in (Event("e", 2, "d", "d", None, 11.9), Event("e", 77, "d", "d", None, 15.0)):
        receipts = [received("of-public", "dataset/create", "2")]
        balance = books(marks=marks, events=[event], receipts=receipts)
        assert balance.balanced, wrongs(balance)
        assert balance.late


def test_nor_is_it_told_by_an_earlier_one():
    marks = [Mark(1, "d", 10.0, dataset("1")), Mark(2, "d", 12.0, dataset("2"))]
    assert "lost: committed, and no event tells it" in wrongs(books(marks=marks))


def test_what_nobody_sees_needs_no_event():
    marks = [Mark(1, "d", 10.0, dataset(state="draft"))]
    assert books(marks=marks, events=[], deliveries=[], receipts=[]).balanced


def test_an_event_for_what_was_rolled_back_is_found():
    """It has an event row, by hand, and no mark."""
    assert "told, and never committed" in wrongs(books(marks=[]))


@pytest.mark.parametrize(
    ("before", "after", "sysadmin", "member", "public"),
    [
        (None, dataset(), "create", "create", "create"),
        (None, dataset(private=True), "create", "create", None),
        (dataset("1"), dataset("2"), "update", "update", "update"),
        (dataset("1"), dataset("1"), None, None, None),
        (dataset(private=True), dataset(), "update", "update", "create"),
        (dataset(), dataset(private=True), "update", "update", "delete"),
        (dataset(), dataset(state="deleted"), "delete", "delete", "delete"),
        (dataset(private=True), None, "delete", "delete", None),
        (dataset(state="deleted"), None, None, None, None),
        (dataset(state="deleted"), dataset(), "create", "create", "create"),
    ],
)
def test_who_is_to_be_told_what(before, after, sysadmin, member, public):
    change = ledger.Change("e", before, after)
    for subscriber, verb in ((SYSADMIN, sysadmin), (MEMBER, member), (PUBLIC, public)):
        told = list(ledger.expected(change, "d", subscriber))
        assert told == ([("d", f"dataset/{verb}")] if verb else [])


def test_resources_are_told_by_themselves():
    change = ledger.Change(
        "e", dataset("1", a="1", b="1", c="1"), dataset("2", b="2", c="1", d="1")
    )
    assert set(ledger.expected(change, "x", PUBLIC)) == {
        ("x", "dataset/update"),
        ("a", "resource/delete"),
        ("b", "resource/update"),
        ("d", "resource/create"),
    }
    only = PUBLIC._replace(topics="resource/*")
    assert ("x", "dataset/update") not in set(ledger.expected(change, "x", only))


def test_a_delivery_that_was_never_written_is_found():
    found = wrongs(books(subscribers=[PUBLIC, MEMBER]))
    assert found["lost: an event, and no delivery to who is to be told"] == [
        "e of-member d dataset/create"
    ]


def test_a_delivery_to_who_may_not_see_is_found():
    found = wrongs(books(marks=[Mark(1, "d", 10.0, dataset(private=True))]))
    assert found["delivered to who is not to be told, or twice in the tables"] == [
        "e of-public d dataset/create"
    ]
    assert found["arrived at who could never read it"] == ["e at of-public: dataset/create 1"]


def test_a_delivery_that_never_arrived_is_found():
    for receipts in ([], [received("of-public", "dataset/create", "1")._replace(acted=False)]):
        found = wrongs(books(receipts=receipts))
        assert found["lost: said to be delivered, and never arrived"] == ["e for of-public"]


@pytest.mark.parametrize(
    ("status", "reason", "balanced"),
    [
        ("pending", "503", False),
        ("failed", None, False),
        ("failed", "503", True),
        ("cancelled", "superseded", True),
    ],
)
def test_what_was_not_delivered_needs_a_reason(status, reason, balanced):
    delivery = Delivery("of-public", "e", "dataset/create", status, reason, "d")
    found = wrongs(books(deliveries=[delivery], receipts=[]))
    assert ("neither delivered nor ended with a reason" not in found) is balanced


def test_what_arrived_wrong_is_found():
    assert not books(
        receipts=[received("of-public", "dataset/create", "1")._replace(wrong="signature")]
    ).balanced


def test_what_arrived_from_nowhere_is_found():
    of_nothing = received("of-public", "dataset/create", "1", event="x")
    assert not books(receipts=[received("of-public", "dataset/create", "1"), of_nothing]).balanced


@pytest.mark.parametrize(
    ("cut", "disturbance", "explanation"),
    [
        (True, None, "the connection was cut after the receiver acted"),
        (False, Disturbance("worker-killed", 11.5, 11.6), "worker-killed"),
        (False, Disturbance("worker-frozen", 5.0, 25.0), "worker-frozen"),
        (False, Disturbance("worker-killed", 20.0, 20.1), ledger.UNEXPLAINED),
        (False, Disturbance("worker-killed", 2.0, 2.1), ledger.UNEXPLAINED),
        (False, None, ledger.UNEXPLAINED),
    ],
)
def test_what_arrived_twice_needs_an_explanation(cut, disturbance, explanation):
    first = received("of-public", "dataset/create", "1")._replace(cut=cut)
    second = first._replace(at=26.0, cut=False)
    balance = books(receipts=[first, second], disturbances=[disturbance] if disturbance else [])
    (found,) = balance.duplicates
    assert found.startswith(explanation)
    assert balance.balanced is (explanation != ledger.UNEXPLAINED)


def test_a_request_that_failed_is_no_duplicate():
    told = received("of-public", "dataset/create", "1")
    balance = books(receipts=[told._replace(at=10.5, acted=False), told])
    assert balance.balanced
    assert not balance.duplicates


# --- who joins and leaves


def moving(receipts, *memberships):
    """Give the books of somebody who joins and leaves while a private dataset is changed once."""
    marks = [
        Mark(1, "d", 100.0, dataset("first", private=True)),
        Mark(2, "d", 200.0, dataset("second", private=True)),
    ]
    return wrongs(
        books(
            subscribers=[MOVING],
            marks=marks,
            memberships=[Membership("moving", "org", *each) for each in memberships],
            receipts=receipts,
        )
    )


LEAKED, HELD = (
    "arrived at who could never read it",
    "held at the end, and not what its owner may see",
)
SECOND = received("of-moving", "dataset/create", "second", sequence=2)


def test_who_joined_holds_what_there_is():
    assert not {LEAKED, HELD} & moving([SECOND], (300.0, True)).keys()
    assert HELD in moving([], (300.0, True))


def test_who_left_holds_nothing():
    gone = received("of-moving", "dataset/delete", None, sequence=3)
    memberships = (150.0, True), (250.0, False)
    assert not {LEAKED, HELD} & moving([SECOND, gone], *memberships).keys()
    assert HELD in moving([SECOND], *memberships)


def test_a_version_that_was_replaced_before_somebody_joined_is_a_leak():
    first = received("of-moving", "dataset/create", "first")
    assert moving([first, SECOND], (300.0, True))[LEAKED] == [
        "e at of-moving: dataset/create first"
    ]
    assert LEAKED not in moving([first, SECOND], (150.0, True))


def test_so_is_one_that_was_written_after_somebody_left():
    assert LEAKED in moving([SECOND], (110.0, True), (150.0, False))


def test_what_was_given_up_is_not_held():
    failed = Delivery("of-public", "e", "dataset/create", "failed", "503", "d")
    assert HELD not in wrongs(books(deliveries=[failed], receipts=[]))


# --- a run


def run(*options):
    """Run it against the services of the environment; gives the exit code and what it printed."""
    folder = ROOT / ".dev" / "run" / f"chaos-{os.getpid()}"
    command = [sys.executable, "-W", "ignore", "-m", "bench.chaos", str(folder)]
    ended = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.acceptance
@pytest.mark.long
@pytest.mark.parametrize(
    ("faults", "minutes"),
    [("worker-killed,redis-killed,receiver-cut", 0.3), (",".join(FAULTS), 5)],
)
def test_nothing_is_lost_whatever_breaks(faults, minutes):
    code, printed = run("--seed", "1", "--minutes", str(minutes), "--faults", faults)
    assert code == 0, printed
    assert "the books balance" in printed


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("plant", "faults", "minutes", "few", "finding"),
    [
        # What one is sending is taken once more meanwhile, by itself or by another.
        (
            "lease-off",
            "receiver-slow",
            0.1,
            ["--workers", "1", "--writers", "1"],
            "FAILED: arrived twice without an explanation",
        ),
        pytest.param(
            "lease-off",
            "receiver-slow",
            0.25,
            [],
            "FAILED: arrived twice without an explanation",
            marks=pytest.mark.long,
        ),
        # What could not be captured, and could not be reported either, nobody looks for.
        pytest.param(
            "sweep-off",
            "tables-locked,redis-silent",
            0.25,
            [],
            "FAILED: lost: committed, and no event",
            marks=pytest.mark.long,
        ),
        # A web process that missed Redis sends no nudge for half a minute.
        pytest.param(
            "nudge-only",
            "redis-killed",
            0.25,
            [],
            "FAILED: redis-killed: first delivery after",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_safeguard_that_is_missing_is_found(plant, faults, minutes, few, finding):
    """One moment, of seed 2 with both faults at once where there are two."""
    options = ["--seed", "2", "--minutes", str(minutes), "--rest", "15", "--faults", faults]
    code, printed = run(*options, "--plant", plant, *few)
    assert code == 1, printed
    assert finding in printed, printed
