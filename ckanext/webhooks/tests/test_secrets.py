"""A planted secret and a planted custom header, looked for wherever anything is written."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import secrets
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import ckan.plugins.toolkit as tk
import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import changed_config

from .. import config, encryption, queue, sweep, tasks
from ..deliver import message
from ..logic import action
from .callers import ADDRESS, call, create, execute, stored
from .mailbox import Mailbox
from .receiver import Received, Receiver

pytestmark = [
    pytest.mark.usefixtures("webhooks_db"),
    pytest.mark.ckan_config("smtp.mail_from", "webhooks@data.example.org"),
]

KEY = secrets.token_bytes(32)
SECRET = "whsec_" + base64.b64encode(KEY).decode()
TOKEN = "tok-" + secrets.token_hex(16)
HEADERS = {"Authorization": f"Bearer {TOKEN}", "X-Key": f'"quoted" {TOKEN}'}


def spellings(value: bytes) -> Iterator[str]:
    """Give the ways in which bytes are written as text."""
    yield value.hex()
    yield value.hex().upper()
    for written in (base64.b64encode(value), base64.urlsafe_b64encode(value)):
        yield written.decode()
        yield written.decode().rstrip("=")


def as_written(texts: set[str]) -> set[str]:
    """Add what JSON makes of each."""
    return texts | {json.dumps(one)[1:-1] for one in texts}


PLANTED = {
    "the secret": as_written({*spellings(KEY), SECRET, *spellings(SECRET.encode())}),
    "the header": as_written(
        {TOKEN, *spellings(TOKEN.encode()), *spellings(HEADERS["X-Key"].encode())}
    ),
}


def found_in(text: str) -> set[str]:
    return {what for what, texts in PLANTED.items() if any(one in text for one in texts)}


def everything_stored() -> str:
    """Give each row of each table, CKAN's too, as text."""
    model.Session.commit()
    names = model.Session.execute(
        sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    ).scalars()
    rows: Iterable[Any] = itertools.chain.from_iterable(
        model.Session.execute(sa.text(f'SELECT t::text FROM "{name}" t')).scalars()
        for name in list(names)
    )
    return "\n".join(rows)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Everything that any logger says, with its tracebacks."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    formatter, handler, root = logging.Formatter(), Kept(), logging.getLogger()
    loggers = [x for x in root.manager.loggerDict.values() if isinstance(x, logging.Logger)]
    before = [(x, x.disabled, x.level) for x in (*loggers, root)]
    # Those of pytest and CKAN would lay each line out three times more.
    others = [(other, other.level) for other in root.handlers]
    for other, _level in others:
        other.setLevel(logging.CRITICAL + 1)
    for one in (*loggers, root):
        one.disabled = False
        one.setLevel(logging.DEBUG if one is root else logging.NOTSET)
    root.addHandler(handler)
    yield lines
    root.removeHandler(handler)
    for other, level in others:
        other.setLevel(level)
    for one, disabled, level in before:
        one.disabled = disabled
        one.setLevel(level)


def echo(status: int):
    """Answer as a page for debugging does: with all that was sent."""

    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        shown = json.dumps({"headers": request.headers, "body": request.body.decode()})
        plain = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
        # So that what is kept of it ends within a value.
        filled = f"{shown}\n{plain}\n".ljust(4096 - 10) + TOKEN
        return status, {"X-Echo": request.headers["authorization"]}, filled.encode()

    return answer


def make_due() -> None:
    execute("UPDATE webhooks_delivery SET due_at = clock_timestamp() WHERE status = 'pending'")
    execute("UPDATE webhooks SET circuit = 'closed', failures = 0, next_at = NULL")


def answers_of_every_action(caller: dict | None, hook: str) -> list[str]:
    """Call whatever there is, with what it might take; an error is an answer too."""
    deliveries = [row.id for row in stored("webhooks_delivery")] or [0]
    said = []
    for name in action.actions():
        if name in ("webhook_delete", "webhook_secret_show", "webhook_secret_rotate"):
            continue
        for data in ({}, {"id": hook}, {"id": deliveries[-1]}, {"id": str(deliveries[0])}):
            try:
                said.append(json.dumps(call(caller, name, **data)))
            except (tk.ValidationError, tk.NotAuthorized, tk.ObjectNotFound) as error:
                said.append(f"{error} {getattr(error, 'error_dict', '')}")
                model.Session.rollback()
    return said


