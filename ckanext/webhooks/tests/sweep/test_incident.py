"""Which mail is due, of what a webhook's row says."""

from __future__ import annotations

import pytest

from ...model import BY_A_PERSON
from ...sweep.incident import FAILING_FOR, NOTICE, OPEN_FOR, Incident, Mail, due

DAY = 86400.0
AFTER = 5 * DAY


def incident(failing_for: float | None, mailed: str | None = None, **columns) -> Incident:
    row = {"state": "active", "state_reason": None, "circuit": "open", **columns}
    return Incident(failing_for=failing_for, mailed=mailed, **row)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # An endpoint that works, or failed a moment ago.
        (incident(None, circuit="closed"), None),
        (incident(1.0, circuit="closed"), None),
        (incident(OPEN_FOR - 1), None),
        (incident(OPEN_FOR), Mail.FAILING),
        (incident(OPEN_FOR, circuit="half-open"), Mail.FAILING),
        (incident(FAILING_FOR - 1, circuit="closed"), None),
        (incident(FAILING_FOR, circuit="closed"), Mail.FAILING),
        (incident(2 * DAY, "failing"), None),
        # A day before it is disabled, also where the first mail was missed.
        (incident(AFTER - NOTICE - 1, "failing"), None),
        (incident(AFTER - NOTICE, "failing"), Mail.WARNING),
        (incident(AFTER - NOTICE), Mail.WARNING),
        (incident(AFTER - NOTICE, "warning"), None),
        (incident(AFTER + DAY, "warning"), None),
        # What ends it.
        (incident(None, "failing", circuit="closed"), Mail.RECOVERED),
        (incident(None, "warning", circuit="closed"), Mail.RECOVERED),
        (incident(AFTER, "warning", state="disabled", state_reason="it failed"), Mail.DISABLED),
        (incident(0.1, state="disabled", state_reason="410"), Mail.DISABLED),
        (incident(AFTER, "disabled", state="disabled", state_reason="it failed"), None),
        # Not what a person did, nor what was never called (rows of 2015).
        (incident(AFTER, "failing", state="disabled", state_reason=BY_A_PERSON), None),
        (incident(None, "failing", state="disabled", state_reason=BY_A_PERSON), None),
        (incident(None, state="disabled", state_reason="no owner"), None),
        # Nobody waits for these.
        (incident(2 * DAY, state="paused"), None),
        (incident(2 * DAY, state="unverified"), None),
        (incident(None, "failing", state="paused"), None),
        (incident(None, "disabled", circuit="closed"), None),
    ],
)
def test_which_mail_is_due(given, expected):
    assert due(given, AFTER) is expected


@pytest.mark.parametrize(("after", "warned"), [(5 * DAY, 4 * DAY), (DAY, 0.8 * DAY), (100.0, 80.0)])
def test_the_warning_comes_a_day_or_a_fifth_before(after, warned):
    assert due(incident(warned - 0.001, "failing"), after) is None
    assert due(incident(warned, "failing"), after) is Mail.WARNING


def test_of_each_incident_there_is_one_mail_of_a_kind():
    """Whatever is noted after each mail, time alone brings no second one."""
    mailed: str | None = None
    told = []
    for minute in range(int(AFTER / 60)):
        mail = due(incident(minute * 60.0, mailed), AFTER)
        if mail:
            told.append(mail)
            mailed = mail.value
    assert told == [Mail.FAILING, Mail.WARNING]
