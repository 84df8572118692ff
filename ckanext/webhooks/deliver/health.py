"""What attempts say of an endpoint: a decision, no I/O.

After repeated failures the circuit of a webhook opens: what waits for it
waits for one delivery that is sent as a probe, at growing distances. A
delivery is a probe only when it is due by its own schedule, so that waiting
uses up no try.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..model import Circuit
from .retry import JITTER, Decision, Verdict

# So many failures in a row are no bad luck; before that, each delivery goes
# by its own schedule.
OPENS_AFTER = 5
# Seconds before the first probe, twice as many before each further one. An
# endpoint that comes back is noticed within the last of them.
FIRST_PROBE = 5.0
LAST_PROBE = 300.0
# An endpoint that asks for patience gets it for all that waits, but is asked
# again within the hour: for a single delivery it may be longer, see retry.
LONGEST_PATIENCE = 3600.0


@dataclass(frozen=True)
class Health:
    """How the endpoint of a webhook is.

    :param circuit: a :class:`~..model.Circuit`
    :param failures: in a row, probes included; see ``model.Webhook``
    :param failing_for: seconds since the first of them, None where there is none
    :param next_in: seconds until something may be sent, None where that is
        as it was
    :param disabled: why nothing is to be sent any more
    """

    circuit: Circuit
    failures: int
    failing_for: float | None
    next_in: float | None = None
    disabled: str | None = None


def after(health: Health, decision: Decision, disable_after: float, luck: float) -> Health:
    """Say how an endpoint is after one more attempt.

    :param disable_after: seconds without a success after which it is given up
    :param luck: from 0 to 1, decides the jitter of the probe
    """
    if decision.verdict is Verdict.DELIVERED:
        # What waited may go at once.
        next_in = health.next_in if health.circuit is Circuit.CLOSED else 0.0
        return Health(Circuit.CLOSED, 0, None, next_in)
    failed = replace(health, failing_for=health.failing_for or 0.0)
    if decision.verdict is Verdict.DISABLE:
        reason = "the endpoint answered 410 Gone: it is not there any more"
        return replace(failed, disabled=reason)
    if failed.failing_for is not None and failed.failing_for >= disable_after:
        days = f"{disable_after / 86400:g}"
        return replace(failed, disabled=f"it failed for {days} days without a success")
    if health.circuit is Circuit.OPEN and not decision.asked:
        return failed  # it was under way before, and tells nothing new
    failures = health.failures + 1
    if health.circuit is Circuit.CLOSED and failures < OPENS_AFTER and not decision.asked:
        return replace(failed, failures=failures)
    wait = max(_probe_wait(failures, luck), min(decision.asked, LONGEST_PATIENCE))
    return replace(failed, circuit=Circuit.OPEN, failures=failures, next_in=wait)


def _probe_wait(failures: int, luck: float) -> float:
    doublings = min(max(failures - OPENS_AFTER, 0), 16)
    wait = min(FIRST_PROBE * 2**doublings, LAST_PROBE)
    return float(wait * (1 + JITTER * (2 * luck - 1)))
