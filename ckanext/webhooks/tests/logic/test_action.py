"""The actions, called as CKAN calls them, with the caller's rights."""

from __future__ import annotations

import base64
import datetime
import json

import ckan.plugins.toolkit as tk
import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action, changed_config

from ... import config, encryption, topics
from ...model import Webhook
from ..callers import ADDRESS, call, context, create, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
HEADERS = {"Authorization": "Bearer geheim", "X-Team": "water"}


def pending(hook: str, event: str = "e1", status: str = "pending") -> None:
    """Write a delivery that waits for a webhook."""
    model.Session.execute(
        sa.text(
            "INSERT INTO webhooks_delivery"
            " (webhook_id, event_id, topic, sequence, address, format, status)"
            " VALUES (:hook, :event, 'dataset/create', 1, 'http://x', 'classic', :status)"
        ),
        {"hook": hook, "event": event, "status": status},
    )
    model.Session.commit()


def test_the_usage_of_2015_goes_on_working():
    """The calls of that README, through ckanapi's own way of calling."""
    from ckanapi import LocalCKAN

    user = factories.User()
    ckan = LocalCKAN(username=user["name"], context={"ignore_auth": False})
    hook = ckan.action.webhook_create(topic="dataset/create", address="http://example.com/callback")
    assert isinstance(hook, str)
    shown = ckan.action.webhook_show(id=hook)
    # The five columns of that time, as they were.
    assert {key: shown[key] for key in ("id", "topic", "address", "user_id")} == {
        "id": hook,
        "topic": "dataset/create",
        "address": "http://example.com/callback",
        "user_id": user["id"],
    }
    assert datetime.datetime.fromisoformat(shown["created_at"])
    assert ckan.action.webhook_delete(id=hook) == hook
    assert stored() == []
    with pytest.raises(tk.ObjectNotFound):
        ckan.action.webhook_show(id=hook)


def test_what_is_given_is_shown_and_what_is_not_has_its_default():
    user = factories.User()
    shown = call(user, "webhook_show", id=create(user, topic="dataset/*"))
    assert shown == {
        "id": shown["id"],
        "topic": "dataset/*",
        "topics": ["dataset/*"],
        "address": ADDRESS,
        "user_id": user["id"],
        "created_at": shown["created_at"],
        "state": "active",
        "state_reason": None,
        "description": None,
        "filters": {},
        "format": "classic",
        "max_rate": None,
        "coalesce": False,
        "headers": [],
        "health": {
            "state_reason": None,
            "circuit": "closed",
            "failures": 0,
            "failing_since": None,
            "last_success_at": None,
            "last_failure_at": None,
            "next_try": None,
            "missed_since": None,
        },
    }
    age = datetime.datetime.utcnow() - datetime.datetime.fromisoformat(shown["created_at"])
    assert abs(age.total_seconds()) < 60, "UTC, as in 2015"

    organization = factories.Organization()
    hook = create(
        user,
        topic=["dataset/create", "resource/*"],
        description="Für die Suche",
        filters={"organization": organization["name"], "tag": ["wet", "blue"]},
        format="cloudevents",
        headers=HEADERS,
        secret=SECRET,
        max_rate=30,
        coalesce=True,
    )
    shown = call(user, "webhook_show", id=hook)
    assert shown["topic"] == "dataset/create,resource/*"
    assert shown["topics"] == ["dataset/create", "resource/*"]
    assert shown["description"] == "Für die Suche"
    assert shown["filters"] == {"organization": [organization["id"]], "tag": ["blue", "wet"]}
    assert shown["format"] == "cloudevents"
    assert (shown["max_rate"], shown["coalesce"]) == (30, True)
    assert call(user, "webhook_secret_show", id=hook) == {"secret": SECRET}


