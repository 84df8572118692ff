"""Who is told what of everything that happens in CKAN, and what the message says.

``bin/test -k visibility_table -v`` reads as the table: what happens, who
subscribes, what they are told. Each line is real: CKAN's own action, capture,
dispatch, delivery, and what a receiver got. A row happens once, and each of its
subscribers is a test.

P sees public datasets alone, M is a member of the organization that owns the
dataset, N of another one, B of both; C collaborates on the dataset, A is an
admin of its organization, S a sysadmin.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ckan.plugins as p
import ckan.plugins.toolkit as tk
import pytest
from ckan import model
from ckan.lib import search
from ckan.tests.helpers import call_action

from .. import difference, owners, tasks
from .receiver import Received, Receiver

pytestmark = [
    pytest.mark.database,
    # A type of CKAN 2.10 itself, in the statement of the DataStore.
    pytest.mark.filterwarnings("ignore:TypeDecorator JsonDictType"),
]

KEYS = {
    "entity",
    "address",
    "webhook_id",
    "ckan",
    "topic",
    "user_ref",
    "event_id",
    "occurred_at",
    "sequence",
    "epoch",
}
RESOURCES = [
    {"url": "http://example.com/a", "name": "a"},
    {"url": "http://example.com/b", "name": "b"},
]
# Is in what P may not read, and nowhere else.
SECRET = "sesame"

# What a message carries.
BEFORE = "as it was"
AFTER = "as it is"
STUB = "stub"
# Who loses a right in the transaction that is told of may have lost it long before, and have had
# it again: what it was called then, they may never have read.
NAMELESS = "stub without a name"
STUBS = (STUB, NAMELESS)


@dataclass(frozen=True)
class Told:
    """One message that is expected.

    :ivar carries: the entity as it was or as it is, or a stub
    :ivar changed: of an update, what differs
    """

    topic: str
    carries: str
    changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.topic.endswith("update"):
            return f"{self.topic} ({', '.join(self.changed)})"
        return self.topic if self.carries == AFTER else f"{self.topic} ({self.carries})"


Messages = tuple[Told, ...]
NOTHING: Messages = ()


def create(resources: int = 2) -> Messages:
    return (Told("dataset/create", AFTER), *[Told("resource/create", AFTER)] * resources)


def delete(carries: str, resources: int = 2) -> Messages:
    return (Told("dataset/delete", carries), *[Told("resource/delete", carries)] * resources)


def update(*changed: str) -> Messages:
    return (Told("dataset/update", AFTER, changed),)


def resource_update(*changed: str) -> Messages:
    return (*update("resources"), Told("resource/update", AFTER, changed))


class World:
    """What a row happens to.

    :ivar ids: the datasets, where there are any before
    """

    def __init__(self) -> None:
        """On the model itself: it is the same for every row, and has to be quick."""
        self.ids: list[str] = []
        people = {who: model.User(name=f"user-{who.lower()}") for who in "PMNBCA"}
        people |= {who: model.User(name=who.lower() * 2, sysadmin=True) for who in "SX"}
        here, there = (
            model.Group(name=name, type="organization", is_organization=True)
            for name in ("here", "there")
        )
        model.Session.add_all([*people.values(), here, there])
        model.Session.flush()
        memberships = (
            ("M", here, "member"),
            ("B", here, "editor"),
            ("A", here, "admin"),
            ("N", there, "member"),
            ("B", there, "member"),
        )
        for who, group, role in memberships:
            member = {"table_id": people[who].id, "table_name": "user", "capacity": role}
            model.Session.add(model.Member(group=group, **member))
        model.Session.commit()
        self.users = {who: {"id": user.id, "name": user.name} for who, user in people.items()}
        self.sysadmin = self.users.pop("X")
        self.organization, self.other = {"id": here.id}, {"id": there.id}

    def __call__(self, action: str, more: dict[str, Any] | None = None, /, **data: Any) -> Any:
        """Do one thing as one request does.

        :param more: of the context
        """
        context = {"user": self.sysadmin["name"], **(more or {})}
        return call_action(action, context, **data)

    @property
    def id(self) -> str:
        return self.ids[0]

    def create(self, **fields: Any) -> None:
        fields = {
            "name": f"dataset-{len(self.ids)}",
            "owner_org": self.organization["id"],
            "notes": "n",
            "resources": RESOURCES,
            **fields,
        }
        created = self("package_create", **fields)
        self.ids.append(created if isinstance(created, str) else created["id"])

    def patch(self, **fields: Any) -> None:
        self("package_patch", id=self.id, **fields)

    def collaborate(self) -> None:
        for id_ in self.ids:
            self(
                "package_collaborator_create",
                id=id_,
                user_id=self.users["C"]["id"],
                capacity="member",
            )

    def show(self) -> dict[str, Any]:
        """Give each dataset as it is now, where it is."""
        model.Session.remove()
        found = {}
        for id_ in self.ids:
            if model.Package.get(id_):
                shown = call_action("package_show", {"use_cache": False}, id=id_)
                found[id_] = json.loads(json.dumps(shown))
        return found

    def resources(self) -> list[dict[str, Any]]:
        return self.show()[self.id]["resources"]


Act = Callable[[World], Any]
Start = dict[str, Any]
PUBLIC: Start = {}
PRIVATE: Start = {"private": True}
DRAFT: Start = {"state": "draft"}
DELETED: Start = {"state": "deleted"}


@dataclass(frozen=True)
class Row:
    """One row of the table.

    :ivar name: what happens
    :ivar start: fields of the dataset that is there before; None where none is
    :ivar count: how many such datasets are there, each of which is told of
    :ivar to: what each subscriber is told of each
    :ivar plugin: to be loaded
    """

    name: str
    start: Start | None
    act: Act
    to: dict[str, Messages]
    count: int = 1
    plugin: str = ""


def everyone(messages: Messages, who: str = "PMNS") -> dict[str, Messages]:
    return dict.fromkeys(who, messages)


# --- what happens


def patches(**fields: Any) -> Act:
    return lambda world: world.patch(**fields)


def creates(**fields: Any) -> Act:
    return lambda world: world.create(**fields)


def acts(action: str, **data: Any) -> Act:
    return lambda world: world(action, id=world.id, **data)


def replaces(**fields: Any) -> Act:
    """By package_update, with the whole dict."""
    return lambda world: world("package_update", **{**world.show()[world.id], **fields})


def revises(world: World) -> None:
    key = f"update__resources__{world.resources()[0]['id'][:8]}"
    world("package_revise", match={"id": world.id}, update={"title": "t"}, **{key: {"name": "n"}})


def on_resource(action: str, **fields: Any) -> Act:
    return lambda world: world(action, id=world.resources()[0]["id"], **fields)


def reorders(world: World) -> None:
    order = [r["id"] for r in reversed(world.resources())]
    world("package_resource_reorder", id=world.id, order=order)


def moves_by_its_own_action(world: World) -> None:
    world("package_owner_org_update", id=world.id, organization_id=world.other["id"])


def moves_by_patch(world: World) -> None:
    world.patch(owner_org=world.other["id"])


def bulk(action: str) -> Act:
    return lambda world: world(action, datasets=world.ids, org_id=world.organization["id"])


def organization(action: str) -> Act:
    return lambda world: world(action, id=world.organization["id"])


def in_one_transaction(*acts: Act, end: Callable[[], None]) -> Act:
    def act(world: World) -> None:
        # return_id_only: else CKAN 2.12 rolls a deferred update back itself.
        deferred = {"defer_commit": True, "return_id_only": True}
        once = partial(World.__call__, world)

        class Deferring(World):
            def __init__(self) -> None:
                self.__dict__ = world.__dict__

            def __call__(self, action: str, more: Any = None, /, **data: Any) -> Any:
                return once(action, {**deferred, **(more or {})}, **data)

        for each in acts:
            each(Deferring())
        end()

    return act


def commits() -> None:
    model.Session.commit()


def rolls_back() -> None:
    model.Session.rollback()
    model.Session.commit()


def fails(act: Act) -> Act:
    def refused(world: World) -> None:
        with pytest.raises(tk.ValidationError):
            act(world)

    return refused


def on_the_model(**fields: Any) -> Act:
    def act(world: World) -> None:
        package = model.Session.get(model.Package, world.id)
        for name, value in fields.items():
            setattr(package, name, value)
        model.Session.flush()

    return act


def creates_on_the_model(world: World) -> None:
    package = model.Package(name="one", notes="n", owner_org=world.organization["id"])
    model.Session.add(package)
    model.Session.flush()
    world.ids.append(package.id)


def rebuilds_the_index(world: World) -> None:
    for id_ in world.ids:
        search.rebuild(id_)
    search.commit()


def makes_a_view(world: World) -> None:
    world(
        "resource_view_create",
        resource_id=world.resources()[0]["id"],
        title="v",
        view_type="image_view",
    )


def uses_the_datastore(world: World) -> None:
    """Its rows are in tables of its own; what it sets in CKAN's is a flag."""
    resources = model.Session.query(model.Resource).filter_by(id=world.resources()[0]["id"])
    resources.update({"extras": '{"datastore_active": true}'}, synchronize_session=False)
    model.Session.commit()


