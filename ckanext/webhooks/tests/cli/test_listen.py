"""``listen``: a receiver that comes and goes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request

import click
import pytest
from ckan.tests import factories
from ckan.tests.helpers import changed_config
from sqlalchemy.exc import OperationalError

from ... import encryption, tasks
from ...cli import calling, listen
from ...deliver import signing
from ..callers import stored
from ..receiver import Receiver

SECRET = encryption.new_secret()
BODY = b'{"topic": "ping"}'


def signed(**changes: str) -> dict[str, str]:
    return {**signing.headers("event", 1795544876, BODY, [SECRET]), **changes}


class TestIsSigned:
    def test_what_was_signed_is_verified(self):
        assert listen.is_signed(signed(), BODY, SECRET)

    def test_while_a_secret_is_rotated_one_of_two_signatures_is_ours(self):
        headers = signing.headers("event", 1, BODY, [encryption.new_secret(), SECRET])
        assert listen.is_signed(headers, BODY, SECRET)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            signed(**{"webhook-id": "another"}),
            signed(**{"webhook-timestamp": "1795544877"}),
            signed(**{"webhook-timestamp": "soon"}),
            signed(**{"webhook-signature": ""}),
            signed(**{"webhook-signature": "v1,é"}),
            signing.headers("event", 1795544876, BODY, [encryption.new_secret()]),
        ],
    )
    def test_what_was_not_is_not(self, headers):
        assert not listen.is_signed(headers, BODY, SECRET)

    def test_another_body_is_not(self):
        assert not listen.is_signed(signed(), BODY + b" ", SECRET)


class TestLine:
    def said(self, is_signed=True, **event):
        return " ".join(click_free(listen.line(event, is_signed, "12:00:00")).split())

    def test_a_dataset(self):
        assert (
            self.said(topic="dataset/update", entity={"name": "air"}, changed=["title", "notes"])
            == "12:00:00 dataset/update verified air title, notes"
        )

    def test_a_resource_is_named_with_its_dataset(self):
        assert (
            self.said(
                topic="resource/create", entity={"name": "", "id": "r1"}, dataset={"name": "air"}
            )
            == "12:00:00 resource/create verified air: r1"
        )

    def test_a_ping_is_about_nothing(self):
        assert self.said(False, topic="ping", entity=None) == "12:00:00 ping not verified"

    def test_what_a_terminal_would_obey_is_shown(self):
        line = self.said(topic="dataset/create", entity={"name": "a\x1b[2J"})
        assert line == "12:00:00 dataset/create verified a\\x1b[2J"

    @pytest.mark.parametrize("event", [{}, {"topic": 1, "entity": "x", "dataset": []}])
    def test_what_is_no_event_is_no_error(self, event):
        assert self.said(**event).startswith("12:00:00")


def click_free(text: str) -> str:
    return click.unstyle(text)


def end_when(condition, number: int = signal.SIGINT) -> threading.Thread:
    """Send this process a signal once something is so; after a while, in any case."""

    def wait_and_end():
        deadline = time.monotonic() + 15
        try:
            while not condition() and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait_and_end)
    thread.start()
    return thread


@pytest.mark.usefixtures("webhooks_db")
class TestListen:
    @pytest.fixture
    def written(self, monkeypatch):
        """What was printed so far, while the command still runs."""
        found: list[str] = []
        right = listen.click.echo

        def echo(text, err=False):
            found.append(text)
            right(text, err=err)

        monkeypatch.setattr(listen.click, "echo", echo)
        return found

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_it_prints_what_is_told_and_its_webhook_goes(self, run, written, number):
        dataset = {}

        def condition():
            if not dataset and any("calls" in text for text in written):
                (row,) = stored()
                assert (row.topics, row.state) == (["dataset/*", "resource/create"], "active")
                dataset.update(factories.Dataset(resources=[{"url": "http://a.example/a.csv"}]))
            tasks.work_once()
            return sum("verified" in text for text in written) == 2

        ending = end_when(condition, number)
        result = run("listen", "--topic", "dataset/*", "--topic", "resource/create")
        ending.join()
        assert result.exit_code == 0, result.stderr
        lines = sorted(line.split()[1:] for line in result.stdout.splitlines())
        assert lines[0] == ["dataset/create", "verified", dataset["name"]]
        assert lines[1][:3] == ["resource/create", "verified", f"{dataset['name']}:"]
        assert stored() == []
        calls, deleted = result.stderr.splitlines()
        assert " calls http://127.0.0.1:" in calls and deleted.endswith(" is deleted.")

    def test_for_programs_it_prints_the_bodies(self, run, written):
        user = factories.User()
        dataset = {}

        def condition():
            if not dataset and any("calls" in text for text in written):
                factories.Dataset(owner_org=factories.Organization()["id"], private=True)
                dataset.update(factories.Dataset())
            tasks.work_once()
            return any(text.startswith("{") for text in written)

        ending = end_when(condition)
        result = run("listen", "--json", "--user", user["name"])
        ending.join()
        (line,) = result.stdout.splitlines()
        body = json.loads(line)
        assert (body["topic"], body["entity"]["id"]) == ("dataset/create", dataset["id"])
        assert body["user_ref"] == user["id"]

    def test_where_endpoints_are_verified_it_answers_the_challenge(self, run, written):
        def condition():
            if any("calls" in text for text in written):
                tasks.work_once()
                return any(row.state == "active" for row in stored())
            return False

        seen = []
        with changed_config("ckanext.webhooks.verify", True):
            ending = end_when(lambda: seen.append(condition()) or seen[-1])
            result = run("listen")
            ending.join()
        assert seen[-1] and "ping" in result.stdout

    def test_what_somebody_else_sends_is_not_verified_and_no_event_is_refused(self, run, written):
        statuses = []

        def condition():
            calls = [text for text in written if "calls" in text]
            if not calls:
                return False
            address = calls[0].split()[5]
            for body in (BODY, b"[1]", b"no"):
                try:
                    with urllib.request.urlopen(address, body) as answer:
                        statuses.append(answer.status)
                except urllib.error.HTTPError as error:
                    statuses.append(error.code)
            return True

        ending = end_when(condition)
        result = run("listen")
        ending.join()
        assert statuses == [200, 400, 400]
        assert result.stdout.split()[1:] == ["ping", "not", "verified"]

    def test_a_webhook_that_cannot_be_deleted_is_named(self, run, written, monkeypatch):
        def away(action, *args, **data):
            if action == "webhook_delete":
                raise OperationalError("DELETE", {}, Exception("away"))
            return calling.call(action, *args, **data)

        monkeypatch.setattr(listen, "call", away)
        ending = end_when(lambda: any("calls" in text for text in written))
        result = run("listen")
        ending.join()
        assert result.exit_code == 1
        assert "could not be deleted; `ckan webhooks list` has its id" in result.stderr

    def test_a_registration_that_fails_half_way_leaves_nothing(self, run, monkeypatch):
        def broken():
            assert len(stored()) == 1
            raise RuntimeError("planted")

        monkeypatch.setattr(listen, "_let_go", Once(broken))
        result = run("listen")
        assert result.exit_code == 1 and isinstance(result.exception, RuntimeError)
        assert stored() == []

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            ([], "    ckanext.webhooks.allowed_networks = 10.20.0.0/16 127.0.0.1/32"),
            (
                ["--port", "28123"],
                "    ckanext.webhooks.allowed_networks = 10.20.0.0/16 127.0.0.1:28123",
            ),
        ],
    )
    def test_where_it_may_not_be_called_it_says_what_to_set(self, refused, words, line):
        with changed_config("ckanext.webhooks.allowed_networks", ["10.20.0.0/16"]):
            said = refused("listen", *words)
        assert "Set in ckan.ini, and start the worker again:" in said
        assert said.splitlines()[-1] == line
        assert stored() == []

    def test_a_port_that_is_taken_is_named(self, refused):
        with Receiver() as other:
            port = other.url.rpartition(":")[2]
            assert f"Port {port} " in refused("listen", "--port", port)
        assert stored() == []

    def test_what_was_not_understood(self, refused):
        assert "is not one of" in refused("listen", "--topic", "dataset/created", code=2)
        assert "--port" in refused("listen", "--port", "70000", code=2)
        assert refused("listen", "--user", "nobody") == "user: There is no active user nobody\n"
        assert stored() == []


class Once:
    """Is called instead of a function the first time alone."""

    def __init__(self, first):
        self._first = first
        self._rest = listen._let_go
        self._called = False

    def __call__(self):
        called, self._called = self._called, True
        return self._rest() if called else self._first()
