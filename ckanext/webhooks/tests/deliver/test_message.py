"""The bytes of a request, in each format."""

from __future__ import annotations

import datetime
import json
from types import SimpleNamespace
from typing import Any

import pytest

from ...deliver import message
from ...model import Format
from ...visibility import Sending

MOMENT = datetime.datetime(2024, 5, 6, 7, 8, 9, 12, tzinfo=datetime.timezone.utc)
DATASET = {
    "id": "d1",
    "name": "rivers",
    "title": 'Flüsse "und" \\ 川 \u2028',
    "type": "dataset",
    "resources": [{"id": "r1", "url": "http://example.com/a"}, {"id": "r2", "url": ""}],
}
FACTS = message.Facts(
    event_id="e1",
    topic="dataset/update",
    entity_id="d1",
    entity=json.dumps(DATASET),
    occurred_at=MOMENT,
    sequence=42,
    site_url="http://ckan.example",
    address="http://example.com/callback",
    webhook_id="w1",
    user_id="u1",
    dataset=None,
    changed=["title"],
)
OF_RESOURCE = FACTS._replace(
    topic="resource/create",
    entity_id="r1",
    entity='{"id": "r1", "package_id": "d1"}',
    dataset={"id": "d1", "name": "rivers", "type": "dataset", "owner_org": "o1"},
    changed=None,
)
FACETS = {
    "dataset": ["d1", "rivers"],
    "type": ["showcase"],
    "organization": ["o1"],
    "group": [],
    "tag": [],
}
FORMATS = [format_.value for format_ in Format]


def body(facts: message.Facts, format_: str) -> Any:
    return json.loads(message.compose(facts, format_))


def event(**changes: Any) -> Any:
    """Give a row of an event, as a claim reads it."""
    row = {
        "entity_type": "dataset",
        "entity_id": "d1",
        "dataset_id": "d1",
        "content": json.dumps(DATASET),
        "source_content": None,
        "facets_before": FACETS,
        "facets": FACETS,
    }
    return SimpleNamespace(**{**row, **changes})


def resource_event(**changes: Any) -> Any:
    of_resource = {
        "entity_type": "resource",
        "entity_id": "r1",
        "content": None,
        "source_content": json.dumps(DATASET),
    }
    return event(**{**of_resource, **changes})


def test_classic_has_the_six_keys_of_2015_and_what_was_added():
    assert body(FACTS, "classic") == {
        "entity": DATASET,
        "address": "http://example.com/callback",
        "webhook_id": "w1",
        "ckan": "http://ckan.example",
        "topic": "dataset/update",
        "user_ref": "u1",
        "event_id": "e1",
        "occurred_at": "2024-05-06T07:08:09.000012Z",
        "sequence": 42,
        "epoch": 0,
        "changed": ["title"],
    }


def test_standard_has_type_timestamp_and_data():
    assert body(FACTS, "standard") == {
        "type": "dataset.update",
        "timestamp": "2024-05-06T07:08:09.000012Z",
        "ckan": "http://ckan.example",
        "event_id": "e1",
        "data": {
            "entity": DATASET,
            "topic": "dataset/update",
            "sequence": 42,
            "epoch": 0,
            "changed": ["title"],
        },
    }


def test_cloudevents_has_the_attributes_of_1_0():
    assert body(FACTS, "cloudevents") == {
        "specversion": "1.0",
        "id": "e1",
        "source": "http://ckan.example",
        "type": "org.ckan.dataset.update",
        "subject": "d1",
        "time": "2024-05-06T07:08:09.000012Z",
        "datacontenttype": "application/json",
        "sequence": "0000000000000000042",
        "data": {
            "entity": DATASET,
            "topic": "dataset/update",
            "sequence": 42,
            "epoch": 0,
            "changed": ["title"],
        },
    }


@pytest.mark.parametrize("format_", FORMATS)
def test_resource_events_say_which_dataset(format_):
    told = body(OF_RESOURCE, format_)
    told = told if format_ == "classic" else told["data"]
    assert told["entity"] == {"id": "r1", "package_id": "d1"}
    assert told["dataset"] == OF_RESOURCE.dataset
    assert "dataset" not in body(FACTS, format_)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("verb", ["create", "update", "delete"])
