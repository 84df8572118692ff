"""Stage 1, in the web process and inside CKAN's transaction: change → event row.

``listeners`` hears what the session does, ``touched`` keeps which datasets
that was about, ``content`` has what they look like now, ``record`` writes.
Nothing here may fail a save: see :func:`listeners.before_commit`.
"""

from .content import keep_built
from .listeners import listen

__all__ = ["keep_built", "listen"]
