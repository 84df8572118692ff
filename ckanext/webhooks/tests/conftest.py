"""The tiers of the tests, and fixtures of the database tier.

The fixtures of the acceptance tier are in its own files.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import ckan.plugins as p
import ckan.plugins.toolkit as tk
import pytest
from ckan import model
from ckan.common import config_declaration
from ckan.lib import plugins as lib_plugins
from ckan.plugins import core as plugins_core
from ckan.tests import factories
from ckan.tests.helpers import _get_test_app, changed_config
from passlib.hash import pbkdf2_sha512

from . import lanes, site, tables, versions
from .directory import Directory
from .lanes import pytest_xdist_make_scheduler
from .preloaded import Preloaded
from .receiver import Receiver
from .report import TIERS, pytest_fixture_setup, pytest_terminal_summary
from .visitor import Visitor

__all__ = ["pytest_fixture_setup", "pytest_terminal_summary", "pytest_xdist_make_scheduler"]

# Before CKAN reads the environment.
if "PYTEST_XDIST_WORKER" in os.environ:
    lanes.take(os.environ["PYTEST_XDIST_WORKER"])

# Seconds after which a test that is marked long hangs; what the others may take is in setup.cfg.
LONG = 3600

# CKAN's passwords are made to be slow to guess, and each test makes users.
pbkdf2_sha512.default_rounds = 1


def _user_of_the_model(values: dict[str, Any]) -> dict[str, Any]:
    made = model.User(**values)
    model.Session.add(made)
    model.Session.commit()
    columns = ("id", "name", "fullname", "email", "about", "sysadmin", "state")
    return {column: getattr(made, column) for column in columns}


_organization_of_the_action = factories.Organization.api_create


def _organization_of_the_model(values: dict[str, Any]) -> dict[str, Any]:
    if "users" in values:
        return dict(_organization_of_the_action(values))
    made = model.Group(**values)
    model.Session.add(made)
    model.Session.commit()
    return {column: getattr(made, column) for column in ("id", "name", "title", "type", "state")}


# The actions take six to ten times as long, and they are CKAN's.
factories.User.api_create = _user_of_the_model
factories.Organization.api_create = _organization_of_the_model


@pytest.fixture(scope="session", autouse=True)
def preloaded() -> Iterator[None]:
    """Start the commands of sites from a process that has imported CKAN."""
    started = Preloaded()
    with mock.patch.object(site, "start_guard", started.start_guard):
        yield
    started.close()


@pytest.fixture
def webhooks_db(ckan_config: Any, load_plugins: Callable[[Any], None]) -> Iterator[None]:
    """A CKAN without datasets, and with empty tables of this extension."""
    tables.empty()
    load_plugins(ckan_config)
    # The user that CKAN makes when it is loaded was noted.
    tables.empty_ours()
    yield
    model.Session.rollback()


@pytest.fixture(autouse=True)
def loggers_speak() -> None:
    """Let our loggers speak, whatever came before has silenced.

    To load CKAN's configuration disables all that there are, and a worker that a test started
    in this process leaves them to say errors alone.
    """
    logging.root.setLevel(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        is_ours = name == "ckanext" or name.startswith("ckanext.webhooks")
        if is_ours and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def load_plugins() -> Callable[[Any], None]:
    """Load the plugins that a configuration names, unless all is as it wants it already.

    CKAN's own fixture ``with_plugins`` loads them anew for each test, which takes longer
    than most tests do.
    """
    engine: Any = None
    before: dict[str, Any] = {}
    got: dict[str, Any] = {}

    def load(config: Any) -> None:
        nonlocal engine, before, got
        # Whoever loads or unloads a plugin, or makes an app, leaves CKAN with another engine.
        if model.meta.engine is engine and (others := _read_when_asked(before, config)) is not None:
            config.update({name: value for name, value in got.items() if name not in others})
            if others:
                config_declaration.normalize(config)
            # Loading makes that user, whom the test's empty database lacks.
            tk.get_action("get_site_user")({"ignore_auth": True}, {})
            model.Session.remove()
            return
        before = dict(config)
        _load_anew()
        engine, got = model.meta.engine, dict(config)

    return load


def _read_when_asked(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str] | None:
    """Give the options in which two configurations differ.

    :returns: None where a plugin may keep what it made of one of them when it was loaded
    """
    changed = {name for name in {*before, *now} if before.get(name) != now.get(name)}
    ours = {name for name in changed if name.startswith("ckanext.webhooks.")}
    return ours if ours == changed and "ckanext.webhooks.broker_url" not in ours else None


@pytest.fixture(scope="session")
def made() -> dict[str, Any]:
    """The application, once it was made: that takes longer than most tests."""
    return {}


@pytest.fixture
def visit(webhooks_db: None, made: dict[str, Any]) -> Any:
    """Give a visitor for a user, or for None."""
    if "app" not in made:
        # Whatever the first test that wants it sets: it is there for all of them.
        with changed_config("WTF_CSRF_ENABLED", False):
            made["app"] = _get_test_app()
    return lambda user=None: Visitor(made["app"], user)


def _load_anew() -> None:
    """Load the plugins that CKAN's configuration names, instead of those that are loaded.

    CKAN brings all that it has up to date after it has unloaded them, and again at the end.
    """
    with mock.patch.object(plugins_core, "plugins_update"):
        p.unload_all()
    p.load_all()


@pytest.fixture
def user() -> Any:
    return factories.User()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Directory:
    """A directory that says which labels a user has, in the place of a plugin that asks one."""
    found = Directory()
    monkeypatch.setattr(lib_plugins, "get_permission_labels", lambda: found)
    return found


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say a figure that was measured: it is printed at the end, also where all passes."""
    return lambda text: record_property("figure", text)


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("ckanext-webhooks")
    group.addoption(
        "--of-this-ckan",
        action="store_true",
        help="leave out what has the same answer on CKAN 2.12: see tests/versions.py",
    )
    group.addoption("--long", action="store_true", help="run the tests marked long, and no other")