# --- the table

PUBLISHED = {
    **everyone(update("private"), "MBSC"),
    **everyone(create(), "PN"),
}
HIDDEN = {
    **everyone(update("private"), "MBSC"),
    **everyone(delete(STUB), "PN"),
}
MOVED = {
    "P": NOTHING,
    "M": delete(STUB),
    "N": create(),
    **everyone(update("organization", "owner_org"), "BSC"),
}
MEMBERS_ONLY = {"P": NOTHING, "N": NOTHING}

TABLE = [
    Row("package_create, public, 2 resources", None, creates(), everyone(create())),
    Row(
        "package_create, private",
        None,
        creates(private=True, title=SECRET),
        {**MEMBERS_ONLY, **everyone(create(), "MBS")},
    ),
    Row("package_create as draft", None, creates(state="draft"), everyone(NOTHING)),
    Row("package_create of an excluded type", None, creates(type="harvest"), everyone(NOTHING)),
    Row("draft: package_patch", DRAFT, patches(title="t"), everyone(NOTHING)),
    Row(
        "draft: resource_create",
        DRAFT,
        lambda world: world("resource_create", package_id=world.id, url="http://example.com/c"),
        everyone(NOTHING),
    ),
    Row("draft: package_delete", DRAFT, acts("package_delete"), everyone(NOTHING)),
    Row("draft: dataset_purge", DRAFT, acts("dataset_purge"), everyone(NOTHING)),
    Row(
        "draft becomes active, public", DRAFT, patches(state="active"), everyone(create(), "PMNSC")
    ),
    Row(
        "draft becomes active, private",
        {**DRAFT, **PRIVATE, "title": SECRET},
        patches(state="active"),
        {**MEMBERS_ONLY, **everyone(create(), "MBSC")},
    ),
    Row("active becomes draft", PUBLIC, patches(state="draft"), everyone(delete(STUB), "PMNSC")),
    Row("package_update", PUBLIC, replaces(title="t"), everyone(update("title"))),
    Row("package_patch", PUBLIC, patches(title="t"), everyone(update("title"))),
    Row(
        "package_patch of a private one",
        PRIVATE,
        patches(title=SECRET),
        {**MEMBERS_ONLY, **everyone(update("title"), "MBSC")},
    ),
    Row(
        "package_revise, with a resource",
        PUBLIC,
        revises,
        everyone((*update("resources", "title"), Told("resource/update", AFTER, ("name",)))),
    ),
    Row("package_update that changes nothing", PUBLIC, replaces(), everyone(NOTHING)),
    Row("package_patch that changes nothing", PUBLIC, patches(notes="n"), everyone(NOTHING)),
    Row(
        "metadata_modified alone",
        PUBLIC,
        in_one_transaction(on_the_model(metadata_modified="2030-01-01"), end=commits),
        everyone(NOTHING),
    ),
    Row(
        "resource_create",
        PUBLIC,
        lambda world: world("resource_create", package_id=world.id, url="http://example.com/c"),
        everyone((*update("resources"), Told("resource/create", AFTER))),
    ),
    Row(
        "resource_update",
        PUBLIC,
        on_resource("resource_update", url="http://example.com/c", name="a"),
        everyone(resource_update("url")),
    ),
    Row(
        "resource_patch",
        PUBLIC,
        on_resource("resource_patch", name="c"),
        everyone(resource_update("name")),
    ),
    Row(
        "resource_delete",
        PUBLIC,
        on_resource("resource_delete"),
        everyone((*update("resources"), Told("resource/delete", BEFORE))),
    ),
    Row(
        "resource_delete in a private one",
        PRIVATE,
        on_resource("resource_delete"),
        {
            **MEMBERS_ONLY,
            **everyone((*update("resources"), Told("resource/delete", BEFORE)), "MBSC"),
        },
    ),
    Row("package_resource_reorder", PUBLIC, reorders, everyone(update("resources"))),
    Row("private -> public", PRIVATE, patches(private=False), PUBLISHED),
    Row("public -> private", PUBLIC, patches(private=True), HIDDEN),
    Row(
        "public -> private, by package_update that retitles",
        PUBLIC,
        replaces(private=True, title=SECRET),
        {**HIDDEN, **everyone(update("private", "title"), "MBSC")},
    ),
    Row(
        "public -> private, and renamed",
        PUBLIC,
        patches(private=True, name=SECRET),
        {**HIDDEN, **everyone(update("name", "private"), "MBSC")},
    ),
    Row("package_delete", PUBLIC, acts("package_delete"), everyone(delete(BEFORE), "PMNSC")),
    Row(
        "package_delete of a private one",
        {**PRIVATE, "title": SECRET},
        acts("package_delete"),
        # CKAN ends the collaboration in the same transaction.
        {**MEMBERS_ONLY, **everyone(delete(BEFORE), "MBS"), "C": delete(NAMELESS)},
    ),
    Row(
        "state set to deleted by package_patch",
        PUBLIC,
        patches(state="deleted"),
        everyone(delete(BEFORE)),
    ),
    Row("dataset_purge of an active one", PUBLIC, acts("dataset_purge"), everyone(delete(STUB))),
    Row(
        "dataset_purge of an active private one",
        {**PRIVATE, "title": SECRET},
        acts("dataset_purge"),
        {**MEMBERS_ONLY, **everyone(delete(STUB), "MBS")},
    ),
    Row("dataset_purge of a deleted one", DELETED, acts("dataset_purge"), everyone(NOTHING)),
    Row("restored to active", DELETED, patches(state="active"), everyone(create())),
    Row("private, moves by package_patch", {**PRIVATE, "title": SECRET}, moves_by_patch, MOVED),
    Row(
        "private, moves by package_owner_org_update",
        {**PRIVATE, "title": SECRET},
        moves_by_its_own_action,
        MOVED,
    ),
    Row(
        "public, moves",
        PUBLIC,
        moves_by_its_own_action,
        everyone(update("organization", "owner_org"), "PMNBSC"),
    ),
    Row("bulk_update_public of 2", PRIVATE, bulk("bulk_update_public"), PUBLISHED, count=2),
    Row("bulk_update_private of 2", PUBLIC, bulk("bulk_update_private"), HIDDEN, count=2),
    Row(
        "bulk_update_delete of 2",
        PUBLIC,
        bulk("bulk_update_delete"),
        everyone(delete(BEFORE), "PMNSC"),
        count=2,
    ),
    Row(
        "organization_delete, 2 become unowned",
        PUBLIC,
        organization("organization_delete"),
        everyone(update("organization", "owner_org"), "PMNBSC"),
        count=2,
    ),
    Row(
        "organization_purge, 2 become unowned",
        PUBLIC,
        organization("organization_purge"),
        everyone(update("organization", "owner_org"), "PMNBSC"),
        count=2,
    ),
    Row(
        "rolled back: package_patch",
        PUBLIC,
        in_one_transaction(patches(title="t"), end=rolls_back),
        everyone(NOTHING),
    ),
    Row(
        "rolled back: public -> private",
        PUBLIC,
        in_one_transaction(patches(private=True), end=rolls_back),
        everyone(NOTHING),
    ),
    Row(
        "rolled back: package_create",
        None,
        in_one_transaction(creates(), end=rolls_back),
        everyone(NOTHING),
    ),
    Row("fails validation: package_create", None, fails(creates(name="no!")), everyone(NOTHING)),
    Row("fails validation: package_patch", PUBLIC, fails(patches(name="no!")), everyone(NOTHING)),
    Row(
        "fails validation: package_update of resources",
        PUBLIC,
        fails(replaces(title="t", resources=[{"id": "x", "size": "no number"}])),
        everyone(NOTHING),
    ),
    Row("search-index rebuild", PUBLIC, rebuilds_the_index, everyone(NOTHING)),
    Row("resource_view_create", PUBLIC, makes_a_view, everyone(NOTHING), plugin="image_view"),
    Row("follow_dataset", PUBLIC, acts("follow_dataset"), everyone(NOTHING)),
    Row("DataStore rows", PUBLIC, uses_the_datastore, everyone(NOTHING)),
    Row(
        "IPermissionLabels of a plugin: proposed",
        None,
        creates(notes=f"Proposed: {SECRET}"),
        {**everyone(NOTHING, "PMN"), **everyone(create(), "AS")},
        plugin="example_ipermissionlabels",
    ),
    Row(
        "IPermissionLabels of a plugin: proposed -> public",
        {"notes": "Proposed: n"},
        patches(notes="n"),
        {**everyone(create(), "PMN"), **everyone(update("notes"), "AS")},
        plugin="example_ipermissionlabels",
    ),
    Row(
        "IPermissionLabels of a plugin: public -> proposed",
        PUBLIC,
        patches(notes=f"Proposed: {SECRET}"),
        {**everyone(delete(STUB), "PMN"), **everyone(update("notes"), "AS")},
        plugin="example_ipermissionlabels",
    ),
    Row(
        "one transaction: created, then updated",
        None,
        in_one_transaction(creates_on_the_model, on_the_model(title="t"), end=commits),
        everyone(create(0)),
    ),
    Row(
        "one transaction: created, then deleted",
        None,
        in_one_transaction(creates_on_the_model, on_the_model(state="deleted"), end=commits),
        everyone(NOTHING),
    ),
    Row(
        "one transaction: updated, then deleted",
        PUBLIC,
        in_one_transaction(on_the_model(title=SECRET), on_the_model(state="deleted"), end=commits),
        everyone(delete(BEFORE)),
    ),
    Row(
        "one transaction: hidden, then public again",
        PUBLIC,
        in_one_transaction(on_the_model(private=True), on_the_model(private=False), end=commits),
        everyone(NOTHING),
    ),
    Row(
        "one transaction: package_patch twice",
        PUBLIC,
        in_one_transaction(patches(title="t"), patches(version="v"), end=commits),
        everyone(update("title", "version")),
    ),
]


