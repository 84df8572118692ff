"""A worker's work, and what is done to the tables by hand."""

from __future__ import annotations

import base64
import json

import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import changed_config
from cryptography.fernet import Fernet

from ... import encryption, tasks
from ...cli import webhooks
from ...dispatch import dispatch
from ...logic import schema
from ...model import epoch, missing_tables, transaction
from ..callers import call, create, execute, stored
from ..receiver import Receiver

pytestmark = pytest.mark.usefixtures("webhooks_db")

OPTION = "ckanext.webhooks.secret_keys"
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


def test_deliver_does_what_it_can_and_says_what_failed(run, monkeypatch):
    def fail():
        raise RuntimeError("as planted")

    with Receiver() as receiver:
        create(factories.User(), topic="dataset/create", address=receiver.url)
        factories.Dataset()
        tasks.dispatch()
        monkeypatch.setattr(tasks, "dispatch", fail)
        result = run("deliver")
        assert len(receiver.requests) == 1
    assert result.exit_code == 1
    assert "dispatch failed: CKAN's log says why" in result.stderr


def test_rekey_writes_everything_with_the_first_key(run):
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    user = factories.User()
    with changed_config(OPTION, [old]):
        hook = create(user, secret=SECRET, headers={"X-A": "b"})
        rotated = call(user, "webhook_secret_rotate", id=hook)
        plain = create(user)
    with changed_config(OPTION, [new, old]):
        result = run("rekey")
        assert result.exit_code == 0, result.output
        assert "2 webhooks written with the first key" in result.output
    with changed_config(OPTION, [new]):
        shown = call(user, "webhook_secret_show", id=hook)
        assert (shown["secret"], shown["previous_secret"]) == (rotated["secret"], SECRET)
        assert call(user, "webhook_show", id=hook)["headers"] == ["X-A"]
        assert call(user, "webhook_secret_show", id=plain)["secret"]
        (headers,) = (row.headers for row in stored() if row.id == hook)
        assert json.loads(encryption.decrypt(headers, [new])) == {"X-A": "b"}


def test_rekey_names_what_it_cannot_read_and_writes_the_rest(run):
    lost, new = (Fernet.generate_key().decode() for _ in range(2))
    user = factories.User()
    with changed_config(OPTION, [lost]):
        unreadable = create(user)
    (before,) = stored()
    with changed_config(OPTION, [new]):
        readable = create(user)
        result = run("rekey")
    assert result.exit_code != 0
    assert unreadable in result.stderr
    assert readable not in result.stderr
    assert "1 webhooks are written with a key that is not listed" in result.stderr
    assert "Traceback" not in result.stderr
    assert [row for row in stored() if row.id == unreadable] == [before]


def test_from_the_derived_key_to_own_ones_nothing_becomes_unreadable(run):
    user, new = factories.User(), Fernet.generate_key().decode()
    hook = create(user, secret=SECRET, headers={"X-A": "b"})
    with changed_config(OPTION, [new]):
        assert call(user, "webhook_secret_show", id=hook)["secret"] == SECRET
        assert run("rekey").exit_code == 0
    (row,) = stored()
    for token in (row.secret, row.headers):
        assert encryption.is_readable(token, [new])


def test_rekey_undoes_no_rotation_that_comes_in_between(run, monkeypatch):
    """Each webhook is read and written under the lock of its row, one after the other."""
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    user = factories.User()
    with changed_config(OPTION, [old]):
        hooks = sorted(create(user) for _ in range(2))
    rotated = encryption.new_secret()
    is_locked = []
    reencrypt = encryption.reencrypt

    def meanwhile(token: str, keys: list[str]) -> str:
        with transaction() as other:
            row = sa.text("SELECT FROM webhooks WHERE id = :id FOR UPDATE SKIP LOCKED")
            is_locked.append([other.execute(row, {"id": id_}).first() is None for id_ in hooks])
            if len(is_locked) == 1:
                other.execute(
                    sa.text("UPDATE webhooks SET secret = :secret WHERE id = :id"),
                    {"id": hooks[1], "secret": encryption.encrypt(rotated, [new])},
                )
        return reencrypt(token, keys)

    monkeypatch.setattr(encryption, "reencrypt", meanwhile)
    with changed_config(OPTION, [new, old]):
        assert run("rekey").exit_code == 0
        assert call(user, "webhook_secret_show", id=hooks[1])["secret"] == rotated
    assert is_locked == [[True, False], [False, True]]


def test_a_rotation_keeps_what_rekey_wrote_meanwhile(monkeypatch):
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    user = factories.User()
    with changed_config(OPTION, [old]):
        hook = create(user, secret=SECRET)
    rules = schema.webhook_secret_rotate

    def meanwhile():
        with transaction() as other:
            other.execute(
                sa.text("UPDATE webhooks SET secret = :secret"),
                {"secret": encryption.encrypt(SECRET, [new])},
            )
        return rules()

    with changed_config(OPTION, [new, old]):
        monkeypatch.setattr(schema, "webhook_secret_rotate", meanwhile)
        call(user, "webhook_secret_rotate", id=hook)
    with changed_config(OPTION, [new]):
        assert call(user, "webhook_secret_show", id=hook)["previous_secret"] == SECRET


