"""What README.md and docs/ show is run, on a running stack, but for names and secrets as it is."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import ckanapi
import jsonschema
import psycopg2
import pytest
import requests
from standardwebhooks import Webhook as Verifier

from .. import encryption
from ..deliver import signing
from ..model import Format
from ..topics import PING, TOPICS
from .blocks import Block, blocks, sources
from .receiver import Receiver
from .site import READY, Site, free_port
from .test_docs import SCHEMA

pytestmark = pytest.mark.acceptance

FOLDER = Path(__file__).parents[3] / ".dev" / "run" / f"docs-{os.getpid()}"
BLOCKS = [block for block in blocks() if not block.reason and not block.run_by]
RECEIVERS = [block for block in BLOCKS if block.is_receiver]
SHELL = sorted({b.page for b in BLOCKS if b.language in ("bash", "sh")})
PYTHON = sorted({b.page for b in BLOCKS if b.language == "python" and not b.saved_as})
NEEDS = {"javascript": "node", "go": "go", "python": sys.executable}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(FOLDER) as prepared:
        prepared.start_web("gunicorn", workers=1)
        prepared.start_worker().await_output(READY)
        yield prepared
    shutil.rmtree(FOLDER)


@pytest.fixture(scope="module")
def ckan(site: Site) -> ckanapi.RemoteCKAN:
    return ckanapi.RemoteCKAN(site.url, apikey=site.token)


@pytest.mark.parametrize("page", SHELL)
def test_the_shells_lines_of_a_page_are_a_script_that_works(page, site, ckan, receiver, tmp_path):
    secret = encryption.new_secret()
    hook = ckan.action.webhook_create(topic="*", address=f"{receiver.url}/callback", secret=secret)
    _save(page, tmp_path)
    shutil.copy(site.ini, tmp_path / "ckan.ini")
    lines = "\n".join(b.source for b in BLOCKS if b.page == page and b.language in ("bash", "sh"))
    # What the page itself has listen does; what it takes as given is ours.
    ours = free_port() if "flask" in lines else urlsplit(receiver.url).port
    output = _shell(
        re.sub(r"\b8080\b", str(ours), lines),
        tmp_path,
        {
            **site.environment(),
            "PATH": f"{Path(site.python).parent}:{os.environ['PATH']}",
            "CKAN_URL": site.url,
            "CKAN_TOKEN": site.token,
            "hook": hook,
            "secret": secret,
        },
    )
    if page == "docs/tutorial.md":
        (shown,) = sources("console", page)
        assert set(shown.splitlines()) <= set(output.splitlines()), output
    if page == "docs/receivers.md":
        (request,) = (r for r in receiver.requests if r.id == "msg_test")
        assert Verifier(secret).verify(request.body, dict(request.headers))["topic"] == PING
        assert "It is the portal's." in output
    ckan.action.webhook_delete(id=hook)


def _save(page: str, folder: Path) -> None:
    for block in BLOCKS:
        if block.page == page and block.saved_as:
            (folder / block.saved_as).write_text(block.source)


def _shell(script: str, folder: Path, env: dict[str, str]) -> str:
    """Run a script, and end what it leaves in the background.

    :returns: what it printed
    """
    with open(folder / "output", "w+") as output:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: object = process.wait(180)
        except subprocess.TimeoutExpired:
            code = "none within 180 s"
        finally:
            with suppress(ProcessLookupError):  # nothing is left of it
                os.killpg(process.pid, signal.SIGKILL)
        text = (folder / "output").read_text()
    assert code == 0, f"{text}\nIt ended with {code}."
    return text


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_a_page_works_in_its_order(
    page, site, ckan, receiver, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "page"}
    for block in BLOCKS:
        if block.page == page and block.language == "python" and not block.saved_as:
            address = f"{receiver.url}/callback"
            names |= {"ckan": ckan, "hook": ckan.action.webhook_create(topic="*", address=address)}
            exec(compile(_real(block.source, site, address), str(block), "exec"), names)
    if "take" in names:
        ckan.action.package_create(name="known-to-the-feed", owner_org=_organization(ckan))
        _until(lambda: names["catch_up"](0) > names["cursor"])
        rows = names["db"].execute("SELECT content FROM entity WHERE content IS NOT NULL")
        assert "known-to-the-feed" in {json.loads(content).get("name") for (content,) in rows}


def _real(source: str, site: Site, address: str) -> str:
    for shown, real in (
        ("http://some.ckan.org", site.url),
        ("whsec_…", encryption.new_secret()),
        ("…", site.token),
        ("https://example.com/callback", address),
        ("http://example.com/callback", address),
    ):
        source = source.replace(shown, real)
    return source


def _organization(ckan: ckanapi.RemoteCKAN) -> str:
    try:
        return ckan.action.organization_show(id="docs")["id"]
    except ckanapi.NotFound:
        return ckan.action.organization_create(name="docs")["id"]


def _until(holds, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("block", RECEIVERS, ids=str)
def test_a_receiver_takes_what_is_signed_and_nothing_else(block: Block, tmp_path, monkeypatch):
    secret = encryption.new_secret()
    body = b'{"topic": "dataset/create", "entity": {"id": "x"}, "sequence": 1}'
    now = int(time.time())
    good = signing.headers("event", now, body, [secret])
    with _running(block, secret, tmp_path, monkeypatch) as post:
        assert post(body, good) == 204
        assert post(body, good) == 204, "a repeat is nothing to complain of"
        rotated = signing.headers("event", now, body, [encryption.new_secret(), secret])
        assert post(body, rotated) == 204
        for refused in (
            signing.headers("event", now, body, [encryption.new_secret()]),
            signing.headers("event", now - 3600, body, [secret]),
            signing.headers("event", now + 3600, body, [secret]),
            {**good, "webhook-id": "another"},
            {**good, "webhook-timestamp": "soon"},
            {},
        ):
            assert post(body, refused) >= 400
        assert post(body + b" ", good) >= 400


@contextmanager
def _running(block: Block, secret: str, folder: Path, monkeypatch):
    """Have a receiver run, and give what posts to it and says what it answered."""
    program = NEEDS[block.language]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    port = free_port()
    source = block.source.replace("whsec_…", secret).replace("8080", str(port))
    monkeypatch.chdir(folder)
    if block.language == "python":
        (folder / "receiver.py").write_text(source)
        client = runpy.run_path("receiver.py", run_name="receiver")["app"].test_client()
        yield lambda body, headers: client.post("/callback", data=body, headers=headers).status_code
        return
    name = {"javascript": "receiver.js", "go": "receiver.go"}[block.language]
    (folder / name).write_text(source)
    command = [program, "run", name] if program == "go" else [program, name]
    with open("log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}/callback"
    try:
        _until(lambda: _answers(url, process), 120)  # Go compiles first
        yield lambda body, headers: requests.post(url, body, headers=headers, timeout=5).status_code
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str, process: subprocess.Popen) -> bool:
    assert process.poll() is None, Path("log").read_text()
    try:
        requests.post(url, timeout=5)
    except requests.ConnectionError:
        return False
    return True


def test_questions_to_the_database_are_understood(site):
    asked = [block for block in BLOCKS if block.language == "sql"]
    with psycopg2.connect(site.database_url) as connection, connection.cursor() as cursor:
        for block in asked:
            cursor.execute(block.source)
            assert cursor.description, block
    connection.close()


def test_bodies_of_every_topic_and_format_are_what_the_schema_says(site, ckan):
    """To a sysadmin with content, and to somebody from whom it is hidden as stubs."""
    ckan.action.user_create(name="reader", email="reader@example.com", password="reader-reader")
    token = ckan.action.api_token_create(user="reader", name="docs")["token"]
    reader = ckanapi.RemoteCKAN(site.url, apikey=token)
    expected = {(format_.value, topic) for format_ in Format for topic in (*TOPICS, PING)}
    with Receiver() as seen, Receiver() as hidden:
        hooks = []
        for portal, receiver in ((ckan, seen), (reader, hidden)):
            for format_ in Format:
                hook = portal.action.webhook_create(
                    topic="*", address=f"{receiver.url}/{format_.value}", format=format_.value
                )
                portal.action.webhook_ping(id=hook)
                hooks.append(hook)
        resource = {"name": "all", "url": "https://example.com/trees.csv"}
        owner = _organization(ckan)
        made = ckan.action.package_create(name="bodies", owner_org=owner, resources=[resource])
        ckan.action.package_patch(id="bodies", title="Bodies")
        ckan.action.resource_patch(id=made["resources"][0]["id"], name="most")
        ckan.action.package_patch(id="bodies", private=True)
        ckan.action.package_delete(id="bodies")
        for receiver in (seen, hidden):
            _until(lambda of=receiver: _told(of) == expected)
        for hook in hooks:
            ckan.action.webhook_delete(id=hook)
    validator = jsonschema.Draft202012Validator(
        SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    for request in (*seen.requests, *hidden.requests):
        validator.validate(request.json)
        part = SCHEMA["$defs"][request.path.strip("/")]
        assert set(request.json) <= set(part["properties"]), "the schema names every key"
        assert set(request.json.get("data", {})) <= set(SCHEMA["$defs"]["data"]["properties"])
    stubs = [r for r in hidden.requests if _topic(r.json) == "dataset/delete"]
    assert stubs and all(set(_entity(r.json)) == {"id", "name", "type"} for r in stubs)


def _told(receiver: Receiver) -> set[tuple[str, str]]:
    return {(r.path.strip("/"), _topic(r.json)) for r in list(receiver.requests)}


def _topic(body: dict) -> str:
    return body.get("data", body)["topic"]


def _entity(body: dict) -> dict:
    return body.get("data", body)["entity"]
