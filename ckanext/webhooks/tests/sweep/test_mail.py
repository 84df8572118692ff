"""Mails to owners, as CKAN's mailer sent them to a server that takes them."""

from __future__ import annotations

import logging
import threading

import pytest
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ... import sweep, tasks
from ...model import transaction
from ...sweep import mail as sweep_mail
from ..callers import call, create, execute, stored
from ..mailbox import Mailbox

pytestmark = [
    pytest.mark.usefixtures("webhooks_db"),
    pytest.mark.ckan_config("smtp.mail_from", "webhooks@data.example.org"),
    pytest.mark.ckan_config("ckan.site_title", "Data über alles"),
    pytest.mark.ckan_config("ckan.site_url", "https://data.example.org"),
]


@pytest.fixture
def mailbox(ckan_config, monkeypatch):
    with Mailbox() as started:
        monkeypatch.setitem(ckan_config, "smtp.server", started.server)
        yield started


def failing(hook: str, hours: float, status: int | None = 503, error: str | None = None) -> None:
    """Have an endpoint fail since so many hours, as the worker notes it."""
    execute(
        "UPDATE webhooks SET circuit = 'open', failures = 9, last_failure_at = clock_timestamp(),"
        " failing_since = clock_timestamp() - :hours * interval '1 hour' WHERE id = :id",
        id=hook,
        hours=hours,
    )
    execute(
        "WITH d AS (INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address,"
        " format, tries, due_at) VALUES (:id, 'e', 'dataset/update', 1, 'x', 'classic', 1, NULL)"
        " RETURNING id) INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration,"
        " http_status, error) SELECT id, 1, clock_timestamp(), 0.1, :status, :error FROM d",
        id=hook,
        status=status,
        error=error,
    )


def works(hook: str) -> None:
    execute(
        "UPDATE webhooks SET circuit = 'closed', failures = 0, failing_since = NULL,"
        " last_success_at = clock_timestamp() WHERE id = :id",
        id=hook,
    )


def given_up(hook: str) -> None:
    execute(
        "UPDATE webhooks SET state = 'disabled', state_reason = 'it failed for 5 days',"
        " missed_since = '2026-11-20 07:30+00' WHERE id = :id",
        id=hook,
    )


def mailed(hook: str) -> str | None:
    return next(row.mailed for row in stored() if row.id == hook)


def body(mail) -> str:
    return mail.get_content()


def test_the_four_mails_one_each_per_incident(mailbox):
    user = factories.User(email="ann@example.org", fullname="Ann Önder")
    hook = create(user, address="https://example.com/callback?channel=1", description="Chat")
    fine = create(user)

    def told(times: int = 2) -> list[str]:
        """Sweep more than once; what is due is told once."""
        before = len(mailbox.mails)
        for _ in range(times):
            sweep.tell_owners()
        return [mail["Subject"] for mail in mailbox.mails[before:]]

    assert told() == []
    failing(hook, hours=0.01)
    assert told() == [], "a blip"
    failing(hook, hours=2)
    assert told() == ["[Data über alles] A webhook is failing"]
    failing(hook, hours=95.9)
    assert told() == []
    failing(hook, hours=96, status=None, error="connection refused")
    assert told() == ["[Data über alles] A webhook will be disabled"]
    works(hook)
    assert told() == ["[Data über alles] A webhook works again"]
    assert mailed(hook) is None

    # Another incident is told again.
    failing(hook, hours=2)
    assert told() == ["[Data über alles] A webhook is failing"]
    given_up(hook)
    assert told() == ["[Data über alles] A webhook has been disabled"]
    call(user, "webhook_patch", id=hook, state="active")
    assert told() == [], "a person enabled it, and knows"
    failing(hook, hours=2)
    assert told() == ["[Data über alles] A webhook is failing"]
    call(user, "webhook_patch", id=hook, state="disabled")
    assert told() == [], "a person disabled it, and knows"
    assert mailed(fine) is None

    first, warning, recovered, _again, disabled, _third = mailbox.mails
    for mail in mailbox.mails:
        assert mail["To"].addresses[0].addr_spec == "ann@example.org"
        assert mail["From"].addresses[0].addr_spec == "webhooks@data.example.org"
        text = body(mail)
        assert text.startswith("Dear Ann Önder,\n\n")
        for said in ("https://example.com/callback?channel=1", hook, "Chat"):
            assert said in text
        assert "Data über alles\nhttps://data.example.org\n" in text
        assert f'webhook_show(id="{hook}")' in text
    for mail in (first, warning):
        assert "failing since: 20" in body(mail) and " UTC" in body(mail)
        assert f'webhook_ping(id="{hook}")' in body(mail)
        assert f'webhook_patch(id="{hook}", address="…")' in body(mail)
    assert "last failure: HTTP 503" in body(first)
    assert "last failure: connection refused" in body(warning)
    assert "it failed for 5 days" in body(disabled)
    assert f'webhook_patch(id="{hook}", state="active")' in body(disabled)
    assert f'webhook_replay(id="{hook}", since="2026-11-20T07:30:00+00:00")' in body(disabled)
    # What waited was cancelled, and was told before that time.
    for mail in (disabled, recovered):
        assert f'webhook_replay(id="{hook}", failed_only=True)' in body(mail)


