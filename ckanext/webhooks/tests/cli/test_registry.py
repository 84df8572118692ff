"""Webhooks, listed and changed by who has the command line."""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import changed_config
from click.shell_completion import ShellComplete
from sqlalchemy.exc import OperationalError

from ...cli import completion, webhooks
from ...dispatch import dispatch
from ..callers import ADDRESS, call, create, days_pass, execute, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")

NOWHERE = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def hook(user):
    return create(user, topic=["dataset/*", "resource/delete"])


class TestList:
    def test_it_has_everyones_with_owner_and_state(self, run, user, hook):
        other = create(factories.User())
        execute("UPDATE webhooks SET failing_since = clock_timestamp() WHERE id = :id", id=hook)
        head, first, second = run("list").stdout.splitlines()
        assert head.split() == ["ID", "STATE", "OWNER", "TOPICS", "ADDRESS"]
        assert first.split()[:2] == [other, "active"]
        assert second.split() == [
            hook,
            "failing",
            user["name"],
            "dataset/*,",
            "resource/delete",
            ADDRESS,
        ]

    def test_for_programs_it_is_what_the_action_gives(self, run_json, user, hook):
        assert run_json("list") == call(user, "webhook_list")

    def test_it_can_be_narrowed(self, run_json, user, hook):
        other = create(factories.User(), topic="resource/create")
        call(user, "webhook_patch", id=hook, state="disabled")

        def ids(*words):
            return [webhook["id"] for webhook in run_json("list", *words)]

        assert ids("--user", user["name"]) == [hook]
        assert ids("--state", "disabled") == [hook]
        assert ids("--topic", "resource/create") == [other]
        assert ids("--limit", 1) == [other]
        assert ids("--limit", 1, "--offset", 1) == [hook]

    def test_an_owner_who_was_purged_is_an_id(self, run, hook):
        execute("UPDATE webhooks SET user_id = 'gone'")
        assert run("list").stdout.splitlines()[1].split()[2] == "gone"

    def test_what_was_not_understood(self, refused):
        assert "There is no user nobody" in refused("list", "--user", "nobody")
        assert "dataset/creat" in refused("list", "--topic", "dataset/creat", code=2)
        assert "--limit" in refused("list", "--limit", "x", code=2)
        assert refused("list", "--limit", 5000) == "limit: Must not be more than 1000\n"


class TestShow:
    def test_it_has_what_there_is_and_never_the_secret(self, run, user, hook):
        call(user, "webhook_patch", id=hook, filters={"tag": ["a", "b"]}, headers={"X-A": "s3cret"})
        printed = run("show", hook).stdout
        facts = dict(line.split(None, 1) for line in printed.splitlines())
        assert facts["id"] == hook and facts["owner"] == user["name"]
        assert "filters tag" in printed and "a, b" in printed and "X-A" in printed
        assert "health circuit" in printed
        assert "s3cret" not in printed and "whsec_" not in printed

    def test_for_programs_it_is_what_the_action_gives(self, run_json, user, hook):
        assert run_json("show", hook) == call(user, "webhook_show", id=hook)

    @pytest.mark.parametrize("command", ["show", "enable", "disable", "delete", "secret", "ping"])
    def test_an_id_that_is_none_is_named(self, refused, command):
        assert refused(command, NOWHERE) == f"id: There is no webhook {NOWHERE}\n"
        assert refused(command, NOWHERE, "--json") == f"id: There is no webhook {NOWHERE}\n"
        assert "Missing argument 'ID'" in refused(command, code=2)


class TestCreate:
    def test_it_prints_the_id_alone(self, run, user):
        result = run("create", ADDRESS)
        (row,) = stored()
        assert result.stdout == f"{row.id}\n"
        assert row.topics == ["*"] and row.address == ADDRESS
        owner = tk.get_action("get_site_user")({"ignore_auth": True}, {})
        assert row.user_id != user["id"]
        assert call(owner, "webhook_show", id=row.id)["format"] == "classic"

    def test_it_takes_what_the_action_takes(self, run_json, user):
        organization = factories.Organization()
        shown = run_json(
            *("create", ADDRESS, "--user", user["name"], "--description", "for the map"),
            *("--topic", "dataset/*", "--topic", "resource/delete"),
            *("--filter", f"organization={organization['name']}"),
            *("--filter", "tag=a", "--filter", "tag=b"),
            *("--header", "Authorization: Bearer x", "--format", "cloudevents"),
            *("--max-rate", 30, "--coalesce"),
        )
        assert shown == call(user, "webhook_show", id=shown["id"])
        assert shown["user_id"] == user["id"]
        assert shown["topics"] == ["dataset/*", "resource/delete"]
        assert shown["filters"] == {"organization": [organization["id"]], "tag": ["a", "b"]}
        assert shown["headers"] == ["Authorization"]
        assert (shown["format"], shown["description"]) == ("cloudevents", "for the map")
        assert (shown["max_rate"], shown["coalesce"]) == (30, True)

    def test_the_owner_must_be_one_who_may(self, refused, user):
        assert refused("create", ADDRESS, "--user", "nobody") == (
            "user: There is no active user nobody\n"
        )
        with changed_config("ckanext.webhooks.minimum_auth", "editor"):
            said = refused("create", ADDRESS, "--user", user["name"])
        assert said == "user: Webhooks take the role editor in an organization\n"
        assert stored() == []

    def test_bad_input_is_said_by_field(self, refused):
        said = refused("create", "http://10.0.0.1/", "--filter", "colour=red", "--max-rate", 0)
        reasons = dict(line.split(": ", 1) for line in said.splitlines())
        assert set(reasons) == {"address", "filters", "max_rate"}
        assert "ckanext.webhooks.allowed_networks" in reasons["address"]
        assert "Unknown filter colour" in reasons["filters"]
        assert stored() == []

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--filter", "tag"], "--filter: 'tag' is no NAME=VALUE"),
            (["--header", "Authorization"], "--header: 'Authorization' is no NAME:VALUE"),
            (["--topic", "dataset/created"], "'dataset/created' is not one of"),
            (["--format", "xml"], "'xml' is not one of"),
            ([ADDRESS], "unexpected extra argument"),
        ],
    )
    def test_what_was_not_understood(self, refused, words, said):
        assert said in refused("create", ADDRESS, *words, code=2)


