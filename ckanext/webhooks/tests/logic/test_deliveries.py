"""What became of what was told."""

from __future__ import annotations

import json

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ... import tasks
from ...deliver.transport import resolving
from ...dispatch import dispatch
from ...logic import deliveries
from ..callers import ADDRESS, call, create, execute, join, leave, stored
from .times import FIRST_TIMES, LAST_TIMES, NO_YEARS

pytestmark = pytest.mark.usefixtures("webhooks_db")

ACTIONS = ("webhook_delivery_list", "webhook_ping")
OF_A_DELIVERY = ("webhook_delivery_show",)


@pytest.fixture
def hook(user):
    return create(user)


def write(hook: str, count: int = 1, **columns: str) -> list[int]:
    """Write deliveries of a webhook, all columns as SQL; gives their ids."""
    values = {
        "topic": "'dataset/update'",
        "event_id": "'no-' || n",
        "sequence": "n",
        "address": "'http://example.com/then'",
        "format": "'classic'",
        **columns,
    }
    names = ", ".join(values)
    rows = execute(
        f"INSERT INTO webhooks_delivery (webhook_id, {names})"
        f" SELECT :hook, {', '.join(values.values())} FROM generate_series(1, :count) n"
        " RETURNING id",
        hook=hook,
        count=count,
    )
    return [row.id for row in rows or ()]


ENDED = {"status": "'delivered'", "ended_at": "clock_timestamp()"}


def listed(user, hook: str, **data) -> list[int]:
    """Follow the cursor to the end, and give the ids."""
    ids, cursor = [], ""
    while cursor is not None:
        page = call(user, "webhook_delivery_list", id=hook, cursor=cursor, **data)
        ids += [d["id"] for d in page["deliveries"]]
        cursor = page["cursor"]
    return ids


def tell() -> None:
    while dispatch():
        pass


def end(answer: str = "thanks", status: str = "delivered") -> None:
    """End what is pending, as if it had been sent."""
    execute(
        "INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration, http_status, answer)"
        " SELECT id, 1, clock_timestamp(), 0.25, 200, :answer FROM webhooks_delivery"
        " WHERE status = 'pending'",
        answer=answer,
    )
    execute(
        "UPDATE webhooks_delivery SET status = :status, tries = 1, ended_at = clock_timestamp()"
        " WHERE status = 'pending'",
        status=status,
    )


def shown(user, topic: str = "dataset/create"):
    """Show the newest delivery with a topic."""
    id_ = max(row.id for row in stored("webhooks_delivery") if row.topic == topic)
    return call(user, "webhook_delivery_show", id=id_)


def newest() -> int:
    return int(stored("webhooks_delivery")[-1].id)