def test_when_it_will_be_disabled_is_said(mailbox):
    hook = create(factories.User())
    failing(hook, hours=2)
    (row,) = execute("SELECT failing_since + interval '5 days' AS until FROM webhooks")
    sweep.tell_owners()
    (mail,) = mailbox.mails
    assert f"{row.until.astimezone():%Y-%m-%d}"[:8] in body(mail)
    assert row.until.strftime("%H:%M UTC") in body(mail)


def test_two_sweepers_send_one_mail(mailbox):
    user = factories.User()
    hooks = [create(user) for _ in range(5)]
    for hook in hooks:
        failing(hook, hours=2)
    start = threading.Barrier(2)

    def tell() -> None:
        start.wait()
        sweep.tell_owners()

    threads = [threading.Thread(target=tell) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sweep.tell_owners()  # what one skipped while the other held it
    named = [hook for mail in mailbox.mails for hook in hooks if hook in body(mail)]
    assert sorted(named) == sorted(hooks)


def test_a_webhook_that_is_being_settled_waits_for_the_next_sweep(mailbox):
    hook = create(factories.User())
    failing(hook, hours=2)
    with transaction() as connection:
        connection.exec_driver_sql("SELECT FROM webhooks FOR NO KEY UPDATE")
        assert sweep.tell_owners() == 0
    assert sweep.tell_owners() == 1


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger=sweep_mail.__name__)
    return lambda: [r.getMessage() for r in caplog.records if r.name == sweep_mail.__name__]


def test_a_mail_that_was_not_taken_is_tried_again(mailbox, logged):
    hook = create(factories.User())
    failing(hook, hours=2)
    mailbox.refuse = lambda recipient: "451 later"
    assert sweep.tell_owners() == 0
    assert mailed(hook) is None
    (message,) = logged()
    assert hook in message and "smtp.*" in message and "tried again" in message
    mailbox.refuse = lambda recipient: None
    assert sweep.tell_owners() == 1
    assert (len(mailbox.mails), mailed(hook)) == (1, "failing")
    # Also the one that ends the incident.
    works(hook)
    mailbox.refuse = lambda recipient: "451 later"
    assert sweep.tell_owners() == 0
    mailbox.refuse = lambda recipient: None
    assert sweep.tell_owners() == 1
    assert mailbox.mails[-1]["Subject"].endswith("A webhook works again")


def test_an_address_that_is_refused_for_good_is_not_tried_again_and_keeps_nobody_waiting(
    mailbox, logged
):
    gone, there = (
        factories.User(email="gone@example.org"),
        factories.User(email="there@example.org"),
    )
    hooks = {create(gone), create(there)}
    for hook in hooks:
        failing(hook, hours=2)
    mailbox.refuse = lambda recipient: "550 no such user" if "gone" in recipient else None
    assert sweep.tell_owners() == 1
    assert sweep.tell_owners() == 0
    (message,) = logged()
    assert gone["id"] in message and "Correct the address" in message


