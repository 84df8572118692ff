"""Stage 1, in the web process and inside CKAN's transaction: change → event row.

``listeners`` hears what the session does, ``touched`` keeps which datasets
that was about, ``content`` has what they look like now, ``record`` writes.
Nothing here may fail a save: see :func:`listeners.before_commit`. What cannot be
captured is noted as ``missed``, and ``reconcile`` captures it from the worker.
"""

from .content import authorized, keep_built
from .listeners import listen
from .reconcile import (
    Found,
    capture_missed,
    count_unknown,
    note_missed,
    reconcile,
    reconcile_datasets,
    snapshot,
)

__all__ = [
    "Found",
    "authorized",
    "capture_missed",
    "count_unknown",
    "keep_built",
    "listen",
    "note_missed",
    "reconcile",
    "reconcile_datasets",
    "snapshot",
]
