"""``doctor`` names what is wrong, and what to do."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import ckan
import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories
from cryptography.fernet import Fernet

from .. import doctor, owners, queue, tasks
from ..cli import webhooks
from ..doctor import Level, findings, installed, running
from ..model import Kind
from ..plugin import WebhooksPlugin
from .aside import put_aside
from .callers import create, execute, stored
from .logic.test_stats import write

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(running, "_WORKERS_PATIENCE", 0.01)


def of(subject: str) -> doctor.Finding:
    [found] = [f for f in findings() if f.what.startswith(f"{subject}:")]
    return found


@pytest.fixture
def well(monkeypatch):
    """A portal as one should be."""
    monkeypatch.setitem(tk.config, "ckanext.webhooks.allowed_networks", ["10.20.0.0/16"])
    monkeypatch.setitem(tk.config, "smtp.mail_from", "ckan@example.com")
    monkeypatch.setattr(running, "_answering", lambda: ["celery@here"])


def test_a_portal_that_is_well_says_so(well, cli):
    result = cli.invoke(webhooks, ["doctor"])
    assert result.exit_code == 0, result.output
    assert all(line.startswith("good") for line in result.output.splitlines()), result.output
    assert len(result.output.splitlines()) == len(list(findings()))


def test_programs_are_told_the_same(well, cli):
    result = cli.invoke(webhooks, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert {finding["level"] for finding in found} == {"good"}
    assert found[0] == {
        "level": "good",
        "what": "tables: as this version wants them",
        "advice": "",
    }
    assert [f["what"] for f in found] == [f.what for f in findings()]


def test_a_missing_migration_is_the_end_of_it(monkeypatch, cli):
    monkeypatch.setattr(doctor, "missing_tables", lambda: True)
    result = cli.invoke(webhooks, ["doctor"])
    assert result.exit_code == 1
    assert "ckan db upgrade -p webhooks" in result.output


def test_an_option_that_makes_no_sense_is_named(monkeypatch):
    monkeypatch.setitem(tk.config, "ckanext.webhooks.minimum_auth", "everyone")
    assert of("options").level is Level.WRONG
    assert "minimum_auth = everyone" in of("options").what


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ca_bundle", "/etc/passwd", "ca_bundle = /etc/passwd has no certificates"),
        ("proxy", "http://proxy.internal:99999", "proxy has a port that is none"),
        ("retentoin_days", "5", "the nearest that is one is ckanext.webhooks.retention_days"),
    ],
)
def test_what_can_be_no_option_s_is_named(monkeypatch, name, value, said):
    monkeypatch.setitem(tk.config, f"ckanext.webhooks.{name}", value)
    assert of("options").level is Level.WRONG
    assert said in of("options").what


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("SECRET_KEY", "another"),
        pytest.param("ckanext.webhooks.secret_keys", Fernet.generate_key().decode(), id="a key"),
    ],
)
def test_a_key_that_is_not_the_one_that_secrets_are_stored_with_is_named(
    option, value, monkeypatch
):
    assert of("secrets").level is Level.GOOD
    monkeypatch.setitem(tk.config, option, "the web's" if option == "SECRET_KEY" else "")
    create(factories.User())
    assert of("secrets").level is Level.GOOD
    monkeypatch.setitem(tk.config, "SECRET_KEY", "the worker's")
    monkeypatch.setitem(tk.config, option, value)
    assert of("secrets").level is Level.WRONG
    assert option in of("secrets").advice
    assert "1 webhooks" in of("secrets").what and stored()[0].id in of("secrets").what
    assert value not in of("secrets").what


@pytest.mark.parametrize(("name", "level"), [("curl", Level.GOOD), ("requests", Level.ODD)])
def test_the_engine_is_named(monkeypatch, name, level):
    monkeypatch.setattr(installed, "engine_name", lambda: name)
    assert of("engine").level is level
    assert name in of("engine").what


def test_a_broker_that_is_away_is_odd_for_nothing_is_lost_without_it(monkeypatch):
    monkeypatch.setitem(queue.app.conf, "broker_url", "redis://127.0.0.1:1/0")
    assert of("broker").level is Level.ODD
    assert of("worker") == doctor.Finding(
        Level.GOOD,
        "worker: nothing waits that could go; workers cannot be asked without the broker",
    )


@pytest.mark.parametrize(
    ("names", "advice"),
    [([], "ckan webhooks worker"), (None, "ckan webhooks worker"), (["celery@here"], "its log")],
)
def test_what_is_due_and_not_taken_says_that_nobody_works(monkeypatch, names, advice):
    monkeypatch.setattr(running, "_answering", lambda: names)
    factories.Dataset()
    assert of("worker").level is not Level.WRONG
    execute("UPDATE webhooks_event SET captured_at = captured_at - interval '40 seconds'")
    assert of("worker").level is Level.WRONG
    assert advice in of("worker").advice


def test_what_cannot_be_captured_is_named_when_a_worker_has_tried():
    execute("INSERT INTO webhooks_missed (dataset_id) SELECT 'a' FROM generate_series(1, 2)")
    assert of("capture") == doctor.Finding(Level.GOOD, "capture: nothing is missing")
    execute("UPDATE webhooks_missed SET missed_at = '2026-01-02 03:04:05Z'")
    assert of("capture").level is Level.WRONG
    assert "changes of 1 datasets" in of("capture").what
    assert "2026-01-02 03:04:05" in of("capture").what


def test_without_a_worker_that_answers_the_last_event_says_when_one_worked(cli):
    assert of("worker").level is Level.ODD
    assert "no event was dispatched so far" in of("worker").what
    factories.Dataset()
    tasks.work_once()
    assert "the last event was dispatched at 2" in of("worker").what
    assert cli.invoke(webhooks, ["doctor"]).exit_code == 0


def test_a_worker_of_another_portal_on_the_same_broker_is_not_ours(monkeypatch):
    def inspect(timeout, connection):
        return SimpleNamespace(
            active_queues=lambda: {
                "celery@here": [{"name": queue.app.conf.task_default_queue}],
                "celery@there": [{"name": "ckan:another:webhooks"}],
            }
        )

    monkeypatch.setattr(queue.app.control, "inspect", inspect)
    assert of("worker").what == "worker: nothing waits that could go; celery@here answered"


@pytest.mark.parametrize(
    ("entries", "level", "said"),
    [
        ([], Level.GOOD, "the public internet"),
        (["10.20.0.0/16", "solr:80"], Level.GOOD, "internet, and 10.20.0.0/16 solr:80"),
        (["127.0.0.1:8080"], Level.GOOD, "127.0.0.1:8080"),
        (["127.0.0.1/32"], Level.ODD, "every port of this machine"),
        (["0.0.0.0/0"], Level.ODD, "every port of this machine"),
        (["::/0"], Level.ODD, "every port of this machine"),
        (["169.254.169.254/32"], Level.ODD, "169.254.169.254 (AWS"),
        (["169.254.169.254:80"], Level.ODD, "169.254.169.254 (AWS"),
        (["169.254.0.0/16"], Level.GOOD, "169.254.0.0/16"),
    ],
)
def test_what_webhooks_may_call_is_said(monkeypatch, entries, level, said):
    monkeypatch.setitem(tk.config, "ckanext.webhooks.allowed_networks", entries)
    first = next(f for f in findings() if f.what.startswith("addresses:"))
    assert (first.level, said in first.what) == (level, True), first


def test_without_a_sender_nobody_gets_mail(monkeypatch):
    monkeypatch.setitem(tk.config, "smtp.mail_from", None)
    assert of("mail").level is Level.ODD
    assert "without smtp.mail_from" in of("mail").what
    monkeypatch.setitem(tk.config, "smtp.mail_from", "ckan@example.com")
    assert of("mail").level is Level.GOOD


@pytest.mark.parametrize(("off", "level"), [(0.5, Level.GOOD), (-3, Level.ODD), (3, Level.ODD)])
def test_clocks_that_are_apart_are_told(monkeypatch, off, level):
    right = time.time
    monkeypatch.setattr(running.time, "time", lambda: right() + off)
    assert of("clock").level is level


@pytest.mark.parametrize(
    ("version", "level"), [("2.12.7", Level.GOOD), ("2.13.0a0", Level.ODD), ("2.1.0", Level.ODD)]
)
def test_a_ckan_that_it_was_not_tested_on_is_named(monkeypatch, version, level):
    monkeypatch.setattr(ckan, "__version__", version)
    assert of("ckan").level is level
    assert version in of("ckan").what


def test_endpoints_that_fail_are_counted():
    create(factories.User())
    execute("UPDATE webhooks SET failing_since = clock_timestamp()")
    assert "1 fail" in of("endpoints").what


def test_an_extension_that_changes_package_show_is_named(monkeypatch):
    class Redacting:
        name = "redacting"

        def get_actions(self):
            return {"package_show": lambda *args: {}}

    monkeypatch.setattr(installed.p, "PluginImplementations", lambda interface: [Redacting()])
    assert "redacting" in of("content").what
    monkeypatch.setitem(tk.config, "ckanext.webhooks.entity", "stub")
    assert not [f for f in findings() if f.what.startswith("content")]


@pytest.mark.parametrize("hook", ["after_dataset_show", "before_resource_show"])
def test_an_extension_that_changes_what_is_shown_is_named(monkeypatch, hook):
    assert not [f for f in findings() if f.what.startswith("content")]
    monkeypatch.setattr(WebhooksPlugin, hook, lambda *args: {})
    assert of("content").level is Level.ODD
    assert f"webhooks ({hook})" in of("content").what
    assert "ckanext.webhooks.content = anonymous" in of("content").advice
    monkeypatch.setitem(tk.config, "ckanext.webhooks.content", "anonymous")
    assert not [f for f in findings() if f.what.startswith("content")]


def test_owners_whose_labels_cannot_be_read_are_counted(directory):
    user = factories.User()
    create(user)
    assert of("rights") == doctor.Finding(Level.GOOD, "rights: of 1 owners they can be read")
    directory.away_for = {user["id"]}
    owners.forget()
    assert of("rights").level is Level.WRONG
    assert "what 1 owners may see cannot be read" in of("rights").what
    assert "IPermissionLabels" in of("rights").advice


def test_what_is_put_aside_does_not_say_that_nobody_works():
    dataset = factories.Dataset()
    (event,) = execute("UPDATE webhooks_event SET captured_at = '2026-11-24' RETURNING id")
    put_aside(Kind.EVENT, event.id, dataset_id=dataset["id"])
    write(create(factories.User()), due_at="clock_timestamp() - interval '1 day'")
    (delivery,) = execute("SELECT id FROM webhooks_delivery")
    put_aside(Kind.DELIVERY, delivery.id, is_stuck=True)
    assert of("worker").level is not Level.WRONG
    execute("UPDATE webhooks_quarantine SET due_at = clock_timestamp()")
    assert of("worker").level is Level.WRONG, "it is due now"


def test_what_is_put_aside_is_counted_with_the_reason_of_the_oldest():
    assert of("quarantine").level is Level.GOOD
    put_aside(Kind.EVENT, "e1", dataset_id="d1")
    put_aside(Kind.EVENT, "e2", dataset_id="d2")
    put_aside(Kind.RIGHTS, "u1 d1", dataset_id="d1", user_id="u1")
    found = of("quarantine")
    assert found.level is Level.WRONG
    assert found.what.startswith(
        "quarantine: 2 event(s), 1 change(s) of rights failed and are put aside, the oldest"
        " (event e1) since 20"
    )
    assert found.what.endswith(": ValueError: as planted")
    assert "ckan webhooks quarantine list" in found.advice
