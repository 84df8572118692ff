"""Whatever is done to a portal, what its subscribers were told is what they may see.

Hypothesis lets several users do things at random, every row of the README's
table among them, and each subscriber's deliveries are fed into a mirror. Rights
come and go between all that becomes of a change: its dispatch, its sending, its
retry, the feed, a replay and a redelivery. At the end of a sequence each mirror is
what CKAN gives that user, and so is the feed; and nothing that was ever sent or
read holds a text that its receiver could never read.

``bin/mirror`` runs this at length.
"""

from __future__ import annotations

import importlib
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from ckan import authz, model
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from .. import deliver, dispatch, owners, visibility
from ..deliver import health
from .portal import ORGANIZATIONS, USERS, Leaked, Portal, Totals, Wrong, filled
from .receiver import Receiver

pytestmark = [
    pytest.mark.usefixtures("webhooks_db"),
    pytest.mark.ckan_config("ckan.auth.allow_dataset_collaborators", True),
    # As many tries as it takes: time is made to pass, see Portal.deliver.
    pytest.mark.ckan_config("ckanext.webhooks.retry_schedule", ["0"] + ["3600"] * 99),
]

# One step of the second may go all the way from a change to a redelivery.
STEPS, STEPS_OF_RIGHTS = 20, 8
# What becomes of a change, in order; before each of it rights may be others than before.
MOMENTS = ("dispatch", "send", "retry", "feed", "replay", "redelivery")

# Shrinking goes towards the first: a sysadmin is refused nothing.
by = st.sampled_from(["sysadmin", "sysadmin", "sysadmin", "editor", "member", "collaborator"])
organization = st.sampled_from(ORGANIZATIONS)
# Where a value holds ``...`` a marker is put, which nobody has read before.
new = st.just(...)
tags = st.sampled_from([[{"name": "red"}], [{"name": ...}], []])
groups = st.sampled_from([[{"name": "group"}], []])
extras = st.sampled_from([[{"key": ..., "value": ...}], []])
resources = st.lists(
    st.just({"url": "http://example.com/a", "name": ..., "description": ...}), max_size=2
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "title": new,
        "private": st.booleans(),
        "state": st.sampled_from(["active", "deleted", "draft"]),
        "notes": new,
        "owner_org": st.sampled_from([*ORGANIZATIONS, ""]),
        "resources": resources,
        "tags": tags,
        "groups": groups,
        "extras": extras,
        "name": st.sampled_from(["picked", ...]),
    },
).filter(bool)
# Who has one loses it, who has not gets it.
rights = st.sampled_from([*ORGANIZATIONS, "collaboration", "sysadmin", "account"])
roles = st.sampled_from(["member", "editor"])
anybody = st.sampled_from(USERS[1:])
columns = st.fixed_dictionaries(
    {},
    optional={
        "title": new,
        "private": st.booleans(),
        "notes": new,
        "state": st.sampled_from(["active", "deleted", "draft"]),
    },
).filter(bool)