def test_secrets_are_stored_encrypted_and_shown_to_nobody_by_show_and_list():
    user = factories.User()
    hook = create(user, headers=HEADERS, secret=SECRET)
    made = create(user)
    (row,) = (r for r in stored() if r.id == hook)
    for text in (row.secret, row.headers):
        assert "whsec_" not in text and "geheim" not in text
    assert encryption.decrypt(row.secret, config.secret_keys()) == SECRET
    assert json.loads(encryption.decrypt(row.headers, config.secret_keys())) == HEADERS
    for caller in (user, factories.Sysadmin()):
        shown = json.dumps([call(caller, "webhook_show", id=hook), *call(caller, "webhook_list")])
        assert "geheim" not in shown
        assert "secret" not in shown
        assert "Authorization" in shown, "that there is one may be known"
    # One that was made is random, and as the spec has it.
    other = call(user, "webhook_secret_show", id=made)["secret"]
    assert other != SECRET and len(encryption.secret_bytes(other)) == 32


def test_update_replaces_everything_and_patch_what_is_given():
    user = factories.User()
    hook = create(
        user,
        topic="*",
        description="d",
        filters={"tag": "a"},
        format="standard",
        headers=HEADERS,
        max_rate=30,
        coalesce=True,
    )
    before = call(user, "webhook_show", id=hook)
    secret = call(user, "webhook_secret_show", id=hook)
    stored_headers = {r.id: r.headers for r in stored()}[hook]

    patched = call(user, "webhook_patch", id=hook, address="http://example.com/b")
    assert patched == {**before, "address": "http://example.com/b"}
    assert patched == call(user, "webhook_show", id=hook)
    keys = config.secret_keys()
    (row,) = stored()
    assert encryption.decrypt(row.headers, keys) == encryption.decrypt(stored_headers, keys)
    patched = call(user, "webhook_patch", id=hook, topic="dataset/create", filters={}, headers={})
    assert patched["topics"] == ["dataset/create"]
    assert (patched["filters"], patched["headers"]) == ({}, [])
    assert (patched["description"], patched["format"]) == ("d", "standard")

    updated = call(user, "webhook_update", id=hook, topic="resource/*", address=ADDRESS)
    assert updated == {
        **before,
        "topic": "resource/*",
        "topics": ["resource/*"],
        "address": ADDRESS,
        "description": None,
        "filters": {},
        "format": "classic",
        "max_rate": None,
        "coalesce": False,
        "headers": [],
    }
    assert call(user, "webhook_secret_show", id=hook) == secret
    # What was shown may be changed and sent back, but for what only the software says.
    again = {k: updated[k] for k in ("id", "topic", "address", "filters", "format", "state")}
    assert call(user, "webhook_update", **again) == updated


def test_a_refused_update_changes_nothing():
    user = factories.User()
    hook = create(user, description="d")
    before = stored()
    for bad in (
        {"topic": "x"},
        {"topic": []},
        {"address": "ftp://example.com/"},
        {"address": ""},
        {"filters": {"x": "y"}},
        {"format": "xml"},
        {"state": "paused"},
        {"state": "deleted"},
        {"user_id": "somebody"},
        {"created_at": "2020-01-01"},
        # Rotated, so that receivers of the old one have a day.
        {"secret": SECRET},
    ):
        with pytest.raises(tk.ValidationError) as error:
            call(user, "webhook_patch", id=hook, **bad)
        assert list(error.value.error_dict) == list(bad)
        with pytest.raises(tk.ValidationError):
            call(user, "webhook_update", **{"id": hook, "topic": "*", "address": ADDRESS, **bad})
    with pytest.raises(tk.ValidationError) as error:
        call(user, "webhook_update", id=hook)
    assert set(error.value.error_dict) == {"topic", "address"}
    assert stored() == before


