"""What an owner is to be told of an endpoint: a decision, no I/O.

An incident begins with a failure and ends with a success, or when the
webhook is disabled. In each there is at most one mail of a kind, and what
the last one was is kept in ``webhooks.mailed``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..model import BY_A_PERSON, Circuit, WebhookState

# Seconds of failing that are worth a mail. With the circuit open, five
# deliveries and each probe since have failed: an endpoint that is restarted is
# back by then. Where little is to be told, the first four tries of a single
# delivery (at once, after 5 s, 5 min and 30 min) have.
OPEN_FOR = 300.0
FAILING_FOR = 3600.0
# Seconds before a webhook is disabled at which its owner is warned, a working
# day in any time zone; or a fifth of the time, where that is less.
NOTICE = 86400.0


class Mail(str, enum.Enum):
    """What an owner is told; also the value of ``webhooks.mailed``."""

    FAILING = "failing"  # something is wrong
    WARNING = "warning"  # it goes on, and the webhook will be disabled
    DISABLED = "disabled"  # it has been, and no person did it
    RECOVERED = "recovered"  # after one of the first two. Never a value of the column


@dataclass(frozen=True)
class Incident:
    """What a decision takes of a webhook's row.

    :param failing_for: seconds since the first failure after the last success
    """

    state: str
    state_reason: str | None
    circuit: str
    failing_for: float | None
    mailed: str | None


def due(incident: Incident, disable_after: float) -> Mail | None:
    """Say which mail is due, None for none.

    :param disable_after: seconds of failing after which a webhook is disabled
    """
    if incident.state == WebhookState.DISABLED:
        return _unless_mailed(incident, Mail.DISABLED) if _is_given_up(incident) else None
    if incident.state != WebhookState.ACTIVE:
        return None
    if incident.failing_for is None:
        return Mail.RECOVERED if incident.mailed in (Mail.FAILING, Mail.WARNING) else None
    if incident.failing_for >= disable_after - min(NOTICE, disable_after / 5):
        return _unless_mailed(incident, Mail.WARNING)
    if incident.mailed is None and _is_no_blip(incident.circuit, incident.failing_for):
        return Mail.FAILING
    return None


def _unless_mailed(incident: Incident, mail: Mail) -> Mail | None:
    return None if incident.mailed == mail else mail


def _is_given_up(incident: Incident) -> bool:
    return incident.failing_for is not None and incident.state_reason != BY_A_PERSON


def _is_no_blip(circuit: str, failing_for: float) -> bool:
    return failing_for >= (FAILING_FOR if circuit == Circuit.CLOSED else OPEN_FOR)