def test_a_mail_that_cannot_be_written_keeps_no_other_waiting(mailbox, logged, monkeypatch):
    odd, other = (create(factories.User(), topic="*") for _ in range(2))
    for hook in (odd, other):
        failing(hook, hours=2)
    right = sweep_mail.text.write
    broken, written = {odd}, []

    def write(mail, facts):
        written.append(facts.webhook_id)
        return 1 / 0 if facts.webhook_id in broken else right(mail, facts)

    monkeypatch.setattr(sweep_mail.text, "write", write)
    assert sweep.tell_owners() == 1
    assert sorted(written) == sorted([odd, other])
    assert "ZeroDivisionError" in str(logged())
    broken.clear()
    assert sweep.tell_owners() == 1, "it is written a minute later"


def test_without_a_mail_server_one_line_a_sweep_says_so(ckan_config, monkeypatch, logged):
    with Mailbox() as mailbox:
        monkeypatch.setitem(ckan_config, "smtp.server", mailbox.server)
    hooks = [create(factories.User()) for _ in range(3)]
    for hook in hooks:
        failing(hook, hours=2)
    assert sweep.tell_owners() == 0
    assert len(logged()) == 1
    assert [mailed(hook) for hook in hooks] == [None] * 3


def test_without_a_sender_one_line_a_sweep_says_so(ckan_config, monkeypatch, logged):
    monkeypatch.setitem(ckan_config, "smtp.mail_from", None)
    for _ in range(2):
        failing(create(factories.User()), hours=2)
    assert sweep.tell_owners() == 0
    (line,) = logged()
    assert "2 mails to owners of webhooks are not sent: smtp.mail_from is not set" in line


def test_an_owner_without_an_address_and_a_deleted_one_get_none(mailbox, logged):
    nowhere, deleted = factories.User(), factories.User()
    hooks = [create(nowhere), create(deleted)]
    for hook in hooks:
        failing(hook, hours=2)
    execute('UPDATE "user" SET email = NULL WHERE id = :id', id=nowhere["id"])
    call_action("user_delete", id=deleted["id"])
    for _ in range(2):
        assert sweep.tell_owners() == 0
    messages = sorted(logged(), key=lambda text: hooks[0] not in text)
    assert len(messages) == 2, "once each"
    assert "has no address" in messages[0] and "is deleted" in messages[1]
    assert mailbox.mails == []


def test_a_mail_says_of_a_name_that_it_is_refused_and_not_where_it_led(mailbox):
    refusal = "10.1.2.3 is not a public address (private), and the name leads to it; the portal's"
    failing(create(factories.User()), hours=1, status=None, error=f"address refused: {refusal} …")
    sweep.tell_owners()
    (mail,) = mailbox.mails
    said = " ".join(mail.get_content().split())
    assert "the name leads to an address that is not public" in said
    assert "10.1.2.3" not in said and "private" not in said


def test_mails_name_no_secret(mailbox):
    user = factories.User()
    hook = create(user, headers={"Authorization": "Bearer geheim"})
    secret = call(user, "webhook_secret_show", id=hook)["secret"]
    failing(hook, hours=2)
    sweep.tell_owners()
    (mail,) = mailbox.mails
    for kept in ("geheim", "Authorization", "whsec_", secret):
        assert kept not in mail.as_string() and kept not in body(mail)


def test_a_worker_sends_them_beside_its_work(mailbox, app, monkeypatch):
    """In a request's context, without which CKAN translates nothing."""
    monkeypatch.setattr(tasks, "SWEEP_EVERY", 0.05)
    failing(create(factories.User()), hours=2)
    tasks.stopping.clear()
    telling = threading.Thread(
        target=tasks.keep_told, args=(app.flask_app.test_request_context,), daemon=True
    )
    telling.start()
    try:
        mailbox.wait(1)
    finally:
        tasks.stopping.set()
        telling.join()
        tasks.stopping.clear()
    assert mailbox.mails[0]["Subject"].endswith("A webhook is failing")
