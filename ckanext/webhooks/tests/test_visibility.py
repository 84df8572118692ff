"""Who is told what, and whether it may still be sent: the whole truth tables."""

from __future__ import annotations

import itertools
import json

import pytest

from ..visibility import (
    ALL,
    Audience,
    Replaced,
    Sending,
    common,
    may_see,
    owner_labels,
    publishable,
    sending,
    sending_again,
    stored_labels,
    told,
    was_seen_then,
)

PUBLIC = frozenset({"public"})
PRIVATE = frozenset({"member-org"})
OTHER = frozenset({"member-other"})
HIDDEN = None  # a draft, deleted or purged

ANYONE = frozenset({"public"})
MEMBER = frozenset({"public", "member-org"})
NOBODY = frozenset()


@pytest.mark.parametrize(
    ("dataset", "owner", "seen"),
    [
        (PUBLIC, ANYONE, True),
        (PUBLIC, MEMBER, True),
        (PUBLIC, ALL, True),
        (PUBLIC, NOBODY, False),
        (PRIVATE, ANYONE, False),
        (PRIVATE, MEMBER, True),
        (PRIVATE, ALL, True),
        (OTHER, MEMBER, False),
        (OTHER, ALL, True),
        # Sysadmins see every dataset that is active, labelled or not.
        (frozenset(), ALL, True),
        (frozenset(), MEMBER, False),
        (HIDDEN, ANYONE, False),
        (HIDDEN, MEMBER, False),
        (HIDDEN, ALL, False),
    ],
)
def test_a_dataset_is_seen_by_ckans_rule(dataset, owner, seen):
    assert may_see(dataset, owner) is seen


def test_labels_may_be_in_any_collection():
    assert may_see(["member-org"], ("public", "member-org"))
    assert not may_see(["member-org"], ["public"])


@pytest.mark.parametrize(
    ("some", "others", "both"),
    [
        (MEMBER, ANYONE, ANYONE),
        (MEMBER, ALL, MEMBER),
        (ALL, MEMBER, MEMBER),
        (ALL, ALL, ALL),
        (MEMBER, NOBODY, NOBODY),
    ],
)
def test_common_labels_show_what_both_show(some, others, both):
    assert common(some, others) == both


@pytest.mark.parametrize(
    ("before", "after", "differs", "verb"),
    [
        (False, False, False, None),
        (False, False, True, None),
        (False, True, False, "create"),
        (False, True, True, "create"),
        (True, False, False, "delete"),
        (True, False, True, "delete"),
        (True, True, False, None),
        (True, True, True, "update"),
    ],
)
def test_a_subscriber_is_told_what_changed_in_its_sight(before, after, differs, verb):
    assert told(before, after, differs) == verb


@pytest.mark.parametrize(
    ("what", "verb", "owner", "before", "after", "deleted", "later", "expected"),
    [
        # Creates and updates: content or nothing, never a stub.
        ("seen then and now", "update", MEMBER, PRIVATE, PRIVATE, False, PRIVATE, "CONTENT"),
        ("created and seen", "create", ANYONE, HIDDEN, PUBLIC, False, PUBLIC, "CONTENT"),
        ("hidden since", "update", ANYONE, PUBLIC, PUBLIC, False, HIDDEN, "NOTHING"),
        ("made private since", "update", ANYONE, PUBLIC, PUBLIC, False, PRIVATE, "NOTHING"),
        ("the same, a member", "update", MEMBER, PUBLIC, PUBLIC, False, PRIVATE, "CONTENT"),
        ("moved away since", "update", MEMBER, PRIVATE, PRIVATE, False, OTHER, "NOTHING"),
        ("membership lost since", "update", ANYONE, PRIVATE, PRIVATE, False, PRIVATE, "NOTHING"),
        # What was private at the event stays so, although it was published later.
        ("published later", "update", ANYONE, PRIVATE, PRIVATE, False, PUBLIC, "NOTHING"),
        # Deleted since: its newest labels are those it had last.
        ("deleted since", "update", MEMBER, PRIVATE, PRIVATE, False, PRIVATE, "CONTENT"),
        ("a sysadmin", "create", ALL, HIDDEN, PRIVATE, False, PRIVATE, "CONTENT"),
        ("a sysadmin, purged since", "create", ALL, HIDDEN, PRIVATE, False, HIDDEN, "NOTHING"),
        ("the owner was deleted", "create", NOBODY, HIDDEN, PUBLIC, False, PUBLIC, "NOTHING"),
        # Deletes: always sent, with content only where something was deleted.
        ("deleted", "delete", ANYONE, PUBLIC, HIDDEN, True, PUBLIC, "CONTENT"),
        ("deleted, private", "delete", MEMBER, PRIVATE, HIDDEN, True, PRIVATE, "CONTENT"),
        ("hidden", "delete", ANYONE, PUBLIC, PRIVATE, False, PRIVATE, "STUB"),
        ("hidden, published again", "delete", ANYONE, PUBLIC, HIDDEN, False, PUBLIC, "STUB"),
        ("purged", "delete", ANYONE, PUBLIC, HIDDEN, False, HIDDEN, "STUB"),
        ("deleted, purged since", "delete", ANYONE, PUBLIC, HIDDEN, True, HIDDEN, "STUB"),
        ("deleted, rights lost", "delete", ANYONE, PRIVATE, HIDDEN, True, PRIVATE, "STUB"),
        ("deleted by a sysadmin", "delete", ALL, PRIVATE, HIDDEN, True, PRIVATE, "CONTENT"),
        ("a sysadmin, hidden", "delete", ALL, PRIVATE, HIDDEN, False, HIDDEN, "STUB"),
    ],
)
def test_what_may_be_sent_now(what, verb, owner, before, after, deleted, later, expected):
    assert sending(verb, owner, before, after, deleted, [later]) is Sending[expected], what


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ([], "CONTENT"),
        ([PUBLIC, PUBLIC], "CONTENT"),
        ([PRIVATE, PUBLIC], "NOTHING"),
        ([HIDDEN, PUBLIC], "NOTHING"),
    ],
)
def test_what_was_hidden_in_between_is_not_published_again(later, expected):
    assert sending("update", ANYONE, PUBLIC, PUBLIC, False, later) is Sending[expected]


