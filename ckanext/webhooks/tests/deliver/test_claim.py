"""What is due is taken, what has no place is held back, and nothing is forgotten."""

from __future__ import annotations

import pytest
from ckan.tests import factories

from ... import model, tasks
from ...deliver import claim as claiming
from ...deliver import held as held_back
from ...deliver.claim import claim
from ...deliver.places import Bounds, Places
from ..callers import create, execute, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")

BOUNDS = Bounds(all=100, webhook=3, host=50, owner=50)


@pytest.fixture
def hook():
    return create(factories.User())


def write(hook: str, count: int, due: str = "clock_timestamp()", **values) -> None:
    """Write deliveries of a webhook; the later have higher numbers."""
    columns = {"topic": "'dataset/update'", "event_id": "'no-' || n", "sequence": "n", **values}
    execute(
        f"INSERT INTO webhooks_delivery (webhook_id, address, format, due_at, {', '.join(columns)})"
        f" SELECT :hook, 'http://example.com', 'classic', {due}, {', '.join(columns.values())}"
        " FROM generate_series(1, :count) n",
        hook=hook,
        count=count,
    )


def taken(places: Places | None = None, count: int = 100) -> list[int]:
    """Claim, and give the numbers of what was claimed."""
    claimed = claim(count, places or Places(BOUNDS), timeout=10)
    return [row.sequence for row in claimed.deliveries] if claimed else []


def held() -> list[int]:
    return [row.sequence for row in stored("webhooks_delivery") if row.due_at is None]


def gate(hook: str):
    [row] = [row for row in stored() if row.id == hook]
    return row


def full_of(hook: str) -> Places:
    """Give places of which this webhook has all that it may have."""
    places = Places(BOUNDS)
    row = execute(
        "SELECT id AS webhook_id, host, user_id, false AS is_proven, 0 AS size"
        " FROM webhooks WHERE id = :id",
        id=hook,
    )[0]
    for _ in range(BOUNDS.webhook):
        places.take(row, 0)
    return places


def settle_all() -> None:
    execute("UPDATE webhooks_delivery SET status = 'delivered' WHERE due_at > clock_timestamp()")


def test_what_a_webhook_has_no_place_for_is_held_back_and_goes_in_order(hook):
    write(hook, 8)
    assert taken() == [1, 2, 3]
    assert held() == [4, 5, 6, 7, 8]
    assert gate(hook).next_at is not None
    # Its places are taken: nothing more for now.
    assert taken(full_of(hook)) == []
    settle_all()
    assert taken() == [4, 5, 6]
    settle_all()
    assert taken() == [7, 8]
    # It had room for more, and so holds nothing back.
    assert gate(hook).next_at is None


def test_what_is_dispatched_meanwhile_goes_behind_what_is_held_back():
    user = factories.User()
    hook = create(user, topic="dataset/*")
    other = create(user, topic="dataset/*")
    write(hook, 5, sequence="-n")
    assert taken() == [-3, -2, -1]
    factories.Dataset()
    tasks.dispatch()
    lines = {row.webhook_id: row.due_at for row in stored("webhooks_delivery") if row.sequence > 0}
    assert lines[hook] is None
    assert lines[other] is not None


def test_several_events_of_one_set_are_written_in_their_order():
    for _ in range(5):
        create(factories.User(), topic="dataset/*")
    for _ in range(8):
        factories.Dataset()
    tasks.dispatch()
    written = [row.sequence for row in stored("webhooks_delivery")]
    assert len(written) == 40
    assert written == sorted(written)


def test_a_gate_stays_while_something_is_held_back(hook, monkeypatch):
    write(hook, 1)
    assert taken(full_of(hook)) == []
    monkeypatch.setattr(held_back, "try_dispatch_lock", lambda connection: False)
    assert taken() == [1]
    assert gate(hook).next_at is not None, "a dispatcher may be writing behind it"
    monkeypatch.undo()
    assert taken() == []
    assert gate(hook).next_at is None


def test_those_with_a_backlog_take_turns(monkeypatch):
    monkeypatch.setattr(held_back, "_MOST_GATES", 1)
    user = factories.User()
    hooks = [create(user), create(user), create(user)]
    for number, hook in enumerate(hooks, 1):
        write(hook, 9, "NULL", sequence=str(number))
    execute("UPDATE webhooks SET next_at = clock_timestamp()")
    turns = [set(taken(count=2)) for _ in range(3)]
    assert sorted(turns, key=min) == [{1}, {2}, {3}]


def test_several_windows_of_one_webhook_delay_no_other(hook):
    write(hook, 2500)
    good = create(factories.User())
    write(good, 1, sequence="9999")
    assert claim(10, Places(BOUNDS), timeout=10).more
    assert taken(full_of(hook)) == [9999]
    assert len(held()) == 2497


def test_the_others_of_a_full_host_stay_in_line():
    first = create(factories.User(), address="http://a.example.com/1")
    second = create(factories.User(), address="http://a.example.com/2")
    write(first, 1)
    write(second, 1, sequence="2")
    before = {row.sequence: row.due_at for row in stored("webhooks_delivery")}
    places = Places(Bounds(all=100, webhook=3, host=1, owner=50))
    assert taken(places) == [1]
    after = {row.sequence: row.due_at for row in stored("webhooks_delivery")}
    assert after[1] > before[1]
    assert after[2] == before[2]


