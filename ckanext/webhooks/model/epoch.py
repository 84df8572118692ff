"""Epochs: what keeps numbers from being given twice after the database was restored.

A back-up knows nothing of the numbers that were given after it, so they would be given again,
and whoever drops what is not above the last number would drop what is new. Every number says
of which epoch it is, and who restores a back-up begins the next one. So numbers go on growing,
and what somebody has of an epoch beyond what the log has of it, the restore took away.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .base import dispatch_lock

# Numbers of one epoch: a century of 300 events a minute. JavaScript's numbers are exact up to
# nine million epochs of these.
NUMBERS = 10**9


def of(sequence: int) -> int:
    """Say of which epoch the number of an event is: 0, 1, 2…"""
    return sequence // NUMBERS


def begin(connection: Connection) -> int:
    """Begin the next epoch, and give its number."""
    dispatch_lock(connection)  # who has it gives numbers
    first = connection.execute(_BEGIN, {"numbers": NUMBERS}).scalar_one()
    return of(int(first))


def end(connection: Connection, sequence: int) -> int:
    """Give the last number that the log knows of an epoch.

    Of the present one that is the last that was given, whatever has left the log since; of an
    earlier one the last that is still there.

    :param sequence: any number of that epoch
    """
    last = int(connection.execute(_LAST).scalar_one())
    if of(sequence) >= of(last):
        return last
    beyond = (of(sequence) + 1) * NUMBERS
    return int(connection.execute(_LAST_BELOW, {"beyond": beyond}).scalar_one())


_BEGIN = sa.text(
    """
    SELECT setval('webhooks_event_order', (last_value / :numbers + 1) * :numbers)
    FROM webhooks_event_order
    """
)
_LAST = sa.text("SELECT coalesce(pg_sequence_last_value('webhooks_event_order'), 0)")
_LAST_BELOW = sa.text(
    "SELECT coalesce(max(sequence), 0) FROM webhooks_event WHERE sequence < :beyond"
)