def test_after_a_restore_a_new_epoch_begins_whose_numbers_were_never_given(run, run_json):
    begun = int(run("restored").stdout.removeprefix("epoch ").removesuffix(" has begun\n"))
    assert run_json("restored") == {"epoch": begun + 1}
    factories.Dataset()
    while dispatch():
        pass
    (row,) = stored("webhooks_event")
    assert row.sequence == (begun + 1) * epoch.NUMBERS + 1


def test_what_goes_on_for_ever_has_no_document(refused):
    assert "--forever" in refused("deliver", "--forever", "--json", code=2)


def test_rekey_of_nothing_is_no_error(run):
    assert run("rekey").exit_code == 0


def test_deliver_is_one_pass_and_ends_when_nothing_is_due(run):
    result = run("deliver")
    assert (result.exit_code, result.stdout) == (0, "0 attempts\n")
    with Receiver() as receiver:
        create(factories.User(), topic="dataset/create", address=receiver.url)
        factories.Dataset()
        result = run("deliver")
        assert (result.exit_code, result.stdout) == (0, "1 attempts\n")
        assert len(receiver.requests) == 1
    assert run("deliver").stdout == "0 attempts\n"


@pytest.mark.parametrize("command", ["deliver", "listen", "prune", "rekey", "worker"])
def test_missing_tables_are_one_message_that_says_what_to_run(run, command, migrate_db_for):
    model.Session.remove()
    migrate_db_for("webhooks", "base", forward=False)
    model.Session.execute(sa.text("DROP TABLE webhooks"))
    model.Session.commit()
    try:
        assert missing_tables()
        result = run(command)
    finally:
        migrate_db_for("webhooks")
    assert not missing_tables()
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: The tables of the webhooks plugin are missing: run `ckan db upgrade -p webhooks`\n"
    )


def test_help_names_every_command(run):
    result = run("--help")
    assert result.exit_code == 0
    for command in webhooks.commands.values():
        assert command.name in result.output
        assert command.help


def test_snapshot_notes_what_is_there_and_says_how_many(run):
    for _ in range(3):
        factories.Dataset()
    model.Session.execute(sa.text("DELETE FROM webhooks_event"))
    model.Session.commit()
    assert "3 datasets noted" in run("snapshot").output
    assert "0 datasets noted" in run("snapshot").output


def test_reconcile_says_how_many_changes_it_found(run):
    dataset = factories.Dataset()
    with model.meta.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE package SET state = 'deleted' WHERE id = :id"), {"id": dataset["id"]}
        )
    assert "1 changes found" in run("reconcile").output
    assert "0 changes found" in run("reconcile").output


def test_reconcile_looks_at_datasets_that_are_named_whatever_their_time(run):
    by_id, by_name, other, gone = (factories.Dataset() for _ in range(4))
    with model.meta.engine.begin() as connection:
        connection.execute(sa.text("UPDATE package SET title = 'By hand'"))
        connection.execute(sa.text("DELETE FROM package WHERE id = :id"), {"id": gone["id"]})
    named = run("reconcile", by_id["id"], by_name["name"], gone["id"])
    assert "3 changes found" in named.output
    assert "0 changes found" in run("reconcile").output
    assert "1 changes found" in run("reconcile", other["name"]).output
    unknown = run("reconcile", "no-such-dataset")
    assert unknown.exit_code == 1
    assert "Not found: dataset no-such-dataset" in unknown.stderr


def test_deliver_captures_what_a_save_could_not(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("ckanext.webhooks.capture.record.record", lambda *_: 1 / 0)
        factories.Dataset()
    assert run("deliver").exit_code == 0
    assert [row.sequence is None for row in stored("webhooks_event")] == [False]
    assert stored("webhooks_missed") == []


@pytest.mark.parametrize("command", ["snapshot", "reconcile"])
def test_what_cannot_be_captured_is_an_error_that_names_the_next_step(run, monkeypatch, command):
    factories.Dataset()
    model.Session.execute(sa.text("DELETE FROM webhooks_event"))
    model.Session.commit()

    def broken(*_args):
        raise RuntimeError("planted")

    monkeypatch.setattr("ckanext.webhooks.capture.record.record", broken)
    result = run(command)
    assert result.exit_code == 1
    assert "1 datasets could not be captured: see CKAN's log" in result.stderr


def test_prune_drops_what_is_old_and_says_how_much(run, run_json):
    hook = create(factories.User())
    execute(
        "INSERT INTO webhooks_delivery"
        " (webhook_id, event_id, topic, sequence, address, format, status, ended_at)"
        " SELECT :hook, 'no', 'dataset/create', n, 'a', 'classic', 'delivered',"
        " clock_timestamp() - (28 + n) * interval '1 day' FROM generate_series(1, 5) n",
        hook=hook,
    )
    result = run("prune")
    assert (result.exit_code, result.stdout) == (0, "4 rows dropped\n")
    assert len(stored("webhooks_delivery")) == 1
    assert run_json("prune") == {"rows": 0}


def test_what_is_printed_for_programs(run, run_json):
    factories.Dataset()
    execute("DELETE FROM webhooks_event")
    assert run_json("snapshot") == {"missed": 1, "failed": 0}
    assert run_json("reconcile") == {"missed": 0, "failed": 0}
    assert run_json("deliver") == {"attempts": 0}
    create(factories.User())
    assert run_json("rekey") == {"written": 1, "unreadable": 0}
