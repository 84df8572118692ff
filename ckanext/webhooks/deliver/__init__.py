"""Stage 3, in the worker: delivery → POST → decision.

``loop`` keeps many deliveries under way; for each of them ``claim`` takes a
lease, ``message`` and ``signing`` make the request, ``transport`` sends it to
an address that ``addresses`` allows, ``retry`` decides what the outcome
means for it and ``health`` what for its webhook, and ``settle`` writes that
down. No transaction is open meanwhile. ``places`` says who may have how many
under way, ``coalesce`` what of several states is told.
``logged`` reads events, and says what of them may be sent at this moment.
"""

from .logged import Logged, logged, replaced
from .loop import deliver_due
from .transport import engine_name, is_own

__all__ = ["Logged", "deliver_due", "engine_name", "is_own", "logged", "replaced"]
