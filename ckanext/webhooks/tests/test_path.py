"""The whole way, on a running stack: CKAN over HTTP, PostgreSQL, Redis, Solr, a
Celery worker, and a receiver; with processes killed and Redis gone on the way."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import ckanapi
import psycopg2
import pytest
import requests
from standardwebhooks import Webhook as Verifier

from . import site as site_module
from .blocks import sources
from .receiver import Received, Receiver
from .site import READY, Process, Site, start_own_guard

FOLDER = Path(__file__).parents[3] / ".dev" / "run" / f"path-{os.getpid()}"
TOPICS = {
    f"{entity}/{verb}"
    for entity in ("dataset", "resource")
    for verb in ("create", "update", "delete")
}

# Kills the web process at a chosen moment of a transaction that holds an event
# row: after our listener wrote it, or after the commit and before our nudge. Or
# plants a bug in capture.
FAULTS = """
import os
import signal

import sqlalchemy
from ckan.model import meta
from ckanext.webhooks.capture import record

here = os.path.dirname(os.path.abspath(__file__))
written = sqlalchemy.text(
    "SELECT count(*) FROM webhooks_event WHERE transaction_id = txid_current()"
)


def die(moment):
    if os.path.exists(os.path.join(here, moment)):
        os.remove(os.path.join(here, moment))
        os.kill(os.getpid(), signal.SIGKILL)


def before_commit(session):
    if session.in_nested_transaction():
        return
    session.info["holds event"] = session.connection().execute(written).scalar() > 0
    if session.info["holds event"]:
        die("die-before-commit")


def after_commit(session):
    if not session.in_nested_transaction() and session.info.get("holds event"):
        die("die-before-nudge")


right = record.record


def record_or_fail(session, dataset_id, touched):
    if os.path.exists(os.path.join(here, "capture-fails")):
        raise RuntimeError("planted")
    return right(session, dataset_id, touched)


