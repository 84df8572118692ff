"""Whatever JSON can hold goes through every stage, and stands in nobody's way.

Each example is what ``package_show`` gives of one private dataset, handed over as CKAN hands it
over. It is captured, dispatched, written in each format and given by the feed; a member of its
organization leaves and comes back.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from ckan import model
from ckan.tests import factories
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .. import capture, helpers, owners
from ..capture import touched
from ..dispatch import dispatch, move_on, notice_rights
from ..model import Format
from .callers import call, create, execute, join
from .test_wellformed import ANY_JSON, ANY_TEXT, refuse

pytestmark = pytest.mark.usefixtures("webhooks_db")

# Where a plugin may show something else than CKAN does.
KEYS = ("id", "name", "type", "owner_org", "organization", "groups", "tags", "resources", "extras")
SHAPES: tuple[Any, ...] = (None, True, 0, "a", [], ["a", 1], {}, {"a": {}}, [[]], [{"id": 5}, {}])
ODD: tuple[Any, ...] = (
    *SHAPES,
    *(dict.fromkeys(KEYS, shape) for shape in SHAPES),
    {"a\0b": "c\0d", "\ud800": "\udfff", "": {"": ""}},
    {"resources": [{"id": "r\0", "\0": float("nan")}, {"id": "\ud800", "": ""}, {"id": ""}]},
    {"groups": [{"id": "\0"}], "tags": ["\0", {"name": "\ud800"}], "owner_org": "\0"},
    {"a": [float("nan"), float("inf"), float("-inf")], "b": 10**400, "c": -1e308},
    {"key": 1, "Key": 2, "KEY": 3, "date": "2026-02-30T25:61:61", "resources": [{"id": "r"}] * 2},
    {"notes": "a" * 5_000_000 + "\0"},
)
NESTED = json.loads('{"a":' * 250 + "[" * 250 + r'"\u0000"' + "]" * 250 + "}" * 250)
RESOURCES = st.lists(
    st.dictionaries(st.sampled_from(["id", "url"]) | ANY_TEXT, ANY_TEXT | ANY_JSON, max_size=4)
)
SHOWN = ANY_JSON | st.dictionaries(
    st.sampled_from(KEYS) | ANY_TEXT, ANY_JSON | RESOURCES, max_size=6
)


@pytest.fixture
def tell() -> Callable[[Any], int]:
    """Show a value as a dataset, and check what is told of it; gives how many deliveries."""
    user = factories.User()
    organization = factories.Organization()
    join(organization, user)
    dataset = factories.Dataset(owner_org=organization["id"], private=True)
    hooks = [create(user, format=format_.value) for format_ in Format]
    create(factories.Sysadmin(), topic="dataset/*", filters={"dataset": dataset["id"]})
    _work()
    execute("DELETE FROM webhooks_delivery")

    def show(shown: Any) -> int:
        text = json.dumps(shown)
        _save(dataset["id"], text)
        told = [_take(user, hook) for hook in hooks]
        for state in ("deleted", "active"):
            execute(
                "UPDATE member SET state = :state WHERE table_id = :id AND table_name = 'user'",
                state=state,
                id=user["id"],
            )
            owners.forget()
            notice_rights()
            told += [_take(user, hook) for hook in hooks]
        assert told[-1], "who comes back is told of the dataset"
        _read_feed(user)
        assert execute("SELECT FROM webhooks_missed") == []
        assert execute("SELECT FROM webhooks_event WHERE sequence IS NULL") == []
        _save(dataset["id"], text)
        assert _take(user, hooks[0]) == [], "what is the same has not changed"
        if isinstance(shown, dict):
            _save(dataset["id"], json.dumps({**shown, "one key": "more"}))
            (body,) = _take(user, hooks[0])
            assert (body["topic"], body["changed"]) == ("dataset/update", ["one key"])
        execute("DELETE FROM webhooks_delivery")
        return sum(map(len, told))

    return show


def _save(dataset_id: str, text: str) -> None:
    """Do what CKAN does in a save, with a text as the dict that it built for its index."""
    session = model.Session()
    session.connection()
    touched.current(session).dataset(dataset_id)
    capture.keep_built({"id": dataset_id, "validated_data_dict": text})
    session.commit()


def _work() -> None:
    while dispatch():
        pass
    while move_on():
        pass


def _take(user: dict[str, Any], hook: str) -> list[dict[str, Any]]:
    """Give the bodies of what a webhook is told, and forget them."""
    _work()
    bodies = []
    for row in execute("SELECT id FROM webhooks_delivery WHERE webhook_id = :id", id=hook) or ():
        request = call(user, "webhook_delivery_show", id=row.id)["request"]
        body = json.loads(request["body"], parse_constant=refuse)
        helpers.pretty(request["body"]).encode()
        entity = body["entity"] if "entity" in body else body["data"]["entity"]
        assert isinstance(entity["id"], str)
        bodies.append(body)
    execute("DELETE FROM webhooks_delivery WHERE webhook_id = :id", id=hook)
    return bodies


def _read_feed(user: dict[str, Any]) -> None:
    newest = execute("SELECT max(sequence) AS number FROM webhooks_event")
    page = call(user, "webhook_event_list", after=max(0, newest[0].number - 20))
    assert page["events"]
    json.dumps(page, allow_nan=False, ensure_ascii=False).encode()


def test_any_json_of_the_kinds_that_are_known_to_go_wrong(tell, say):
    told = sum(map(tell, (*ODD, NESTED)))
    say(f"any JSON: {len(ODD) + 1} chosen examples, {told} deliveries")


def test_any_json_that_is_drawn(tell, say):
    count = itertools.count(1)
    told = 0

    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(SHOWN)
    def each(shown: Any) -> None:
        nonlocal told
        told += tell(shown)
        next(count)

    each()
    say(f"any JSON: {next(count) - 1} drawn examples, {told} deliveries")


def test_any_json_that_an_endpoint_answers_can_be_shown():
    nested = "[" * 5000 + "]" * 5000
    for answer in (r'{"a": "\ud800\u0000"}', "[NaN, 1e999]", nested, "no JSON", "", None):
        helpers.pretty(answer).encode()