def test_disabling_cancels_what_waits_and_enabling_starts_anew():
    user = factories.User()
    hook, other = create(user), create(user)
    pending(hook, "e1")
    pending(hook, "e2", "delivered")
    pending(other)
    disabled = call(user, "webhook_patch", id=hook, state="disabled")
    assert (disabled["state"], disabled["state_reason"]) == ("disabled", "by a person")
    rows = [(r.webhook_id, r.status, r.reason) for r in stored("webhooks_delivery")]
    assert rows == [
        (hook, "cancelled", "disabled"),
        (hook, "delivered", None),
        (other, "pending", None),
    ]
    assert stored("webhooks_delivery")[0].ended_at is not None
    # A patch of something else leaves it as it is.
    assert call(user, "webhook_patch", id=hook, description="d")["state"] == "disabled"
    enabled = call(user, "webhook_patch", id=hook, state="active")
    assert (enabled["state"], enabled["state_reason"]) == ("active", None)
    # An update that says nothing of it is an active webhook, as a new one is.
    call(user, "webhook_patch", id=hook, state="disabled")
    assert call(user, "webhook_update", id=hook, topic="*", address=ADDRESS)["state"] == "active"


def in_trouble(hook: str) -> None:
    """Make an endpoint one that failed, as the worker notes it."""
    model.Session.execute(
        sa.text(
            "UPDATE webhooks SET circuit = 'open', failures = 7, mailed = 'failing',"
            " failing_since = clock_timestamp() - interval '1 day',"
            " next_at = clock_timestamp() + interval '1 hour' WHERE id = :id"
        ),
        {"id": hook},
    )
    model.Session.commit()


def trouble(hook: str) -> tuple:
    (row,) = (r for r in stored() if r.id == hook)
    return row.circuit, row.failures, row.failing_since, row.mailed


def test_the_health_of_an_endpoint_is_shown():
    user = factories.User()
    hook = create(user)
    in_trouble(hook)
    health = call(user, "webhook_show", id=hook)["health"]
    assert (health["circuit"], health["failures"]) == ("open", 7)
    since, next_try = (
        datetime.datetime.fromisoformat(health[key]) for key in ("failing_since", "next_try")
    )
    assert next_try - since > datetime.timedelta(hours=24)


@pytest.mark.parametrize("change", [{"address": "http://example.com/b"}, {"state": "active"}])
def test_a_new_address_and_enabling_forget_the_trouble_there_was(change):
    user = factories.User()
    hook, idle = create(user), create(user)
    if "state" in change:
        for id_ in (hook, idle):
            call(user, "webhook_patch", id=id_, state="disabled")
    in_trouble(hook)
    # What changes something else forgets nothing.
    call(user, "webhook_patch", id=hook, description="d")
    assert trouble(hook)[0] == "open"
    for id_ in (hook, idle):
        call(user, "webhook_patch", id=id_, **change)
        assert trouble(id_) == ("closed", 0, None, None)
    rows = {row.id: row.next_at for row in stored()}
    assert rows[idle] is None, "where nothing is held back, nothing is"
    assert rows[hook] < datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=1)


def test_what_was_missed_is_known_from_the_first_time():
    user = factories.User()
    hook = create(user)
    call(user, "webhook_patch", id=hook, state="disabled")
    missed = call(user, "webhook_show", id=hook)["health"]["missed_since"]
    assert datetime.datetime.fromisoformat(missed)
    for state in ("active", "disabled", "active"):
        call(user, "webhook_patch", id=hook, state=state)
        assert call(user, "webhook_show", id=hook)["health"]["missed_since"] == missed


def test_why_the_software_disabled_it_stays_said():
    user = factories.User()
    hook = create(user)
    model.Session.execute(
        sa.text("UPDATE webhooks SET state = 'disabled', state_reason = 'it is gone'")
    )
    model.Session.commit()
    for data in ({"description": "d"}, {"state": "disabled"}):
        shown = call(user, "webhook_patch", id=hook, **data)
        assert (shown["state"], shown["state_reason"]) == ("disabled", "it is gone")


