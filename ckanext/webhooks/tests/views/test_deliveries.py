"""One webhook with what it was told; one delivery; and telling it again."""

from __future__ import annotations

import html
import json
import re

import pytest
from ckan.tests import factories

from ... import config
from ...dispatch import replay
from ...logic import ping
from ...views import deliveries as pages
from ..callers import call, create, days_pass, execute, stored
from ..logic.test_deliveries import ENDED, end, tell, write
from ..logic.test_ping import a_worker

pytestmark = pytest.mark.usefixtures("webhooks_db")

HOSTILE = "</pre><script>alert('x')</script>"


@pytest.fixture
def hook(user):
    return create(user)


def newest(topic: str = "dataset/create") -> int:
    return max(row.id for row in stored("webhooks_delivery") if row.topic == topic)


class TestRead:
    def test_it_says_how_the_endpoint_does_and_what_comes_next(self, owner, hook):
        assert "Nothing was delivered so far" in owner.get(f"/webhook/{hook}").body
        execute(
            "UPDATE webhooks SET failing_since = '2026-11-24 18:27:56+00', failures = 7,"
            " circuit = 'open', next_at = '2026-11-25 18:27:56+00',"
            " last_failure_at = '2026-11-25 18:22:56+00'"
        )
        page = owner.get(f"/webhook/{hook}").body
        assert "failing since 2026-11-24 18:27:56 UTC, 7 times in a row" in page
        assert "next try 2026-11-25 18:27:56 UTC" in page

    def test_deliveries_are_filtered(self, owner, hook):
        (old,) = write(hook, topic="'resource/create'", **ENDED)
        execute("UPDATE webhooks_delivery SET created_at = created_at - interval '3 days'")
        (new,) = write(hook, **{**ENDED, "status": "'failed'", "reason": "'it answered 500'"})

        def listed(**wanted) -> list[int]:
            page = owner.get(f"/webhook/{hook}", **wanted).body
            return [n for n in (new, old) if f'/webhook/delivery/{n}"' in page]

        assert listed() == [new, old]
        assert listed(status="failed") == listed(topic="dataset/update") == [new]
        assert listed(topic="resource/create", status="") == [old]
        yesterday = execute("SELECT to_char(now() - interval '1 day', 'YYYY-MM-DD\"T\"HH24:MI')")
        assert listed(since=yesterday[0][0]) == [new] and listed(until=yesterday[0][0]) == [old]
        assert "it answered 500" in owner.get(f"/webhook/{hook}").body

    def test_pages_keep_the_filter(self, owner, hook):
        ids = write(hook, 30, **ENDED)
        page = owner.get(f"/webhook/{hook}", status="delivered").body
        assert f"cursor={ids[5]}" in page and "status=delivered" in page
        assert f'/webhook/delivery/{ids[5]}"' in page and f'/webhook/delivery/{ids[4]}"' not in page
        page = owner.get(f"/webhook/{hook}", status="delivered", cursor=ids[5]).body
        assert f'/webhook/delivery/{ids[4]}"' in page and "Newest" in page and "Older" not in page

    @pytest.mark.parametrize(
        "nonsense",
        [
            {"cursor": "x"},
            {"cursor": "-1"},
            {"cursor": "9" * 40},
            {"status": "odd"},
            {"since": "soon"},
        ],
    )
    def test_nonsense_is_said_at_its_field(self, owner, hook, nonsense):
        page = owner.get(f"/webhook/{hook}", **nonsense).body
        assert f'id="error-{next(iter(nonsense))}"' in page


class TestPing:
    def test_what_came_of_it_is_shown(self, owner, user, receiver):
        hook = create(user, address=receiver.url)
        with a_worker():
            page = owner.submit(f"/webhook/{hook}/ping").body
        assert "The endpoint answered" in page and "thanks" in page and "answer 200" in page

    def test_an_endpoint_that_fails_is_no_success(self, owner, user, receiver):
        hook = create(user, address=receiver.url)
        receiver.respond = lambda request: (500, {}, HOSTILE.encode())
        with a_worker():
            page = owner.submit(f"/webhook/{hook}/ping").body
        assert "The test did not succeed" in page and "answer 500" in page
        assert "<script>alert" not in page and "&lt;script&gt;" in page

    def test_without_a_worker_it_says_so(self, owner, hook, monkeypatch):
        monkeypatch.setattr(config, "timeout", lambda: 0.0)
        monkeypatch.setattr(ping, "_TAKEN_WITHIN", 0.1)
        assert "No worker took it" in owner.submit(f"/webhook/{hook}/ping").body