class Rights(RuleBasedStateMachine):
    """Datasets of a portal change, and who may see them, whatever becomes of a change meanwhile."""

    dataset_ids = Bundle("dataset_ids")

    def __init__(self, receiver: Receiver, totals: Totals) -> None:
        super().__init__()
        self.portal = Portal(receiver, totals)

    def fill(self, value: Any) -> Any:
        return filled(self.portal.marker, value)

    # --- datasets

    @initialize(target=dataset_ids, private=st.booleans(), number=st.integers(0, 2))
    def begin(self, private, number):
        return self.create("sysadmin", "alpha", private, "active", "dataset", number, {})

    @rule(
        target=dataset_ids,
        by=by,
        organization=st.sampled_from([*ORGANIZATIONS, ""]),
        private=st.booleans(),
        state=st.sampled_from(["active", "active", "draft"]),
        type=st.sampled_from(["dataset", "special", "harvest"]),
        number=st.integers(0, 2),
        more=st.fixed_dictionaries({}, optional={"tags": tags, "groups": groups, "extras": extras}),
    )
    def create(self, by, organization, private, state, type, number, more):
        resource = {"url": "http://example.com/a", "name": ..., "description": ...}
        data = {"name": ..., "title": ..., "notes": ..., "resources": [resource] * number, **more}
        created = self.portal.call(
            by,
            "package_create",
            owner_org=organization,
            private=private,
            state=state,
            type=type,
            **self.fill(data),
        )
        return created["id"] if created else multiple()

    @rule(id=dataset_ids, by=by, changes=changes)
    def patch(self, id, by, changes):
        self.portal.call(by, "package_patch", id=id, **self.fill(changes))

    # --- rights

    @rule(id=dataset_ids, user=anybody, right=rights, role=roles)
    def change_rights(self, id, user, right, role):
        if right == "collaboration":
            self.change_collaboration(user, id, role)
        elif right == "sysadmin":
            self.change_sysadmin(user)
        elif right == "account":
            self.change_account(user)
        else:
            self.change_membership(user, right, role)

    def change_membership(self, user, of, role):
        group = model.Group.get(of)
        if group is None:
            return  # where it was purged, CKAN fails an assertion of its own
        is_in = {"group_id": group.id, "table_id": model.User.get(user).id, "state": "active"}
        if model.Session.query(model.Member).filter_by(**is_in).first():
            self.portal.call("sysadmin", "organization_member_delete", id=of, username=user)
        else:
            self.portal.call(
                "sysadmin", "organization_member_create", id=of, username=user, role=role
            )

    def change_collaboration(self, user, id, capacity):
        of = {"id": id, "user_id": user}
        if authz.user_is_collaborator_on_dataset(model.User.get(user).id, id):
            self.portal.call("sysadmin", "package_collaborator_delete", **of)
        else:
            self.portal.call("sysadmin", "package_collaborator_create", **of, capacity=capacity)

    def change_sysadmin(self, user):
        given = not model.User.get(user).sysadmin
        with self.portal.request("sysadmin " + ("given" if given else "taken")):
            model.User.get(user).sysadmin = given
            model.Session.commit()

    def change_account(self, user):
        if model.User.get(user).state == model.State.ACTIVE:
            self.portal.call("sysadmin", "user_delete", id=user)
            return
        with self.portal.request("user restored"):
            model.User.get(user).state = model.State.ACTIVE
            model.Session.commit()

    @rule(
        id=dataset_ids,
        changes=changes,
        user=anybody,
        moments=st.dictionaries(st.sampled_from(MOMENTS), rights, min_size=1),
        role=roles,
        which=st.integers(0, 20),
    )
    def change_rights_on_the_way(self, id, changes, user, moments, role, which):
        """A dataset changes, and a user's rights before it is told, sent, sent again, asked for."""
        self.patch(id, "sysadmin", changes)
        failing = self.portal.failing
        ways = {
            "dispatch": self.portal.dispatch,
            "send": partial(self.send, ""),
            "retry": partial(self.send, failing),
            "feed": partial(self.portal.read_feed, user),
            "replay": partial(self.portal.replay, user),
            "redelivery": partial(self.portal.redeliver, user, which),
        }
        for moment in MOMENTS:
            if moment in moments:
                self.change_rights(id, user, moments[moment], role)
            ways[moment]()

    def send(self, failing: str | None) -> None:
        self.portal.failing = failing
        self.portal.send()

    @rule(failing=st.sampled_from([None, "", "dataset", "resource"]))
    def endpoints_fail(self, failing):
        self.portal.failing = failing

    def teardown(self):
        try:
            self.portal.settle()
        finally:
            self.portal.count()