# --- one row, as it happens


@dataclass
class Outcome:
    """What came of a row.

    :ivar before: the datasets as they were, by id
    :ivar after: and as they are
    :ivar hooks: webhook and owner of each subscriber
    :ivar requests: what each subscriber's receiver got
    """

    before: dict[str, Any]
    after: dict[str, Any]
    hooks: dict[str, tuple[str, str]]
    requests: dict[str, list[Received]] = field(default_factory=dict)


_outcomes: dict[str, Outcome] = {}


@pytest.fixture
def outcome(row: Row, monkeypatch, request) -> Outcome:
    if row.name not in _outcomes:
        # Only now: to empty CKAN's database takes longer than to look at an outcome.
        request.getfixturevalue("webhooks_db")
        with Receiver() as receiver, loaded(row.plugin):
            monkeypatch.setitem(tk.config, "ckan.auth.allow_dataset_collaborators", True)
            _outcomes[row.name] = happen(row, receiver)
    return _outcomes[row.name]


class loaded:
    """A plugin that is loaded for the time of a row."""

    def __init__(self, name: str) -> None:
        self.names = [name] if name else []

    def __enter__(self) -> None:
        for name in self.names:
            p.load(name)

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            p.unload(name)


def happen(row: Row, receiver: Receiver) -> Outcome:
    world = World()
    if row.start is not None:
        for _ in range(row.count):
            world.create(**row.start)
        if "C" in row.to:
            world.collaborate()
    work()  # what was before the subscribers is not theirs
    before = world.show()
    hooks = {who: subscribe(world, who, receiver) for who in row.to}
    model.Session.remove()
    row.act(world)
    model.Session.remove()
    work()
    outcome = Outcome(before, world.show(), hooks, {who: [] for who in row.to})
    for request in sorted(receiver.requests, key=lambda r: r.json["sequence"]):
        outcome.requests[request.path.strip("/")].append(request)
    return outcome


