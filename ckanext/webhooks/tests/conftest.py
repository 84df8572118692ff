"""The tiers of the tests, and fixtures of the database tier.

The fixtures of the acceptance tier are in its own files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import ckan.plugins as p
import ckan.plugins.toolkit as tk
import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories

from .receiver import Receiver

TABLES = (
    "webhooks, webhooks_event, webhooks_delivery, webhooks_attempt, webhooks_served,"
    " webhooks_missed"
)
TIERS = ("pure", "database", "acceptance")


@pytest.fixture
def webhooks_db(
    clean_db: None, ckan_config: Any, load_plugins: Callable[[Any], None]
) -> Iterator[None]:
    """A CKAN without datasets, and with empty tables of this extension."""
    load_plugins(ckan_config)
    # To truncate empty tables would take 100 times as long.
    for table in TABLES.split(", "):
        model.Session.execute(sa.text(f"DELETE FROM {table}"))
    model.Session.commit()
    # Not at the top: loading CKAN's configuration silences loggers that are there before it.
    from .. import owners

    owners.forget()
    yield
    model.Session.rollback()


@pytest.fixture(scope="session")
def load_plugins(migrate_db_for: Callable[[str], None]) -> Callable[[Any], None]:
    """Load the plugins that a configuration names, unless all is as it wants it already.

    CKAN's own fixture ``with_plugins`` loads them anew for each test, which takes longer
    than most tests do.
    """
    wanted: tuple[Any, ...] = ()
    got: dict[str, Any] = {}

    def load(config: Any) -> None:
        nonlocal wanted, got
        # Whoever loads or unloads a plugin, or makes an app, leaves CKAN with another engine.
        if wanted == (model.meta.engine, config):
            config.update(got)
            # Loading makes that user, whom the test's empty database lacks.
            tk.get_action("get_site_user")({"ignore_auth": True}, {})
            model.Session.remove()
            return
        before = dict(config)
        p.load_all()
        migrate_db_for("webhooks")
        wanted, got = (model.meta.engine, before), dict(config)

    return load


@pytest.fixture
def user() -> Any:
    return factories.User()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say a figure that was measured: it is printed at the end, also where all passes."""
    return lambda text: record_property("figure", text)


# Before pytest's own, which applies ``-m``.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Mark each test with its tier, so that ``-m pure`` is what needs nothing."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker(_tier(item))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was measured, and how many tests of each tier ran: one that ran none shows."""
    for report in terminalreporter.stats.get("passed", ()):
        for name, figure in report.user_properties:
            if name == "figure" and report.when == "call":
                terminalreporter.write_line(figure)
    ran = {
        (report.nodeid, tier)
        for outcome, reports in terminalreporter.stats.items()
        if outcome != "deselected"
        for report in reports
        for tier in TIERS
        if tier in getattr(report, "keywords", ())
    }
    count = Counter(tier for _nodeid, tier in ran)
    terminalreporter.write_line(", ".join(f"{tier}: {count[tier]}" for tier in TIERS))


def _tier(item: Any) -> str:
    if item.path.name in ("test_path.py", "test_web_form.py"):
        return "acceptance"
    return "database" if "webhooks_db" in item.fixturenames else "pure"
