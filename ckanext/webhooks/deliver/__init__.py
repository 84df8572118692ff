"""Stage 3, in the worker: delivery → POST → decision.

``loop`` keeps many deliveries under way; for each of them ``claim`` takes a
lease, ``message`` and ``signing`` make the request, ``transport`` sends it to
an address that ``addresses`` allows, ``retry`` decides what the outcome
means, and ``settle`` writes that down. No transaction is open meanwhile.
"""

from .loop import deliver_due

__all__ = ["deliver_due"]
