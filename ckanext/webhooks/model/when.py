"""Where in a table a time is: its rows are numbered in the order of time."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

# Rows of two transactions may be numbered otherwise than they are timed, by no
# more than the time that these take.
_OUT_OF_ORDER = datetime.timedelta(hours=1)
# PostgreSQL's largest.
END = 2**63 - 1


def bounds(
    connection: Connection,
    column: Any,
    time_column: Any,
    since: datetime.datetime | None,
    until: datetime.datetime | None,
) -> tuple[int, int]:
    """Give numbers from the first of which, and below the second of which, a time lies.

    They are an hour too far apart; who wants it exact looks at the rows' times.

    :param column: the number, which has an index
    :param since, until: None for all that is before or after
    """
    return (
        0 if since is None else first(connection, column, time_column, since - _OUT_OF_ORDER),
        END if until is None else first(connection, column, time_column, until + _OUT_OF_ORDER),
    )


def first(connection: Connection, column: Any, time_column: Any, at: datetime.datetime) -> int:
    """Give the number from which on rows are no older than a time, as nearly as their order is."""
    return firsts(connection, column, time_column, [at])[0]


def firsts(
    connection: Connection, column: Any, time_column: Any, moments: Sequence[datetime.datetime]
) -> list[int]:
    """Give that number for each of some times; :data:`END` where there are no rows."""
    names = {"number": column.name, "time": time_column.name, "table": column.table.name}
    found = connection.execute(sa.text(_FIRSTS % names), {"moments": list(moments)}).scalars()
    return [END if number is None else number for number in found]


# Bisection: some forty looks into an index, whatever the table holds.
_FIRSTS = """
    SELECT (
        WITH RECURSIVE halved AS (
            SELECT min(%(number)s) AS low, max(%(number)s) + 1 AS high FROM %(table)s
            UNION ALL
            SELECT CASE WHEN found.at < asked.at THEN halved.middle + 1 ELSE halved.low END,
                   CASE WHEN found.at < asked.at THEN halved.high ELSE halved.middle END
            FROM (SELECT low, high, low + (high - low) / 2 AS middle FROM halved
                  WHERE low < high) halved
                CROSS JOIN LATERAL (
                    SELECT %(time)s AS at FROM %(table)s
                    WHERE %(number)s >= halved.middle ORDER BY %(number)s LIMIT 1) found)
        SELECT low FROM halved WHERE low = high)
    FROM unnest(CAST(:moments AS timestamptz[])) WITH ORDINALITY asked (at, number)
    ORDER BY asked.number
"""
