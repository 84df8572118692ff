"""What the owners of webhooks may see and do: CKAN's own answers, by user id.

Asking CKAN costs several queries an owner, so an answer is kept for
:data:`FRESH_FOR` seconds and no longer: a membership that was taken away
must show in what is sent.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ckan import model
from ckan.lib.plugins import get_permission_labels

from . import config
from .visibility import ALL, OwnerLabels

log = logging.getLogger(__name__)

FRESH_FOR = 5.0

_NOBODY = frozenset[str]()


@dataclass(frozen=True)
class Owner:
    """A user who owns webhooks.

    :param labels: permission labels; none for a user who is no longer active
    :param exists: the user is there and active
    :param may_subscribe: the user meets ``minimum_auth``
    """

    labels: OwnerLabels
    exists: bool
    may_subscribe: bool


_cache: dict[str, tuple[float, Owner]] = {}


def standing(user_ids: Iterable[str]) -> dict[str, Owner]:
    """Give each user's rights, at most :data:`FRESH_FOR` seconds old."""
    now = time.monotonic()
    for user_id, (read_at, _owner) in list(_cache.items()):
        if now - read_at > FRESH_FOR:
            _cache.pop(user_id, None)
    found: dict[str, Owner] = {}
    for user_id in set(user_ids):
        cached = _cache.get(user_id)
        found[user_id] = cached[1] if cached else _read(user_id)
        if not cached:
            _cache[user_id] = (now, found[user_id])
    return found


def forget(user_ids: Iterable[str] | None = None) -> None:
    """Forget answers (every one, or those of some users): the next is of that moment."""
    for user_id in list(_cache) if user_ids is None else user_ids:
        _cache.pop(user_id, None)


def _read(user_id: str) -> Owner:
    # Not User.get, which takes a name too: somebody may be called as another's id.
    user = model.Session.get(model.User, user_id)
    if user is None or user.state != model.State.ACTIVE:
        return Owner(_NOBODY, exists=False, may_subscribe=False)
    if user.sysadmin:
        return Owner(ALL, exists=True, may_subscribe=True)
    try:
        labels = frozenset(get_permission_labels().get_user_dataset_labels(user))
    except Exception:
        # One user's labels that cannot be had must not keep all others waiting.
        log.exception(
            "webhooks [%s]: the permission labels of user %s cannot be had, so nothing is told to"
            " this user. Look at the plugin that implements IPermissionLabels.",
            uuid.uuid4(),
            user.id,
        )
        labels = _NOBODY
    return Owner(labels, exists=True, may_subscribe=meets_minimum_auth(user))


def meets_minimum_auth(user: Any) -> bool:
    """Tell whether a user has the role of ``ckanext.webhooks.minimum_auth``.

    ``editor`` and ``admin`` are met by an active membership of any active
    organization. An option that says none of the four refuses everyone but
    sysadmins.

    :param user: an active user of CKAN's model
    """
    minimum = config.minimum_auth()
    if user.sysadmin or minimum == "none":
        return True
    capacities = {"editor": ("editor", "admin"), "admin": ("admin",)}.get(minimum)
    if capacities is None:
        return False
    membership = (
        model.Session.query(model.Member.id)
        .join(model.Group, model.Group.id == model.Member.group_id)
        .filter(
            model.Member.table_name == "user",
            model.Member.table_id == user.id,
            model.Member.state == model.State.ACTIVE,
            model.Member.capacity.in_(capacities),
            model.Group.is_organization.is_(True),
            model.Group.state == model.State.ACTIVE,
        )
    )
    return bool(model.Session.query(membership.exists()).scalar())
