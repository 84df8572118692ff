"""Commands of a running site: ``listen``, ``doctor``, and what a shell completes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import ckanapi
import pytest

from ..blocks import sources
from ..site import READY, Site
from .test_shown import PAGE

pytestmark = pytest.mark.acceptance

FOLDER = Path(__file__).parents[4] / ".dev" / "run" / f"cli-{os.getpid()}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(FOLDER, own_redis=True) as prepared:
        prepared.start_web("gunicorn", workers=1)
        yield prepared
    shutil.rmtree(FOLDER)


@pytest.fixture
def ckan(site: Site) -> ckanapi.RemoteCKAN:
    return ckanapi.RemoteCKAN(site.url, apikey=site.token)


@pytest.fixture
def worker(site: Site) -> None:
    if not site.workers:
        # Who asks before it is ready starts another process to ask again.
        site.start_worker().await_output(READY)


@contextlib.contextmanager
def typed(site: Site, line: str) -> Iterator[subprocess.Popen]:
    """Start a command line of the page."""
    log = site.folder / "typed.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [site._script("ckan"), *shlex.split(line)[1:]],
            cwd=site.folder,
            env=site.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def printed(site: Site, text: str, timeout: float = 40.0) -> str:
    """Wait until a command has printed something, and give all that it has."""
    deadline = time.monotonic() + timeout
    while text not in (found := (site.folder / "typed.log").read_text()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{text!r} was not printed: {found}")
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_listen_prints_what_is_told_and_leaves_no_webhook(site, ckan, worker, number, say):
    (source,) = (block for block in sources("console", PAGE) if "listen" in block)
    line = source.splitlines()[0].removeprefix("$ ")
    with typed(site, line) as process:
        printed(site, "Ctrl-C deletes it.")
        (hook,) = ckan.action.webhook_list()
        assert hook["topics"] == ["dataset/*"]
        organization = ckan.action.organization_create(name=f"org-{uuid.uuid4().hex}")["id"]
        dataset = ckan.action.package_create(
            name=f"air-{uuid.uuid4().hex}", owner_org=organization, resources=[{"url": "a.csv"}]
        )
        ckan.action.package_patch(id=dataset["id"], title="Air")
        printed(site, "title")
        process.send_signal(number)
        asked = time.monotonic()
        assert process.wait(20) == 0
        say(f"listen ended {time.monotonic() - asked:.1f} s after {number.name}")
    said = [line.split() for line in printed(site, "is deleted.").splitlines()]
    told = [words[1:] for words in said if dataset["name"] in words]
    # What waits together is sent together: which arrives first is not promised.
    assert sorted(told) == [
        ["dataset/create", "verified", dataset["name"]],
        ["dataset/update", "verified", dataset["name"], "title"],
    ]
    assert ckan.action.webhook_list() == []


def doctor(site: Site, code: int = 0) -> dict[str, tuple[str, str]]:
    """Give what is found, by what it is about."""
    done = subprocess.run(
        [site._script("ckan"), "webhooks", "doctor", "--json"],
        cwd=site.folder,
        env=site.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    found = json.loads(done.stdout)
    return {f["what"].partition(":")[0]: (f["level"], f["what"]) for f in found}


def test_doctor_sees_the_worker_and_who_is_away(site, worker):
    deadline = time.monotonic() + 30
    while (found := doctor(site))["worker"][0] != "good" and time.monotonic() < deadline:
        pass
    assert "; celery@" in found["worker"][1]
    assert found["broker"][0] == "good"
    site.stop_redis()
    try:
        found = doctor(site)
        assert found["broker"][0] == "odd"
        assert "cannot be asked" in found["worker"][1]
    finally:
        site.start_redis()
    site.stop_workers()
    level, what = doctor(site)["worker"]
    assert (level, "none answered" in what) == ("odd", True)


def test_the_readmes_line_for_completion_works(site):
    (source,) = (block for block in sources("sh", PAGE) if "_COMPLETE" in block)
    env = site.environment()
    env["PATH"] = f"{Path(site._script('ckan')).parent}:{env['PATH']}"
    script = f"""
        {source.strip()}
        COMP_WORDS=(ckan webhooks redel) COMP_CWORD=2
        _ckan_completion ckan
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script], cwd=site.folder, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "redeliver", done.stderr
