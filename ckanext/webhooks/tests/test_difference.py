"""What counts as a difference between two states of a dataset."""

from __future__ import annotations

import copy
import json

import pytest

from .. import difference
from ..difference import ResourceDifference


def dataset(**changes):
    """Give a dataset dict as ``package_show`` has it."""
    found = {
        "id": "d1",
        "name": "rivers",
        "title": "Rivers",
        "type": "dataset",
        "state": "active",
        "private": False,
        "owner_org": "o1",
        "metadata_modified": "2024-01-01T00:00:00",
        "num_resources": 2,
        "num_tags": 2,
        "tracking_summary": {"total": 1},
        "isopen": True,
        "license_id": "cc-by",
        "license_title": "CC-BY",
        "license_url": "http://example.com/cc-by",
        "relationships_as_object": [],
        "relationships_as_subject": [],
        "organization": {"id": "o1", "name": "water", "title": "Water", "image_url": ""},
        "groups": [{"id": "g1", "name": "a", "title": "A"}, {"id": "g2", "name": "b"}],
        "tags": [
            {"id": "t1", "name": "blue", "vocabulary_id": None, "state": "active"},
            {"id": "t2", "name": "wet", "vocabulary_id": None, "state": "active"},
        ],
        "extras": [{"key": "k", "value": "v"}],
        "resources": [resource("r1"), resource("r2", position=1)],
    }
    return {**found, **changes}


def resource(id_, **changes):
    found = {
        "id": id_,
        "package_id": "d1",
        "url": "http://example.com/a.csv",
        "name": "a",
        "position": 0,
        "datastore_active": False,
        "metadata_modified": "2024-01-01T00:00:00",
        "tracking_summary": {"total": 1},
    }
    return {**found, **changes}


def changed(before, after):
    return difference.changed_keys(difference.comparable(before), difference.comparable(after))


@pytest.mark.parametrize(
    "moved",
    [
        {"metadata_modified": "2025-01-01T00:00:00"},
        {"num_resources": 9},
        {"num_tags": 9},
        {"tracking_summary": {"total": 9}},
        {"isopen": False},
        {"license_title": "Creative Commons"},
        {"license_url": ""},
        {"relationships_as_object": [{"id": "x"}]},
        {"relationships_as_subject": [{"id": "x"}]},
        # Renaming an organization's title is not 20,000 updates.
        {"organization": {"id": "o1", "name": "water", "title": "Waters", "image_url": "x"}},
        {"groups": [{"id": "g1", "name": "a", "title": "Z"}, {"id": "g2", "name": "b"}]},
        # CKAN keeps no order of groups and tags.
        {"groups": [{"id": "g2", "name": "b"}, {"id": "g1", "name": "a"}]},
        {"tags": list(reversed(dataset()["tags"]))},
        {"resources": [resource("r1", position=7), resource("r2", position=8)]},
        {"resources": [resource("r1", datastore_active=True), resource("r2")]},
        {"resources": [resource("r1", metadata_modified="2025"), resource("r2")]},
        {"resources": [resource("r1", tracking_summary=None), resource("r2")]},
    ],
    ids=lambda moved: next(iter(moved)),
)
def test_what_ckan_moves_by_itself_is_no_difference(moved):
    assert changed(dataset(), dataset(**moved)) == []
    assert difference.digest(dataset()) == difference.digest(dataset(**moved))


@pytest.mark.parametrize(
    "made",
    [
        {"title": "Lakes"},
        {"private": True},
        {"license_id": "odbl"},
        {"extras": []},
        {"organization": {"id": "o2", "name": "water"}},
        {"organization": {"id": "o1", "name": "waters"}},
        {"organization": None},
        {"groups": [{"id": "g1", "name": "a"}]},
        {"tags": [{"id": "t1", "name": "blue", "vocabulary_id": None, "state": "active"}]},
        {"resources": [resource("r1")]},
        {"resources": [resource("r2"), resource("r1")]},
        {"resources": [resource("r1", url="http://example.com/b.csv"), resource("r2")]},
        {"a_field_of_a_schema": ""},
    ],
    ids=lambda made: next(iter(made)),
)
def test_what_a_person_changes_is_named(made):
    assert changed(dataset(), dataset(**made)) == list(made)
    assert difference.digest(dataset()) != difference.digest(dataset(**made))


