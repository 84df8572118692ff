"""Topics and patterns of them."""

from __future__ import annotations

import pytest

from .. import topics


def test_there_are_the_six_topics_of_2015():
    assert set(topics.TOPICS) == {
        f"{entity}/{verb}"
        for entity in ("dataset", "resource")
        for verb in ("create", "update", "delete")
    }
    assert all(topics.TOPICS.values()), "each says what it is"


@pytest.mark.parametrize("name", [*topics.TOPICS, "dataset/*", "resource/*", "*"])
def test_topics_and_patterns_can_be_subscribed_to(name):
    assert topics.is_subscribable(name)


@pytest.mark.parametrize(
    "name",
    ["", "dataset", "dataset/", "dataset/purge", "*/create", "*/*", "Dataset/Create", "ping"],
)
def test_nothing_else_can(name):
    assert not topics.is_subscribable(name)


@pytest.mark.parametrize("topic", topics.TOPICS)
def test_a_topic_reaches_those_who_named_it_its_entity_or_everything(topic):
    entity, other = (
        ("dataset", "resource") if topic.startswith("dataset") else ("resource", "dataset")
    )
    found = topics.matching(topic)
    assert set(found) == {topic, f"{entity}/*", "*"}
    assert f"{other}/*" not in found
    assert all(topics.is_subscribable(name) for name in found)


def test_the_column_of_2015_holds_one_topic_as_it_did():
    assert topics.column_text(["dataset/create"]) == "dataset/create"
    assert topics.column_text(["dataset/create", "resource/*"]) == "dataset/create,resource/*"
