"""Stage 1, in the web process and inside CKAN's transaction: change → event row.

``listeners`` hears what the session does, ``touched`` keeps which datasets
that was about, ``content`` has what they look like now, ``record`` writes.
Nothing here may fail a save: see :func:`listeners.before_commit`. What is missed
all the same, ``reconcile`` finds from the worker.
"""

from .content import keep_built
from .listeners import listen
from .reconcile import Found, count_unknown, doubt, reconcile, reconcile_datasets, snapshot

__all__ = [
    "Found",
    "count_unknown",
    "doubt",
    "keep_built",
    "listen",
    "reconcile",
    "reconcile_datasets",
    "snapshot",
]
