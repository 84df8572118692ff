"""A running stack, and people who have logged in to it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import ckanapi
import pytest

from ..site import READY, Site
from . import Browser

FOLDER = Path(__file__).parents[4] / ".dev" / "run" / f"browser-{os.getpid()}"


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    with Site(FOLDER) as prepared:
        # One process with threads: each has to compile the templates of all pages.
        prepared.start_web("gunicorn", workers=1, threads=4)
        prepared.start_worker().await_output(READY)
        yield prepared
    shutil.rmtree(FOLDER)


@pytest.fixture(scope="package")
def ckan(site: Site) -> ckanapi.RemoteCKAN:
    return ckanapi.RemoteCKAN(site.url, apikey=site.token)


@pytest.fixture(scope="package")
def organization(ckan: ckanapi.RemoteCKAN) -> str:
    made = ckan.action.organization_create(name="city-council", title="City council")
    return str(made["id"])


@pytest.fixture(scope="package")
def open_as(
    site: Site, ckan: ckanapi.RemoteCKAN, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, bool], Browser]:
    """Give what opens a browser in which a user has logged in; whoever is new is made."""
    passwords: dict[str, str] = {}

    def opened(name: str, scripts: bool = True) -> Browser:
        if name not in passwords:
            passwords[name] = secrets.token_hex(8)
            user = {"name": name, "email": f"{name}@example.com", "password": passwords[name]}
            ckan.action.user_create(**user)
        return LoggedIn(tmp_path_factory.mktemp(name), scripts, site.url, name, passwords[name])

    return opened


class LoggedIn(Browser):
    def __init__(self, folder: Path, scripts: bool, url: str, name: str, password: str) -> None:
        super().__init__(folder, scripts)
        self._login = url, name, password

    def __enter__(self) -> LoggedIn:
        super().__enter__()
        url, name, password = self._login
        self.open(f"{url}/user/login")
        self.type("#field-login", name)
        self.type("#field-password", password)
        self.submit("form button.btn-primary[type=submit]")
        return self
