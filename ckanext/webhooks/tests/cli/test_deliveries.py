"""Deliveries, looked at and made again by who has the command line."""

from __future__ import annotations

import pytest
from ckan.tests import factories

from ... import config, tasks
from ...dispatch import replay
from ...logic import ping
from ..callers import call, create, execute, stored
from ..logic.test_ping import a_worker

pytestmark = pytest.mark.usefixtures("webhooks_db")

NOWHERE = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def hook(receiver):
    return create(factories.User(), address=receiver.url)


def tell(hook: str, count: int = 1) -> list[int]:
    """Have a webhook told of so many datasets; gives the ids of the deliveries."""
    for _ in range(count):
        factories.Dataset()
    tasks.work_once()
    return [row.id for row in stored("webhooks_delivery") if row.webhook_id == hook]


class TestPing:
    def test_an_endpoint_that_answers_is_good(self, run, hook):
        with a_worker():
            result = run("ping", hook)
        assert result.exit_code == 0, result.stderr
        first, dialled, answer = result.stdout.splitlines()
        assert first.startswith("good HTTP 200, after 0.")
        assert dialled.startswith("     dialled: 127.0.0.1")
        assert answer == "     answer: thanks"

    def test_one_that_does_not_is_a_failure_and_what_it_says_is_only_shown(
        self, run, hook, receiver
    ):
        receiver.respond = lambda request: (500, {}, b"\x1b[31mbroken")
        with a_worker():
            result = run("ping", hook)
        assert result.exit_code == 1
        assert result.stdout.startswith("bad  HTTP 500, after 0.")
        assert "answer: \\x1b[31mbroken" in result.stdout

    def test_for_programs_a_failure_is_a_document_too(self, run, hook, receiver):
        receiver.respond = lambda request: (302, {"Location": "/"}, b"")
        with a_worker():
            result = run("ping", hook, "--json")
        assert result.exit_code == 1
        assert '"http_status": 302' in result.stdout

    def test_without_a_worker_it_fails(self, refused, hook, monkeypatch):
        monkeypatch.setattr(config, "timeout", lambda: 0.0)
        monkeypatch.setattr(ping, "_TAKEN_WITHIN", 0.1)
        assert refused("ping", hook).startswith("id: No worker took it: is one running?")


class TestDeliveries:
    def test_they_are_listed_the_newest_first(self, run, hook, receiver):
        receiver.respond = lambda request: (410, {}, b"gone")
        (id_,) = tell(hook)
        head, line = run("deliveries", hook).stdout.splitlines()
        assert head.split() == [
            "ID",
            "CREATED",
            "TOPIC",
            "STATUS",
            "TRIES",
            "NEXT",
            "TRY",
            "REASON",
        ]
        assert line.split()[:1] == [str(id_)]
        assert line.split()[3:6] == ["dataset/create", "failed", "1"]
        assert "410" in line

    def test_for_programs_it_is_what_the_action_gives(self, run_json, hook):
        tell(hook, 3)
        owner = {"name": owner_of(hook)}
        assert run_json("deliveries", hook) == call(owner, "webhook_delivery_list", id=hook)

    def test_what_is_older_is_had_by_the_cursor(self, run, run_json, hook):
        *_, newest = ids = tell(hook, 3)
        result = run("deliveries", hook, "--limit", 1)
        assert result.stderr == f"There may be older ones: --cursor {newest}\n"
        older = run_json("deliveries", hook, "--cursor", newest)
        assert [d["id"] for d in older["deliveries"]] == ids[-2::-1]

    def test_they_can_be_chosen(self, run_json, hook):
        tell(hook)

        def count(*words):
            return len(run_json("deliveries", hook, *words)["deliveries"])

        assert count("--status", "delivered", "--topic", "dataset/*", "--since", "2020-01-01") == 1
        assert count("--status", "failed") == 0
        assert count("--topic", "ping") == 0
        assert count("--until", "2020-01-01") == 0

    def test_what_was_not_understood(self, refused, hook):
        assert "'lost' is not one of" in refused("deliveries", hook, "--status", "lost", code=2)
        assert refused("deliveries", hook, "--since", "soon").startswith("since: ")
        assert refused("deliveries", NOWHERE) == f"id: There is no webhook {NOWHERE}\n"


