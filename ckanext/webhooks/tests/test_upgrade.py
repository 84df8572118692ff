"""What earlier releases wrote works in this one: see dumps/README.md."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ckan import model
from ckan.tests import factories
from standardwebhooks import Webhook as Verifier

from .. import config, owners, tasks
from ..dispatch import dispatch
from ..sweep import sweep
from .callers import call, create, execute, stored
from .receiver import Received, Receiver
from .tables import OURS

DUMPS = Path(__file__).parent / "dumps"
# Under which the secrets in a dump are encrypted.
KEY = "c2VjcmV0cyBvZiB0aGUgZHVtcHMsIGZvciB0ZXN0cy4="
# What a dump has instead of the receiver's address.
RECEIVER = "http://127.0.0.1:1"
TABLES = (
    *OURS,
    "webhooks_alembic_version",
)

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "secret_keys", lambda: [KEY])


@pytest.fixture
def load(
    migrate_db_for: Callable[..., None], receiver: Receiver
) -> Iterator[Callable[[Path], None]]:
    """Put a dump in the place of our tables; at the end they are as other tests want them."""

    def load_one(dump: Path) -> None:
        _drop_tables()
        _run(dump.read_text().replace(RECEIVER, receiver.url))
        for (owner,) in execute("SELECT DISTINCT user_id FROM webhooks WHERE user_id IS NOT NULL"):
            model.Session.add(model.User(id=owner, name=f"owner-{owner}"))
        model.Session.commit()
        owners.forget()

    yield load_one
    _drop_tables()
    migrate_db_for("webhooks")


def _drop_tables() -> None:
    # A connection that still reads would wait for ever, and we for it.
    model.Session.remove()
    _run(f"DROP TABLE IF EXISTS {', '.join(TABLES)}")


def _run(script: str) -> None:
    """Run SQL on a connection of its own: a dump changes settings."""
    connection = psycopg2.connect(model.meta.engine.url.render_as_string(hide_password=False))
    with connection, connection.cursor() as cursor:
        cursor.execute(script)
    connection.close()


@pytest.mark.parametrize("name", sorted(dump.stem for dump in DUMPS.glob("*.sql")))
def test_upgrade_takes_up_what_a_release_wrote(name, load, receiver, migrate_db_for):
    load(DUMPS / f"{name}.sql")
    migrate_db_for("webhooks")

    # All is listed and shown, and is as it was.
    sysadmin = factories.Sysadmin()
    hooks = call(sysadmin, "webhook_list", limit=100)
    assert {hook["id"] for hook in hooks} == {row.id for row in stored()}
    active = {hook["id"]: hook for hook in hooks if hook["state"] == "active"}
    assert active
    for hook in hooks:
        assert call(sysadmin, "webhook_show", id=hook["id"]) == hook
        page = call(sysadmin, "webhook_delivery_list", id=hook["id"])
        for delivery in page["deliveries"]:
            call(sysadmin, "webhook_delivery_show", id=delivery["id"])

    # Whose newest state alone is told drops what is older.
    coalescing = {row.id for row in stored() if row.newest_only}

    # What waits is sent, what was not dispatched is, and all of it is signed right.
    pending = {
        (row.webhook_id, row.event_id)
        for row in stored("webhooks_delivery")
        if row.status == "pending" and row.webhook_id in active.keys() - coalescing
    }
    execute("UPDATE webhooks_delivery SET due_at = now() WHERE due_at IS NOT NULL")
    execute("UPDATE webhooks SET next_at = now() WHERE next_at IS NOT NULL")
    execute("UPDATE webhooks SET max_rate = NULL")  # which would be a minute each
    while dispatch():
        pass
    tasks.work_once()
    left = [row for row in stored("webhooks_delivery") if row.status == "pending"]
    assert left == []
    assert execute("SELECT count(*) FROM webhooks_event WHERE sequence IS NULL") == [(0,)]
    assert pending <= {(_hook(request), request.id) for request in receiver.requests}
    for request in receiver.requests:
        secret = call(sysadmin, "webhook_secret_show", id=_hook(request))["secret"]
        Verifier(secret).verify(request.body, request.headers)
    receiver.clear()

    # A change is told to each, and the story can be told again.
    sweep()  # whose owner may have webhooks again is active again
    dataset = factories.Dataset()
    tasks.work_once()
    told = {_hook(request) for request in receiver.requests}
    assert told and told == {
        hook["address"].rpartition("/")[2]
        for hook in call(sysadmin, "webhook_list", state="active", limit=100)
        if not hook["filters"] and {"*", "dataset/*", "dataset/create"} & set(hook["topics"])
    }
    assert all(dataset["id"].encode() in request.body for request in receiver.requests)
    receiver.clear()
    for id_ in active:
        call(sysadmin, "webhook_replay", id=id_, since="2000-01-01")
    tasks.work_once()
    assert told & active.keys() <= {_hook(request) for request in receiver.requests}


def _hook(request: Received) -> str:
    return request.path.strip("/")


@pytest.mark.skipif("WEBHOOKS_DUMP" not in os.environ, reason="a dump is made on demand")
def test_upgrade_dump_of_this_version(receiver, monkeypatch):
    fill(receiver, monkeypatch)
    url = model.meta.engine.url.set(drivername="postgresql")
    command = ["pg_dump", "--no-owner", "--no-privileges", "--inserts", "--table=webhooks*"]
    command.append(f"--dbname={url.render_as_string(hide_password=False)}")
    dumped = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Lines for psql alone, which newer versions of pg_dump write.
    lines = [line for line in dumped.splitlines() if not line.startswith("\\")]
    text = "\n".join(lines).replace(receiver.url, RECEIVER)
    (DUMPS / f"{os.environ['WEBHOOKS_DUMP']}.sql").write_text(text + "\n")


def fill(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rows in every state, as this version makes them."""
    monkeypatch.setattr(config, "retry_schedule", lambda: [0.0, 3600.0])
    owner = factories.User()

    def subscribe(name: str, **data: Any) -> str:
        id_ = create(owner, address=f"{receiver.url}/", description=name, **data)
        call(owner, "webhook_patch", id=id_, address=f"{receiver.url}/{id_}")
        return id_

    subscribe("plain")
    subscribe("standard", format="standard", headers={"X-Key": "abc"})
    subscribe("events", format="cloudevents", topic=["dataset/*", "resource/create"])
    subscribe("filtered", filters={"type": "showcase", "tag": ["a", "b"]})
    slow = subscribe("slow", max_rate=1, coalesce=True)
    rotated = subscribe("rotated", topic="dataset/create")
    call(owner, "webhook_secret_rotate", id=rotated)
    failing = subscribe("failing")
    disabled = subscribe("disabled")
    with monkeypatch.context() as verifying:
        verifying.setattr(config, "verify", lambda: True)
        subscribe("unverified")

    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        return (500 if _hook(request) == failing else 200), {}, b"an answer"

    receiver.respond = answer
    resources = [{"url": "http://example.com/a.csv", "name": "a"}]
    first = factories.Dataset(user=owner, resources=resources, tags=[{"name": "air"}])
    deleted, purged = factories.Dataset(user=owner), factories.Dataset(user=owner)
    tasks.work_once()
    execute("UPDATE webhooks_delivery SET due_at = now() WHERE due_at IS NOT NULL")
    tasks.work_once()  # the second and last try
    call(owner, "package_patch", id=first["id"], title="Changed", private=False)
    sysadmin = factories.Sysadmin()
    call(sysadmin, "package_delete", id=deleted["id"])
    call(sysadmin, "dataset_purge", id=purged["id"])
    tasks.work_once()
    # Told, and not sent yet: due, and held back.
    call(owner, "package_patch", id=first["id"], title="Changed once more")
    while dispatch():
        pass
    call(owner, "webhook_patch", id=disabled, state="disabled")  # what waits is cancelled
    call(owner, "package_patch", id=first["id"], title="Not dispatched")
    paused = create(factories.User(), address=f"{receiver.url}/paused", description="paused")
    execute(
        "UPDATE webhooks SET state = 'paused', state_reason = 'the owner has no role' "
        "WHERE id = :id",
        id=paused,
    )
    found = {row.status for row in stored("webhooks_delivery")}
    assert found == {"pending", "delivered", "failed", "cancelled"}, found
    waits = {row.due_at is None for row in stored("webhooks_delivery") if row.status == "pending"}
    assert waits == {True, False}, slow
    assert {row.state for row in stored()} == {"active", "paused", "disabled", "unverified"}
    assert any(row.sequence is None for row in stored("webhooks_event"))
