"""What somebody may see at the moment of asking."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
from ckan import model

from .. import owners
from ..owners import Since
from ..visibility import OwnerLabels


def labels_of(user_id: str) -> OwnerLabels:
    """Give a user's permission labels.

    :raises ValidationError: they cannot be read, and an answer that takes them
        for none would be taken for the truth
    """
    labels = labels_if_known(user_id)
    if labels is None:
        why = tk._("What may be seen cannot be read at the moment: ask again later")
        raise tk.ValidationError({"user": [why]})
    return labels


def since_of(user_id: str) -> Since:
    """Say since when a user has had the labels of now."""
    return owners.since([user_id])[user_id]


def labels_if_known(user_id: str) -> OwnerLabels | None:
    """Do so, or give None where they cannot be read."""
    return owners.standing_now([user_id])[user_id].labels


def shows_addresses(context: Any) -> bool:
    """Tell whether the caller may read to which address a name led: sysadmins may.

    To others a webhook would be a way to ask the portal's own name server.
    """
    caller = model.User.get(context["user"]) if context.get("user") else None
    return caller is not None and bool(caller.sysadmin)