def owner_of(hook: str) -> str:
    [(name,)] = execute(
        'SELECT u.name FROM webhooks w JOIN "user" u ON u.id = w.user_id WHERE w.id = :id', id=hook
    )
    return str(name)


class TestRedeliver:
    def test_it_prints_the_id_of_the_new_one(self, run, run_json, hook, receiver):
        (id_,) = tell(hook)
        result = run("redeliver", id_)
        assert (result.exit_code, int(result.stdout) > id_) == (0, True)
        tasks.work_once()
        first, second = receiver.requests
        assert first.id == second.id
        assert run_json("redeliver", id_)["id"] > int(result.stdout)

    def test_what_cannot_be_made_again(self, refused):
        assert refused("redeliver", 4711) == "id: There is no delivery 4711\n"
        assert "is not a valid integer" in refused("redeliver", "one", code=2)


class TestReplay:
    def test_all_since_a_time_is_told_page_by_page(self, run, run_json, hook, monkeypatch):
        tell(hook, 5)
        monkeypatch.setattr(replay, "MOST", 2)
        result = run("replay", hook, "--since", "2020-01-01")
        assert (result.exit_code, result.stdout) == (0, "5 deliveries are to be sent\n")
        assert run_json("replay", hook, "--since", "2020-01-01") == {"deliveries": 0}

    def test_how_many_it_would_be_is_said_without_a_replay(self, run, run_json, hook):
        tell(hook, 3)
        before = stored("webhooks_delivery")
        result = run("replay", hook, "--since", "2020-01-01", "--dry-run")
        assert (result.exit_code, result.stdout) == (0, "3 deliveries would be sent\n")
        dry = run_json("replay", hook, "--since", "2020-01-01", "--dry-run")
        assert dry == {"deliveries": 3}
        assert stored("webhooks_delivery") == before

    @pytest.mark.parametrize(
        ("words", "answer", "is_asked", "is_sent"),
        [([], "y", True, True), ([], "n", True, False), (["--yes"], "", False, True)],
        ids=["yes", "no", "not asked"],
    )
    def test_at_a_terminal_it_says_how_many_and_asks(
        self, run, hook, at_a_terminal, words, answer, is_asked, is_sent
    ):
        tell(hook, 3)
        at_a_terminal(answer)
        result = run("replay", hook, "--since", "2020-01-01", *words)
        assert ("3 deliveries would be sent. Send them?" in result.stderr) == is_asked
        assert result.exit_code == (0 if is_sent else 1)
        assert ("3 deliveries are to be sent" in result.stdout) == is_sent
        assert len(stored("webhooks_delivery")) == (6 if is_sent else 3)

    def test_only_what_failed(self, run_json, hook, receiver):
        tell(hook)
        receiver.respond = lambda request: (410, {}, b"gone")
        tell(hook)
        execute("UPDATE webhooks SET state = 'active'")
        assert run_json("replay", hook, "--failed-only") == {"deliveries": 1}

    def test_what_was_not_understood(self, refused, hook):
        assert refused("replay", hook).startswith("since: Missing value")
        assert refused("replay", hook, "--since", "soon").startswith("since: ")
        assert refused("replay", NOWHERE) == f"id: There is no webhook {NOWHERE}\n"


class TestStats:
    def test_of_one_and_of_all(self, run, run_json, hook):
        tell(hook, 2)
        owner = {"name": owner_of(hook)}
        found = run_json("stats", hook)
        assert {**found, "since": None} == {
            **call(owner, "webhook_stats", id=hook),
            "since": None,
        }
        assert (found["delivered"], found["success_rate"]) == (2, 1.0)
        assert run_json("stats", "--hours", 1)["delivered"] == 2
        printed = run("stats").stdout
        facts = dict(line.rsplit(None, 1) for line in printed.splitlines())
        assert facts["delivered"] == "2" and facts["waiting due"] == "0"
        assert float(facts["latency p50"]) < 60

    def test_what_was_not_understood(self, refused):
        assert refused("stats", NOWHERE) == f"id: There is no webhook {NOWHERE}\n"
        assert refused("stats", "--hours", 0).startswith("hours: ")
