"""The attempts of a delivery, as the owner of its webhook is shown them."""

from __future__ import annotations

from typing import Any

from ckan import model

from ..model import Attempt

# Instead of what is secret.
MASKED = "***"


def of(delivery_id: int) -> list[Any]:
    """Give the rows of a delivery's attempts, the first of them first."""
    query = model.Session.query(Attempt).filter(Attempt.delivery_id == delivery_id)
    return list(query.order_by(Attempt.number, Attempt.id))


def dictized(row: Any, webhook: Any, shows_answers: bool) -> dict[str, Any]:
    """Give an attempt as the owner of its webhook is shown it.

    :param shows_answers: what the endpoint answered may be shown
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
        "dialled": row.dialled,
        "http_status": row.http_status,
        "error": row.error,
        "answer": answer,
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