def subscribe(world: World, who: str, receiver: Receiver) -> tuple[str, str]:
    user = world.users[who]
    context = {"user": user["name"], "ignore_auth": False}
    hook = call_action("webhook_create", context, topic="*", address=f"{receiver.url}/{who}")
    return hook, user["id"]


def work() -> None:
    owners.forget()
    tasks.work_once()


# --- what is asserted


def lines() -> Iterator[Any]:
    for row in TABLE:
        for who, expected in row.to.items():
            # A row of many equal messages is read as one with a count.
            told = [f"{n} x {text}" if n > 1 else text for text, n in counted(expected)]
            yield pytest.param(
                row, who, expected, id=f"{row.name} | {who} | {' + '.join(told) or 'nothing'}"
            )


def counted(messages: Messages) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for message in messages:
        found[str(message)] = found.get(str(message), 0) + 1
    return list(found.items())


@pytest.mark.parametrize("row, who, expected", lines())
def test_told(row: Row, who: str, expected: Messages, outcome: Outcome):
    hook, user = outcome.hooks[who]
    bodies = [request.json for request in outcome.requests[who]]
    for body in bodies:
        assert (body["webhook_id"], body["user_ref"]) == (hook, user)
        assert body["address"].endswith(f"/{who}")
        assert body["ckan"] == tk.config["ckan.site_url"]
    assert len({body["sequence"] for body in bodies}) == len(bodies)
    by_dataset = grouped(bodies)
    assert set(by_dataset) <= outcome.before.keys() | outcome.after.keys()
    for id_ in outcome.before.keys() | outcome.after.keys():
        check(by_dataset.get(id_, []), expected, outcome.before.get(id_), outcome.after.get(id_))
    if not expected or expected[0].carries in STUBS:
        assert not any(SECRET in request.body.decode() for request in outcome.requests[who])


