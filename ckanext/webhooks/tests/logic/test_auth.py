"""Who may do what, by the actions and over the web."""

from __future__ import annotations

import json

import ckan.plugins.toolkit as tk
import pytest
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action, changed_config

from ... import owners
from ..callers import ADDRESS, call, create, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")

OF_ONE_WEBHOOK = (
    "webhook_show",
    "webhook_update",
    "webhook_patch",
    "webhook_delete",
    "webhook_secret_show",
    "webhook_secret_rotate",
    "webhook_verify",
)
READS = ("webhook_show", "webhook_list", "webhook_secret_show", "webhook_topic_list")
OPTION = "ckanext.webhooks.minimum_auth"


def refusal(caller, action, **data):
    with pytest.raises(tk.NotAuthorized) as error:
        call(caller, action, **data)
    return str(error.value)


def refusal_to_find(caller, action, **data):
    with pytest.raises(tk.ObjectNotFound) as error:
        call(caller, action, **data)
    return str(error.value)


def may_create(caller) -> bool:
    try:
        create(caller)
    except tk.NotAuthorized:
        return False
    return True


def test_anonymous_callers_may_do_nothing():
    hook = create(factories.User())
    before = stored()
    for action in OF_ONE_WEBHOOK:
        for id_ in (hook, "no-such-id", None, 5):
            refusal(None, action, id=id_)
    for action in ("webhook_delivery_show", "webhook_redeliver", "webhook_dataset_told"):
        refusal(None, action, id="no number")
    refusal(None, "webhook_history", ids=None)
    refusal(None, "webhook_replay", id=hook, since="no time")
    refusal(None, "webhook_event_list", after="no number")
    refusal(None, "webhook_create", topic="*", address=ADDRESS)
    refusal(None, "webhook_list")
    refusal(None, "webhook_topic_list")
    # A name that nobody has is nobody.
    refusal({"name": "no-such-user"}, "webhook_list")
    assert stored() == before


def test_deleted_users_may_do_nothing():
    user = factories.User()
    hook = create(user)
    call_action("user_delete", id=user["id"])
    for action in OF_ONE_WEBHOOK:
        refusal(user, action, id=hook)
    refusal(user, "webhook_create", topic="*", address=ADDRESS)
    assert [row.id for row in stored()] == [hook]


def test_another_s_webhook_and_none_look_the_same():
    hook = create(factories.User(), description="d")
    before = stored()
    stranger = factories.User()
    for action in OF_ONE_WEBHOOK:
        data = {"topic": "*", "address": ADDRESS} if action == "webhook_update" else {}
        theirs = refusal_to_find(stranger, action, id=hook, **data)
        none = refusal_to_find(stranger, action, id="no-such-id", **data)
        assert theirs.replace(hook, "ID") == none.replace("no-such-id", "ID")
    assert stored() == before


def test_what_its_owner_deleted_is_not_found():
    owner = factories.User()
    hook = create(owner)
    call(owner, "webhook_delete", id=hook)
    for action in OF_ONE_WEBHOOK:
        assert hook in refusal_to_find(owner, action, id=hook)


def test_sysadmins_may_do_all_of_it_and_are_told_what_does_not_exist():
    owner, sysadmin = factories.User(), factories.Sysadmin()
    hook = create(owner)
    for action in OF_ONE_WEBHOOK:
        data = {"topic": "*", "address": ADDRESS} if action == "webhook_update" else {}
        with pytest.raises(tk.ObjectNotFound, match="no-such-id"):
            call(sysadmin, action, id="no-such-id", **data)
    assert call(sysadmin, "webhook_show", id=hook)["user_id"] == owner["id"]
    patched = call(sysadmin, "webhook_patch", id=hook, description="by a sysadmin")
    # It stays its owner's: what it is told is what the owner may see.
    assert patched["user_id"] == owner["id"]
    assert call(sysadmin, "webhook_secret_rotate", id=hook)["secret"]
    assert call(sysadmin, "webhook_delete", id=hook) == hook


def test_other_users_lists_are_refused():
    user, other, sysadmin = factories.User(), factories.User(), factories.Sysadmin()
    hook = create(other)
    for reference in (other["id"], other["name"], "no-such-user", sysadmin["name"]):
        refusal(user, "webhook_list", user=reference)
    assert [h["id"] for h in call(sysadmin, "webhook_list", user=other["name"])] == [hook]


def test_minimum_auth_counts_active_roles_in_active_organizations():
    """One person for each way to have, or not to have, a role."""
    people = {
        "nobody": factories.User(),
        "member": factories.User(),
        "editor": factories.User(),
        "admin": factories.User(),
        "sysadmin": factories.Sysadmin(),
        "editor who left": factories.User(),
        "admin of a deleted organization": factories.User(),
        "admin of a group": factories.User(),
    }

    def users(**by_capacity):
        return [
            {"name": people[person]["name"], "capacity": capacity}
            for person, capacity in by_capacity.items()
        ]

    organization = factories.Organization(
        users=[
            *users(member="member", editor="editor", admin="admin"),
            {"name": people["editor who left"]["name"], "capacity": "editor"},
        ]
    )
    call(
        people["sysadmin"],
        "organization_member_delete",
        id=organization["id"],
        username=people["editor who left"]["name"],
    )
    deleted = factories.Organization(
        users=[{"name": people["admin of a deleted organization"]["name"], "capacity": "admin"}]
    )
    call_action("organization_delete", id=deleted["id"])
    factories.Group(users=[{"name": people["admin of a group"]["name"], "capacity": "admin"}])

    everybody = set(people)
    for value, expected in {
        "none": everybody,
        " None ": everybody,
        "editor": {"editor", "admin", "sysadmin"},
        "admin": {"admin", "sysadmin"},
        "sysadmin": {"sysadmin"},
        "nonsense": {"sysadmin"},
        "": {"sysadmin"},
    }.items():
        with changed_config(OPTION, value):
            may = {person for person, user in people.items() if may_create(user)}
            assert may == expected, value
            # The worker asks the same.
            owners.forget()
            standing = owners.standing([user["id"] for user in people.values()])
            assert {
                person for person, user in people.items() if standing[user["id"]].may_subscribe
            } == expected, value
    with changed_config(OPTION, "editor"):
        assert "editor" in refusal(people["member"], "webhook_create", topic="*", address=ADDRESS)


