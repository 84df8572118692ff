"""Whatever JSON can hold goes through every stage, and stands in nobody's way.

Each example is what ``package_show`` gives of one private dataset, handed over as CKAN hands it
over. It is captured, dispatched, sent in each format and given by the feed; a member of its
organization leaves and comes back, and asks for all of it again; pages show it. What people,
plugins and endpoints write beside that goes into pages and mails, too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import ckan.plugins.toolkit as tk
import pytest
from ckan import model
from ckan.lib.plugins import DefaultPermissionLabels
from ckan.tests import factories
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .. import capture, deliver, helpers, sweep
from ..capture import touched
from ..dispatch import dispatch, move_on, tell_newest
from ..model import Format
from .callers import call, create, execute, join
from .mailbox import Mailbox
from .receiver import Receiver
from .test_wellformed import ANY_JSON, ANY_TEXT, refuse
from .visitor import Visitor

pytestmark = pytest.mark.usefixtures("webhooks_db")

# Where a plugin may show something else than CKAN does.
KEYS = ("id", "name", "type", "owner_org", "organization", "groups", "tags", "resources", "extras")
SHAPES: tuple[Any, ...] = (None, True, 0, "a", [], ["a", 1], {}, {"a": {}}, [[]], [{"id": 5}, {}])
SHAPED: tuple[Any, ...] = (*SHAPES, *(dict.fromkeys(KEYS, shape) for shape in SHAPES))
ODD: tuple[Any, ...] = (
    {"a\0b": "c\0d", "\ud800": "\udfff", "": {"": ""}},
    {"resources": [{"id": "r\0", "\0": float("nan")}, {"id": "\ud800", "": ""}, {"id": ""}]},
    {"groups": [{"id": "\0"}], "tags": ["\0", {"name": "\ud800"}], "owner_org": "\0"},
    {"a": [float("nan"), float("inf"), float("-inf")], "b": 10**400, "c": -1e308},
    {"key": 1, "Key": 2, "KEY": 3, "date": "2026-02-30T25:61:61", "resources": [{"id": "r"}] * 2},
    {"notes": "a" * 500_000 + "\0"},
)
LARGE = {"notes": "a" * 5_000_000 + "\0"}
NESTED = json.loads('{"a":' * 250 + "[" * 250 + r'"\u0000"' + "]" * 250 + "}" * 250)
RESOURCES = st.lists(
    st.dictionaries(st.sampled_from(["id", "url"]) | ANY_TEXT, ANY_TEXT | ANY_JSON, max_size=4)
)
SHOWN = ANY_JSON | st.dictionaries(
    st.sampled_from(KEYS) | ANY_TEXT, ANY_JSON | RESOURCES, max_size=6
)


# NUL, and half of a surrogate pair alone.
ODD_TEXT = "a\0b\ud800c"
MENDED_TEXT = "a\ufffdb\ufffdc"


@pytest.fixture
def tell(visit: Callable[..., Visitor], receiver: Receiver) -> Callable[[Any], int]:
    """Show a value as a dataset, and check what is told of it; gives how many requests came."""
    user, admin = factories.User(), factories.Sysadmin()
    organization = factories.Organization()
    join(organization, user)
    dataset = factories.Dataset(owner_org=organization["id"], private=True)
    hooks = [create(user, format=f.value, address=f"{receiver.url}/{f.value}") for f in Format]
    by_filter = {"topic": "dataset/*", "filters": {"dataset": dataset["id"]}}
    create(admin, address=f"{receiver.url}/filter", **by_filter)
    visitor = visit(admin)
    _work()
    execute("DELETE FROM webhooks_delivery")

    def take() -> list[Any]:
        """Give the bodies that are sent to the user's webhooks."""
        _work()
        receiver.clear()
        deliver.deliver_due(tell_newest)
        bodies = [_read(request.body) for request in receiver.requests]
        assert execute("SELECT FROM webhooks_delivery WHERE status <> 'delivered'") == []
        return [
            body for body, r in zip(bodies, receiver.requests, strict=True) if r.path != "/filter"
        ]

    def show(shown: Any) -> int:
        text = json.dumps(shown)
        began = execute("SELECT clock_timestamp() AS at")[0].at
        _save(dataset["id"], text)
        told = take()
        for state in ("deleted", "active"):
            _change_membership(user, state)
            some = take()
            assert some, "who leaves is told to forget the dataset, and who comes back of it"
            told += some
        _read_feed(user)
        _look_at(visitor, dataset["id"])
        for hook in hooks:
            call(user, "webhook_replay", id=hook, since=began.isoformat())
        again = take()
        assert len(again) >= len(hooks)
        assert execute("SELECT FROM webhooks_missed") == []
        assert execute("SELECT FROM webhooks_quarantine") == []
        assert execute("SELECT FROM webhooks_event WHERE sequence IS NULL") == []
        _save(dataset["id"], text)
        assert take() == [], "what is the same has not changed"
        if isinstance(shown, dict):
            _save(dataset["id"], json.dumps({**shown, "one key": "more"}))
            updates = take()
            assert [_said(body) for body in updates] == [("dataset/update", ["one key"])] * len(
                hooks
            )
        execute("DELETE FROM webhooks_delivery")
        return len(told) + len(again)

    return show