class Users(Rights):
    """Users of a portal, doing all there is to do at random."""

    dataset_ids = Rights.dataset_ids

    # --- datasets

    @rule(id=dataset_ids, by=by, changes=changes)
    def update(self, id, by, changes):
        """Save the whole form."""
        with self.portal.request("package_update"):
            self.portal.act(by, "package_update", **{**self.shown(id, by), **self.fill(changes)})

    @rule(id=dataset_ids, by=by)
    def update_nothing(self, id, by):
        with self.portal.request("package_update of nothing"):
            self.portal.act(by, "package_update", **self.shown(id, by))

    def shown(self, id: str, by: str) -> dict[str, Any]:
        return self.portal.act(by, "package_show", id=id)

    @rule(id=dataset_ids, by=by, changes=changes)
    def revise(self, id, by, changes):
        self.portal.call(by, "package_revise", match={"id": id}, update=self.fill(changes))

    @rule(id=dataset_ids, by=by)
    def revise_first_resource(self, id, by):
        self.portal.call(
            by, "package_revise", match={"id": id}, update__resources__0={"name": self.fill(...)}
        )

    @rule(id=dataset_ids, by=by)
    def refused_by_validation(self, id, by):
        self.portal.call(by, "package_patch", id=id, name="no name!", title=self.fill(...))

    @rule(id=dataset_ids, by=by)
    def delete(self, id, by):
        self.portal.call(by, "package_delete", id=id)

    @rule(id=dataset_ids)
    def restore(self, id):
        self.portal.call("sysadmin", "package_patch", id=id, state="active")

    @rule(id=dataset_ids)
    def purge(self, id):
        self.portal.call("sysadmin", "dataset_purge", id=id)

    @rule(id=dataset_ids, by=by, to=organization)
    def move(self, id, by, to):
        self.portal.call(by, "package_owner_org_update", id=id, organization_id=to)

    @rule(
        ids=st.lists(dataset_ids, min_size=1, max_size=3),
        of=organization,
        what=st.sampled_from(["private", "public", "delete"]),
    )
    def bulk(self, ids, of, what):
        self.portal.call(
            "sysadmin", f"bulk_update_{what}", datasets=ids, org_id=self.portal.organizations[of]
        )

    # --- resources

    @rule(id=dataset_ids, by=by)
    def add_resource(self, id, by):
        data = {"url": "http://example.com/b", "name": ..., "description": ...}
        self.portal.call(by, "resource_create", package_id=id, **self.fill(data))

    @rule(
        id=dataset_ids,
        by=by,
        which=st.integers(0, 2),
        how=st.sampled_from(["patch", "update", "delete"]),
    )
    def change_resource(self, id, by, which, how):
        here = self.portal.resources_of(id)
        if not here:
            return
        data = {"id": here[which % len(here)]}
        if how != "delete":
            data["name"] = self.fill(...)
        if how == "update":
            data["url"] = "http://example.com/c"
        self.portal.call(by, f"resource_{how}", **data)

    @rule(id=dataset_ids, by=by)
    def reorder(self, id, by):
        order = self.portal.resources_of(id)[::-1]
        self.portal.call(by, "package_resource_reorder", id=id, order=order)

    # --- groups and organizations

    @rule(id=dataset_ids, enters=st.booleans())
    def group_takes_in_or_lets_go(self, id, enters):
        of = {"id": "group", "object": id, "object_type": "package"}
        if enters:
            self.portal.call("sysadmin", "member_create", **of, capacity="public")
        else:
            self.portal.call("sysadmin", "member_delete", **of)

    @rule(how=st.sampled_from(["delete", "purge"]))
    def end_group(self, how):
        self.portal.call("sysadmin", f"group_{how}", id="group")

    @rule()
    def make_group(self):
        self.portal.call("sysadmin", "group_create", name="group")

    @rule(which=organization, how=st.sampled_from(["delete", "purge"]))
    def end_organization(self, which, how):
        self.portal.call("sysadmin", f"organization_{how}", id=which)

    @rule(which=organization)
    def retitle_organization(self, which):
        self.portal.call("sysadmin", "organization_patch", id=which, title="Another title")

    # --- transactions

    @rule(id=dataset_ids, columns=columns, commits=st.booleans())
    def code_on_the_model(self, id, columns, commits):
        with self.portal.request("code on the model" + ("" if commits else ", rolled back")):
            self.set(model.Session, id, columns)
            model.Session.flush()
            end(model.Session, commits)

    def set(self, session: Any, id: str, columns: dict[str, Any]) -> None:
        package = session.get(model.Package, id)
        for column, value in self.fill(columns).items() if package else ():
            setattr(package, column, value)

    @rule(
        by=by,
        edits=st.lists(st.tuples(dataset_ids, changes), min_size=1, max_size=3),
        creates=st.booleans(),
        commits=st.booleans(),
    )
    def several_in_one_transaction(self, by, edits, creates, commits):
        with self.portal.request("several actions" + ("" if commits else ", rolled back")):
            if creates:
                self.deferred(by, "package_create", name=..., title=..., owner_org="beta")
            for id, changes in edits:
                self.deferred(by, "package_patch", id=id, **changes)
            end(model.Session, commits)

    def deferred(self, by: str, action: str, /, **data: Any) -> None:
        # Without return_id_only CKAN 2.12 rolls its own change back.
        self.portal.act(
            by, action, {"defer_commit": True, "return_id_only": True}, **self.fill(data)
        )

    @rule(
        id=dataset_ids,
        before=columns,
        within=st.one_of(columns, st.just({"resources": [{"url": "http://a", "name": ...}]})),
        after=st.one_of(st.just({}), columns),
        released=st.booleans(),
    )
    def savepoint(self, id, before, within, after, released):
        with self.portal.request("savepoint" + ("" if released else ", rolled back")):
            self.set(model.Session, id, before)
            model.Session.flush()
            nested = model.Session.begin_nested()
            if "resources" in within:
                self.deferred("sysadmin", "package_patch", id=id, **within)
            else:
                self.set(model.Session, id, within)
                model.Session.flush()
            if nested.is_active:
                end(nested, released)
            self.set(model.Session, id, after)
            model.Session.commit()

    @rule(id=dataset_ids, here=columns, there=columns)
    def edit_from_an_older_state(self, id, here, there):
        """Another session commits between this one's reading and its writing."""
        with self.portal.request("two sessions: read, the other commits, write"):
            model.Session.get(model.Package, id)
            with local_session() as other:
                self.set(other, id, there)
                other.commit()
            self.portal.observe_meanwhile()
            self.set(model.Session, id, here)
            model.Session.commit()

    @rule(id=dataset_ids, there=columns, commits=st.booleans())
    def add_resource_while_another_edits(self, id, there, commits):
        with self.portal.request("two sessions: a resource and an edit"):
            if model.Session.get(model.Package, id):
                data = self.fill({"url": "http://example.com/d", "name": ...})
                resource = model.Resource(package_id=id, **data)
                resource.position = 9
                model.Session.add(resource)
                model.Session.flush()
            with local_session() as other:
                self.set(other, id, there)
                other.commit()
            self.portal.observe_meanwhile()
            end(model.Session, commits)

    @rule(first=dataset_ids, second=dataset_ids, here=columns, there=columns)
    def commit_in_another_order(self, first, second, here, there):
        """Who flushed last commits first."""
        if first == second:
            return
        with self.portal.request("two sessions: two datasets"):
            self.set(model.Session, first, here)
            model.Session.flush()
            with local_session() as other:
                self.set(other, second, there)
                other.commit()
            self.portal.observe_meanwhile()
            model.Session.commit()

    @rule(id=dataset_ids, here=columns, there=columns, commits=st.booleans())
    def wait_for_each_other(self, id, here, there, commits):
        """The other session waits for this one's row lock, with what it read before."""
        with self.portal.request("two sessions: one waits for the other"):
            read, seen = threading.Event(), threading.Event()

            def edit() -> None:
                try:
                    with local_session() as other:
                        other.get(model.Package, id)
                        read.set()
                        self.set(other, id, there)
                        other.flush()
                        seen.wait()
                        other.commit()
                finally:
                    read.set()

            self.set(model.Session, id, here)
            model.Session.flush()
            with ThreadPoolExecutor(1) as pool:
                edited = pool.submit(edit)
                try:
                    read.wait()
                    wait([edited], 0.05)
                    end(model.Session, commits)
                    self.portal.observe_meanwhile()
                finally:
                    # The pool waits for the other session, also where this one was refused.
                    seen.set()
                edited.result()

    # --- what is told to nobody

    @rule(id=dataset_ids)
    def things_that_are_no_changes(self, id):
        portal = self.portal
        portal.call("sysadmin", "follow_dataset", id=id)
        for resource in portal.resources_of(id)[:1]:
            portal.call(
                "sysadmin",
                "resource_view_create",
                resource_id=resource,
                view_type="image_view",
                title=self.fill(...),
            )
        portal.reindex()

    # --- what users ask for

    @rule(user=anybody)
    def read_feed(self, user):
        self.portal.read_feed(user)

    @rule(user=anybody)
    def replay(self, user):
        self.portal.replay(user)

    @rule(user=anybody, which=st.integers(0, 20))
    def redeliver(self, user, which):
        self.portal.redeliver(user, which)

    # --- the worker and the endpoints

    @rule()
    def dispatch(self):
        self.portal.dispatch()

    @rule()
    def deliver(self):
        self.portal.deliver()


