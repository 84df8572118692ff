"""Tests side by side: what each process of pytest-xdist has for itself, and what it runs.

``bin/test`` runs as many lanes as pay on two cores; a whole file is one lane's, so that what it
sets up for all its tests is set up once.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from xdist.scheduler import LoadScopeScheduling

from . import databases, site

FOLDER = "ckanext/webhooks/tests/"
# The database of the tests is a copy of what most sites have, so one template serves both.
PLUGINS = "activity webhooks"
# Their tests share nothing, and are too long for one lane.
ONE_BY_ONE = ("test_mirror.py", "test_visibility_table.py")
# Those that take more than half a minute, the longest first.
LONGEST = (
    "test_path.py",
    "browser/test_looks.py",
    "browser/test_story.py",
    "test_big_tables.py",
    "test_any_json.py",
    "test_chaos.py",
    "test_rabbitmq.py",
    "test_docs_run.py",
    "test_packaging.py",
    "cli/test_running.py",
    "deliver/test_conformance.py",
    "test_web_form.py",
    "deliver/test_transport.py",
    "test_three_workers.py",
    "test_worker.py",
    "deliver/test_circuit.py",
    "test_pgbouncer.py",
    "test_secrets.py",
    "deliver/test_given_up.py",
    "test_soak.py",
)


def take(lane: str) -> None:
    """Give this process a database, datasets in Solr, and a Redis database of its own.

    :param lane: of pytest-xdist: gw0, gw1, …
    """
    url = os.environ["CKAN_SQLALCHEMY_URL"]
    own = databases.with_name(url, f"{databases.name_of(url)}_{lane}")
    site.make_database(own, PLUGINS)
    redis = urlsplit(os.environ["CKAN_REDIS_URL"])
    # Redis has sixteen, and bin/test gives us the second.
    number = 2 + int(lane.removeprefix("gw"))
    os.environ.update(
        CKAN_SQLALCHEMY_URL=own,
        CKAN_SITE_ID=f"webhooks.{lane}",
        CKAN_REDIS_URL=urlunsplit(redis._replace(path=f"/{number}")),
    )


class Files(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a lane that has nothing to do the next file."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """Tell which tests run in one lane, one after the other."""
    path, _, test = nodeid.removeprefix(FOLDER).partition("::")
    if path.startswith("browser/"):
        return "browser/"  # one site
    if path in ONE_BY_ONE:
        # A row of the visibility table happens once, for all who are told of it.
        return f"{path}::{test.partition(' | ')[0]}"
    return path


def longest_first(items: list[Any]) -> list[Any]:
    """Order tests so that no lane begins with a long file when the others are about to end."""
    rank = {path: n for n, path in enumerate(LONGEST)}
    return sorted(items, key=lambda item: rank.get(_file(item.nodeid), len(rank)))


def _file(nodeid: str) -> str:
    return nodeid.removeprefix(FOLDER).partition("::")[0]


def pytest_xdist_make_scheduler(config: Any, log: Any) -> Files:
    return Files(config, log)