class TestList:
    def test_the_newest_are_first_whatever_became_of_them(self, user, hook):
        ids = write(hook, 2, **ENDED)
        ids += write(hook, 2, due_at="NULL")
        ids += write(hook, 2, due_at="clock_timestamp() + interval '1 hour'", tries="1")
        ids += write(hook, 2, **{**ENDED, "status": "'failed'"})
        write(create(user), 3)
        for limit in (1, 3, 8, 100):
            assert listed(user, hook, limit=limit) == ids[::-1]

    def test_each_says_what_became_of_it(self, user, hook):
        write(hook, reason="'the endpoint answered 500'", tries="1", coalesced="4")
        write(hook, due_at="NULL")
        write(hook, **ENDED)
        page = call(user, "webhook_delivery_list", id=hook)
        ended, held, waits = page["deliveries"]
        assert page["cursor"] is None
        assert (ended["status"], ended["next_try"]) == ("delivered", None) and ended["ended_at"]
        assert (held["status"], held["next_try"]) == ("pending", None)
        assert waits["next_try"] and waits["created_at"] and waits["ended_at"] is None
        assert {k: waits[k] for k in ("webhook_id", "event_id", "topic", "sequence", "tries")} == {
            "webhook_id": hook,
            "event_id": "no-1",
            "topic": "dataset/update",
            "sequence": 1,
            "tries": 1,
        }
        assert (waits["reason"], waits["coalesced"]) == ("the endpoint answered 500", 4)

    def test_some_can_be_chosen(self, user, hook):
        (delivered,) = write(hook, **ENDED)
        (failed,) = write(hook, **{**ENDED, "status": "'failed'"}, topic="'resource/create'")
        (pending,) = write(hook)
        (pinged,) = write(hook, **ENDED, topic="'ping'")
        for chosen, expected in (
            ({"status": "failed"}, [failed]),
            ({"status": "pending"}, [pending]),
            ({"status": "cancelled"}, []),
            ({"topic": "dataset/update"}, [pending, delivered]),
            ({"topic": "resource/*"}, [failed]),
            ({"topic": "*"}, [pending, failed, delivered]),
            ({"topic": "ping"}, [pinged]),
            ({"topic": "dataset/*", "status": "delivered"}, [delivered]),
        ):
            assert listed(user, hook, **chosen) == expected, chosen

    def test_a_time_can_be_chosen(self, user, hook):
        ids = write(hook, 30, created_at="timestamptz '2026-01-01Z' + n * interval '1 day'")
        times = {"since": "2026-01-11", "until": "2026-01-13T00:00:00Z"}
        assert listed(user, hook, **times) == [ids[10], ids[9]]
        assert listed(user, hook, since="2026-01-30T00:00:00+00:00") == [ids[29], ids[28]]
        assert listed(user, hook, until="2026-01-02 00:00:00.000001") == [ids[0]]
        assert listed(user, hook, since="2027-01-01") == []
        assert listed(user, hook, until="2025-01-01") == []

    @pytest.mark.parametrize("first", FIRST_TIMES)
    @pytest.mark.parametrize("last", LAST_TIMES)
    def test_times_at_the_ends_of_all_are_times(self, user, hook, first, last):
        written = write(hook, **ENDED)
        assert listed(user, hook, since=first, until=last) == written
        assert listed(user, hook, since=last) == listed(user, hook, until=first) == []

    def test_a_page_looks_at_so_many_and_goes_on(self, user, hook, monkeypatch):
        monkeypatch.setattr(deliveries, "_LOOKED_AT", 3)
        (failed,) = write(hook, **{**ENDED, "status": "'failed'"})
        write(hook, 7, **ENDED)
        page = call(user, "webhook_delivery_list", id=hook, status="failed")
        assert page["deliveries"] == [] and page["cursor"]
        assert listed(user, hook, status="failed") == [failed]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("status", "lost"),
            ("topic", "dataset/x"),
            ("since", "yesterday"),
            ("until", "2026-13-01"),
            *(("since", year) for year in NO_YEARS),
            *(("until", year) for year in NO_YEARS),
            ("since", 5),
            ("cursor", -1),
            ("cursor", 2**63),
            ("limit", 0),
            ("limit", 1001),
            ("sort", "id"),
        ],
    )
    def test_what_makes_no_sense_is_refused_with_the_reason(self, user, hook, field, value):
        with pytest.raises(tk.ValidationError) as error:
            call(user, "webhook_delivery_list", id=hook, **{field: value})
        assert list(error.value.error_dict) == [field]