def test_what_is_due_later_is_not_looked_at(hook):
    write(hook, 5000, "clock_timestamp() + interval '1 hour'")
    execute("ANALYZE webhooks_delivery")
    looking = str(claiming._LINE).replace("SELECT", "EXPLAIN SELECT", 1)
    plan = "\n".join(row[0] for row in execute(looking, window=1000, known_up_to=0))
    assert "Index Cond: (due_at <= statement_timestamp())" in plan, plan


# --- the circuit


def open_circuit(hook: str, next_at: str) -> None:
    execute(
        f"UPDATE webhooks SET circuit = 'open', failures = 5, next_at = {next_at} WHERE id = :id",
        id=hook,
    )


def test_while_a_circuit_is_open_what_is_due_is_held_back_untried(hook):
    open_circuit(hook, "clock_timestamp() + interval '1 minute'")
    write(hook, 5)
    assert taken() == []
    assert held() == [1, 2, 3, 4, 5]
    assert {row.tries for row in stored("webhooks_delivery")} == {0}


def test_then_one_goes_as_a_probe_and_no_other_until_it_ended(hook):
    open_circuit(hook, "clock_timestamp()")
    write(hook, 5)
    assert taken() == [1]
    assert gate(hook).circuit == "half-open"
    assert taken() == []
    # The worker with the probe was killed: its lease runs out, and another probes.
    execute("UPDATE webhooks SET next_at = clock_timestamp()")
    assert taken() == [2]


def test_without_anything_due_there_is_no_probe_and_no_gate(hook):
    open_circuit(hook, "clock_timestamp()")
    assert taken() == []
    assert (gate(hook).circuit, gate(hook).next_at) == ("open", None)
    write(hook, 2)
    assert taken() == [1]
    assert gate(hook).circuit == "half-open"


def test_a_ping_passes_an_open_circuit_and_a_disabled_webhook(hook):
    open_circuit(hook, "clock_timestamp() + interval '1 minute'")
    write(hook, 1, topic="'ping'")
    assert taken() == [1]
    settle_all()
    execute("UPDATE webhooks SET state = 'disabled'")
    write(hook, 1, topic="'ping'", sequence="2")
    assert taken() == [2]


# --- the pace


def test_max_rate_spaces_what_waits_whichever_worker_takes_it(hook):
    execute("UPDATE webhooks SET max_rate = 30")
    write(hook, 3)
    assert taken() == [1]
    assert taken() == [], "two seconds have not passed"
    wait = execute("SELECT extract(epoch FROM next_at - clock_timestamp()) FROM webhooks")[0][0]
    assert 1 < wait <= 2
    execute("UPDATE webhooks SET next_at = clock_timestamp()")
    assert taken() == [2]


def test_a_high_rate_comes_by_the_second(hook):
    execute("UPDATE webhooks SET max_rate = 120")
    write(hook, 5)
    assert taken() == [1, 2]
    wait = execute("SELECT extract(epoch FROM next_at - clock_timestamp()) FROM webhooks")[0][0]
    assert 0.5 < wait <= 1


def test_the_pace_holds_after_the_line_was_empty(hook):
    execute("UPDATE webhooks SET max_rate = 6")
    write(hook, 1)
    assert taken() == [1]
    write(hook, 1, sequence="2")
    assert taken() == []


def test_only_the_newest_state_of_what_waits_is_sent():
    hook = create(factories.User(), topic="dataset/*")
    execute("UPDATE webhooks SET newest_only = true, next_at = clock_timestamp()")
    for number, verb in enumerate(["create", "update", "update"], 1):
        execute(
            "INSERT INTO webhooks_event (id, entity_type, entity_id, dataset_id, state,"
            " occurred_at, captured_at, version, sequence)"
            " VALUES (:id, 'dataset', 'd', 'd', 'active', now(), now(), :n, :n)",
            id=f"e{number}",
            n=number,
        )
        write(
            hook,
            1,
            "NULL",
            topic=f"'dataset/{verb}'",
            event_id=f"'e{number}'",
            sequence=str(number),
        )
    [row] = claim(10, Places(BOUNDS), timeout=10).deliveries
    assert (row.sequence, row.topic, row.coalesced) == (3, "dataset/create", 2)
    assert [(r.status, r.reason) for r in stored("webhooks_delivery")][:2] == [
        ("cancelled", "coalesced")
    ] * 2


# --- several workers


def test_what_another_worker_is_claiming_is_skipped(hook):
    write(hook, 2)
    with model.transaction() as other:
        other.exec_driver_sql("SELECT FROM webhooks_delivery WHERE sequence = 1 FOR UPDATE")
        assert taken() == [2]


def test_a_webhook_that_another_worker_moves_is_not_waited_for(hook):
    open_circuit(hook, "clock_timestamp() + interval '1 minute'")
    write(hook, 1)
    with model.transaction() as other:
        other.exec_driver_sql("SELECT FROM webhooks FOR NO KEY UPDATE")
        assert taken() == []
        assert held() == []
    assert taken() == []
    assert held() == [1]