@pytest.mark.parametrize(
    ("what", "labels", "sequence", "since", "was_seen"),
    [
        ("written after the right came", PRIVATE, 10, 9, True),
        ("written before the right came", PRIVATE, 5, 9, False),
        ("of the very moment", PRIVATE, 9, 9, False),
        ("where nobody knows when the right came", PRIVATE, 5, None, False),
        ("where the right never changed", PRIVATE, 5, 0, True),
        ("public", PUBLIC, 5, 9, True),
        ("public, where nobody knows when another right came", PUBLIC, 5, None, True),
        ("of no label, which sysadmins see", frozenset(), 5, 9, False),
        ("seen by nobody", HIDDEN, 5, 9, False),
    ],
)
def test_a_version_was_seen_by_whom_had_the_right_before_it(
    what, labels, sequence, since, was_seen
):
    assert was_seen_then(labels, ANYONE, sequence, since) is was_seen, what


@pytest.mark.parametrize(
    ("what", "replaced", "expected"),
    [
        ("CONTENT", "NOTHING", "CONTENT"),
        ("CONTENT", "REFERENCE", "UNNAMED"),
        ("CONTENT", "ALL", "MARKER"),
        ("SHORT", "NOTHING", "SHORT"),
        # Which says what the dataset was called.
        ("SHORT", "REFERENCE", "MARKER"),
        ("SHORT", "ALL", "MARKER"),
        ("STUB", "ALL", "MARKER"),
        ("NOTHING", "NOTHING", "NOTHING"),
        ("NOTHING", "REFERENCE", "NOTHING"),
        ("NOTHING", "ALL", "NOTHING"),
    ],
)
def test_what_was_replaced_is_given_to_whom_could_see_it_then(what, replaced, expected):
    what, replaced = Sending[what], Replaced[replaced]
    assert sending_again(what, replaced, was_seen=True) is what
    assert sending_again(what, replaced, was_seen=False) is Sending[expected]


def test_what_was_deleted_may_be_published_to_those_who_could_see_it_last():
    assert publishable(True, PUBLIC, None) == PUBLIC
    assert publishable(False, PUBLIC, None) is None
    assert publishable(False, PUBLIC, PRIVATE) == PRIVATE


def test_labels_of_a_user_survive_storing():
    for labels in (ALL, ANYONE, NOBODY, frozenset({"all"})):
        assert owner_labels(json.loads(json.dumps(stored_labels(labels)))) == labels


def test_content_never_goes_to_whom_it_may_not_be_shown():
    """Over every combination: content takes sight of it then, and now."""
    datasets = (PUBLIC, PRIVATE, OTHER, frozenset(), HIDDEN)
    owners = (ANYONE, MEMBER, NOBODY, ALL)
    combinations = itertools.product(
        ("create", "update", "delete"), owners, datasets, datasets, (True, False), datasets
    )
    for verb, owner, before, after, deleted, later in combinations:
        may = sending(verb, owner, before, after, deleted, [later])
        if may is Sending.CONTENT:
            assert may_see(later, owner)
            assert may_see(before if verb == "delete" else after, owner)
        if verb == "delete":
            assert may is not Sending.NOTHING, "a delete publishes nothing: it always goes"
        else:
            assert may is not Sending.STUB


def test_who_sees_a_dataset_is_found_once_for_all_of_the_same_labels():
    """A hundred resources of a dataset cost a thousand owners no more than it does alone."""
    audience = Audience({"member": MEMBER, "anyone": ANYONE, "admin": ALL, "nobody": NOBODY})
    found = audience.seeing(["member-org"])
    assert found == {"member", "admin"}
    assert audience.seeing(("member-org",)) is found
    assert audience.seeing(PUBLIC) == {"member", "anyone", "admin"}
    assert audience.seeing(HIDDEN) == frozenset()
