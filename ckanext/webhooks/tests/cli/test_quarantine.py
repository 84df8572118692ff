"""What is put aside, by who has the command line."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete
from sqlalchemy.exc import OperationalError

from ...cli import completion, webhooks
from ...model import Kind
from ..aside import put_aside, waiting
from ..callers import stored

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture
def number():
    return put_aside(Kind.EVENT, "e1", dataset_id="d1")


class TestList:
    def test_each_is_a_line(self, run, number):
        put_aside(Kind.RIGHTS, "u1 d2", dataset_id="d2", user_id="u1")
        head, event, rights = run("quarantine", "list").stdout.splitlines()
        names = ("ID", "KIND", "OF", "DATASET", "SINCE", "TRIES", "NEXT", "TRY", "REASON")
        assert tuple(head.split()) == names
        assert event.split()[:4] == [str(number), "event", "e1", "d1"]
        assert rights.split()[1:4] == ["rights", "u1", "d2"]
        assert event.endswith("  ValueError: as planted")

    def test_a_program_gets_what_the_action_gives(self, run_json, number):
        put_aside(Kind.EVENT, "e2")
        (found,) = run_json("quarantine", "list", "--limit", 1)
        assert (found["id"], found["kind"], found["event_id"]) == (number, "event", "e1")


class TestRetry:
    def test_one_is_due_and_not_tried_yet(self, run, number):
        put_aside(Kind.EVENT, "e2")
        said = run("quarantine", "retry", number).stdout
        assert said.startswith("1 due now") and "in a moment" in said
        assert len(stored("webhooks_quarantine")) == 2

    def test_all_are(self, run_json, number):
        put_aside(Kind.EVENT, "e2")
        assert run_json("quarantine", "retry", "--all") == {"due": 2}

    @pytest.mark.parametrize("words", [(), ("1", "--all")], ids=["neither", "both"])
    def test_which_has_to_be_said(self, refused, words):
        assert "by its ID, or all of it by --all" in refused("quarantine", "retry", *words, code=2)

    def test_what_is_not_put_aside_is_refused(self, refused):
        said = refused("quarantine", "retry", 7)
        assert said.startswith("id: Nothing is put aside under the number 7")


class TestGiveUp:
    def test_its_number_is_printed(self, run, number):
        assert run("quarantine", "give-up", number).stdout == f"{number}\n"
        assert stored("webhooks_quarantine") == []

    def test_a_program_gets_a_document(self, run_json, number):
        assert run_json("quarantine", "give-up", number) == {"id": number}

    def test_which_has_to_be_said(self, refused, number):
        refused("quarantine", "give-up", code=2)
        assert len(waiting()) == 1


class TestCompletion:
    @pytest.fixture
    def offered(self):
        shell = ShellComplete(webhooks, {}, "webhooks", "_COMPLETE")

        def offer(*words: str) -> list[tuple[str, str | None]]:
            return [(c.value, c.help) for c in shell.get_completions(list(words[:-1]), words[-1])]

        return offer

    @pytest.mark.parametrize("command", ["retry", "give-up"])
    def test_the_numbers_that_begin_so_are_offered(self, offered, number, command):
        put_aside(Kind.WEBHOOK, "deleted")
        assert offered("quarantine", command, str(number)[0]) == [(str(number), "event e1")]
        assert offered("quarantine", command, "x") == []

    def test_without_the_tables_nothing_is_offered(self, offered, monkeypatch):
        def away(_connection):
            raise OperationalError("", {}, Exception())

        monkeypatch.setattr(completion.quarantine, "waiting", away)
        assert offered("quarantine", "retry", "") == []
