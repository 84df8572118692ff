"""What an outcome means for its delivery: a decision, no I/O."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from .attempt import Outcome

# Waits vary by this much, so that what failed together is not tried together.
JITTER = 0.2
# An endpoint may ask for more patience than the schedule has, but not for
# longer than its last wait, and not for none at all.
MIN_RETRY_AFTER = 1.0
MAX_RETRY_AFTER = 24 * 3600.0
# RFC 9110, sections 15.6.4 and RFC 6585, section 4.
_OBEY_RETRY_AFTER = (429, 503)
# RFC 9110, section 15.5.11; Standard Webhooks: stop sending.
_GONE = 410


class Verdict(enum.Enum):
    """What becomes of a delivery after an attempt."""

    DELIVERED = "delivered"  # 2xx
    RETRY = "retry"  # another try is due after a wait
    GIVE_UP = "give up"  # that was the last try
    DISABLE = "disable"  # the endpoint is gone for good, and so is its webhook


class Decision(NamedTuple):
    """
    :param wait: seconds until the next try, for ``RETRY``
    :param asked: seconds for which the endpoint asked to be left alone
    :param reason: why it was not delivered, in words
    """

    verdict: Verdict
    wait: float = 0.0
    reason: str | None = None
    asked: float = 0.0


def decide(
    outcome: Outcome, tries: int, schedule: Sequence[float], luck: float, now: float
) -> Decision:
    """Say what to do after an attempt.

    :param tries: attempts that ended, this one included
    :param schedule: seconds before each try; the first is before the first
    :param luck: from 0 to 1, decides the jitter
    :param now: seconds since 1970, for a ``Retry-After`` that is a date
    """
    if outcome.status is not None and 200 <= outcome.status < 300:
        return Decision(Verdict.DELIVERED)
    reason = _reason(outcome)
    if outcome.status == _GONE:
        return Decision(Verdict.DISABLE, reason=reason)
    asked = retry_after(outcome.retry_after, now) if outcome.status in _OBEY_RETRY_AFTER else 0.0
    if tries >= len(schedule):
        return Decision(Verdict.GIVE_UP, reason=reason, asked=asked)
    wait = schedule[tries] * (1 + JITTER * (2 * luck - 1))
    return Decision(Verdict.RETRY, max(wait, asked), reason, asked)


def retry_after(value: str | None, now: float) -> float:
    """Read a ``Retry-After`` header (RFC 9110, section 10.2.3).

    :returns: seconds, clamped; 0 where there is none or it makes no sense
    """
    if not value:
        return 0.0
    text = value.strip()
    if text.isascii() and text.isdigit():
        # More digits than any sensible wait has need not be counted.
        seconds = float(text[:12])
    else:
        try:
            date = parsedate_to_datetime(text)
            # Two forms of a date name no zone: HTTP's dates are in UTC.
            date = date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)
            seconds = date.timestamp() - now
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return min(max(seconds, MIN_RETRY_AFTER), MAX_RETRY_AFTER)


def _reason(outcome: Outcome) -> str:
    if outcome.status is None:
        return outcome.error or "no answer"
    if 300 <= outcome.status < 400:
        return f"the endpoint answered {outcome.status}; redirects are not followed"
    return f"the endpoint answered {outcome.status}"
