"""Who is told what, and whether it may still be sent: decisions, no I/O.

Labels are CKAN's permission labels (``IPermissionLabels``, CKAN 2.8 and
later): a user may see an active dataset when one of the dataset's labels is
among the user's. Here the labels of a dataset are ``None`` where it is not
active, so that nobody sees it, and those of a sysadmin are :data:`ALL`.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal


class _All(enum.Enum):
    ALL = "all"


ALL: Final = _All.ALL

DatasetLabels = Collection[str] | None
OwnerLabels = Collection[str] | Literal[_All.ALL]
Verb = Literal["create", "update", "delete"]


def owner_labels(stored: Any) -> OwnerLabels:
    """Read labels of a user as the tables have them: a list, or "all".

    :raises ValueError: it is neither, and nothing may be concluded from it
    """
    if stored == ALL.value:
        return ALL
    if not isinstance(stored, list) or {*map(type, stored)} - {str}:
        raise ValueError(f"not labels of a user: {stored!r}")
    return frozenset(stored)


def stored_labels(labels: OwnerLabels) -> list[str] | str:
    """Give labels of a user as the tables have them."""
    return ALL.value if labels is ALL else sorted(labels)


def may_see(dataset: DatasetLabels, owner: OwnerLabels) -> bool:
    """Apply CKAN's rule of ``package_search``.

    :param dataset: labels of the dataset, ``None`` where it is not active
    :param owner: labels of the user, :data:`ALL` for a sysadmin
    """
    if dataset is None:
        return False
    if owner is ALL:
        return True
    return not set(owner).isdisjoint(dataset)


class Audience:
    """Owners by their labels: who sees a dataset is found without asking each of them.

    :param owners: the labels of each, by user id
    """

    def __init__(self, owners: Mapping[str, OwnerLabels]) -> None:
        self._all = frozenset(id_ for id_, labels in owners.items() if labels is ALL)
        by_label: dict[str, set[str]] = {}
        for id_, labels in owners.items():
            for label in () if labels is ALL else labels:
                by_label.setdefault(label, set()).add(id_)
        self._by_label = by_label
        self._known: dict[frozenset[str], frozenset[str]] = {}

    def seeing(self, dataset: DatasetLabels) -> frozenset[str]:
        """Give the ids of those owners whom :func:`may_see` lets see a dataset."""
        if dataset is None:
            return frozenset()
        labels = frozenset(dataset)
        if labels not in self._known:
            found = (self._by_label.get(label, ()) for label in labels)
            self._known[labels] = self._all.union(*found)
        return self._known[labels]


def common(some: OwnerLabels, others: OwnerLabels) -> OwnerLabels:
    """Give labels that show nothing but what both show."""
    if some is ALL:
        return others
    if others is ALL:
        return some
    return frozenset(some) & frozenset(others)


def told(before: bool, after: bool, differs: bool) -> Verb | None:
    """Say what a subscriber is told of an entity, or that it is nothing.

    :param before: the entity could be seen before the transaction
    :param after: it can be seen after it
    :param differs: what is seen is not what was seen
    """
    if before and after:
        return "update" if differs else None
    if after:
        return "create"
    if before:
        return "delete"
    return None


class Sending(enum.Enum):
    """What may still go out for a delivery that was decided earlier."""

    CONTENT = "content"  # the entity, as the event has it
    UNNAMED = "unnamed"  # a resource so, but not what its dataset was called nor whose it was
    SHORT = "short"  # id, name and type alone, as the event has them
    STUB = "stub"  # the same, as its receiver knew them: "take it back"
    MARKER = "marker"  # that it happened, to what; not even what that was called
    NOTHING = "nothing"  # what it says may no longer be published: superseded
    NEWEST = "newest"  # it was replaced before it could be seen: what there is now, anew


class Replaced(enum.Enum):
    """How much of what an event says is not what there is now, or was last."""

    NOTHING = "nothing"
    REFERENCE = "reference"  # not the resource, but what its dataset is called or whose it is
    ALL = "all"


def sending(
    verb: str,
    owner: OwnerLabels,
    event_before: DatasetLabels,
    event_after: DatasetLabels,
    deleted: bool,
    since: Iterable[DatasetLabels],
) -> Sending:
    """Say what of an event may be sent to an owner now.

    Between the event and the send, the owner's rights and the dataset itself
    may have changed, so both are asked again. A ``delete`` always goes out,
    since it publishes nothing; whether it carries what was deleted depends
    on whether its receiver may have it. What was hidden in the meantime is
    not published again, even where the dataset came back: it may have been
    hidden in order to be mended.

    :param verb: what the owner is told: create, update or delete
    :param owner: the owner's labels now
    :param event_before: the dataset's labels before the event
    :param event_after: the dataset's labels after it
    :param deleted: the entity was deleted, rather than hidden or purged
    :param since: the labels under which the dataset's content could be
        published in each of its states from the event on; those it had last,
        for a state in which it is deleted
    """
    still_published = all(may_see(labels, owner) for labels in since)
    if verb == "delete":
        if deleted and still_published and may_see(event_before, owner):
            return Sending.CONTENT
        return Sending.STUB
    if still_published and may_see(event_after, owner):
        return Sending.CONTENT
    return Sending.NOTHING


def sending_again(what: Sending, replaced: Replaced, was_seen: bool) -> Sending:
    """Say what of an event may be sent to somebody who asks for it after it was told.

    What was written while its reader could not see it may have been replaced in
    order to be shown. So what was replaced is for those alone who could see it
    when it was the newest.

    :param what: what :func:`sending` says
    :param was_seen: what :func:`was_seen_then` says
    """
    if was_seen or what is Sending.NOTHING or replaced is Replaced.NOTHING:
        return what
    if what is Sending.CONTENT and replaced is Replaced.REFERENCE:
        return Sending.UNNAMED
    return Sending.MARKER


def sending_late(verb: str, again: Sending) -> Sending:
    """Say what of an event may be sent where its receiver's rights changed before it was told.

    Who lost a right and has it again when the event is told could not see what was
    written in between. That is not marked, as it is where somebody asks for it: of what
    was replaced, what there is now is told.

    :param verb: what is told: create, update or delete
    :param again: what :func:`sending_again` says
    """
    return Sending.NEWEST if again is Sending.MARKER and verb != "delete" else again


def was_seen_then(
    labels: DatasetLabels, lasting: Collection[str], sequence: int, since: int | None
) -> bool:
    """Say whether somebody could see a version when it was the newest.

    :param labels: those of the dataset under which the version was published
    :param lasting: labels that its reader has had from the start
    :param sequence: the number of the event
    :param since: that of the last change of what its reader may see, None where
        that is not known
    """
    return may_see(labels, lasting) or (since is not None and sequence > since)


def publishable(
    deleted: bool, before: Collection[str] | None, after: Collection[str] | None
) -> DatasetLabels:
    """Give the labels under which a state's content may be published.

    What was deleted was told with its content, to those who could see it.

    :param deleted: the dataset was deleted, rather than hidden or purged
    :param before, after: its labels before and after the change
    """
    labels = before if deleted else after
    return None if labels is None else frozenset(labels)
