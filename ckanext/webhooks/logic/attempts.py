"""The attempts of a delivery, as the owner of its webhook is shown them."""

from __future__ import annotations

from typing import Any

from ckan import model

from ..deliver import addresses
from ..model import Attempt
from ..phrases import for_owner

# Instead of what is secret.
MASKED = "***"


def of(delivery_id: int) -> list[Any]:
    """Give the rows of a delivery's attempts, the first of them first."""
    query = model.Session.query(Attempt).filter(Attempt.delivery_id == delivery_id)
    return list(query.order_by(Attempt.number, Attempt.id))


def dictized(row: Any, webhook: Any, shows_answers: bool, shows_addresses: bool) -> dict[str, Any]:
    """Give an attempt as who asks is shown it.

    :param shows_answers: what the endpoint answered may be shown
    :param shows_addresses: so may which address of the portal's own network a name led to
    """
    answer = row.answer if shows_answers else None
    if answer and webhook is not None and webhook.challenge:
        answer = answer.replace(webhook.challenge, MASKED)
    return {
        "number": row.number,
        "sent_at": row.sent_at.isoformat(),
        "duration": _seconds(row.duration),
        "resolve": _seconds(row.resolve),
        "connect": _seconds(row.connect),
        "tls": _seconds(row.tls),
        "wait": _seconds(row.wait),
        "dialled": row.dialled if shows_addresses or not _gives_away(row, webhook) else None,
        "http_status": row.http_status,
        "error": shown_reason(row.error, shows_addresses),
        "answer": answer,
    }


def shown_reason(reason: str | None, shows_addresses: bool) -> str | None:
    """Give why a delivery was not made, as who asks is shown it."""
    return reason if reason is None or shows_addresses else for_owner(reason)


def _gives_away(row: Any, webhook: Any) -> bool:
    url = webhook.address if webhook is not None else ""
    return row.dialled is not None and addresses.gives_away(row.dialled, url)


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