record.record = record_or_fail
sqlalchemy.event.listen(meta.Session, "before_commit", before_commit)
sqlalchemy.event.listen(meta.Session, "after_commit", after_commit, insert=True)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A site under gunicorn, whose Redis may be stopped."""
    options = {"ckanext.webhooks.timeout": "3"}
    with Site(FOLDER, own_redis=True, options=options) as prepared:
        with open(prepared.folder / "wsgi.py", "a") as wsgi:
            wsgi.write(FAULTS)
        prepared.start_web("gunicorn", workers=2)
        yield prepared
    shutil.rmtree(FOLDER)


@pytest.fixture
def ckan(site: Site) -> ckanapi.RemoteCKAN:
    return ckanapi.RemoteCKAN(site.url, apikey=site.token)


@pytest.fixture
def worker(site: Site) -> Process:
    """A worker that is ready; tests that do not kill it share it."""
    if not site.workers or not site.workers[-1].alive:
        start_worker(site)
    return site.workers[-1]


@pytest.fixture
def no_worker(site: Site) -> None:
    site.stop_workers()


def start_worker(site: Site) -> Process:
    process = site.start_worker()
    process.await_output(READY)
    return process


@pytest.fixture
def hook(ckan: ckanapi.RemoteCKAN, receiver: Receiver) -> Iterator[str]:
    """A webhook for everything, at the receiver."""
    created = ckan.action.webhook_create(topic="*", address=receiver.url + "/callback")
    yield created
    with contextlib.suppress(ckanapi.errors.CKANAPIError):
        ckan.action.webhook_delete(id=created)


def unique(prefix: str = "dataset") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def new_dataset(ckan: ckanapi.RemoteCKAN, **fields) -> dict:
    if "owner_org" not in fields:
        fields["owner_org"] = ckan.action.organization_create(name=unique("org"))["id"]
    return ckan.action.package_create(name=unique(), **fields)


def rows(site: Site, sql: str, *values) -> list[tuple]:
    connection = psycopg2.connect(site.database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall()
    finally:
        connection.close()


def topics_of(requests: list[Received], dataset_id: str) -> list[str]:
    """What was told of one dataset, in the order of its sequence, repeats dropped."""
    found = {}
    for body in (r.json for r in requests):
        about = body.get("dataset", body["entity"])["id"]
        if about == dataset_id:
            found[body["event_id"]] = (body["sequence"], body["topic"])
    return [topic for _sequence, topic in sorted(found.values())]


def test_six_topics_arrive_signed(ckan, receiver, worker, hook):
    secret = ckan.action.webhook_secret_show(id=hook)["secret"]
    dataset = new_dataset(ckan, resources=[{"url": "http://example.com/a.csv", "name": "a"}])
    resource = dataset["resources"][0]
    ckan.action.resource_patch(id=resource["id"], name="b")
    ckan.action.resource_delete(id=resource["id"])
    ckan.action.package_patch(id=dataset["id"], title="New")
    ckan.action.package_delete(id=dataset["id"])
    requests = receiver.wait(8)
    for request in requests:
        Verifier(secret).verify(request.body.decode(), request.headers)
    assert {r.json["topic"] for r in requests} == TOPICS
    assert topics_of(requests, dataset["id"]) == [
        "dataset/create",
        "resource/create",
        "dataset/update",
        "resource/update",
        "dataset/update",
        "resource/delete",
        "dataset/update",
        "dataset/delete",
    ]
    assert receiver.settle(1.0) == requests, "nothing came twice"


def test_the_readmes_lines_for_ckanapi_work(site, receiver):
    """Verbatim but for the site, the key and the address; those of 2015 are these."""
    (source,) = (block for block in sources("python") if "ckanapi" in block)
    for shown, real in (
        ("http://some.ckan.org", site.url),
        ("…", site.token),
        ("http://example.com/callback", f"{receiver.url}/callback"),
    ):
        assert shown in source
        source = source.replace(shown, real)
    names: dict = {}
    exec(source, names)
    hook = names["hook"]
    assert isinstance(hook, str)
    with pytest.raises(ckanapi.NotFound):
        names["ckan"].action.webhook_show(id=hook)


def test_the_readmes_lines_for_curl_work(site, ckan):
    (source,) = (block for block in sources("bash") if "curl " in block)
    done = subprocess.run(
        ["bash", "-ec", source.replace("curl ", "curl -sS -w '\\n' ")],
        env={**os.environ, "CKAN_URL": site.url, "CKAN_TOKEN": site.token},
        capture_output=True,
        text=True,
        check=True,
    )
    created, listed = (json.loads(line) for line in done.stdout.splitlines())
    assert created["success"] and listed["success"]
    (shown,) = (w for w in listed["result"] if w["id"] == created["result"])
    assert shown["topics"] == ["dataset/*", "resource/delete"]
    ckan.action.webhook_delete(id=created["result"])


def curl(site: Site, action: str, *arguments: str) -> tuple[int, dict]:
    done = subprocess.run(
        ["curl", "-sS", "-w", "\n%{http_code}", "-H", f"Authorization: {site.token}"]
        + [f"{site.url}/api/3/action/{action}", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def test_curl_works_and_reading_by_get(site, receiver):
    json_type = ("-H", "Content-Type: application/json")
    data = json.dumps({"topic": "dataset/create", "address": receiver.url})
    status, answer = curl(site, "webhook_create", *json_type, "-d", data)
    assert status == 200
    hook = answer["result"]
    status, answer = curl(site, f"webhook_show?id={hook}")
    assert (status, answer["result"]["id"]) == (200, hook)
    status, answer = curl(site, "webhook_list?limit=1000")
    assert hook in [w["id"] for w in answer["result"]]
    data = json.dumps({"topic": "dataset/create", "address": "http://10.0.0.1/"})
    status, answer = curl(site, "webhook_create", *json_type, "-d", data)
    assert status == 409
    assert "ckanext.webhooks.allowed_networks" in answer["error"]["address"][0]
    assert curl(site, "webhook_delete", *json_type, "-d", json.dumps({"id": hook}))[0] == 200


def test_a_process_killed_before_the_commit_tells_nothing(site, ckan, receiver, worker, hook):
    dataset = new_dataset(ckan, title="a")
    receiver.wait(1)
    (site.folder / "die-before-commit").touch()
    with pytest.raises(requests.ConnectionError):
        ckan.action.package_patch(id=dataset["id"], title="never committed")
    assert not (site.folder / "die-before-commit").exists(), "the process was killed"
    # CKAN may have put it into its index before the commit that never came.
    sql = "SELECT title FROM package WHERE id = %s"
    assert rows(site, sql, dataset["id"]) == [("a",)]
    assert topics_of(receiver.settle(3.0), dataset["id"]) == ["dataset/create"]


def test_a_process_killed_before_the_nudge_loses_nothing(site, ckan, receiver, worker, hook, say):
    dataset = new_dataset(ckan, title="a")
    receiver.wait(1)
    (site.folder / "die-before-nudge").touch()
    killed = time.monotonic()
    with pytest.raises(requests.ConnectionError):
        ckan.action.package_patch(id=dataset["id"], title="committed")
    assert not (site.folder / "die-before-nudge").exists(), "the process was killed"
    told = receiver.wait(2)[-1]
    say(f"found without a nudge {told.at - killed:.2f} s after the kill")
    assert told.json["entity"]["title"] == "committed"


def save(ckan: ckanapi.RemoteCKAN, dataset: dict, title: str) -> float:
    """Save a dataset, and give the seconds that took."""
    started = time.monotonic()
    saved = ckan.action.package_patch(id=dataset["id"], title=title)
    assert saved["title"] == title
    return time.monotonic() - started


def test_what_a_web_process_could_not_capture_is_told_all_the_same(
    site, ckan, receiver, worker, hook, say
):
    organization = ckan.action.organization_create(name=unique("org"))["id"]
    # The log is older than the dataset, as on a portal.
    new_dataset(ckan, owner_org=organization)
    receiver.wait(1)
    receiver.clear()
    bug = site.folder / "capture-fails"
    bug.touch()
    try:
        dataset = new_dataset(ckan, owner_org=organization)
        saved = time.monotonic()
    finally:
        bug.unlink()
    (request,) = receiver.wait(1)
    say(f"told {time.monotonic() - saved:.1f} s after a save whose capture failed")
    assert (request.json["topic"], request.json["entity"]["id"]) == (
        "dataset/create",
        dataset["id"],
    )
    assert receiver.settle(1.0) == [request]


def test_the_feed_as_the_page_asks_for_it_gives_every_dataset_there_is(site, ckan, worker, capsys):
    dataset = new_dataset(ckan)
    (source,) = (b for b in sources("python", "docs/polling.md") if "webhook_event_list" in b)
    deadline = time.monotonic() + 10
    printed = ""
    while f"dataset/create {dataset['id']}" not in printed and time.monotonic() < deadline:
        exec(source, {"ckan": ckan})
        printed = capsys.readouterr().out
    assert f"dataset/create {dataset['id']}" in printed


def test_the_pages_ping_is_answered_and_what_failed_is_told_again(
    site, ckan, receiver, worker, hook, capsys
):
    looking, again = (
        block
        for block in sources("python", "docs/receivers.md")
        if "webhook_ping" in block or "webhook_replay" in block
    )
    receiver.respond = lambda request: (410, {}, b"gone")
    dataset = new_dataset(ckan)
    receiver.wait(1)
    receiver.respond = lambda request: (200, {}, b"thanks")
    deadline = time.monotonic() + 10
    while ckan.action.webhook_show(id=hook)["state"] != "disabled" and time.monotonic() < deadline:
        time.sleep(0.05)
    exec(looking, {"ckan": ckan, "hook": hook})
    pinged, failed = capsys.readouterr().out.splitlines()
    assert pinged.startswith("200 None 0.") and pinged.endswith(" thanks")
    assert failed.startswith("dataset/create ") and "410" in failed
    ckan.action.webhook_patch(id=hook, state="active")
    receiver.clear()
    # Since now: what failed before it is told all the same.
    exec(re.sub(r"since=\"[^\"]*\"", 'since="2999-01-01"', again), {"ckan": ckan, "hook": hook})
    (request,) = receiver.wait(1)
    assert request.json["entity"]["id"] == dataset["id"]


def test_celery_by_its_own_command_works_too(site, ckan, receiver, no_worker, hook):
    celery = Path(sys.executable).with_name("celery")
    log = site.folder / "celery.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [celery, "-A", "ckanext.webhooks.worker", "worker", "--loglevel=INFO"],
            cwd=site.folder,
            env=site.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        new_dataset(ckan)
        receiver.wait(1, timeout=120)
    finally:
        process.terminate()
        code = process.wait(20)
    assert code == 0, log.read_text()


@pytest.mark.parametrize("server", ["gunicorn", "uwsgi"])
def test_a_broker_that_is_away_costs_little_and_loses_nothing(
    site, ckan, receiver, no_worker, hook, server, say
):
    """Every save succeeds; a pass without Celery delivers, or else the worker later.

    That does not depend on the server: each of the two has one of the ways.
    """
    assert site.web is not None
    dataset = new_dataset(ckan)
    count = 1
    for fault in ("stopped", "silent"):
        # A process that noticed the fault before would not try the broker again.
        site.start_web(server, workers=1)
        usual = statistics.median(save(ckan, dataset, f"usual, {fault} {n}") for n in range(5))
        threads = len(os.listdir(f"/proc/{worker_pid(site)}/task"))
        assert threads == 1, "the web process needs no thread"
        try:
            site.stop_redis() if fault == "stopped" else site.freeze_redis()
            first = save(ckan, dataset, f"{fault} 0")
            later = [save(ckan, dataset, f"{fault} {n}") for n in range(1, 6)]
            say(
                f"{server}, Redis {fault}: a save takes {usual * 1000:.0f} ms, the first without"
                f" the broker {(first - usual) * 1000:+.0f} ms, those after it"
                f" {(statistics.median(later) - usual) * 1000:+.0f} ms"
            )
            assert first < usual + 2, "the broker's silence reached the save"
            count += 5 + 6
            if server == "gunicorn":
                # Every `ckan` command asks Redis first whether it is there, and CKAN 2.10 and
                # 2.11 wait for ever where it is silent, unless its URL says how long.
                patient = {"CKAN_REDIS_URL": f"{site.redis_url}?socket_timeout=1"}
                site.ckan("webhooks", "deliver", env=patient)
                told = {r.json["entity"]["title"] for r in receiver.wait(count)}
                assert told >= {f"{fault} {n}" for n in range(6)}
        finally:
            site.start_redis() if fault == "stopped" else site.thaw_redis()
    if server == "uwsgi":
        start_worker(site)
        told = {r.json["entity"]["title"] for r in receiver.wait(count)}
        assert told >= {f"{fault} {n}" for fault in ("stopped", "silent") for n in range(6)}


def worker_pid(site: Site) -> int:
    """The pid of a child of the prefork server, which is who serves."""
    assert site.web is not None
    children = Path(f"/proc/{site.web.pid}/task/{site.web.pid}/children").read_text().split()
    return int(children[0])


def test_redis_that_comes_back_needs_no_person(site, ckan, receiver, worker, hook):
    dataset = new_dataset(ckan)
    receiver.wait(1)
    site.stop_redis()
    save(ckan, dataset, "while Redis was away")
    receiver.wait(2)
    site.start_redis()
    worker.await_output("Connected to redis")
    save(ckan, dataset, "and back")
    receiver.wait(3)


def test_a_worker_killed_in_flight_delivers_in_the_end(site, ckan, receiver, worker, hook, say):
    released = threading.Event()

    def hang(request: Received):
        released.wait(30)
        return 200, {}, b""

    receiver.respond = hang
    dataset = new_dataset(ckan)
    receiver.wait(1)
    worker.kill()
    killed = time.monotonic()
    receiver.respond = lambda request: (200, {}, b"")
    released.set()
    start_worker(site)
    again = receiver.wait(2)[-1]
    say(f"delivered again {again.at - killed:.1f} s after the kill")
    deadline = time.monotonic() + 10
    sql = "SELECT status, tries FROM webhooks_delivery WHERE webhook_id = %s"
    while (statuses := rows(site, sql, hook)) != [("delivered", 1)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert statuses == [("delivered", 1)]
    assert len({r.id for r in receiver.requests}) == 1
    assert topics_of(receiver.requests, dataset["id"]) == ["dataset/create"]


def test_workers_and_passes_at_the_same_time_send_nothing_twice(
    site, ckan, receiver, worker, hook, monkeypatch
):
    dataset = new_dataset(ckan)
    with monkeypatch.context() as patched:
        # One whose sets are in another order than those of the first.
        patched.setattr(site_module, "start_guard", start_own_guard)
        start_worker(site)
    passing = threading.Thread(target=site.ckan, args=("webhooks", "deliver"))
    passing.start()
    for n in range(30):
        save(ckan, dataset, f"title {n}")
    passing.join()
    requests = receiver.settle(3.0)
    assert len(requests) == len({r.id for r in requests}) == 31


def test_a_worker_takes_less_than_150_mb(site, ckan, receiver, no_worker, hook, monkeypatch, say):
    # One that was forked shares what it has imported.
    monkeypatch.setattr(site_module, "start_guard", start_own_guard)
    worker = start_worker(site)
    for _ in range(5):
        new_dataset(ckan)
    receiver.wait(5)
    memory = Path(f"/proc/{worker.pid}/smaps_rollup").read_text()
    # Pss: libraries that other processes have mapped too count by their share.
    resident, share = (
        int(memory.split(f"\n{name}:")[1].split()[0]) / 1024 for name in ("Rss", "Pss")
    )
    say(f"one worker: {share:.0f} MB ({resident:.0f} MB with all of what it shares)")
    assert share < 150


def test_a_private_dataset_reaches_its_owner_alone(site, ckan, receiver, worker, hook):
    with Receiver() as elsewhere:
        name = unique("user")
        ckan.action.user_create(name=name, email=f"{name}@example.com", password=unique("pw"))
        token = ckan.action.api_token_create(user=name, name="t")["token"]
        stranger = ckanapi.RemoteCKAN(site.url, apikey=token)
        stranger.action.webhook_create(topic="*", address=elsewhere.url)
        private = new_dataset(ckan, private=True)
        public = new_dataset(ckan)
        elsewhere.wait(1)
        assert topics_of(elsewhere.settle(1.0), public["id"]) == ["dataset/create"]
        assert topics_of(elsewhere.requests, private["id"]) == []
        assert topics_of(receiver.wait(2), private["id"]) == ["dataset/create"]
        with pytest.raises(ckanapi.NotFound):
            stranger.action.webhook_show(id=hook)


def test_a_planted_secret_is_in_no_log_and_no_table(site, ckan, receiver, worker):
    key = secrets.token_bytes(32)
    secret = "whsec_" + base64.b64encode(key).decode()
    token = "tok-" + secrets.token_hex(16)

    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        return 500, {}, json.dumps(request.headers).encode()

    receiver.respond = answer
    hook = ckan.action.webhook_create(
        topic="*", address=receiver.url, secret=secret, headers={"Authorization": f"Bearer {token}"}
    )
    new_dataset(ckan)
    (request,) = receiver.wait(1)
    assert request.headers["authorization"] == f"Bearer {token}"
    Verifier(secret).verify(request.body.decode(), request.headers)
    with pytest.raises(ckanapi.errors.ValidationError):
        ckan.action.webhook_create(topic="*", address=receiver.url, secret=secret + "!")
    assert ckan.action.webhook_secret_show(id=hook)["secret"] == secret
    ckan.action.webhook_delete(id=hook)

    site.stop_workers()
    logs = [path.read_text(errors="replace") for path in sorted(site.folder.glob("*.log"))]
    assert any(hook in log or "ready." in log for log in logs)
    dump = subprocess.run(
        ["pg_dump", "--data-only", site.database_url], check=True, capture_output=True, text=True
    ).stdout
    assert "[withheld]" in dump
    for written in (secret, base64.b64encode(key).decode(), key.hex(), token):
        assert [written in text for text in (*logs, dump)] == [False] * (len(logs) + 1)
