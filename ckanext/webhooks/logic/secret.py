"""Actions about the secret that a webhook's requests are signed with."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from .. import config, encryption
from ..phrases import translated
from . import find, schema
from .saving import commit

# Receivers have a day to take up a new secret; the old one signs until then.
_OLD_SECRET_SIGNS_FOR = "24 hours"


@tk.side_effect_free
def webhook_secret_show(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Show the secret that a webhook's requests are signed with.

    You must own the webhook, or be a sysadmin.

    :param id: of the webhook
    :type id: string

    :returns: ``secret``; and after a rotation ``previous_secret``, which
        signs too until ``previous_secret_until``
    :rtype: dictionary
    """
    return _secrets(find.webhook("webhook_secret_show", context, data_dict))


def webhook_secret_rotate(context: Any, data_dict: dict[str, Any]) -> dict[str, Any]:
    """Give a webhook a new secret. The old one signs too for 24 hours.

    You must own the webhook, or be a sysadmin.

    :param id: of the webhook
    :type id: string
    :param secret: the new one (optional, one is made)
    :type secret: string

    :returns: as :func:`webhook_secret_show`
    :rtype: dictionary
    """
    webhook = find.webhook("webhook_secret_rotate", context, data_dict)
    data = schema.validate(data_dict, schema.webhook_secret_rotate(), context)
    # `rekey` may be at it: what it writes is what becomes the previous one.
    model.Session.refresh(webhook, with_for_update=True)
    if encryption.is_readable(webhook.secret, config.secret_keys()):
        webhook.previous_secret = webhook.secret
        webhook.previous_secret_until = sa.text(
            f"clock_timestamp() + interval '{_OLD_SECRET_SIGNS_FOR}'"
        )
    else:  # it signs nothing, and a new one is the way out
        webhook.previous_secret = webhook.previous_secret_until = None
    webhook.set_secret(data.get("secret") or encryption.new_secret())
    commit(context)
    model.Session.refresh(webhook)
    return _secrets(webhook)


def _secrets(webhook: Any) -> dict[str, Any]:
    try:
        secrets = {"secret": webhook.signing_secret()}
    except encryption.UnreadableSecret as error:
        why = translated(str(error))
        raise tk.ValidationError(
            {"id": [tk._("The secret cannot be read, and may be rotated: %s") % why]}
        ) from None
    previous, keys = webhook.previous_secret, config.secret_keys()
    if previous is not None and encryption.is_readable(previous, keys):
        secrets["previous_secret"] = encryption.decrypt(previous, keys)
        secrets["previous_secret_until"] = webhook.previous_secret_until.isoformat()
    return secrets