def test_changed_keys_are_in_order_and_name_what_came_and_went():
    assert difference.changed_keys({"b": 1, "a": 1, "c": 1}, {"c": 1, "d": 1, "a": 2}) == [
        "a",
        "b",
        "d",
    ]
    assert difference.changed_keys({"a": None}, {}) == ["a"], "None is a value"


DEEP = json.loads("[" * 500 + "]" * 500)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, True),
        (0, False),
        (1.0, True),
        ([0], [False]),
        ({"a": [{"b": 1}]}, {"a": [{"b": True}]}),
        ([True, 1], [1, True]),
        (0, None),
        ("", False),
        (1, "1"),
    ],
    ids=json.dumps,
)
def test_what_json_has_two_values_for_differs(before, after):
    assert difference.changed_keys({"a": before}, {"a": after}) == ["a"]
    assert difference.changed_keys({"a": after}, {"a": before}) == ["a"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 1.0),
        (0.0, -0.0),
        ([1, True, None], [1.0, True, None]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (json.loads(json.dumps(DEEP)), DEEP),
    ],
    ids=["whole", "zero", "list", "order of keys", "deep"],
)
def test_what_json_has_one_value_for_is_equal(before, after):
    assert difference.changed_keys({"a": before}, {"a": after}) == []


def test_comparing_changes_nothing_of_what_is_compared():
    given = dataset()
    kept = copy.deepcopy(given)
    difference.comparable(given)
    difference.digest(given)
    assert given == kept


def test_the_digest_is_that_of_the_content_however_it_is_written():
    given = dataset()
    turned = dict(reversed(list(given.items())))
    assert difference.digest(turned) == difference.digest(given)
    assert difference.digest(json.loads(json.dumps(given))) == difference.digest(given)


def test_a_bare_dataset_can_be_compared():
    bare = {"id": "d1", "name": "rivers"}
    assert changed(bare, bare) == []
    assert changed(bare, dataset(id="d1"))


@pytest.mark.parametrize("key", ["groups", "tags", "resources", "organization", "owner_org"])
@pytest.mark.parametrize(
    "shown",
    [None, True, 0.5, "a", [], ["b", "a"], {"a": {}}, [[]], [None, {"id": 5}], [{"name": []}, 1]],
)
def test_whatever_a_plugin_shows_is_compared(key, shown):
    odd = dataset(**{key: shown})
    assert changed(odd, json.loads(json.dumps(odd))) == []
    assert difference.digest(odd) == difference.digest(copy.deepcopy(odd))
    assert changed(odd, dataset(**{key: {"id": "else"}})) == [key]
    assert all(isinstance(v, str) for values in difference.facets(odd).values() for v in values)


def test_groups_and_tags_that_are_names_are_facets():
    found = difference.facets(dataset(groups=["b", "a"], tags=["wet", {"name": "blue"}, 5]))
    assert (found["group"], found["tag"]) == (["a", "b"], ["blue", "wet"])


def test_a_resource_is_told_where_it_has_an_id():
    shown = ["a", None, {"id": 5}, {"url": ""}, {"id": "r1"}]
    assert difference.resources(dataset(resources=shown)) == [{"id": "r1"}]
    assert difference.resources(dataset(resources={"id": "r1"})) == []


def test_every_resource_of_either_state_is_named_with_what_became_of_it():
    before = [resource("same"), resource("changed"), resource("gone")]
    after = [resource("new"), resource("changed", name="b"), resource("same", position=5)]
    assert difference.resource_differences(before, after) == [
        ResourceDifference("new", False, True, []),
        ResourceDifference("changed", True, True, ["name"]),
        ResourceDifference("same", True, True, []),
        ResourceDifference("gone", True, False, []),
    ]
    assert difference.resource_differences([], []) == []


def test_facets_are_what_filters_are_matched_against():
    assert difference.facets(dataset()) == {
        "dataset": ["d1", "rivers"],
        "organization": ["o1"],
        "group": ["g1", "g2"],
        "tag": ["blue", "wet"],
        "type": ["dataset"],
    }
    assert difference.facets({"id": "d1", "name": "n", "owner_org": None, "type": None}) == {
        "dataset": ["d1", "n"],
        "organization": [],
        "group": [],
        "tag": [],
        "type": ["dataset"],
    }