def grouped(bodies: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for body in bodies:
        found.setdefault(body.get("dataset", body["entity"])["id"], []).append(body)
    return found


def check(bodies: list[dict], expected: Messages, before: Any, after: Any) -> None:
    """Compare what was told of one dataset with what is expected, in order."""
    assert [body["topic"] for body in bodies] == [message.topic for message in expected]
    for body, message in zip(bodies, expected, strict=True):
        assert body.keys() - {"dataset", "changed"} == KEYS
        assert body.get("changed", []) == list(message.changed)
        assert ("changed" in body) == message.topic.endswith("/update")
        dataset = after if message.carries == AFTER else before
        if message.topic.startswith("dataset/"):
            assert "dataset" not in body
            check_dataset(body["entity"], message.carries, dataset)
        else:
            check_resource(body, message.carries, dataset)


def check_dataset(entity: dict, carries: str, dataset: dict) -> None:
    if carries in STUBS:
        assert entity == reference_of(dataset, carries)
    else:
        assert difference.comparable(entity) == difference.comparable(dataset)


def reference_of(dataset: dict, carries: str) -> dict:
    keys = ("id", "name", "type") if carries in STUBS else ("id", "name", "type", "owner_org")
    reference = {key: dataset[key] for key in keys}
    return {**reference, "name": None} if carries == NAMELESS else reference


def check_resource(body: dict, carries: str, dataset: dict) -> None:
    entity = body["entity"]
    assert body["dataset"] == reference_of(dataset, carries)
    assert entity["package_id"] == dataset["id"]
    (resource,) = (r for r in dataset["resources"] if r["id"] == entity["id"])
    if carries in STUBS:
        assert entity.keys() == {"id", "package_id"}
    else:
        kept = difference.comparable_resource
        assert kept(entity) == {**kept(resource), "package_id": dataset["id"]}


@pytest.mark.usefixtures("webhooks_db")
@pytest.mark.skipif(
    tk.check_ckan_version(min_version="2.12"),
    reason="CKAN 2.12 refuses to delete an organization with private datasets",
)
def test_a_private_dataset_whose_organization_goes_is_taken_back_from_its_members():
    """Their rights go in the same transaction: they are told once, and what was is not shown."""
    row = Row("", {**PRIVATE, "title": SECRET}, organization("organization_delete"), {"M": ()})
    with Receiver() as receiver:
        outcome = happen(row, receiver)
    bodies = [request.json for request in outcome.requests["M"]]
    (before,) = outcome.before.values()
    check(bodies, delete(NAMELESS), before, None)
    assert not any(SECRET in request.body.decode() for request in outcome.requests["M"])


@pytest.mark.usefixtures("webhooks_db")
def test_what_is_hidden_before_it_was_sent_is_taken_back_alone():
    def act(world: World) -> None:
        world.patch(title=SECRET)
        world.patch(private=True)

    row = Row("", PUBLIC, act, {"P": (), "M": ()})
    with Receiver() as receiver:
        outcome = happen(row, receiver)
    (before,), (after,) = outcome.before.values(), outcome.after.values()
    check([r.json for r in outcome.requests["P"]], delete(STUB), before, after)
    assert [r.json["changed"] for r in outcome.requests["M"]] == [["title"], ["private"]]
