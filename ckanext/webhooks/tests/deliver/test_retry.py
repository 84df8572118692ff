"""What an outcome means for its delivery."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ...deliver.attempt import Outcome
from ...deliver.retry import (
    JITTER,
    MAX_RETRY_AFTER,
    MIN_RETRY_AFTER,
    Verdict,
    decide,
    retry_after,
)

# The default of ckanext.webhooks.retry_schedule.
SCHEDULE = [0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
NOW = 1_700_000_000.0
FAILURE = Outcome(status=500)
NO_LUCK = 0.5  # exactly the wait of the schedule


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 226, 299])
def test_2xx_is_delivered(status):
    assert decide(Outcome(status=status), 1, SCHEDULE, NO_LUCK, NOW).verdict is Verdict.DELIVERED
    # Even on the last try, and whatever the answer says beside.
    late = decide(Outcome(status=status, retry_after="60"), 99, SCHEDULE, NO_LUCK, NOW)
    assert late.verdict is Verdict.DELIVERED


@pytest.mark.parametrize("status", [100, 199, 300, 301, 304, 307, 400, 401, 404, 429, 500, 503])
def test_every_other_answer_is_tried_again(status):
    decision = decide(Outcome(status=status), 1, SCHEDULE, NO_LUCK, NOW)
    assert decision.verdict is Verdict.RETRY
    assert str(status) in decision.reason


def test_a_redirect_says_that_it_is_not_followed():
    assert "not followed" in decide(Outcome(status=302), 1, SCHEDULE, NO_LUCK, NOW).reason


def test_a_network_error_is_tried_again_with_its_reason():
    decision = decide(Outcome(error="connection refused"), 1, SCHEDULE, NO_LUCK, NOW)
    assert (decision.verdict, decision.reason) == (Verdict.RETRY, "connection refused")
    assert decide(Outcome(), 1, SCHEDULE, NO_LUCK, NOW).reason == "no answer"


def test_410_disables_on_any_try():
    for tries in (1, len(SCHEDULE)):
        decision = decide(Outcome(status=410), tries, SCHEDULE, NO_LUCK, NOW)
        assert decision.verdict is Verdict.DISABLE
        assert "410" in decision.reason


def test_the_waits_are_those_of_the_schedule():
    waits = [
        decide(FAILURE, tries, SCHEDULE, NO_LUCK, NOW).wait for tries in range(1, len(SCHEDULE))
    ]
    assert waits == SCHEDULE[1:]


def test_there_are_as_many_tries_as_entries():
    last = len(SCHEDULE)
    assert decide(FAILURE, last - 1, SCHEDULE, NO_LUCK, NOW).verdict is Verdict.RETRY
    assert decide(FAILURE, last, SCHEDULE, NO_LUCK, NOW).verdict is Verdict.GIVE_UP
    assert decide(FAILURE, last + 5, SCHEDULE, NO_LUCK, NOW).verdict is Verdict.GIVE_UP
    assert decide(FAILURE, 1, [0], NO_LUCK, NOW).verdict is Verdict.GIVE_UP
    busy = Outcome(status=503, retry_after="1")
    assert decide(busy, last, SCHEDULE, NO_LUCK, NOW).verdict is Verdict.GIVE_UP
    assert "500" in decide(FAILURE, last, SCHEDULE, NO_LUCK, NOW).reason


@given(tries=st.integers(1, len(SCHEDULE) - 1), luck=st.floats(0, 1))
def test_jitter_stays_within_a_fifth(tries, luck):
    wait = decide(FAILURE, tries, SCHEDULE, luck, NOW).wait
    assert SCHEDULE[tries] * 0.8 - 1e-6 <= wait <= SCHEDULE[tries] * 1.2 + 1e-6


def test_jitter_uses_its_whole_width():
    assert decide(FAILURE, 2, SCHEDULE, 0.0, NOW).wait == pytest.approx(300 * (1 - JITTER))
    assert decide(FAILURE, 2, SCHEDULE, 1.0, NOW).wait == pytest.approx(300 * (1 + JITTER))


@pytest.mark.parametrize("status", [429, 503])
def test_an_endpoint_may_ask_for_more_patience(status):
    def wait(value):
        return decide(Outcome(status=status, retry_after=value), 1, SCHEDULE, NO_LUCK, NOW).wait

    assert wait("120") == 120
    assert wait(formatdate(NOW + 600, usegmt=True)) == pytest.approx(600)
    # Never for less than the schedule has.
    assert wait("2") == 5
    assert wait(formatdate(NOW - 600, usegmt=True)) == 5
    # Nor for longer than a day.
    assert wait("315360000") == MAX_RETRY_AFTER
    assert wait(formatdate(NOW + 10 * 365 * 86400, usegmt=True)) == MAX_RETRY_AFTER
    # Nonsense is as good as nothing.
    for nonsense in (None, "", "soon", "-5", "1.5", "5 minutes", "٥", "9" * 5000 + "x"):
        assert wait(nonsense) == 5


@pytest.mark.parametrize("status", [500, 502, 404, 301])
def test_retry_after_of_other_answers_is_left_alone(status):
    decision = decide(Outcome(status=status, retry_after="120"), 1, SCHEDULE, NO_LUCK, NOW)
    assert decision.wait == 5


def test_retry_after_is_clamped():
    assert retry_after("0", NOW) == MIN_RETRY_AFTER
    assert retry_after(" 7 ", NOW) == 7
    assert retry_after("9" * 5000, NOW) == MAX_RETRY_AFTER
    assert retry_after("0" * 5000 + "7", NOW) <= MAX_RETRY_AFTER


@pytest.mark.parametrize(
    "date",
    [
        "Tue, 14 Nov 2023 22:23:20 GMT",
        "Tuesday, 14-Nov-23 22:23:20 GMT",  # RFC 850
        "Tue Nov 14 22:23:20 2023",  # asctime: UTC, although it does not say so
        "Tue, 14 Nov 2023 22:23:20 -0000",
    ],
)
def test_dates_are_read_in_each_form_that_http_has(date, monkeypatch):
    """RFC 9110, section 5.6.7; wherever the worker's machine is."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after(date, NOW) == pytest.approx(600)
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text() | st.text(alphabet="0123456789:,+- GMTJanSu"))
def test_no_header_breaks_the_decision(value):
    wait = retry_after(value, NOW)
    assert wait == 0 or MIN_RETRY_AFTER <= wait <= MAX_RETRY_AFTER