def test_only_updates_name_what_changed_which_may_be_unknown(format_, verb):
    told = body(FACTS._replace(topic=f"dataset/{verb}", changed=None), format_)
    told = told if format_ == "classic" else told["data"]
    if verb == "update":
        assert told["changed"] is None
    else:
        assert "changed" not in told


@pytest.mark.parametrize("format_", FORMATS)
def test_the_bytes_are_the_same_each_time_and_carry_the_log_s_text(format_):
    entity = '{"title":   "as it was written",\n "n": 1.10}'
    facts = FACTS._replace(entity=entity)
    first = message.compose(facts, format_)
    assert message.compose(facts._replace(), format_) == first
    assert entity.encode() in first


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("entity", ["{}", '{"title": "}], \\" {"}', '{"t": "川\\ud800"}'])
def test_a_spliced_entity_is_json_whatever_it_holds(format_, entity):
    told = body(FACTS._replace(entity=entity), format_)
    told = told if format_ == "classic" else told["data"]
    assert told["entity"] == json.loads(entity)
    assert told["topic"] == "dataset/update"


@pytest.mark.parametrize("format_", FORMATS)
def test_each_format_has_a_content_type(format_):
    cloudevents = format_ == "cloudevents"
    expected = "application/cloudevents+json" if cloudevents else "application/json"
    assert message.CONTENT_TYPES[format_] == expected


def test_times_are_in_utc_with_microseconds():
    at = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    assert message.timestamp(MOMENT.astimezone(at)) == "2024-05-06T07:08:09.000012Z"
    assert message.timestamp(MOMENT.replace(microsecond=0)) == "2024-05-06T07:08:09.000000Z"


def test_a_dataset_is_told_as_the_log_has_it():
    assert message.entity_json(event(), as_stub=False) == json.dumps(DATASET)


def test_a_stub_has_id_name_and_type_alone():
    stub = {"id": "d1", "name": "rivers", "type": "showcase"}
    assert json.loads(message.entity_json(event(), as_stub=True)) == stub
    # Purged: nothing is left but what it was called.
    purged = event(content=None, facets=None)
    assert json.loads(message.entity_json(purged, as_stub=False)) == stub
    assert message.dataset_reference(event(), as_stub=True) == stub


def test_a_stub_says_the_name_that_its_receiver_knew():
    """A dataset that was hidden and renamed at once: the new name is not for them."""
    renamed = event(facets={**FACETS, "dataset": ["d1", "secret-merger"]})
    assert json.loads(message.entity_json(renamed, as_stub=True))["name"] == "rivers"
    assert message.dataset_reference(renamed, as_stub=True)["name"] == "rivers"
    assert message.dataset_reference(renamed, as_stub=False)["name"] == "secret-merger"


def test_a_stub_is_given_even_where_nothing_is_known():
    unknown = event(content=None, facets=None, facets_before=None)
    assert json.loads(message.entity_json(unknown, as_stub=True)) == {
        "id": "d1",
        "name": None,
        "type": None,
    }


def test_a_reference_says_whose_the_dataset_is_except_in_a_stub():
    assert message.dataset_reference(event(), as_stub=False) == {
        "id": "d1",
        "name": "rivers",
        "type": "showcase",
        "owner_org": "o1",
    }
    unowned = event(facets={**FACETS, "organization": []})
    assert message.dataset_reference(unowned, as_stub=False)["owner_org"] is None


@pytest.mark.parametrize(
    "row",
    [
        resource_event(),
        # Deleted from its dataset: the row has content of its own.
        resource_event(content=json.dumps(DATASET["resources"][0]), source_content=None),
    ],
    ids=["from its dataset", "of its own"],
)
def test_a_resource_is_told_with_the_id_of_its_dataset(row):
    assert json.loads(message.entity_json(row, as_stub=False)) == {
        "id": "r1",
        "url": "http://example.com/a",
        "package_id": "d1",
    }
    assert json.loads(message.entity_json(row, as_stub=True)) == {"id": "r1", "package_id": "d1"}


@pytest.mark.parametrize("content", [None, "{}", '{"resources": []}'])
def test_of_a_resource_without_content_there_is_a_stub(content):
    row = resource_event(source_content=content)
    assert json.loads(message.entity_json(row, as_stub=False)) == {
        "id": "r1",
        "package_id": "d1",
    }


