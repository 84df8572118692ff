"""Stage 2, in the worker: event → deliveries.

``run`` takes what was captured, a set at a time; ``events`` compares and says
which events a change amounts to; ``rights`` knows under which labels each
owner is told; ``moves`` tells the difference where these change; ``write`` numbers
events and writes deliveries; ``replay`` tells one webhook again what the log
has; ``again`` tries what was put aside; ``newest`` tells what became of what
waited until it could not be published any more.

One dispatcher works at a time, under a lock that ends with its transaction:
so the sequence is in the order of commit, and nothing that commits later is
numbered below what was already told.
"""

from .again import try_again
from .moves import move_on
from .newest import tell_newest
from .rights import notice_rights
from .run import Dispatched, dispatch

__all__ = ["Dispatched", "dispatch", "move_on", "notice_rights", "tell_newest", "try_again"]
