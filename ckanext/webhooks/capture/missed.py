"""What capture missed, by name: noted by the save, taken up by a worker.

What is wrong with the log, a lock or a bug, is not with this table: it has one writer of
short rows, and nothing is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import transaction
from . import bounds

# Datasets that a worker takes at once: one or two seconds' work.
PAGE = 100
# What could not be captured is looked at again when it has waited a quarter as long again,
# between these: after an outage it comes soon, and a bug is not logged for ever. The first
# is longer than a page takes, so that no other worker does the same.
_AT_LEAST, _AT_MOST = "5 seconds", "1 hour"
# In a save that has waited for the log already.
_LOCK_TIMEOUT = "50ms"
_NOTE = f"""{bounds.BEGIN}
    SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}';
    INSERT INTO webhooks_missed (dataset_id) SELECT unnest(CAST(%(ids)s AS text[]));
    {bounds.END}
"""


def note(connection: Connection, dataset_ids: Collection[str]) -> None:
    """Say within a transaction that its change of some datasets is not in the log.

    :raises Exception: whatever the database raises; the transaction is as it was before
    """
    try:
        connection.exec_driver_sql(_NOTE, {"ids": sorted(dataset_ids)})
    except Exception:
        connection.exec_driver_sql(bounds.UNDO)
        raise


def claim() -> Sequence[Any]:
    """Take a page of what is due, by pushing it forward.

    :returns: rows with ``id`` and ``dataset_id``
    """
    with transaction() as connection:
        return connection.execute(_CLAIM, {"page": PAGE}).all()


def forget(ids: Collection[int]) -> None:
    """Delete the rows of what is captured; what was missed since has rows of its own."""
    with transaction() as connection:
        connection.execute(_FORGET, {"ids": list(ids)})


_CLAIM = sa.text(
    f"""
    UPDATE webhooks_missed SET due_at = clock_timestamp() + least(
        greatest((clock_timestamp() - missed_at) / 4, interval '{_AT_LEAST}'),
        interval '{_AT_MOST}')
    WHERE id IN (
        SELECT id FROM webhooks_missed WHERE due_at <= clock_timestamp()
        ORDER BY due_at, id LIMIT :page FOR UPDATE SKIP LOCKED)
    RETURNING id, dataset_id
    """
)
_FORGET = sa.text("DELETE FROM webhooks_missed WHERE id = ANY(:ids)")
