"""Of what waits, the newest state of each entity."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ...deliver.coalesce import coalesce


def rows(*described):
    """Make rows of ``(entity, verb)`` or ``(entity, verb, tries)``."""
    return [
        SimpleNamespace(
            id=number,
            entity=entity,
            topic=f"dataset/{verb}" if verb != "ping" else "ping",
            tries=tries[0] if tries else 0,
        )
        for number, (entity, verb, *tries) in enumerate(described)
    ]


def told(found):
    return [(row.id, topic, older) for row, topic, older in found.take]


@pytest.mark.parametrize(
    ("verbs", "topic"),
    [
        (["update", "update", "update"], "dataset/update"),
        (["create", "update"], "dataset/create"),
        (["create", "delete", "create"], "dataset/create"),
        (["update", "delete"], "dataset/delete"),
        (["delete", "create"], "dataset/create"),
        (["create", "delete"], None),
        (["create", "update", "delete"], None),
    ],
)
def test_what_several_changes_come_to(verbs, topic):
    line = rows(*(("a", verb) for verb in verbs))
    found = coalesce(line, 5)
    if topic is None:
        assert (found.take, found.cancel) == ([], line)
    else:
        assert told(found) == [(len(verbs) - 1, topic, len(verbs) - 1)]
        assert found.cancel == line[:-1]


def test_what_may_have_arrived_is_taken_back():
    found = coalesce(rows(("a", "create", 1), ("a", "delete")), 5)
    assert told(found) == [(1, "dataset/delete", 1)]
    found = coalesce(rows(("a", "create", 1), ("a", "update")), 5)
    assert told(found) == [(1, "dataset/update", 1)]


def test_entities_take_their_turns_by_their_oldest():
    line = rows(("a", "update"), ("b", "update"), ("c", "update"), ("a", "update"))
    found = coalesce(line, 2)
    assert told(found) == [(3, "dataset/update", 1), (1, "dataset/update", 0)]
    assert found.cancel == [line[0]]


def test_what_came_and_went_takes_no_turn():
    line = rows(("a", "create"), ("a", "delete"), ("b", "update"))
    assert told(coalesce(line, 1)) == [(2, "dataset/update", 0)]


def test_what_has_no_entity_stands_for_itself():
    line = rows((None, "update"), (None, "update"), (None, "ping"))
    assert told(coalesce(line, 5)) == [
        (0, "dataset/update", 0),
        (1, "dataset/update", 0),
        (2, "ping", 0),
    ]
