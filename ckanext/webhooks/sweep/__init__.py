"""What keeps the tables true and small, beside the stream of events.

What was lost on the way needs no search: an event without a sequence and a
delivery whose lease ran out are due by themselves, and every tick of the
worker takes what is due. Here is what time alone makes necessary.
"""

from collections.abc import Callable

from .mail import tell_owners
from .old import (
    drop_old,
    forget_old_secrets,
    forget_put_aside,
    forget_unserved,
    prune,
    trim_log,
)
from .standing import pause_and_resume

__all__ = ["STEPS", "drop_old", "prune", "sweep", "tell_owners", "trim_log"]

# All that the database alone can do. None needs another to have been done, and two workers
# may do one at the same time.
STEPS: tuple[Callable[[], object], ...] = (
    pause_and_resume,
    forget_old_secrets,
    forget_unserved,
    forget_put_aside,
    prune,
)


def sweep() -> None:
    """Do each of :data:`STEPS`."""
    for step in STEPS:
        step()
