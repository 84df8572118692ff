"""The tables. Each module says what a row is and who writes it."""

from .attempt import Attempt
from .base import missing_tables, transaction
from .delivery import Delivery, Status
from .event import Event, Origin, State
from .served import Served
from .webhook import Circuit, Format, Webhook, WebhookState

__all__ = [
    "Attempt",
    "Circuit",
    "Delivery",
    "Event",
    "Format",
    "Origin",
    "Served",
    "State",
    "Status",
    "Webhook",
    "WebhookState",
    "missing_tables",
    "transaction",
]
