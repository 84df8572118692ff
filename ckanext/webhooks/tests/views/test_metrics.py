"""Figures for Prometheus: who gets them, what they say, and the page's way to ask for them."""

from __future__ import annotations

import re

import pytest
import yaml
from ckan.tests import factories
from prometheus_client.parser import text_string_to_metric_families

from ...model import Kind
from ..aside import put_aside
from ..blocks import sources
from ..callers import create, execute
from ..logic.test_stats import ended, write

pytestmark = pytest.mark.usefixtures("webhooks_db")

PATH = "/webhooks/metrics"


@pytest.fixture
def sysadmin_token():
    return factories.APIToken(user=factories.Sysadmin()["name"])["token"]


def figures(visit, token):
    """Ask as Prometheus does; gives each sample's value by its name and label."""
    answer = visit().client.get(PATH, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body)
        for sample in family.samples
    }


def test_they_are_for_sysadmins_alone(visit, owner, sysadmin, user):
    visit().get(PATH, 401)
    owner.get(PATH, 403)
    sysadmin.get(PATH)
    for token, status in (
        (factories.APIToken(user=user["name"])["token"], 403),
        ("no-token", 401),
    ):
        headers = {"Authorization": f"Bearer {token}"}
        assert visit().client.get(PATH, headers=headers).status_code == status


def test_a_sysadmin_who_is_gone_sees_nothing(visit, sysadmin_token):
    execute("UPDATE \"user\" SET state = 'deleted' WHERE sysadmin")
    headers = {"Authorization": f"Bearer {sysadmin_token}"}
    assert visit().client.get(PATH, headers=headers).status_code == 401


def test_what_was_told_what_waits_and_what_fails(visit, sysadmin_token, user):
    hook = create(user)
    create(user, address="http://other.example.com")
    execute("UPDATE webhooks SET failing_since = now() WHERE id = :hook", hook=hook)
    before = figures(visit, sysadmin_token)
    ended(hook, "delivered", 30)
    ended(hook, "failed", 10)
    write(hook, 3, due_at="clock_timestamp() - interval '40 seconds'")
    write(hook, 2, due_at="NULL")
    factories.Dataset()
    execute("INSERT INTO webhooks_missed (dataset_id) VALUES ('a'), ('a'), ('b')")
    found = figures(visit, sysadmin_token)
    assert found["webhooks_deliveries_total",] == before["webhooks_deliveries_total",] + 45
    assert found["webhooks_success_ratio",] == 0.75
    assert found["webhooks_latency_seconds", "0.5"] == 15.5
    assert 40 <= found["webhooks_oldest_due_seconds",] < 60
    depths = {"events": 1, "due": 3, "later": 0, "held_back": 2}
    assert {state: found["webhooks_queue_depth", state] for state in depths} == depths
    assert found["webhooks_registered", "active"] == 2
    assert found["webhooks_failing",] == 1
    assert found["webhooks_missed",] == 2


def test_what_is_put_aside_is_counted_by_its_kind(visit, sysadmin_token):
    kinds = ("event", "rights", "delivery", "webhook")
    found = figures(visit, sysadmin_token)
    assert [found["webhooks_quarantined", kind] for kind in kinds] == [0, 0, 0, 0]
    put_aside(Kind.EVENT, "e1")
    put_aside(Kind.EVENT, "e2")
    found = figures(visit, sysadmin_token)
    assert [found["webhooks_quarantined", kind] for kind in kinds] == [2, 0, 0, 0]


def test_what_is_not_known_is_left_out(visit, sysadmin_token):
    found = figures(visit, sysadmin_token)
    assert ("webhooks_success_ratio",) not in found
    assert ("webhooks_latency_seconds", "0.5") not in found
    assert found["webhooks_oldest_due_seconds",] == 0


def test_where_the_tables_are_missing_it_is_said(visit, sysadmin_token, monkeypatch):
    monkeypatch.setattr("ckanext.webhooks.views.metrics.missing_tables", lambda: True)
    answer = visit().client.get(PATH, headers={"Authorization": f"Bearer {sysadmin_token}"})
    assert answer.status_code == 503 and "ckan db upgrade -p webhooks" in answer.body


def test_the_pages_configuration_finds_them(visit, sysadmin_token):
    (scraping, alerting) = (
        yaml.safe_load(block) for block in sources("yaml", "docs/monitoring.md")
    )
    (job,) = scraping["scrape_configs"]
    assert job["metrics_path"] == PATH
    # What Prometheus does where nothing else is said.
    assert set(job["authorization"]) == {"credentials_file"}
    names = {name for name, *_ in figures(visit, sysadmin_token)} | {"webhooks_success_ratio"}
    for group in alerting["groups"]:
        for rule in group["rules"]:
            assert set(re.findall(r"webhooks_\w+", rule["expr"])) <= names, rule
