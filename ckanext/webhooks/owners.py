"""What the owners of webhooks may see and do: CKAN's own answers, by user id.

Asking CKAN costs several queries an owner. Where no plugin has a say in the
answer, it is read for all owners at once by the same rules; and in a worker
an answer is kept. What moves it inside CKAN is noted by whoever changes it
(see ``model.right``), and looked at before an answer is used: a membership
that was taken away shows in the next send. What a plugin takes from elsewhere
nobody notes, so no answer is kept for longer than :data:`FRESH_FOR` seconds.
Who asks for something in the web process gets what that person may see at
that moment.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ckan.plugins as p
import sqlalchemy as sa
from ckan import authz, model
from ckan.lib import plugins as lib_plugins
from ckan.model.group import MAX_RECURSES

from . import config, logs, wellformed
from .model import connected
from .visibility import ALL, OwnerLabels

log = logs.logger(__name__)

FRESH_FOR = 5.0

_NOBODY = frozenset[str]()


@dataclass(frozen=True)
class Owner:
    """A user who owns webhooks.

    :param labels: permission labels; none for a user who is no longer active;
        None where they could not be read, which is not the same: nothing may
        be concluded from it
    :param exists: the user is there and active
    :param may_subscribe: the user meets ``minimum_auth``
    """

    labels: OwnerLabels | None
    exists: bool
    may_subscribe: bool


@dataclass(frozen=True)
class Since:
    """Since when a user has had the labels of now.

    :param lasting: labels that the user has had from the start
    :param sequence: of the others, the number of their last change; events with
        a higher one are younger. None where that is not known
    """

    lasting: frozenset[str]
    sequence: int | None


# User, None for everybody, number, None where there is none yet, and id of changes of rights.
Noted = Collection[tuple[str | None, int | None, int]]

_cache: dict[str, tuple[float, Owner]] = {}
# Labels of who has not logged in, and until when they are not asked for again.
_of_anybody: tuple[float, frozenset[str]] = (0.0, frozenset())
# How often something was forgotten: another thread may be reading what it was then.
_forgotten = 0
# The highest number among the changes of rights that this process knows.
_known_up_to = 0
# The ids of those that it knows and that have no number yet.
_open: set[int] = set()


def standing(user_ids: Iterable[str], noted: Noted | None = None) -> dict[str, Owner]:
    """Give each user's rights: as they are inside CKAN, of elsewhere :data:`FRESH_FOR` s old.

    :param noted: what :data:`NOTED` has given a moment ago, None to ask for it; nothing also for
        those who are not in the cache
    """
    wanted = set(user_ids)
    _forget_what_changed(_ask_what_was_noted() if noted is None else noted)
    if not wanted:
        return {}
    forgotten = _forgotten
    now = time.monotonic()
    for user_id, (read_at, _owner) in list(_cache.items()):
        if now - read_at > FRESH_FOR:
            _cache.pop(user_id, None)
    known = {id_: owner for id_, (_, owner) in list(_cache.items()) if id_ in wanted}
    read = _read(wanted - known.keys())
    if forgotten == _forgotten:
        # From the end: else what takes longer than an answer is kept would never be known.
        read_at = time.monotonic()
        _cache.update({id_: (read_at, owner) for id_, owner in read.items()})
    return {**known, **read}


def standing_now(user_ids: Collection[str]) -> dict[str, Owner]:
    """Give each user's rights as they are at this moment."""
    forget(user_ids)
    return standing(user_ids, noted=())


def forget(user_ids: Collection[str] | None = None) -> None:
    """Forget answers (every one, or those of some users): the next is of that moment."""
    global _known_up_to, _open, _of_anybody
    if user_ids is None:
        _known_up_to, _open, _of_anybody = 0, set(), (0.0, _NOBODY)
    _forget(user_ids)


def _forget(user_ids: Collection[str] | None) -> None:
    global _forgotten
    if user_ids is None or user_ids:
        _forgotten += 1
    for user_id in list(_cache) if user_ids is None else user_ids:
        _cache.pop(user_id, None)


def since(user_ids: Collection[str]) -> dict[str, Since]:
    """Say since when each of some users has had the labels of now."""
    if not user_ids:
        return {}
    plugin = lib_plugins.get_permission_labels()
    anybodys = _anybodys(plugin)
    if not _is_ckans_own(plugin):
        # Of what comes from elsewhere nobody noted when it came.
        return {user_id: Since(anybodys, None) for user_id in user_ids}
    changes = {row.user_id: row for row in _rows(_LAST_CHANGES, user_ids)}
    return {
        user_id: Since(
            anybodys | {f"creator-{user_id}"},
            _last_of([changes[id_] for id_ in (user_id, None) if id_ in changes]),
        )
        for user_id in user_ids
    }


def _anybodys(plugin: Any) -> frozenset[str]:
    """Give the labels of who has not logged in; none where they cannot be read."""
    global _of_anybody
    until, labels = _of_anybody
    if time.monotonic() < until:
        return labels
    try:
        labels = _labels_of_one(plugin, None)
    except Exception:
        labels = _NOBODY
    _of_anybody = (time.monotonic() + FRESH_FOR, labels)
    return labels


