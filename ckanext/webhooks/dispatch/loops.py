"""A receiver that writes back into CKAN cannot keep the portal busy for ever.

It is told of a dataset, and changes that dataset in answer: that is told
too, and so on, at the speed of the machine. Nothing in such a change says
what it answers, so its number gives it away: a dataset that changes more
often within an hour than ``ckanext.webhooks.loop_bound`` is told of in a
line from then on, one change every ``ckanext.webhooks.loop_pause`` seconds.
The line is kept in ``webhooks_event.due_at``. Whatever a receiver writes for
each, no more than one change a pause is told, and nothing is lost.

That an entity is gone, or hidden, does not wait: it is to be taken back.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from typing import Any

from .. import logs
from ..model import State

log = logs.logger(__name__)

# Longer than any burst by a person or an import, and short enough that a
# dataset which is no longer in a loop is soon told of at once.
WITHIN = datetime.timedelta(hours=1)


def due_times(
    changes: Sequence[Any], now: datetime.datetime, bound: int, pause: float
) -> dict[str, datetime.datetime]:
    """Give the times of those changes that are told later, by event id.

    :param changes: in order; each with the time of the dataset's previous
        change (``due_before``), and with when the change was captured that is
        ``bound`` before it (``bound_at``), NULL where there is none
    :param bound: 0 for none
    """
    found: dict[str, datetime.datetime] = {}
    last: dict[str, datetime.datetime | None] = {}
    for change in changes:
        before = last.get(change.dataset_id, change.due_before)
        last[change.dataset_id] = None
        if bound > 0 and change.state == State.ACTIVE and _must_wait(change, before, now):
            if before is None:
                _log(change.dataset_id, bound, pause)
            due = max(before or now, now) + datetime.timedelta(seconds=pause)
            last[change.dataset_id] = found[change.id] = due
    return found


def _must_wait(change: Any, before: datetime.datetime | None, now: datetime.datetime) -> bool:
    if before is not None and before > now:
        return True  # behind the others
    return change.bound_at is not None and change.captured_at - change.bound_at < WITHIN


def _log(dataset_id: str, bound: int, pause: float) -> None:
    log.warning(
        "webhooks [%s]: dataset %s changed more than %d times within an hour; further changes are"
        " told every %g s. If a receiver writes to it whenever it is told of it, have that changed,"
        " or disable its webhook; where so many changes are wanted, raise"
        " ckanext.webhooks.loop_bound.",
        uuid.uuid4(),
        dataset_id,
        bound,
        pause,
    )
