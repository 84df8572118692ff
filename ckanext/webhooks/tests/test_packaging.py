"""What is built is whole: sdist → wheel → a fresh environment that delivers.

The environment is made under the constraints of the CKAN version at hand, so
that this also proves each set: it installs, imports, and runs a task.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import ckanapi
import pytest

from .receiver import Receiver
from .site import Site

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[3]
PACKAGE = "ckanext/webhooks"
NEEDED = {
    f"{PACKAGE}/config_declaration.yaml",
    f"{PACKAGE}/migration/webhooks/alembic.ini",
    f"{PACKAGE}/migration/webhooks/env.py",
    f"{PACKAGE}/migration/webhooks/script.py.mako",
    f"{PACKAGE}/migration/webhooks/versions/0001_the_four_tables.py",
    f"{PACKAGE}/plugin.py",
    f"{PACKAGE}/assets/webassets.yml",
    f"{PACKAGE}/i18n/de/LC_MESSAGES/ckanext-webhooks.mo",
    f"{PACKAGE}/i18n/ckanext-webhooks.pot",
    f"{PACKAGE}/templates/user/dashboard.html",
    f"{PACKAGE}/templates/webhooks/index.html",
    f"{PACKAGE}/templates/webhooks/snippets/days.html",
    f"{PACKAGE}/deliver/transport/by_curl.py",
}


def run(*command: str | Path) -> None:
    done = tried(*command)
    assert done.returncode == 0, done.stdout


def tried(*command: str | Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def uv() -> str:
    found = shutil.which("uv") or shutil.which("uv", path=ROOT / ".dev" / "uv" / "bin")
    assert found, "uv is missing; bin/test brings it"
    return found


def run_offline_first(*command: str | Path) -> None:
    """Run uv, without asking the index for what this environment was made from a while ago."""
    if tried(*command, "--offline").returncode != 0:
        run(*command)


def lend_compiled(python: Path) -> None:
    """Give an environment what Python has compiled of the same files of this one.

    uv links both to the same files, and what is of others Python compiles itself.
    """
    ours = Path(sysconfig.get_path("purelib"))
    theirs = python.parents[1] / ours.relative_to(sys.prefix)
    for folder in ours.rglob("__pycache__"):
        beside = theirs / folder.relative_to(ours).parent
        if beside.is_dir():
            # What another process is just compiling has a name of its own until it is whole.
            ignored = shutil.ignore_patterns("*.pyc.*")
            shutil.copytree(folder, beside / folder.name, ignore=ignored, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and a wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run_offline_first(uv(), "build", "--python", sys.executable, "--out-dir", folder)
    return folder


def test_wheel_and_sdist_hold_what_is_no_python(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) >= NEEDED
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        assert names >= {*NEEDED, "LICENSE", "README.md", "setup.cfg"}


def test_the_wheel_delivers_from_a_fresh_environment(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    release = version("ckan")
    constraints = ROOT / "bin" / "constraints" / f"ckan-{release.rsplit('.', 1)[0]}.txt"
    python = tmp_path / "venv" / "bin" / "python"
    run(uv(), "venv", "--python", sys.executable, tmp_path / "venv")
    install = (uv(), "pip", "install", "--python", python)
    run_offline_first(
        *install, "--constraint", constraints, f"ckan[requirements]=={release}", wheel
    )
    run(uv(), "pip", "check", "--python", python)
    lend_compiled(python)
    with (
        Receiver() as receiver,
        Site(tmp_path / "site", python=str(python), plugins="webhooks") as site,
    ):
        site.start_web()
        site.start_worker()
        ckan = ckanapi.RemoteCKAN(site.url, apikey=site.token)
        ckan.action.webhook_create(topic="dataset/create", address=receiver.url)
        organization = ckan.action.organization_create(name="from-the-wheel")
        ckan.action.package_create(name="from-the-wheel", owner_org=organization["id"])
        (request,) = receiver.wait(1, timeout=60)
        assert request.json["entity"]["name"] == "from-the-wheel"
