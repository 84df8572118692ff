"""When a circuit opens and closes, and when an endpoint is given up."""

from __future__ import annotations

import pytest

from ...deliver.health import FIRST_PROBE, LAST_PROBE, LONGEST_PATIENCE, OPENS_AFTER, Health, after
from ...deliver.retry import Decision, Verdict
from ...model import Circuit

DAYS = 86400.0
OK = Decision(Verdict.DELIVERED)
FAILED = Decision(Verdict.RETRY, 5.0, "the endpoint answered 500")
GONE = Decision(Verdict.DISABLE, reason="the endpoint answered 410")
WELL = Health(Circuit.CLOSED, 0, None)


def fold(health, *decisions):
    for decision in decisions:
        health = after(health, decision, 5 * DAYS, luck=0.5)
    return health


def test_a_few_failures_change_nothing_but_their_count():
    health = fold(WELL, *[FAILED] * (OPENS_AFTER - 1))
    assert (health.circuit, health.failures, health.next_in) == (
        Circuit.CLOSED,
        OPENS_AFTER - 1,
        None,
    )
    assert fold(health, OK) == WELL


def test_repeated_failures_open_the_circuit():
    health = fold(WELL, *[FAILED] * OPENS_AFTER)
    assert (health.circuit, health.next_in) == (Circuit.OPEN, FIRST_PROBE)


@pytest.mark.parametrize("last", [FAILED, Decision(Verdict.GIVE_UP, reason="no answer")])
def test_what_was_under_way_when_it_opened_tells_nothing_new(last):
    opened = fold(WELL, *[FAILED] * OPENS_AFTER)
    assert fold(opened, last) == opened


def test_failed_probes_are_twice_as_far_apart_up_to_a_bound():
    waits = []
    for failures in range(OPENS_AFTER, OPENS_AFTER + 12):
        probing = Health(Circuit.HALF_OPEN, failures, 60.0)
        waits.append(fold(probing, FAILED).next_in)
    assert waits[:3] == [2 * FIRST_PROBE, 4 * FIRST_PROBE, 8 * FIRST_PROBE]
    assert waits[-1] == LAST_PROBE
    # However long it goes on.
    assert fold(Health(Circuit.HALF_OPEN, 1_000_000, 60.0), FAILED).next_in == LAST_PROBE


@pytest.mark.parametrize("circuit", [Circuit.OPEN, Circuit.HALF_OPEN])
def test_any_success_closes_it_and_what_waited_may_go_at_once(circuit):
    assert fold(Health(circuit, 9, 60.0), OK) == Health(Circuit.CLOSED, 0, None, 0.0)


def test_an_endpoint_that_asks_for_patience_gets_it_at_once():
    asked = Decision(Verdict.RETRY, 30.0, "the endpoint answered 429", asked=30.0)
    health = fold(WELL, asked)
    assert (health.circuit, health.next_in) == (Circuit.OPEN, 30.0)
    day = Decision(Verdict.RETRY, DAYS, "the endpoint answered 429", asked=DAYS)
    assert fold(WELL, day).next_in == LONGEST_PATIENCE
    # No sooner than the next probe would be.
    probing = Health(Circuit.HALF_OPEN, OPENS_AFTER + 12, 60.0)
    assert fold(probing, asked).next_in == LAST_PROBE


def test_it_is_given_up_when_it_failed_for_so_long():
    late = Health(Circuit.HALF_OPEN, 900, 5 * DAYS)
    assert fold(late, FAILED).disabled == "it failed for 5 days without a success"
    assert fold(late, OK).disabled is None
    assert fold(Health(Circuit.HALF_OPEN, 900, 5 * DAYS - 1), FAILED).disabled is None


def test_what_is_gone_is_given_up_at_once():
    assert "410 Gone" in fold(WELL, GONE).disabled


def test_probes_do_not_come_all_at_once():
    probing = Health(Circuit.HALF_OPEN, OPENS_AFTER, 60.0)
    soon, late = (after(probing, FAILED, DAYS, luck).next_in for luck in (0.0, 1.0))
    assert soon < 2 * FIRST_PROBE < late