def ping(format_: str, challenge: str | None = None) -> Any:
    given = (FACTS.site_url, FACTS.address, "w1", "u1", format_, challenge)
    return json.loads(message.ping("ping_1", MOMENT, *given))


@pytest.mark.parametrize("format_", FORMATS)
def test_each_number_says_of_which_epoch_it_is(format_):
    for sequence, expected in ((1, 0), (10**9 - 1, 0), (10**9 + 1, 1), (7 * 10**9 + 42, 7)):
        said = body(FACTS._replace(sequence=sequence), format_)
        assert said.get("data", said)["epoch"] == expected


def test_a_ping_has_the_keys_of_every_message_and_no_entity():
    (classic, standard, cloudevents) = (ping(format_) for format_ in FORMATS)
    assert classic == {
        "entity": None,
        "address": "http://example.com/callback",
        "webhook_id": "w1",
        "ckan": "http://ckan.example",
        "topic": "ping",
        "user_ref": "u1",
        "event_id": "ping_1",
        "occurred_at": "2024-05-06T07:08:09.000012Z",
        "sequence": 0,
    }
    assert (standard["type"], standard["event_id"]) == ("ping", "ping_1")
    assert standard["data"] == {"entity": None, "topic": "ping", "sequence": 0}
    assert (cloudevents["type"], cloudevents["subject"]) == ("org.ckan.ping", "w1")
    assert cloudevents["data"] == standard["data"]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_challenge_is_in_a_ping_where_one_is_asked(format_):
    asking = ping(format_, "c1")
    assert (asking if format_ == "classic" else asking["data"])["challenge"] == "c1"
    assert "challenge" not in json.dumps(ping(format_))


class TestFactsOf:
    """What a delivery says, by the rows that it refers to."""

    DELIVERY = SimpleNamespace(
        webhook_id="w1",
        topic="dataset/update",
        sequence=42,
        address="http://example.com/callback",
        coalesced=None,
    )

    def facts(self, row: Any, what: Sending, delivery: Any = DELIVERY, **kwargs: Any) -> Any:
        row = SimpleNamespace(id="e1", occurred_at=MOMENT, changed=["title"], **vars(row))
        return message.facts_of(row, delivery, "u1", "http://ckan.example", what, **kwargs)

    def test_of_a_dataset(self):
        assert self.facts(event(), Sending.CONTENT) == FACTS

    def test_of_a_resource_with_the_dataset_it_belongs_to(self):
        facts = self.facts(resource_event(), Sending.CONTENT)
        assert json.loads(facts.entity) == {**DATASET["resources"][0], "package_id": "d1"}
        assert facts.dataset == OF_RESOURCE.dataset | {"type": "showcase"}

    def test_of_a_stub(self):
        facts = self.facts(resource_event(), Sending.STUB)
        assert json.loads(facts.entity) == {"id": "r1", "package_id": "d1"}
        assert "owner_org" not in facts.dataset

    def test_what_is_short_has_the_name_of_now_and_a_stub_that_of_before(self):
        renamed = {**FACETS, "dataset": ["d1", "lakes"]}
        for what, name in ((Sending.SHORT, "lakes"), (Sending.STUB, "rivers")):
            of_dataset = self.facts(event(facets=renamed), what)
            of_resource = self.facts(resource_event(facets=renamed), what)
            expected = {"id": "d1", "name": name, "type": "showcase"}
            assert json.loads(of_dataset.entity) == of_resource.dataset == expected
            assert json.loads(of_resource.entity) == {"id": "r1", "package_id": "d1"}

    def test_of_a_resource_without_what_its_dataset_was(self):
        facts = self.facts(resource_event(), Sending.UNNAMED)
        assert json.loads(facts.entity) == {**DATASET["resources"][0], "package_id": "d1"}
        assert facts.dataset == {"id": "d1", "name": None, "type": "showcase"}

    def test_an_entity_that_was_written_already_is_taken(self):
        assert self.facts(event(), Sending.CONTENT, entity='"kept"').entity == '"kept"'

    def test_of_several_changes_in_one_nobody_noted_the_keys(self):
        several = SimpleNamespace(**{**vars(self.DELIVERY), "coalesced": 3})
        assert self.facts(event(), Sending.CONTENT, several).changed is None