def end(transaction: Any, commits: bool) -> None:
    if commits:
        transaction.commit()
    else:
        transaction.rollback()


def local_session() -> Any:
    return model.meta.create_local_session()


def run(
    machine: type[Rights],
    receiver: Receiver,
    totals: Totals,
    examples: int,
    number: int,
    *,
    shrinks: bool = True,
) -> None:
    """Let the users loose on so many portals, one after the other.

    :param number: the seed
    """
    start: Any = seed(number)(lambda: machine(receiver, totals))
    run_state_machine_as_test(
        start,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS if machine is Users else STEPS_OF_RIGHTS,
            deadline=None,
            database=None,
            phases=[Phase.generate, *([Phase.shrink] if shrinks else [])],
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(autouse=True)
def nothing_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights are known by what was noted, and not because time went by."""
    monkeypatch.setattr(owners, "FRESH_FOR", math.inf)


@pytest.mark.parametrize("usual", [4, pytest.param(40, marks=pytest.mark.long)])
def test_every_mirror_is_what_its_user_may_see(receiver, say, usual):
    examples = int(os.environ.get("MIRROR_EXAMPLES", usual))
    number = int(os.environ.get("MIRROR_SEED", "1"))
    totals = Totals()
    try:
        shrinks = "MIRROR_QUICK" not in os.environ
        of_rights = examples // 3
        run(Users, receiver, totals, examples - of_rights, number, shrinks=shrinks)
        run(Rights, receiver, totals, of_rights, number, shrinks=shrinks)
        assert not totals.wrongs, totals.wrongs[0]
    finally:
        for line in (f"seed: {number}", *totals.lines()):
            say(line)
            print(line)  # which pytest shows where this fails


# --- tests of the test: a wrong rule is found


AT_ONCE, AT_RANDOM = "by a history that shows it", "at random"


@pytest.fixture(params=[AT_ONCE, pytest.param(AT_RANDOM, marks=pytest.mark.long)])
def found_wrong(request: pytest.FixtureRequest, receiver: Receiver) -> Callable[..., None]:
    """Find that a rule is wrong; to come upon it at random takes up to thirty sequences."""

    def find(
        history: Callable[[Portal], None],
        machine: type[Rights] = Users,
        kind: type[Wrong] = Wrong,
    ) -> None:
        with pytest.raises(kind):
            if request.param == AT_ONCE:
                history(Portal(receiver, Totals()))
            else:
                run(machine, receiver, Totals(), 30, 1, shrinks=False)

    return find


def create(portal: Portal, **fields: Any) -> str:
    """Create a dataset with a resource; gives its id."""
    data = {
        "name": "one",
        "title": portal.marker(),
        "owner_org": "alpha",
        "resources": [{"url": "http://example.com/a", "name": portal.marker()}],
        **fields,
    }
    return portal.call("sysadmin", "package_create", **data)["id"]


def one_is_public(portal: Portal) -> None:
    create(portal)
    portal.settle()


def one_has_no_resource(portal: Portal) -> None:
    """What is one event is written by a statement of its own."""
    create(portal, resources=[])
    portal.settle()


def one_is_private(portal: Portal) -> None:
    create(portal, private=True)
    portal.settle()


def one_is_hidden(portal: Portal) -> None:
    hidden = create(portal)
    portal.deliver()
    portal.call("sysadmin", "package_patch", id=hidden, private=True)
    portal.settle()


def one_is_hidden_before_it_is_sent(portal: Portal) -> None:
    hidden = create(portal)
    portal.dispatch()
    portal.call("sysadmin", "package_patch", id=hidden, private=True)
    portal.send()


def one_changes_after_its_editor_left(portal: Portal) -> None:
    changed = create(portal, private=True)
    portal.deliver()
    portal.call("sysadmin", "organization_member_delete", id="alpha", username="editor")
    portal.call("sysadmin", "package_patch", id=changed, title=portal.marker())
    portal.deliver()


def test_labels_that_are_ignored_are_found(found_wrong, monkeypatch):
    def sees_what_is_active(dataset, owner):
        return dataset is not None

    class Everybody(visibility.Audience):
        def __init__(self, owners):
            super().__init__(dict.fromkeys(owners, visibility.ALL))

    for module in (visibility, dispatch.moves):
        monkeypatch.setattr(module, "may_see", sees_what_is_active)
    monkeypatch.setattr(dispatch.run, "Audience", Everybody)
    found_wrong(one_is_private)


def test_telling_by_the_state_after_alone_is_found(found_wrong, monkeypatch):
    monkeypatch.setattr(
        dispatch.write, "told", lambda before, after, differs: "update" if after else None
    )
    found_wrong(one_is_hidden)


def test_resources_that_are_forgotten_are_found(found_wrong, monkeypatch):
    monkeypatch.setattr(dispatch.events, "_resources", lambda *_: [])
    found_wrong(one_is_public)


def test_sending_what_was_decided_without_asking_again_is_found(found_wrong, monkeypatch):
    monkeypatch.setattr(deliver.loop, "_sending", lambda *_: visibility.Sending.CONTENT)
    found_wrong(one_is_hidden_before_it_is_sent)


def test_rights_that_are_kept_whatever_was_noted_are_found(found_wrong, monkeypatch):
    monkeypatch.setattr(owners, "_forget_what_changed", lambda noted: None)
    found_wrong(one_changes_after_its_editor_left, Rights, Leaked)


def test_filters_that_are_ignored_are_found(found_wrong, monkeypatch):
    for key, telling in dispatch.write._TELL.items():
        everything = sa.text(telling.text.replace("w.filters = '{}'", "true"))
        assert everything.text != telling.text
        monkeypatch.setitem(dispatch.write._TELL, key, everything)
    found_wrong(one_has_no_resource)


HISTORIES = (
    one_is_public,
    one_has_no_resource,
    one_is_private,
    one_is_hidden,
    one_is_hidden_before_it_is_sent,
    one_changes_after_its_editor_left,
)


@pytest.mark.parametrize("history", HISTORIES)
def test_the_histories_that_show_it_are_well_where_no_rule_is_wrong(portal, history):
    history(portal)


# --- what the above has found, made short


@pytest.fixture
def portal(receiver: Receiver) -> Portal:
    return Portal(receiver, Totals())


def test_rights_that_change_while_nothing_else_does(portal):
    portal.call("sysadmin", "package_create", name="secret", owner_org="alpha", private=True)
    portal.deliver()
    portal.call(
        "sysadmin", "organization_member_create", id="alpha", username="nobody", role="member"
    )
    portal.settle()


def test_what_was_deleted_and_then_made_a_draft_is_not_sent_any_more(portal):
    portal.failing = ""
    created = portal.call("sysadmin", "package_create", name="mistaken", owner_org="alpha")
    portal.deliver()
    portal.call("sysadmin", "package_delete", id=created["id"])
    portal.call("sysadmin", "package_patch", id=created["id"], state="draft")
    portal.settle()


def test_who_gains_a_right_is_not_told_what_was_there_before(portal):
    """No worker ran in the meantime."""
    created = portal.call(
        "sysadmin",
        "package_create",
        name="amended",
        title=portal.marker(),
        owner_org="alpha",
        private=True,
    )
    portal.call("sysadmin", "package_patch", id=created["id"], title="For others to read")
    portal.call(
        "sysadmin", "organization_member_create", id="alpha", username="nobody", role="member"
    )
    portal.settle()


def test_who_loses_a_right_is_not_told_the_name_of_what_came_after(portal):
    """No worker ran in the meantime."""
    portal.call("sysadmin", "organization_member_delete", id="alpha", username="editor")
    portal.call("sysadmin", "package_create", name=portal.marker(), owner_org="alpha", private=True)
    portal.settle()


def test_a_resource_that_is_removed_by_what_hides_its_dataset_is_a_stub(portal):
    """Nor is the name told that the dataset was given at the same time."""
    created = portal.call(
        "sysadmin",
        "package_create",
        name="shown",
        owner_org="alpha",
        resources=[{"url": "http://example.com/a", "name": "a"}],
    )
    portal.deliver()
    hidden = {"name": portal.marker(), "private": True, "resources": []}
    portal.call("sysadmin", "package_patch", id=created["id"], **hidden)
    portal.settle()


def join(portal: Portal, organization: str) -> None:
    """Let somebody into an organization who could see nothing of it."""
    of = {"id": organization, "username": "nobody", "role": "member"}
    portal.call("sysadmin", "organization_member_create", **of)


@pytest.mark.parametrize("state", ["deleted", "draft"])
def test_who_joins_after_a_dataset_was_gone_is_told_neither_what_it_was_nor_its_name(portal, state):
    created = portal.call(
        "sysadmin",
        "package_create",
        name=portal.marker(),
        title=portal.marker(),
        owner_org="alpha",
        private=True,
        resources=[{"url": "http://example.com/a", "name": portal.marker()}],
    )
    portal.call("sysadmin", "package_patch", id=created["id"], state=state)
    portal.deliver()
    join(portal, "alpha")
    portal.deliver()
    portal.read_feed("nobody")
    portal.replay("nobody")
    portal.settle()


def test_a_resource_that_only_moved_with_its_dataset_is_in_the_feed_for_who_came_later(portal):
    created = portal.call(
        "sysadmin",
        "package_create",
        name="moved",
        owner_org="alpha",
        private=True,
        resources=[{"url": "http://example.com/a", "name": "a"}],
    )
    join(portal, "alpha")
    portal.deliver()
    portal.call("sysadmin", "package_patch", id=created["id"], groups=[{"name": "group"}])
    portal.deliver()
    # Other rights since, of whatever kind.
    join(portal, "beta")
    portal.settle()


@pytest.fixture
def replaced(portal: Portal) -> Portal:
    """One version of a dataset was mended before somebody joined who may see the dataset."""
    created = portal.call(
        "sysadmin",
        "package_create",
        name="mended",
        title=portal.marker(),
        owner_org="alpha",
        private=True,
        resources=[{"url": "http://example.com/a", "name": portal.marker()}],
    )
    mended = [{"url": "http://example.com/a", "name": "a"}]
    portal.call("sysadmin", "package_patch", id=created["id"], title="Mended", resources=mended)
    portal.deliver()
    join(portal, "alpha")
    portal.deliver()
    return portal


ASKING = {"feed": Portal.read_feed, "replay": Portal.replay}


@pytest.mark.parametrize("way", ASKING)
def test_who_joins_after_a_version_was_replaced_is_not_given_it(replaced, way):
    ASKING[way](replaced, "nobody")
    replaced.settle()


@pytest.mark.parametrize("way", ASKING)
def test_a_resource_that_is_as_it_was_has_content_whatever_its_dataset_became(portal, way):
    renamed = create(portal, private=True)
    portal.call("sysadmin", "organization_member_delete", id="alpha", username="editor")
    again = {"id": "alpha", "username": "editor", "role": "editor"}
    portal.call("sysadmin", "organization_member_create", **again)
    portal.call("sysadmin", "package_patch", id=renamed, private=False, name="picked")
    portal.deliver()
    ASKING[way](portal, "editor")
    portal.settle()


@pytest.mark.parametrize("way", ASKING)
def test_who_joins_after_a_dataset_was_renamed_is_not_told_its_old_name(portal, way):
    resources = [{"url": "http://example.com/a", "name": "a"}]
    renamed = create(portal, name=portal.marker(), private=True, resources=resources)
    portal.call("sysadmin", "package_patch", id=renamed, name="picked", title="Mended")
    portal.deliver()
    join(portal, "alpha")
    portal.deliver()
    ASKING[way](portal, "nobody")
    portal.settle()


@pytest.mark.parametrize("way", ASKING)
def test_old_versions_that_are_given_to_whoever_asks_are_found(replaced, way, monkeypatch):
    # By its name: the package has a function of that name, too.
    logged = importlib.import_module("ckanext.webhooks.deliver.logged")
    monkeypatch.setattr(logged, "was_seen_then", lambda *_: True)
    with pytest.raises(Leaked):
        ASKING[way](replaced, "nobody")


def test_what_waits_for_a_probe_does_not_wait_for_one_that_is_not_sent(portal):
    portal.failing = ""
    resources = [{"url": "http://example.com/a", "name": "a"}] * health.OPENS_AFTER
    hidden = create(portal, resources=resources)
    portal.deliver()
    portal.call("sysadmin", "package_patch", id=hidden, state="draft")
    portal.call("sysadmin", "package_patch", id=hidden, state="active")
    portal.settle()


def leave(portal: Portal, organization: str) -> None:
    of = {"id": organization, "username": "nobody"}
    portal.call("sysadmin", "organization_member_delete", **of)


def come_back(portal: Portal) -> None:
    with portal.request("user restored"):
        model.User.get("nobody").state = model.State.ACTIVE
        model.Session.commit()


@pytest.fixture
def kept(portal: Portal) -> str:
    """Give a dataset that somebody sees as the member of an organization."""
    join(portal, "alpha")
    created = create(portal, private=True)
    portal.deliver()
    return created


def test_who_was_away_is_not_told_what_was_replaced_meanwhile(portal, kept):
    """No worker ran in the meantime."""
    leave(portal, "alpha")
    secret = {"title": portal.marker(), "name": portal.marker()}
    portal.call("sysadmin", "package_patch", id=kept, **secret)
    portal.call("sysadmin", "package_patch", id=kept, title="Mended", name="mended")
    join(portal, "alpha")
    portal.settle()


def test_who_was_away_is_not_told_the_name_of_what_left_meanwhile(portal, kept):
    """No worker ran in the meantime."""
    leave(portal, "alpha")
    portal.call("sysadmin", "package_patch", id=kept, name=portal.marker())
    portal.call("sysadmin", "package_patch", id=kept, owner_org="beta")
    join(portal, "alpha")
    portal.settle()


def test_who_loses_a_right_while_dispatch_reads_rights_is_not_told_the_name_of_what_came_since(
    portal, kept, monkeypatch
):
    read = dispatch.rights._read

    def read_before_all(*given: Any) -> Any:
        found = read(*given)
        monkeypatch.undo()
        leave(portal, "alpha")
        portal.call("sysadmin", "package_patch", id=kept, name=portal.marker())
        return found

    create(portal, name="another")
    monkeypatch.setattr(dispatch.rights, "_read", read_before_all)
    portal.deliver()
    portal.settle()


def test_who_was_away_is_told_what_only_others_were_given_meanwhile(portal):
    """Its newest version is told to nobody, since nothing differs in it."""
    join(portal, "alpha")
    given = create(portal, private=True)
    collaborator = {"user_id": "collaborator", "capacity": "member"}
    portal.call("sysadmin", "package_collaborator_create", id=given, **collaborator)
    leave(portal, "alpha")
    join(portal, "alpha")
    portal.settle()


@pytest.mark.parametrize("way", ["dispatched", "not dispatched"])
def test_who_is_restored_is_not_told_the_name_of_what_left_meanwhile(portal, way):
    created = create(portal)
    join(portal, "beta")
    portal.deliver()
    portal.call("sysadmin", "user_delete", id="nobody")
    hidden = {"private": True, "owner_org": "beta", "name": portal.marker()}
    portal.call("sysadmin", "package_patch", id=created, **hidden)
    if way == "dispatched":
        portal.deliver()
    come_back(portal)
    portal.deliver()
    portal.settle()


def test_who_is_restored_is_told_what_was_public_meanwhile(portal):
    """That anybody could read, without an account."""
    created = create(portal)
    portal.deliver()
    portal.call("sysadmin", "user_delete", id="nobody")
    portal.call("sysadmin", "package_patch", id=created, name=portal.marker())
    portal.call("sysadmin", "package_patch", id=created, private=True)
    come_back(portal)
    portal.settle()