class TestDelivery:
    def test_its_request_and_attempts_are_shown(self, owner, user):
        create(user, headers={"X-Key": "the-value"})
        factories.Dataset(name="air", title=HOSTILE)
        tell()
        end(answer=HOSTILE)
        execute("UPDATE webhooks_attempt SET connect = 0.05, wait = 0.1, dialled = '192.0.43.8'")
        number = newest()
        page = owner.get(f"/webhook/delivery/{number}").body
        assert "<script>alert" not in page and "&lt;script&gt;" in page
        assert "250 ms" in page and "connect 50 ms" in page and "192.0.43.8" in page
        assert "X-Key" in page and "the-value" not in page and "***" in page

    def test_its_body_is_a_file_of_the_bytes_that_are_sent(self, owner, user):
        hook = create(user)
        factories.Dataset(name="air")
        tell()
        shown = call(user, "webhook_delivery_show", id=newest())
        answer = owner.get(f"/webhook/delivery/{newest()}/body")
        assert (
            answer.body == shown["request"]["body"]
            and json.loads(answer.body)["webhook_id"] == hook
        )
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.headers["Content-Disposition"].startswith("attachment")

    def test_what_may_not_be_seen_any_more_is_not(self, owner, user):
        create(user)
        dataset = factories.Dataset(title="for a day")
        tell()
        end(answer="for a day")
        call(factories.Sysadmin(), "package_patch", id=dataset["id"], state="draft")
        page = owner.get(f"/webhook/delivery/{newest()}").body
        assert "for a day" not in page and "purged since" in page
        owner.get(f"/webhook/delivery/{newest()}/body", 404)

    def test_that_of_a_webhook_which_was_deleted_is_a_sysadmin_s(self, owner, sysadmin, hook):
        (number,) = write(hook, **ENDED)
        owner.submit(f"/webhook/{hook}/delete")
        owner.get(f"/webhook/delivery/{number}", 404)
        assert "Redeliver" not in sysadmin.get(f"/webhook/delivery/{number}").body

    def test_others_see_and_repeat_none(self, visit, sysadmin, hook):
        (number,) = write(hook, **ENDED)
        other = visit(factories.User())
        before = stored("webhooks_delivery")
        for some, status in ((other, 404), (visit(), 302)):
            some.get(f"/webhook/delivery/{number}", status)
            some.get(f"/webhook/delivery/{number}/body", status)
            some.post(f"/webhook/delivery/{number}/redeliver", status)
        other.get("/webhook/delivery/999999999", 404)
        sysadmin.get("/webhook/delivery/999999999", 404)
        sysadmin.get(f"/webhook/delivery/{'9' * 40}", 404)
        assert stored("webhooks_delivery") == before

    def test_it_is_told_again(self, owner, user):
        create(user)
        factories.Dataset()
        tell()
        end()
        page = owner.submit(f"/webhook/delivery/{newest()}/redeliver").body
        assert "this is the new delivery" in page
        pending = [row.id for row in stored("webhooks_delivery") if row.status == "pending"]
        assert len(pending) == 1 and f"Delivery {pending[0]}" in page
        # One that has not ended is not.
        page = owner.submit(f"/webhook/delivery/{pending[0]}/redeliver").body
        assert "still to be sent" in page


def counted_in(page: str) -> str:
    (counted,) = re.findall('name="counted" value="([^"]+)"', page)
    return counted


def since_in(page: str) -> str:
    (since,) = re.findall('name="since" value="([^"]*)"', page)
    return html.unescape(since)


class TestReplay:
    def test_what_happened_is_told_again(self, owner, user, hook):
        factories.Dataset()
        tell()
        end()
        counted = owner.post(f"/webhook/{hook}/replay", 200, since="2020-01-01T00:00").body
        assert "1 delivery would be sent again." in counted
        assert [row.status for row in stored("webhooks_delivery")] == ["delivered"]
        page = owner.submit(
            f"/webhook/{hook}/replay", since="2020-01-01T00:00", counted=counted_in(counted)
        ).body
        assert "1 delivery is to be sent again" in page
        assert [row.status for row in stored("webhooks_delivery")] == ["delivered", "pending"]

    def test_what_is_asked_for_after_it_was_counted_is_counted_anew(self, owner, hook):
        factories.Dataset()
        tell()
        end()
        path = f"/webhook/{hook}/replay"
        counted = counted_in(owner.post(path, 200, since="2999-01-01").body)
        page = owner.post(path, 200, since="2020-01-01", counted=counted).body
        assert "1 delivery would be sent again." in page
        assert [row.status for row in stored("webhooks_delivery")] == ["delivered"]

    def test_a_long_one_goes_on_when_it_is_asked_to(self, owner, hook, monkeypatch):
        monkeypatch.setattr(replay, "MOST", 1)
        for _ in range(3):
            factories.Dataset()
        tell()
        end()
        monkeypatch.setattr(pages, "_REPLAYS_FOR", -1.0)
        page = owner.post(f"/webhook/{hook}/replay", 200, since="2020-01-01").body
        assert "At least 1 delivery would be sent again." in page
        asked = {"since": "2020-01-01", "counted": counted_in(page)}
        page = owner.post(f"/webhook/{hook}/replay", 200, **asked).body
        assert "1 delivery is to be sent again so far" in page and "Go on" in page
        (cursor,) = re.findall('name="cursor" value="([0-9]+)"', page)
        monkeypatch.setattr(pages, "_REPLAYS_FOR", 60.0)
        page = owner.submit(f"/webhook/{hook}/replay", cursor=cursor, **asked).body
        assert "2 deliveries are to be sent again" in page

    def test_the_time_that_stands_there_tells_what_waited_when_it_was_disabled(
        self, owner, user, hook
    ):
        path = f"/webhook/{hook}/replay"
        assert since_in(owner.get(path).body) == "", "it missed nothing"
        for _ in range(2):
            factories.Dataset()
        tell()
        days_pass(1)
        call(user, "webhook_patch", id=hook, state="disabled")
        days_pass(5)
        call(user, "webhook_patch", id=hook, state="active")
        since = since_in(owner.get(path).body)
        assert since == call(user, "webhook_show", id=hook)["health"]["missed_since"]
        assert "2 deliveries would be sent again." in owner.post(path, 200, since=since).body

    @pytest.mark.parametrize("since", ["soon", "", "2026-13-01"])
    def test_a_time_that_is_none_is_said_at_its_field(self, owner, hook, since):
        page = owner.post(f"/webhook/{hook}/replay", 200, since=since).body
        assert 'id="error-since"' in page

    def test_one_that_is_disabled_says_why(self, owner, user, hook):
        call(user, "webhook_patch", id=hook, state="disabled")
        page = owner.post(f"/webhook/{hook}/replay", 200, failed_only="true").body
        assert "not active" in page
