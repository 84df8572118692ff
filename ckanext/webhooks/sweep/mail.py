"""Mail to the owners of webhooks whose endpoints fail, by CKAN's mailer.

Which mail is due, ``incident`` decides. It is noted before it is sent: of
two workers one sends it, and one that dies between the two sends a mail too
few rather than the same one again and again.
"""

from __future__ import annotations

import datetime
import smtplib
import uuid
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from ckan import model
from ckan.lib import mailer

from .. import config, logs
from ..model import transaction
from ..phrases import for_owner
from . import text
from .incident import Incident, Mail, due

log = logs.logger(__name__)


class _ServerAway(Exception):
    """The mail server cannot be reached: all other mails can wait too."""


def tell_owners() -> int:
    """Send the mails that are due. Two workers may do so at the same time.

    :returns: how many were sent
    """
    waiting = list(_due())
    if waiting and not config.mail_from():
        log.warning(
            "webhooks [%s]: %d mails to owners of webhooks are not sent: smtp.mail_from is not set."
            " Set it in ckan.ini; CKAN's other mails need it, too.",
            uuid.uuid4(),
            len(waiting),
        )
        return 0
    sent = 0
    try:
        for row, mail in waiting:
            if _note(row, mail):
                sent += _send(row, mail)
    except _ServerAway:
        pass  # it was logged
    return sent


def _due() -> Iterator[tuple[Any, Mail]]:
    disable_after = config.disable_after()
    with transaction() as connection:
        rows = connection.execute(_IN_AN_INCIDENT).all()
    for row in rows:
        failing_for = None if row.failing_for is None else float(row.failing_for)
        incident = Incident(row.state, row.state_reason, row.circuit, failing_for, row.mailed)
        mail = due(incident, disable_after)
        if mail is not None:
            yield row, mail


_IN_AN_INCIDENT = sa.text(
    """
    SELECT id, user_id, address, description, state, state_reason, circuit, mailed,
           failing_since, last_success_at, missed_since,
           extract(epoch FROM clock_timestamp() - failing_since) AS failing_for
    FROM webhooks WHERE mailed IS DISTINCT FROM 'disabled'
        AND (failing_since IS NOT NULL OR mailed IS NOT NULL)
    ORDER BY id
    """
)


def _note(row: Any, mail: Mail) -> bool:
    """Note that a mail is sent; False where another sends it, or it is overtaken."""
    with transaction() as connection:
        return bool(
            connection.execute(
                _NOTE,
                {
                    "id": row.id,
                    "mailed": row.mailed,
                    "state": row.state,
                    "failing_since": row.failing_since,
                    "now": _noted(mail),
                },
            ).rowcount
        )


def _noted(mail: Mail) -> str | None:
    # Then the incident is over.
    return None if mail is Mail.RECOVERED else mail.value


_NOTE = sa.text(
    """
    UPDATE webhooks SET mailed = CAST(:now AS text) WHERE id = (
        SELECT id FROM webhooks WHERE id = :id AND state = :state
            AND mailed IS NOT DISTINCT FROM CAST(:mailed AS text)
            AND failing_since IS NOT DISTINCT FROM CAST(:failing_since AS timestamptz)
        FOR NO KEY UPDATE SKIP LOCKED)
    """
)
_TAKE_BACK = sa.text(
    """
    UPDATE webhooks SET mailed = CAST(:mailed AS text)
    WHERE id = :id AND mailed IS NOT DISTINCT FROM CAST(:now AS text)
    """
)


def _send(row: Any, mail: Mail) -> bool:
    user = model.Session.get(model.User, row.user_id)
    is_active = user is not None and user.state == model.State.ACTIVE
    if not is_active or not user.email:
        log.info(
            "webhooks: the owner of webhook %s is not told by mail that it is %s: %s",
            row.id,
            mail.value,
            "the account has no address" if is_active else "the account is deleted",
        )
        return False
    try:
        subject, body = text.write(mail, _facts(row, user))
        mailer.mail_user(user, subject, body)
    except Exception as error:
        _give_back(row, mail, error)
        return False
    return True


def _give_back(row: Any, mail: Mail, error: Exception) -> None:
    """Have a mail that was not taken sent again, unless it never will be.

    :raises _ServerAway: no other will be taken now
    """
    cause = error if isinstance(error, OSError) else error.__context__
    if isinstance(cause, smtplib.SMTPRecipientsRefused) and _is_final(cause):
        next_step = "it is not sent again. Correct the address of the user"
    else:
        with transaction() as connection:
            values = {"id": row.id, "mailed": row.mailed, "now": _noted(mail)}
            connection.execute(_TAKE_BACK, values)
        next_step = "it is tried again in a minute. Look at the options smtp.* and the mail server"
    log.warning(
        "webhooks [%s]: mail to user %s, that webhook %s is %s, was not taken (%s: %s); %s.",
        uuid.uuid4(),
        row.user_id,
        row.id,
        mail.value,
        type(error).__name__,
        error,
        next_step,
    )
    if isinstance(cause, OSError) and not isinstance(cause, smtplib.SMTPException):
        raise _ServerAway


def _is_final(refused: smtplib.SMTPRecipientsRefused) -> bool:
    # RFC 5321, section 4.2.1: 4yz may be taken later.
    return all(code >= 500 for code, _reply in refused.recipients.values())


def _facts(row: Any, user: Any) -> text.Facts:
    until = row.failing_since and row.failing_since + datetime.timedelta(
        seconds=config.disable_after()
    )
    return text.Facts(
        name=user.display_name,
        webhook_id=row.id,
        address=row.address,
        description=row.description,
        site_title=config.site_title(),
        site_url=config.site_url(),
        what=_last_failure(row.id),
        state_reason=row.state_reason,
        since=row.failing_since,
        until=until,
        missed_since=row.missed_since,
    )


def _last_failure(webhook_id: str) -> str | None:
    with transaction() as connection:
        row = connection.execute(_LAST_FAILURE, {"id": webhook_id}).first()
    if row is None:
        return None
    return f"HTTP {row.http_status}" if row.error is None else for_owner(row.error)


# By the index for each: ended, held back, due. Of each some, since the last
# attempt need not be that of the newest.
_LAST_FAILURE = sa.text(
    """
    SELECT a.http_status, a.error FROM (
        (SELECT id FROM webhooks_delivery WHERE webhook_id = :id AND ended_at IS NOT NULL
            AND tries > 0 ORDER BY id DESC LIMIT 20)
        UNION ALL
        (SELECT id FROM webhooks_delivery WHERE webhook_id = :id AND status = 'pending'
            AND due_at IS NULL AND tries > 0 ORDER BY id LIMIT 20)
        UNION ALL
        (SELECT id FROM webhooks_delivery WHERE webhook_id = :id AND status = 'pending'
            AND due_at IS NOT NULL AND tries > 0 LIMIT 20)) d
    JOIN webhooks_attempt a ON a.delivery_id = d.id
    WHERE a.http_status IS NULL OR a.http_status NOT BETWEEN 200 AND 299
    ORDER BY a.sent_at DESC LIMIT 1
    """
)
