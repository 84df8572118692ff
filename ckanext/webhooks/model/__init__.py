"""The tables. Each module says what a row is and who writes it."""

from . import epoch
from .attempt import Attempt
from .base import (
    close_kept,
    connected,
    dispatch_lock,
    in_transaction,
    missing_tables,
    transaction,
    try_dispatch_lock,
)
from .delivery import STILL_PENDING, Delivery, Status, missed_from, pending_of, ping_row
from .event import Event, Origin, State
from .missed import Missed
from .quarantine import Kind, Quarantined
from .right import Right
from .served import Served
from .webhook import BY_A_PERSON, UNVERIFIED, Circuit, Format, Webhook, WebhookState

__all__ = [
    "BY_A_PERSON",
    "STILL_PENDING",
    "UNVERIFIED",
    "Attempt",
    "Circuit",
    "Delivery",
    "Event",
    "Format",
    "Kind",
    "Missed",
    "Origin",
    "Quarantined",
    "Right",
    "Served",
    "State",
    "Status",
    "Webhook",
    "WebhookState",
    "close_kept",
    "connected",
    "dispatch_lock",
    "epoch",
    "in_transaction",
    "missed_from",
    "missing_tables",
    "pending_of",
    "ping_row",
    "transaction",
    "try_dispatch_lock",
]