class TestEnableAndDisable:
    def test_disabling_cancels_and_enabling_offers_what_was_missed(self, run, user):
        hook = create(user)
        assert run("disable", hook).stdout == "disabled\n"
        assert call(user, "webhook_show", id=hook)["state_reason"] == "by a person"
        result = run("enable", hook)
        since = call(user, "webhook_show", id=hook)["health"]["missed_since"]
        assert result.stdout == (
            f"active\nIt missed what happened since {since}. To tell it:\n"
            f"    ckan webhooks replay {hook}\n"
        )

    def test_what_was_missed_is_told_where_that_is_asked_for(self, run, run_json, user, hook):
        run("disable", hook)
        factories.Dataset()
        run("deliver")
        result = run("enable", hook, "--replay")
        assert result.stdout.splitlines()[0] == "active"
        assert "1 deliveries are to be sent, of what it missed since 20" in result.stdout
        assert [row.status for row in stored("webhooks_delivery")] == ["pending"]
        shown = run_json("show", hook)
        assert shown["health"]["missed_since"] is None
        assert run_json("enable", hook, "--replay") == {**shown, "deliveries": None}

    def test_what_waited_when_it_was_disabled_days_ago_comes_too(self, run, hook):
        waited = [factories.Dataset()["id"] for _ in range(2)]
        dispatch()
        days_pass(1)
        run("disable", hook)
        days_pass(5)
        assert "2 deliveries are to be sent" in run("enable", hook, "--replay").stdout
        again = [row.event_id for row in stored("webhooks_delivery") if row.status == "pending"]
        events = {row.id: row.dataset_id for row in stored("webhooks_event")}
        assert sorted(events[id_] for id_ in again) == sorted(waited)

    @pytest.mark.parametrize(("answer", "is_sent"), [("y", True), ("n", False)])
    def test_at_a_terminal_it_says_how_many_and_asks(
        self, run, hook, at_a_terminal, answer, is_sent
    ):
        run("disable", hook)
        factories.Dataset()
        run("deliver")
        at_a_terminal(answer)
        result = run("enable", hook, "--replay")
        assert "1 deliveries would be sent. Send them?" in result.stderr
        # click 8.1 has the answer there, too.
        assert result.exit_code == 0 and "active" in result.stdout.splitlines()
        assert (f"ckan webhooks replay {hook}" in result.stdout) == (not is_sent)
        assert len(stored("webhooks_delivery")) == is_sent

    def test_for_programs(self, run_json, user, hook):
        assert run_json("disable", hook)["state"] == "disabled"
        enabled = run_json("enable", hook, "--replay")
        assert (enabled["state"], enabled["deliveries"]) == ("active", 0)

    def test_one_that_missed_nothing_has_nothing_to_be_told(self, run, hook):
        assert run("enable", hook).stdout == "active\n"


def test_delete_prints_what_is_gone(run, run_json, user, hook):
    other = create(user)
    assert run("delete", hook).stdout == f"{hook}\n"
    assert run_json("delete", other) == {"id": other}
    assert stored() == []


def test_the_secret_is_shown_and_rotated(run, run_json, user, hook):
    old = call(user, "webhook_secret_show", id=hook)["secret"]
    assert run("secret", hook).stdout == f"{old}\n"
    rotated = run_json("secret", hook, "--rotate")
    assert rotated == call(user, "webhook_secret_show", id=hook)
    assert rotated["previous_secret"] == old != rotated["secret"]


@pytest.mark.parametrize("words", [("list",), ("create", ADDRESS), ("stats",)])
def test_a_missing_migration_says_what_to_run(refused, migrate_db_for, words):
    model.Session.remove()
    migrate_db_for("webhooks", "base", forward=False)
    model.Session.execute(sa.text("DROP TABLE webhooks"))
    model.Session.commit()
    try:
        said = refused(*words)
    finally:
        migrate_db_for("webhooks")
    assert said.startswith("message: The tables of the webhooks plugin are missing: run `ckan db")


class TestCompletion:
    def offered(self, *words):
        shell = ShellComplete(webhooks, {}, "webhooks", "_COMPLETE")
        return [(c.value, c.help) for c in shell.get_completions(list(words[:-1]), words[-1])]

    def test_commands_and_choices_are_offered(self):
        assert [value for value, _ in self.offered("re")] == [
            "reconcile",
            "redeliver",
            "rekey",
            "replay",
            "restored",
        ]
        assert ("dataset/create", None) in self.offered("create", "--topic", "data")

    def test_ids_are_offered_with_what_each_calls(self, user, hook):
        assert self.offered("show", hook[:4]) == [(hook, ADDRESS)]
        assert self.offered("show", "%") == []
        assert self.offered("stats", "") == [(hook, ADDRESS)]

    def test_a_database_that_is_away_is_not_said_there(self, monkeypatch):
        def away(*columns):
            raise OperationalError("SELECT", {}, Exception("away"))

        monkeypatch.setattr(completion, "_rows", away)
        assert self.offered("show", "") == []