def _last_of(changes: Collection[Any]) -> int | None:
    """Give the number of the last of some changes, None where one has none yet."""
    if any(change.is_open for change in changes):
        return None
    return max((change.sequence for change in changes), default=0)


def known_up_to() -> int:
    """Give the number up to which this process knows the changes of rights: for :data:`NOTED`."""
    return _known_up_to


def _ask_what_was_noted() -> Noted:
    with connected() as connection:
        rows = connection.execute(_ALL_NOTED, {"known_up_to": _known_up_to})
        return [(row.user_id, row.sequence, row.id) for row in rows]


def _forget_what_changed(noted: Noted) -> None:
    """Forget the answers about those of whom a change was noted since this process last looked.

    Once while a change has no number: what takes long to ask for would never be known.
    """
    global _known_up_to, _open
    if noted:
        new = [user for user, number, id_ in noted if number is not None or id_ not in _open]
        users = [user_id for user_id in new if user_id is not None]
        _forget(users if len(users) == len(new) else None)
        # What has no number yet is seen again when it has.
        _known_up_to = max(_known_up_to, *(sequence or 0 for _, sequence, _ in noted))
        _open = {id_ for _, sequence, id_ in noted if sequence is None}


def meets_minimum_auth(user: Any) -> bool:
    """Tell whether a user has the role of ``ckanext.webhooks.minimum_auth``.

    ``editor`` and ``admin`` are met by an active membership of any active
    organization. An option that says none of the four refuses everyone but
    sysadmins.

    :param user: an active user of CKAN's model
    """
    return bool(user.sysadmin or _meeting_minimum_auth([user.id]))


def _read(user_ids: Collection[str]) -> dict[str, Owner]:
    if not user_ids:  # mostly all are known, and to ask what plugins say takes its time, too
        return {}
    found = dict.fromkeys(user_ids, Owner(_NOBODY, exists=False, may_subscribe=False))
    active = _rows(_ACTIVE, user_ids)
    for user in active:
        found[user.id] = Owner(ALL, exists=True, may_subscribe=True)
    others = [user.id for user in active if not user.sysadmin]
    labels = _labels(others)
    subscribing = _meeting_minimum_auth(others)
    for user_id in others:
        found[user_id] = Owner(labels[user_id], True, user_id in subscribing)
    return found


def _meeting_minimum_auth(user_ids: Collection[str]) -> set[str]:
    minimum = config.minimum_auth()
    if minimum == "none":
        return set(user_ids)
    capacities = {"editor": ["editor", "admin"], "admin": ["admin"]}.get(minimum, [])
    return {row.user_id for row in _rows(_MEMBERS, user_ids, capacities=capacities)}


def _labels(user_ids: Collection[str]) -> Mapping[str, frozenset[str] | None]:
    plugin = lib_plugins.get_permission_labels()
    if _is_ckans_own(plugin):
        return _labels_of_all(user_ids)
    return _labels_of_each(plugin, user_ids)


def _is_ckans_own(labels: Any) -> bool:
    """Tell whether no plugin has a say in which labels a user has.

    Plugins replace the labels, or the actions that CKAN's labels call, or
    may forbid these to somebody.
    """
    code = getattr(labels.get_user_dataset_labels, "__code__", None)
    # By where the code is, since extensions also patch CKAN's class itself.
    if code is None or code.co_filename != lib_plugins.__file__:
        return False
    theirs = [plugin.get_actions() for plugin in p.PluginImplementations(p.IActions)]
    theirs += [plugin.get_auth_functions() for plugin in p.PluginImplementations(p.IAuthFunctions)]
    return not any(name in functions for functions in theirs for name in _CALLED)


_CALLED = ("organization_list_for_user", "package_collaborator_list_for_user")


def _labels_of_all(user_ids: Collection[str]) -> dict[str, frozenset[str]]:
    """Do for many what ``DefaultPermissionLabels.get_user_dataset_labels`` does for one."""
    found = {user_id: {"public", f"creator-{user_id}"} for user_id in user_ids}
    organizations = _rows(
        _ORGANIZATIONS,
        user_ids,
        roles=authz.get_roles_with_permission("read"),
        cascading=authz.check_config_permission("roles_that_cascade_to_sub_groups"),
        # CKAN counts from the first level below.
        depth=MAX_RECURSES + 1,
    )
    for row in organizations:
        found[row.user_id].add(f"member-{row.group_id}")
    if authz.check_config_permission("allow_dataset_collaborators"):
        for row in _rows(_COLLABORATORS, user_ids):
            found[row.user_id].add(f"collaborator-{row.package_id}")
    return {user_id: frozenset(labels) for user_id, labels in found.items()}