def drive(receiver: Receiver, user: dict, hook: str, monkeypatch) -> None:
    """Lead what is told the whole way, to each of its ends."""
    dataset = factories.Dataset(resources=[{"url": "http://example.com/a.csv"}])
    tasks.work_once()
    for status in (200, 500, 503):
        receiver.respond = echo(status)
        call(user, "webhook_patch", id=hook, description=f"answers {status}")
        factories.Dataset()
        tasks.work_once()
        make_due()
        tasks.work_once()
    make_due()
    # What cannot be written, read or sent.
    with monkeypatch.context() as broken:
        broken.setattr(message, "compose", _fail)
        factories.Dataset()
        tasks.work_once()
    with changed_config("SECRET_KEY", "another"):
        make_due()
        tasks.work_once()
    call(user, "webhook_patch", id=hook, address="http://127.0.0.1:9/")
    make_due()
    tasks.work_once()
    execute(
        "UPDATE webhooks SET circuit = 'open',"
        " failing_since = clock_timestamp() - interval '96 hours'"
    )
    sweep.sweep()
    assert sweep.tell_owners() == 1
    call(user, "webhook_patch", id=hook, address=receiver.url)
    receiver.respond = echo(410)
    call(factories.Sysadmin(), "dataset_purge", id=dataset["id"])
    factories.Dataset()
    tasks.work_once()
    assert stored()[0].state == "disabled"


def _fail(*_: Any) -> bytes:
    raise RuntimeError("planted")


def test_they_are_found_encrypted_or_shown_to_their_owner_and_nowhere_else(
    receiver, logged, ckan_config, monkeypatch
):
    user, sysadmin, stranger = factories.User(), factories.Sysadmin(), factories.User()
    with Mailbox() as mailbox:
        monkeypatch.setitem(ckan_config, "smtp.server", mailbox.server)
        hook = create(user, address=receiver.url, secret=SECRET, headers=HEADERS)
        drive(receiver, user, hook, monkeypatch)
    mails = "\n".join(mail.as_string() + mail.get_content() for mail in mailbox.mails)

    # It is there, and the search finds it: sent to the endpoint, shown to who may.
    sent = json.dumps([request.headers for request in receiver.requests])
    assert found_in(sent) == {"the header"}, "the secret signs, and is never sent"
    assert found_in(json.dumps([r.body.decode() for r in receiver.requests])) == set()
    for caller in (user, sysadmin):
        assert found_in(json.dumps(call(caller, "webhook_secret_show", id=hook))) == {"the secret"}
    (row,) = stored()
    assert encryption.decrypt(row.secret, config.secret_keys()) == SECRET
    assert json.loads(encryption.decrypt(row.headers, config.secret_keys())) == HEADERS

    # webhook_ping waits for a worker.
    monkeypatch.setattr(queue, "nudge", lambda: threading.Thread(target=tasks.work_once).start())
    # And nowhere else: before and after a rotation, which keeps the old one for a day.
    for is_rotated in (False, True):
        if is_rotated:
            rotated = call(user, "webhook_secret_rotate", id=hook)
            assert found_in(json.dumps(rotated)) == {"the secret"}
        for caller in (user, sysadmin, stranger, None):
            said = answers_of_every_action(caller, hook)
            assert [text for text in said if found_in(text)] == []
        assert found_in(everything_stored()) == set()
    assert "[withheld]" in "".join(row.answer or "" for row in stored("webhooks_attempt"))
    assert len(mailbox.mails) == 1 and found_in(mails) == set()
    assert [line for line in logged if found_in(line)] == []
    assert any("planted" in line for line in logged), "tracebacks are looked through"


@pytest.mark.parametrize(
    "bad",
    [
        {"secret": SECRET + "!"},
        {"secret": KEY.hex()},
        {"secret": [SECRET]},
        {"headers": {"Host": TOKEN}},
        {"headers": {TOKEN + ":": "x"}},
        {"headers": {"X-Key": f"{TOKEN}\n"}},
        {"headers": {"X-Key": [TOKEN]}},
        {"headers": f"X-Key: {TOKEN}"},
        {"headers": HEADERS, "address": "http://10.1.2.3/"},
    ],
)
def test_what_is_refused_is_not_repeated(bad, logged):
    user = factories.User()
    with pytest.raises(tk.ValidationError) as error:
        call(user, "webhook_create", **{"topic": "*", "address": ADDRESS, **bad})
    said = f"{error.value} {error.value.error_dict} {error.value.error_summary}"
    if not (isinstance(bad.get("headers"), dict) and TOKEN + ":" in bad["headers"]):
        assert found_in(said) == set()
    assert [line for line in logged if found_in(line)] == []


def test_others_get_none_of_it():
    user, stranger = factories.User(), factories.User()
    hook = create(user, secret=SECRET, headers=HEADERS)
    for caller, refusal in ((stranger, tk.ObjectNotFound), (None, tk.NotAuthorized)):
        for name in ("webhook_secret_show", "webhook_secret_rotate"):
            with pytest.raises(refusal) as error:
                call(caller, name, id=hook)
            assert found_in(str(error.value)) == set()