def test_deleting_cancels_what_waits_and_keeps_the_record():
    user = factories.User()
    hook, other = create(user), create(user)
    pending(hook)
    pending(other)
    call(user, "webhook_delete", id=hook)
    assert [r.id for r in stored()] == [other]
    assert [(r.webhook_id, r.status) for r in stored("webhooks_delivery")] == [
        (hook, "cancelled"),
        (other, "pending"),
    ]
    assert stored("webhooks_delivery")[0].reason == "the webhook was deleted"


def test_after_a_rotation_the_old_secret_signs_for_a_day():
    user = factories.User()
    hook = create(user, secret=SECRET)
    rotated = call(user, "webhook_secret_rotate", id=hook)
    assert rotated == call(user, "webhook_secret_show", id=hook)
    assert rotated["previous_secret"] == SECRET != rotated["secret"]
    until = datetime.datetime.fromisoformat(rotated["previous_secret_until"])
    left = until - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(hours=23) < left <= datetime.timedelta(hours=24, minutes=1)
    # One of one's own; a bad one changes nothing.
    again = call(user, "webhook_secret_rotate", id=hook, secret=SECRET)
    assert (again["secret"], again["previous_secret"]) == (SECRET, rotated["secret"])
    for bad in ("short", "", "whsec_", "whsec_c2hvcnQ=", 5, ["x"]):
        with pytest.raises(tk.ValidationError) as error:
            call(user, "webhook_secret_rotate", id=hook, secret=bad)
        assert list(error.value.error_dict) == ["secret"]
    assert call(user, "webhook_secret_show", id=hook)["secret"] == SECRET


def test_a_patch_looks_at_what_is_given_alone():
    """What became of the rest meanwhile keeps nobody from disabling a webhook."""
    user, organization = factories.User(), factories.Organization()
    with changed_config("ckanext.webhooks.allowed_networks", ["10.0.0.0/8"]):
        hook = create(
            user, address="http://10.1.2.3/", filters={"organization": organization["id"]}
        )
    call_action("organization_purge", id=organization["id"])
    before = call(user, "webhook_patch", id=hook, state="disabled")
    assert before["filters"] == {"organization": [organization["id"]]}
    assert call(user, "webhook_patch", id=hook, description="d")["address"] == "http://10.1.2.3/"
    assert call(user, "webhook_patch", id=hook, description="")["description"] is None
    # What is to be told again must be somewhere where it may be.
    with pytest.raises(tk.ValidationError) as error:
        call(user, "webhook_patch", id=hook, state="active")
    assert list(error.value.error_dict) == ["address"]
    mended = call(user, "webhook_patch", id=hook, state="active", address=ADDRESS)
    assert (mended["state"], mended["filters"]) == ("active", before["filters"])
    with pytest.raises(tk.ValidationError) as error:
        call(user, "webhook_update", id=hook, topic="*", address=ADDRESS, filters=before["filters"])
    assert list(error.value.error_dict) == ["filters"]


def test_a_webhook_whose_key_was_lost_can_still_be_seen_and_mended():
    user = factories.User()
    hook = create(user, headers=HEADERS)
    with changed_config("SECRET_KEY", "another"):
        assert call(user, "webhook_show", id=hook)["headers"] is None
        assert len(call(user, "webhook_list")) == 1
        with pytest.raises(tk.ValidationError, match="secret_keys"):
            call(user, "webhook_secret_show", id=hook)
        # Custom headers are not dropped in silence.
        kept = stored()[0].headers
        call(user, "webhook_patch", id=hook, description="d")
        assert stored()[0].headers == kept
        mended = call(user, "webhook_patch", id=hook, headers={"X-A": "b"})
        assert mended["headers"] == ["X-A"]
        rotated = call(user, "webhook_secret_rotate", id=hook)
        assert list(rotated) == ["secret"]
        assert call(user, "webhook_delete", id=hook) == hook


