"""What deliveries depend on, looked at one after the other, with what to do.

Each check gives what it found; none raises for what it looks for.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..model import missing_tables
from ..model.base import HOW_TO_MIGRATE
from . import installed, running
from .finding import Finding, Level

__all__ = ["Finding", "Level", "findings"]


def findings() -> Iterator[Finding]:
    """Look at everything. Without tables, there is nothing further to look at."""
    if missing_tables():
        yield Finding(Level.WRONG, "tables: missing, or of an older version", HOW_TO_MIGRATE)
        return
    yield Finding(Level.GOOD, "tables: as this version wants them")
    for check in (*installed.CHECKS, *running.CHECKS):
        yield from check()