def _labels_of_each(plugin: Any, user_ids: Collection[str]) -> dict[str, frozenset[str] | None]:
    """Ask a plugin; one user's labels that cannot be read keep no other waiting."""
    found: dict[str, frozenset[str] | None] = {}
    errors: dict[str, Exception] = {}
    for user_id in user_ids:
        try:
            found[user_id] = _labels_of_one(plugin, user_id)
        except Exception as error:
            found[user_id], errors[user_id] = None, error
    if errors:
        _log_unknown(errors)
    return found


def _labels_of_one(plugin: Any, user_id: str | None) -> frozenset[str]:
    """:param user_id: None for somebody who has not logged in"""
    # An error of the database would end the transaction for all that is read after it.
    savepoint = model.Session.connection().begin_nested()
    try:
        user = model.Session.get(model.User, user_id) if user_id else None
        labels = frozenset(map(wellformed.text, plugin.get_user_dataset_labels(user)))
    except Exception:
        _end(savepoint.rollback, savepoint)
        raise
    _end(savepoint.commit, savepoint)
    return labels


def _end(ending: Callable[[], None], savepoint: Any) -> None:
    # A plugin may have ended the whole transaction.
    if savepoint.is_active:
        ending()


def _log_unknown(errors: Mapping[str, Exception]) -> None:
    """Say it once for all of them: a directory that is away is away for each."""
    user_id, error = next(iter(errors.items()))
    log.error(
        "webhooks [%s]: the permission labels of %d users cannot be read, of %s for example."
        " Until they can be, nothing is told to these, and nothing is taken back from them."
        " Look at the plugin that implements IPermissionLabels.",
        uuid.uuid4(),
        len(errors),
        user_id,
        exc_info=error,
    )


def _rows(query: Any, user_ids: Collection[str], **parameters: Any) -> list[Any]:
    if not user_ids:
        return []
    return list(model.Session.execute(query, {"user_ids": list(user_ids), **parameters}).all())


# The changes of rights that are new to a process which knows them up to a number.
NOTED = "FROM webhooks_right WHERE sequence IS NULL OR sequence > :known_up_to"
# Whether there are any: each half ends at the first row of the index, where one condition with
# an OR may read them all.
HAS_NEWS = """(EXISTS (SELECT FROM webhooks_right WHERE sequence IS NULL)
    OR EXISTS (SELECT FROM webhooks_right WHERE sequence > :known_up_to))"""
# The number of the last change of rights, the highest there may be where it has none yet.
LAST_NOTED = """coalesce((SELECT coalesce(sequence, 9223372036854775807) FROM webhooks_right
    ORDER BY sequence DESC NULLS FIRST LIMIT 1), 0)"""
_ALL_NOTED = sa.text(f"SELECT user_id, sequence, id {NOTED}")
# Of each user, and as NULL of everybody.
_LAST_CHANGES = sa.text(
    """
    SELECT user_id, bool_or(sequence IS NULL) AS is_open, max(sequence) AS sequence
    FROM webhooks_right WHERE user_id = ANY(CAST(:user_ids AS text[])) OR user_id IS NULL
    GROUP BY user_id
    """
)
# By id alone: somebody may be called as another's id.
_ACTIVE = sa.text(
    """
    SELECT id, sysadmin FROM "user"
    WHERE id = ANY(CAST(:user_ids AS text[])) AND state = 'active'
    """
)
_MEMBERS = sa.text(
    """
    SELECT DISTINCT m.table_id AS user_id FROM member m JOIN "group" g ON g.id = m.group_id
    WHERE m.table_name = 'user' AND m.table_id = ANY(CAST(:user_ids AS text[]))
        AND m.state = 'active' AND m.capacity = ANY(CAST(:capacities AS text[]))
        AND g.is_organization AND g.state = 'active'
    """
)
# As organization_list_for_user: a role may be held in a group or in a deleted
# organization, and still cascade from there to what is active below.
_ORGANIZATIONS = sa.text(
    """
    WITH RECURSIVE role AS (
        SELECT table_id AS user_id, group_id,
               capacity = ANY(CAST(:cascading AS text[])) AS cascades
        FROM member
        WHERE table_name = 'user' AND table_id = ANY(CAST(:user_ids AS text[]))
            AND state = 'active' AND capacity = ANY(CAST(:roles AS text[]))),
    below (top_id, group_id, depth) AS (
        SELECT DISTINCT group_id, group_id, 0 FROM role
        UNION
        SELECT below.top_id, m.group_id, below.depth + 1
        FROM below JOIN member m ON m.table_id = below.group_id
        WHERE m.table_name = 'group' AND m.state = 'active' AND below.depth < :depth)
    SELECT DISTINCT role.user_id, g.id AS group_id
    FROM role JOIN below ON below.top_id = role.group_id AND (below.depth = 0 OR role.cascades)
        JOIN "group" g ON g.id = below.group_id AND (below.depth = 0 OR g.type = 'organization')
    WHERE g.is_organization AND g.state = 'active'
    """
)
_COLLABORATORS = sa.text(
    "SELECT user_id, package_id FROM package_member WHERE user_id = ANY(CAST(:user_ids AS text[]))"
)