def pytest_configure(config: Any) -> None:
    """Leave CKAN to the lanes: what only gives them their tests does without its application."""
    gives_tests = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if gives_tests and config.pluginmanager.has_plugin("ckan"):
        config.pluginmanager.unregister(name="ckan")


def pytest_ignore_collect(collection_path: Path, config: Any) -> bool | None:
    """Leave out a file of which this CKAN runs no test: to import it costs each lane its time."""
    if not config.getoption("of_this_ckan") or not collection_path.match("test_*.py"):
        return None
    file = str(collection_path.relative_to(Path(__file__).parent))
    return None if _is_this_ckan_of(versions.ckans_of(file)) else True


# Before pytest's own, which applies ``-m``.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Mark each test with its tier, so that ``-m pure`` is what needs nothing; leave some out."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker(_tier(item))
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(LONG))
    chosen, left = [], []
    for item in items:
        (chosen if _is_chosen(item, config) else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = lanes.longest_first(chosen)


def pytest_collection_finish() -> None:
    """Spare the collector of garbage what stays to the end: CKAN, and the tests themselves."""
    gc.collect()
    gc.freeze()


def _is_chosen(item: Any, config: Any) -> bool:
    if config.getoption("long") != (item.get_closest_marker("long") is not None):
        return False
    if not config.getoption("of_this_ckan"):
        return True
    return _is_this_ckan_of(versions.row_of(item.nodeid.removeprefix(lanes.FOLDER)).ckans)


def _is_this_ckan_of(ckans: Iterable[str]) -> bool:
    return any(tk.check_ckan_version(f"{ckan}.0", f"{ckan}.999") for ckan in ckans)


def _tier(item: Any) -> str:
    if item.path.name in ("test_path.py", "test_web_form.py"):
        return "acceptance"
    needs_ckan = {"webhooks_db", "ckan_config"} & set(item.fixturenames)
    return "database" if needs_ckan or item.get_closest_marker("ckan_config") else "pure"
