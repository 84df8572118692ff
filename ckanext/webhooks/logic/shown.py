"""A webhook as its owner is shown it."""

from __future__ import annotations

from typing import Any


def dictized(webhook: Any) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "topic": webhook.topic,
        "topics": list(webhook.topics),
        "address": webhook.address,
        "user_id": webhook.user_id,
        "created_at": webhook.created_at.isoformat(),
        "state": webhook.state,
        "state_reason": webhook.state_reason,
        "description": webhook.description,
        "filters": webhook.filters,
        "format": webhook.format,
        "max_rate": webhook.max_rate,
        "coalesce": webhook.newest_only,
        "headers": webhook.header_names(),
        "health": {
            "state_reason": webhook.state_reason,
            "circuit": webhook.circuit,
            "failures": webhook.failures,
            "failing_since": moment(webhook.failing_since),
            "last_success_at": moment(webhook.last_success_at),
            "last_failure_at": moment(webhook.last_failure_at),
            "next_try": moment(webhook.next_at),
            "missed_since": moment(webhook.missed_since),
        },
    }


def moment(value: Any) -> str | None:
    """Give a time as ISO 8601, or None."""
    return value.isoformat() if value is not None else None