class TestShow:
    def test_the_request_is_what_the_endpoint_received(self, user, receiver):
        create(user, address=receiver.url, topic="dataset/create", headers={"X-Key": "planted"})
        factories.Dataset(title="Flüsse")
        tasks.work_once()
        (received,) = receiver.requests
        answer = shown(user)
        request = answer["request"]
        assert (request["method"], request["url"]) == ("POST", receiver.url)
        assert request["body"].encode() == received.body
        assert request["body_note"] is None
        sent = {name.lower(): value for name, value in request["headers"].items()}
        assert sent.pop("x-key") == "***"
        assert "webhook-signature" not in sent
        assert sent == {name: received.headers[name] for name in sent}
        assert sent.keys() == received.headers.keys() - {
            "x-key",
            "webhook-signature",
            "host",
            "connection",
            "content-length",
        }
        assert "planted" not in json.dumps(answer)

    def test_each_attempt_is_there_with_its_times(self, user, receiver):
        create(user, address=receiver.url, topic="dataset/create")
        receiver.respond = lambda request: (503, {}, b"busy")
        factories.Dataset()
        tasks.work_once()
        answer = shown(user)
        assert answer["status"] == "pending" and answer["next_try"]
        (attempt,) = answer["attempts"]
        assert (attempt["number"], attempt["http_status"], attempt["answer"]) == (1, 503, "busy")
        assert attempt["dialled"] == "127.0.0.1" and attempt["error"] is None
        assert 0 < attempt["duration"] < 5 and attempt["sent_at"]
        assert {"resolve", "connect", "tls", "wait"} < attempt.keys()

    def test_what_was_hidden_since_is_not_shown(self, user, hook):
        organization = factories.Organization()
        dataset = factories.Dataset(owner_org=organization["id"], title="Before it was hidden")
        tell()
        end(answer="I got: Before it was hidden")
        assert "Before it was hidden" in shown(user)["request"]["body"]
        call_action("package_patch", id=dataset["id"], private=True)
        tell()
        for reader in (user, factories.Sysadmin()):
            answer = shown(reader)
            assert answer["request"]["body"] is None
            assert "may not see it any more" in answer["request"]["body_note"]
            assert "Before it was hidden" not in json.dumps(answer)
        taken_back = shown(user, "dataset/delete")
        assert dataset["id"] in taken_back["request"]["body"]
        assert taken_back["request"]["body_note"] is None

    def test_who_lost_the_right_is_not_shown_what_it_was_needed_for(self, user):
        organization = factories.Organization()
        join(organization, user)
        create(user)
        factories.Dataset(owner_org=organization["id"], private=True, title="Members only")
        tell()
        end(answer="Members only")
        assert "Members only" in shown(user)["request"]["body"]
        leave(organization, user)
        assert "Members only" not in json.dumps(shown(user))

    def test_what_was_replaced_while_its_owner_was_away_is_not_shown(self, user):
        """No worker ran in the meantime."""
        organization = factories.Organization()
        join(organization, user)
        create(user, topic="dataset/update")
        dataset = factories.Dataset(owner_org=organization["id"], private=True)
        tell()
        leave(organization, user)
        call_action("package_patch", id=dataset["id"], title="Secret")
        call_action("package_patch", id=dataset["id"], title="Mended")
        join(organization, user)
        tasks.work_once()
        bodies = [
            call(user, "webhook_delivery_show", id=row.id)["request"]["body"]
            for row in stored("webhooks_delivery")
        ]
        assert any("Mended" in body for body in bodies if body)
        assert not any("Secret" in body for body in bodies if body)

    def test_what_was_purged_is_not_shown(self, user, hook):
        dataset = factories.Dataset(title="To be purged")
        tell()
        call_action("package_delete", id=dataset["id"])
        tell()
        end(answer="To be purged")
        assert "To be purged" in shown(user, "dataset/delete")["request"]["body"]
        call_action("dataset_purge", id=dataset["id"])
        tell()
        created, deleted = shown(user), shown(user, "dataset/delete")
        assert created["request"]["body"] is None
        assert dataset["id"] in deleted["request"]["body"]
        assert deleted["request"]["body_note"]
        assert "To be purged" not in json.dumps([created, deleted])

    def test_what_left_the_log_or_is_nobody_s_has_no_body(self, user, hook):
        (id_,) = write(hook, **ENDED)
        answer = call(user, "webhook_delivery_show", id=id_)
        assert answer["request"]["body"] is None
        assert "log" in answer["request"]["body_note"]
        call(user, "webhook_delete", id=hook)
        with pytest.raises(tk.ObjectNotFound):
            call(user, "webhook_delivery_show", id=id_)
        answer = call(factories.Sysadmin(), "webhook_delivery_show", id=str(id_))
        assert answer["request"]["url"] == "http://example.com/then"
        assert "deleted" in answer["request"]["body_note"]

    def test_what_is_to_be_sent_goes_to_where_the_webhook_is_now(self, user, hook):
        (pending,), (ended,) = write(hook), write(hook, **ENDED)
        for id_, url in ((pending, ADDRESS), (ended, "http://example.com/then")):
            assert call(user, "webhook_delivery_show", id=id_)["request"]["url"] == url

    def test_a_challenge_is_for_who_can_read_what_the_endpoint_received(
        self, user, hook, monkeypatch
    ):
        execute("UPDATE webhooks SET challenge = 'planted'")
        write(hook, topic="'ping'", sequence="0")
        end(answer="404: planted")
        answer = shown(user, "ping")
        assert json.loads(answer["request"]["body"])["topic"] == "ping"
        assert "planted" not in json.dumps(answer)
        assert answer["attempts"][0]["answer"] == "404: ***"

    def test_an_address_that_a_name_led_to_is_for_sysadmins(self, user, monkeypatch):
        name = "inner.example.com"
        monkeypatch.setattr(resolving, "_look_up", lambda _host: ["10.1.2.3"])
        hook = create(user, address=f"http://{name}/", topic="dataset/create")
        factories.Dataset()
        tasks.work_once()
        for action in ("webhook_delivery_list", "webhook_delivery_show"):
            id_ = hook if action == "webhook_delivery_list" else newest()
            said = json.dumps(call(user, action, id=id_))
            assert "10.1.2.3" not in said and "(private)" not in said
            assert "the name leads to an address that is not public" in said
            said = json.dumps(call(factories.Sysadmin(), action, id=id_))
            assert "10.1.2.3 is not a public address (private)" in said

    @pytest.mark.parametrize(
        ("dialled", "is_shown"),
        [("192.0.43.8", True), ("10.1.2.3", False), ("10.9.8.7", True), ("\\", False)],
    )
    def test_where_a_name_led_is_shown_if_the_internet_knows_it(
        self, user, hook, dialled, is_shown
    ):
        execute("UPDATE webhooks SET address = 'http://10.9.8.7/'")
        (id_,) = write(hook)
        end()
        execute("UPDATE webhooks_attempt SET dialled = :ip", ip=dialled)
        for reader, expected in (
            (user, dialled if is_shown else None),
            (factories.Sysadmin(), dialled),
        ):
            (attempt,) = call(reader, "webhook_delivery_show", id=id_)["attempts"]
            assert attempt["dialled"] == expected

    @pytest.mark.parametrize("value", ["", None, "x", -1, 2**63, [1], {"a": 1}])
    def test_an_id_is_a_number(self, user, value):
        with pytest.raises(tk.ValidationError) as error:
            call(user, "webhook_delivery_show", id=value)
        assert list(error.value.error_dict) == ["id"]


def test_they_are_for_the_owner_and_sysadmins_alone(user, hook):
    (id_,) = write(hook, **ENDED)
    before = stored("webhooks_delivery")
    for caller, refusal in ((None, tk.NotAuthorized), (factories.User(), tk.ObjectNotFound)):
        for action in ACTIONS:
            with pytest.raises(refusal):
                call(caller, action, id=hook)
        for action in OF_A_DELIVERY:
            refusals = []
            for wanted in (id_, id_ + 1_000_000):
                with pytest.raises(refusal) as error:
                    call(caller, action, id=wanted)
                refusals.append(str(error.value).replace(str(wanted), "ID"))
            assert refusals[0] == refusals[1]
    sysadmin = factories.Sysadmin()
    assert call(sysadmin, "webhook_delivery_list", id=hook)["deliveries"]
    assert call(sysadmin, "webhook_delivery_show", id=id_)["id"] == id_
    for action in OF_A_DELIVERY:
        with pytest.raises(tk.ObjectNotFound):
            call(sysadmin, action, id=id_ + 1_000_000)
    assert stored("webhooks_delivery") == before