def _read(body: bytes) -> Any:
    """Read what RFC 8259 allows and nothing else, and look at it as the page does."""
    read = json.loads(body.decode(), parse_constant=refuse)
    helpers.pretty(body.decode()).encode()
    assert isinstance(read.get("data", read)["entity"]["id"], str)
    return read


def _said(body: Any) -> tuple[str, Any]:
    facts = body.get("data", body)
    return facts["topic"], facts["changed"]


def _change_membership(user: dict[str, Any], state: str) -> None:
    membership = {"table_name": "user", "table_id": user["id"]}
    model.Session.query(model.Member).filter_by(**membership).one().state = state
    model.Session.commit()


def _look_at(visitor: Visitor, dataset_id: str) -> None:
    """Look at the dataset's tab, and at what was told last."""
    newest = execute("SELECT max(id) AS id FROM webhooks_delivery")
    delivery = f"/webhook/delivery/{newest[0].id}"
    pages = [visitor.get(f"/dataset/webhooks/{dataset_id}"), visitor.get(delivery)]
    _read(visitor.get(f"{delivery}/body").body.encode())
    assert not any("\0" in page.body for page in pages)


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


def _read_feed(user: dict[str, Any]) -> None:
    newest = execute("SELECT max(sequence) AS number FROM webhooks_event")
    page = call(user, "webhook_event_list", after=max(0, newest[0].number - 20))
    assert page["events"]
    json.loads(json.dumps(page, ensure_ascii=False).encode(), parse_constant=refuse)


@pytest.mark.parametrize(
    "chosen",
    [
        # Each takes half a second of a core, and the large one seven.
        pytest.param((*SHAPED[::5], *ODD, NESTED), id="some shapes"),
        pytest.param((*SHAPED, *ODD, NESTED, LARGE), id="all shapes", marks=pytest.mark.long),
    ],
)
def test_any_json_of_the_kinds_that_are_known_to_go_wrong(tell, say, chosen):
    told = sum(map(tell, chosen))
    say(f"any JSON: {len(chosen)} chosen examples, {told} requests")


@pytest.mark.parametrize("examples", [2, pytest.param(100, marks=pytest.mark.long)])
def test_any_json_that_is_drawn(tell, say, examples):
    count = itertools.count(1)
    told = 0

    @settings(
        max_examples=examples,
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
    say(f"any JSON: {next(count) - 1} drawn examples, {told} requests")


def test_any_json_that_an_endpoint_answers_can_be_shown():
    nested = "[" * 5000 + "]" * 5000
    for answer in (r'{"a": "\ud800\u0000"}', "[NaN, 1e999]", nested, "no JSON", "", None):
        helpers.pretty(answer).encode()


@pytest.mark.ckan_config("smtp.mail_from", "webhooks@data.example.org")
def test_any_text_of_people_and_endpoints_is_on_pages_and_in_mails(
    visit, receiver, ckan_config, monkeypatch
):
    user, admin = factories.User(email="ann@example.org"), visit(factories.Sysadmin())
    for odd in ("description", "address"):
        with pytest.raises(tk.ValidationError) as refused:
            create(user, **{"address": f"{receiver.url}/a", odd: f"{receiver.url}/{ODD_TEXT}"})
        assert list(refused.value.error_dict) == [odd]
    hook = create(user, address=f"{receiver.url}/odd", description="Flüsse")
    # By code of the portal's, which asks no validator.
    receiver.respond = lambda _request: (
        500,
        {"x-odd": "A\xffA"},
        b'{"a": "\\ud800"}\0\xed\xa0\x80',
    )
    factories.Dataset()
    _work()
    deliver.deliver_due(tell_newest)
    execute("UPDATE webhooks SET failing_since = clock_timestamp() - interval '2 hours'")
    (row,) = execute("SELECT max(id) AS id FROM webhooks_delivery") or ()
    for path in (f"/webhook/delivery/{row.id}", f"/webhook/{hook}", "/ckan-admin/webhooks"):
        assert "\0" not in admin.get(path).body
    with Mailbox() as mailbox:
        monkeypatch.setitem(ckan_config, "smtp.server", mailbox.server)
        # As of an environment in another encoding; CKAN's mailer has its own way to it.
        monkeypatch.setattr("ckanext.webhooks.config.site_title", lambda: f"Data {ODD_TEXT}")
        assert sweep.tell_owners() == 1
    (mail,) = mailbox.mails
    assert mail["Subject"] == f"[Data {MENDED_TEXT}] A webhook is failing"
    assert f"Data {MENDED_TEXT}\n" in mail.get_content()


class OddLabels(DefaultPermissionLabels):
    """A plugin whose labels hold what PostgreSQL refuses."""

    def get_dataset_labels(self, dataset_obj: Any) -> list[str]:
        return [f"odd-{ODD_TEXT}"]

    def get_user_dataset_labels(self, user_obj: Any) -> list[str]:
        return [f"odd-{ODD_TEXT}"] if user_obj is not None else []


def test_any_label_of_a_plugin_is_told_by(monkeypatch, receiver):
    monkeypatch.setattr("ckan.lib.plugins.get_permission_labels", OddLabels)
    monkeypatch.setattr("ckanext.webhooks.capture.record.get_permission_labels", OddLabels)
    user = factories.User()
    create(user, address=f"{receiver.url}/odd")
    factories.Dataset()
    _work()
    deliver.deliver_due(tell_newest)
    assert [_read(request.body)["topic"] for request in receiver.requests] == ["dataset/create"]
    assert call(user, "webhook_event_list")["events"]
