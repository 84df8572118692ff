"""A receiver that writes back cannot keep the portal busy for ever."""

from __future__ import annotations

import datetime
import logging
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ... import tasks
from ...dispatch import loops
from ...model import State
from ..callers import call, create, execute, stored
from ..receiver import Receiver

BOUND, PAUSE = "ckanext.webhooks.loop_bound", "ckanext.webhooks.loop_pause"
NOW = datetime.datetime(2026, 11, 25, tzinfo=datetime.timezone.utc)


def seconds(number: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=number)


def change(id_: str = "e", dataset: str = "d", ago: float | None = None, **columns):
    """Make a change; the one that is ``bound`` before it was so many seconds ago."""
    bound_at = None if ago is None else NOW - seconds(ago)
    row = {"state": State.ACTIVE.value, "due_before": None, "captured_at": NOW, **columns}
    return SimpleNamespace(id=id_, dataset_id=dataset, bound_at=bound_at, **row)


def due(*changes, bound: int = 1000) -> dict[str, float]:
    """Give in how many seconds each change is told that is told later."""
    found = loops.due_times(changes, NOW, bound, 10.0)
    return {id_: (at - NOW).total_seconds() for id_, at in found.items()}


def test_what_is_below_the_bound_is_told_at_once():
    assert due(change()) == {}
    assert due(change(ago=3600)) == {}
    assert due(change(ago=3599)) == {"e": 10}
    assert due(change(ago=1), bound=0) == {}


def test_above_it_there_is_a_line_for_each_dataset():
    assert due(*(change(id_, ago=60) for id_ in "abc"), change("other", "d2")) == {
        "a": 10,
        "b": 20,
        "c": 30,
    }
    # It goes on from one set to the next, also where the bound is kept by then.
    assert due(change(ago=60, due_before=NOW + seconds(25))) == {"e": 35}
    assert due(change(due_before=NOW + seconds(25))) == {"e": 35}
    # And ends.
    assert due(change(due_before=NOW - seconds(1))) == {}
    assert due(change(ago=60, due_before=NOW - seconds(1))) == {"e": 10}


@pytest.mark.parametrize("state", [State.HIDDEN, State.DELETED, State.PURGED])
def test_what_is_to_be_taken_back_does_not_wait(state):
    assert due(change(ago=60, due_before=NOW + seconds(25), state=state.value)) == {}


def test_it_is_logged_once_with_what_to_do(caplog):
    loops.log.disabled = False
    with caplog.at_level(logging.WARNING, logger=loops.__name__):
        due(change("a", ago=60), change("b", ago=60), change("c", ago=60))
        due(change(ago=60, due_before=NOW - seconds(1)))
    (record,) = caplog.records
    assert "dataset d changed more than 1000 times" in record.getMessage()
    assert BOUND in record.getMessage()


def answer_by_writing(receiver: Receiver, user: dict, rounds: int) -> None:
    """Write to a dataset for each delivery that tells of it, as receivers in a loop do."""
    answered = 0
    for _ in range(rounds):
        tasks.work_once()
        for request in receiver.requests[answered:]:
            answered += 1
            dataset = request.json["entity"]["id"]
            call(user, "package_patch", id=dataset, notes=f"seen {time.time_ns()}")


def line(dataset: dict) -> list[datetime.datetime]:
    """Give when the changes are told that are told later; they are half a minute apart."""
    rows = execute(
        "SELECT due_at FROM webhooks_event WHERE dataset_id = :id AND due_at IS NOT NULL"
        " ORDER BY version",
        id=dataset["id"],
    )
    found = [row.due_at for row in rows]
    assert {later - earlier for earlier, later in pairwise(found)} == {seconds(30)}
    return found


@pytest.mark.usefixtures("webhooks_db")
@pytest.mark.ckan_config(BOUND, 4)
@pytest.mark.ckan_config(PAUSE, 30)
def test_a_loop_turns_slowly_however_many_webhooks_are_in_it(receiver):
    user = factories.User()
    for _ in range(2):  # each change is answered twice, by two more changes
        create(user, topic="dataset/*", address=receiver.url)
    dataset = factories.Dataset(user=user)
    answer_by_writing(receiver, user, rounds=6)
    # Without a bound it would be 2 ** 6 by now.
    assert len(receiver.requests) == 2 * 4
    waiting = line(dataset)
    assert len(waiting) == 5
    pending = [r.due_at for r in stored("webhooks_delivery") if r.status == "pending"]
    assert sorted(pending) == sorted(waiting * 2)

    receiver.clear()
    # Half a minute later one change is told, and what it brings stands behind the others.
    for table in ("webhooks_event", "webhooks_delivery"):
        execute(f"UPDATE {table} SET due_at = due_at - interval '30 seconds'")
    answer_by_writing(receiver, user, rounds=3)
    assert len(receiver.requests) == 2
    assert len(line(dataset)) == 7

    # Nobody else waits for that.
    other = factories.Dataset(user=user)
    tasks.work_once()
    assert receiver.requests[-1].json["entity"]["id"] == other["id"]


@pytest.mark.usefixtures("webhooks_db")
@pytest.mark.ckan_config(BOUND, 3)
def test_a_webhook_with_a_pace_of_its_own_is_in_the_line_too(receiver):
    user = factories.User()
    create(user, address=receiver.url, max_rate=60_000)
    dataset = factories.Dataset(user=user)
    execute("UPDATE webhooks SET next_at = clock_timestamp()")
    for number in range(5):
        call_action("package_patch", id=dataset["id"], notes=str(number))
    tasks.work_once()
    assert len(receiver.requests) == 3


@pytest.mark.usefixtures("webhooks_db")
def test_a_person_and_an_import_are_told_at_once(receiver):
    user = factories.User()
    create(user, topic="dataset/*", address=receiver.url)
    dataset = factories.Dataset(user=user)
    for number in range(20):
        call(user, "package_patch", id=dataset["id"], notes=str(number))
    for _ in range(20):
        factories.Dataset(user=user)
    tasks.work_once()
    assert len(receiver.requests) == 41
