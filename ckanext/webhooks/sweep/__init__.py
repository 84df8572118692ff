"""What keeps the tables true and small, beside the stream of events.

What was lost on the way needs no search: an event without a sequence and a
delivery whose lease ran out are due by themselves, and every tick of the
worker takes what is due. Here is what time alone makes necessary.
"""

from .mail import tell_owners
from .old import drop_old, forget_old_secrets, forget_unserved, prune, trim_log
from .standing import pause_and_resume

__all__ = ["drop_old", "prune", "sweep", "tell_owners", "trim_log"]


def sweep() -> None:
    """Do all that the database alone can do. Two workers may do so at the same time."""
    pause_and_resume()
    forget_old_secrets()
    forget_unserved()
    prune()