def test_who_lost_the_role_may_look_and_delete_but_not_change():
    user = factories.User()
    hook = create(user)
    with changed_config(OPTION, "sysadmin"):
        assert call(user, "webhook_show", id=hook)["id"] == hook
        assert call(user, "webhook_list")
        assert call(user, "webhook_topic_list")
        assert call(user, "webhook_secret_show", id=hook)["secret"]
        refusal(user, "webhook_patch", id=hook, description="d")
        refusal(user, "webhook_update", id=hook, topic="*", address=ADDRESS)
        assert stored()[0].description is None
        assert call(user, "webhook_delete", id=hook) == hook


class Web:
    """Calls actions over HTTP, with an API token or without."""

    def __init__(self, app, user=None):
        self.app = app
        self.headers = {}
        if user:
            token = call_action(
                "api_token_create", {"user": user["name"]}, user=user["name"], name="tests"
            )["token"]
            self.headers = {"Authorization": token}

    def post(self, action, status=200, data=None, **json_):
        return self._read(
            self.app.post(
                f"/api/action/{action}",
                headers={**self.headers, "Content-Type": "application/json"},
                data=json.dumps(json_) if data is None else data,
                status=status,
            )
        )

    def get(self, action, status=200, **query):
        return self._read(
            self.app.get(
                f"/api/action/{action}", headers=self.headers, query_string=query, status=status
            )
        )

    @staticmethod
    def _read(response):
        return json.loads(response.body)


def test_over_the_web_it_works_as_by_curl(app):
    user = factories.User()
    web = Web(app, user)
    hook = web.post("webhook_create", topic="dataset/create", address=ADDRESS)["result"]
    assert isinstance(hook, str)
    # GET works for what only reads, and for nothing else.
    assert web.get("webhook_show", id=hook)["result"]["id"] == hook
    assert len(web.get("webhook_list", limit="1", state="active")["result"]) == 1
    assert web.get("webhook_secret_show", id=hook)["result"]["secret"].startswith("whsec_")
    assert len(web.get("webhook_topic_list")["result"]) == 6
    for action in ("webhook_delete", "webhook_patch", "webhook_secret_rotate"):
        web.get(action, status=400, id=hook)
    web.get("webhook_create", status=400, topic="*", address=ADDRESS)
    assert len(stored()) == 1
    # A form's texts are as good as JSON.
    created = app.post(
        "/api/action/webhook_create",
        headers=web.headers,
        data={"topic": "*", "address": ADDRESS, "filters": '{"tag": "water"}'},
    )
    by_form = json.loads(created.body)["result"]
    assert web.post("webhook_show", id=by_form)["result"]["filters"] == {"tag": ["water"]}
    web.post("webhook_secret_rotate", id=hook)
    assert web.post("webhook_delete", id=hook)["result"] == hook


def test_over_the_web_every_mistake_is_a_4xx_with_words(app):
    owner, stranger, sysadmin = factories.User(), factories.User(), factories.Sysadmin()
    hook = create(owner)
    before = stored()
    anonymous, theirs, admins = Web(app), Web(app, stranger), Web(app, sysadmin)

    for field, value in {
        "topic": "dataset/purge",
        "address": "http://10.1.2.3/",
        "format": "xml",
        "filters": {"license": "x"},
        "headers": {"Host": "x"},
        "secret": "short",
        "description": 5,
        "adress": ADDRESS,
    }.items():
        answer = theirs.post(
            "webhook_create", 409, **{"topic": "*", "address": ADDRESS, field: value}
        )
        assert answer["error"]["__type"] == "Validation Error"
        assert list(answer["error"]) == [field, "__type"] or field in answer["error"]
    theirs.post("webhook_create", 409)
    theirs.post("webhook_show", 409)
    theirs.get("webhook_show", 409, id="\x00")
    theirs.get("webhook_list", 409, limit="many")
    theirs.get("webhook_list", 409, offset=str(10**30))
    theirs.post("webhook_create", 400, data="{")
    theirs.post("webhook_create", 400, data="[]")

    for action in OF_ONE_WEBHOOK:
        theirs.post(action, 404, id=hook)
        theirs.post(action, 404, id="no-such-id")
        anonymous.post(action, 403, id=hook)
        admins.post(action, 404, id="no-such-id")
    anonymous.post("webhook_create", 403, topic="*", address=ADDRESS)
    for action in READS:
        anonymous.get(action, 403, id=hook)
    theirs.get("webhook_list", 403, user=owner["name"])
    admins.get("webhook_list", 404, user="no-such-user")
    bad_token = Web(app)
    bad_token.headers = {"Authorization": "no token"}
    bad_token.post("webhook_create", 403, topic="*", address=ADDRESS)
    model.Session.rollback()
    assert stored() == before
