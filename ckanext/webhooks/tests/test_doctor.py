"""``ckan webhooks doctor`` names what is wrong, and what to do."""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories

from .. import doctor, queue
from ..cli import webhooks
from ..doctor import Level, findings
from .callers import create, execute

pytestmark = pytest.mark.usefixtures("webhooks_db")


def of(subject: str) -> doctor.Finding:
    [found] = [f for f in findings() if f.what.startswith(f"{subject}:")]
    return found


def test_a_portal_that_is_well_says_so(cli):
    result = cli.invoke(webhooks, ["doctor"])
    assert result.exit_code == 0, result.output
    assert all(line.startswith("good") for line in result.output.splitlines()), result.output


def test_a_missing_migration_is_the_end_of_it(monkeypatch, cli):
    monkeypatch.setattr(doctor, "missing_tables", lambda: True)
    result = cli.invoke(webhooks, ["doctor"])
    assert result.exit_code == 1
    assert "ckan db upgrade -p webhooks" in result.output


def test_an_option_that_makes_no_sense_is_named(monkeypatch):
    monkeypatch.setitem(tk.config, "ckanext.webhooks.minimum_auth", "everyone")
    assert of("options").level is Level.WRONG
    assert "minimum_auth = everyone" in of("options").what


@pytest.mark.parametrize(("name", "level"), [("curl", Level.GOOD), ("requests", Level.ODD)])
def test_the_engine_is_named(monkeypatch, name, level):
    monkeypatch.setattr(doctor, "engine_name", lambda: name)
    assert of("engine").level is level
    assert name in of("engine").what


def test_a_broker_that_is_away_is_odd_for_nothing_is_lost_without_it(monkeypatch):
    monkeypatch.setitem(queue.app.conf, "broker_url", "redis://127.0.0.1:1/0")
    queue.app.pool.force_close_all()
    assert of("broker").level is Level.ODD


def test_what_is_due_and_not_taken_says_that_nobody_works():
    factories.Dataset()
    assert of("worker").level is Level.GOOD
    execute("UPDATE webhooks_event SET captured_at = captured_at - interval '40 seconds'")
    assert of("worker").level is Level.WRONG
    assert "ckan webhooks worker" in of("worker").advice


def test_endpoints_that_fail_are_counted():
    create(factories.User())
    execute("UPDATE webhooks SET failing_since = clock_timestamp()")
    assert "1 fail" in of("endpoints").what


def test_an_extension_that_changes_package_show_is_named(monkeypatch):
    class Redacting:
        name = "redacting"

        def get_actions(self):
            return {"package_show": lambda *args: {}}

    monkeypatch.setattr(doctor.p, "PluginImplementations", lambda interface: [Redacting()])
    assert "redacting" in of("content").what
    monkeypatch.setitem(tk.config, "ckanext.webhooks.entity", "stub")
    assert not [f for f in findings() if f.what.startswith("content")]
