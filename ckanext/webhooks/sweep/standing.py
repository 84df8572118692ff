"""Webhooks whose owners may not have any: paused, and resumed when they may."""

from __future__ import annotations

import sqlalchemy as sa

from .. import owners
from ..model import STILL_PENDING, WebhookState, missed_from, pending_of, transaction

_NO_ROLE = "its owner does not have the role of ckanext.webhooks.minimum_auth"
_NO_OWNER = "its owner is not an active user any more"


def pause_and_resume() -> None:
    """Pause the webhooks of owners who may not have any, and undo it when they may."""
    with transaction() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT DISTINCT user_id, state, state_reason FROM webhooks"
                " WHERE state IN ('active', 'paused')"
            )
        ).all()
    standing = owners.standing({row.user_id for row in rows})
    reasons = {user_id: _reason(owner) for user_id, owner in standing.items()}
    pause = {r.user_id for r in rows if reasons[r.user_id] not in (None, r.state_reason)}
    resume = {
        r.user_id for r in rows if reasons[r.user_id] is None and r.state == WebhookState.PAUSED
    }
    if not pause and not resume:
        return
    user_ids = sorted(pause)
    with transaction() as connection:
        connection.execute(
            _PAUSE, {"user_ids": user_ids, "reasons": [reasons[id_] for id_ in user_ids]}
        )
        connection.execute(_RESUME, {"user_ids": sorted(resume)})


def _reason(owner: owners.Owner) -> str | None:
    """Say why an owner's webhooks are paused, None where they are not to be."""
    if not owner.exists:
        return _NO_OWNER
    return None if owner.may_subscribe else _NO_ROLE


# Webhooks are locked in one order everywhere, and before their deliveries.
_PAUSE = sa.text(
    f"""
    WITH found AS (
        SELECT w.id, o.reason
        FROM unnest(CAST(:user_ids AS text[]), CAST(:reasons AS text[])) AS o(user_id, reason)
            JOIN webhooks w ON w.user_id = o.user_id
        WHERE w.state IN ('active', 'paused')
        ORDER BY w.id FOR NO KEY UPDATE OF w),
    paused AS (
        UPDATE webhooks w SET state = 'paused', state_reason = found.reason,
            missed_since = least(missed_since, {missed_from("w.id")})
        FROM found WHERE w.id = found.id
        RETURNING w.id, found.reason)
    UPDATE webhooks_delivery d
    SET status = 'cancelled', reason = paused.reason, ended_at = clock_timestamp()
    FROM paused CROSS JOIN LATERAL ({pending_of("paused.id")}) pending
    WHERE d.id = pending.id AND {STILL_PENDING}
    """
)
_RESUME = sa.text(
    "UPDATE webhooks SET state = 'active', state_reason = NULL"
    " WHERE user_id = ANY(CAST(:user_ids AS text[])) AND state = 'paused'"
)