def test_lists_are_one_s_own_paged_and_filtered_newest_first():
    user, other, sysadmin = factories.User(), factories.User(), factories.Sysadmin()
    mine = [create(user, topic=t) for t in ("dataset/create", "dataset/*", "resource/*", "*")]
    mine.reverse()
    theirs = create(other, topic="dataset/create")
    call(user, "webhook_patch", id=mine[0], state="disabled")

    def ids(caller, **data):
        return [hook["id"] for hook in call(caller, "webhook_list", **data)]

    assert ids(user) == mine
    assert ids(other) == [theirs]
    assert ids(sysadmin) == [theirs, *mine]
    for reference in (user["id"], user["name"]):
        assert ids(user, user=reference) == mine
        assert ids(sysadmin, user=reference) == mine
    assert ids(sysadmin, user=sysadmin["name"]) == []
    assert ids(user, state="active") == mine[1:]
    assert ids(user, state="disabled") == mine[:1]
    assert ids(user, state="paused") == []
    # Told of a topic, by whatever it subscribed to.
    assert ids(user, topic="dataset/create") == [mine[0], mine[2], mine[3]]
    assert ids(user, topic="resource/delete") == [mine[0], mine[1]]
    assert ids(user, topic="dataset/create", state="active") == [mine[2], mine[3]]
    assert ids(user, limit=2) == mine[:2]
    assert ids(user, limit=2, offset=2) == mine[2:]
    assert ids(user, limit="1", offset="3") == mine[3:]
    assert ids(user, limit=0) == []
    assert ids(user, offset=2**63 - 1) == []
    assert call(user, "webhook_list")[0] == call(user, "webhook_show", id=mine[0])


def test_the_topics_that_there_are():
    listed = call(factories.User(), "webhook_topic_list")
    assert {entry["topic"] for entry in listed} == set(topics.TOPICS)
    assert all(entry["description"] for entry in listed)


def test_with_defer_commit_the_caller_commits():
    user = factories.User()
    deferred = {**context(user), "defer_commit": True}
    create_data = {"topic": "*", "address": ADDRESS}
    call_action("webhook_create", dict(deferred), **create_data)
    model.Session.rollback()
    assert stored() == []
    hook = create(user)
    call_action("webhook_patch", dict(deferred), id=hook, description="d")
    call_action("webhook_secret_rotate", dict(deferred), id=hook)
    call_action("webhook_delete", dict(deferred), id=hook)
    model.Session.rollback()
    (row,) = stored()
    assert (row.description, row.previous_secret) == (None, None)
    assert Webhook.get(hook) is not None


def test_a_webhook_without_an_owner_is_made_by_nobody():
    """Not even where a plugin ignores auth: nobody's sight says what it is told."""
    for user in ("", "no-such-user"):
        with pytest.raises(tk.NotAuthorized):
            tk.get_action("webhook_create")(
                {"user": user, "ignore_auth": True}, {"topic": "*", "address": ADDRESS}
            )
    assert stored() == []


def test_each_action_is_documented_in_ckans_style():
    from ...logic import action

    for name, function in action.actions().items():
        text = function.__doc__
        assert text and ":returns:" in text, name
        is_read = name in {
            "webhook_show",
            "webhook_list",
            "webhook_secret_show",
            "webhook_topic_list",
            "webhook_event_list",
            "webhook_delivery_list",
            "webhook_delivery_show",
            "webhook_stats",
            "webhook_history",
            "webhook_load",
            "webhook_dataset_told",
            "webhook_quarantine_list",
        }
        assert getattr(function, "side_effect_free", False) is is_read, name


def test_missing_tables_are_said_with_what_to_run():
    model.Session.execute(sa.text("ALTER TABLE webhooks RENAME TO webhooks_away"))
    model.Session.commit()
    try:
        with pytest.raises(tk.ValidationError, match="ckan db upgrade -p webhooks"):
            call_action("webhook_list", {"user": factories.Sysadmin()["name"]})
    finally:
        model.Session.execute(sa.text("ALTER TABLE webhooks_away RENAME TO webhooks"))
        model.Session.commit()
