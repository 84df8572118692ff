"""Claim, send and settle: real rows, a real receiver, in this process."""

from __future__ import annotations

import threading
import time

import ckan.plugins.toolkit as tk
import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action
from standardwebhooks import Webhook as Verifier

from ... import config, encryption, owners, sweep, tasks
from ...deliver import claim as claiming
from ...deliver import withheld
from ...deliver.claim import claim
from ...deliver.loop import deliver_due
from ...deliver.places import Bounds, Places
from ...dispatch import tell_newest
from ...model import Delivery, Webhook, ping_row, transaction
from ..aside import kinds, refusing, try_again
from ..callers import execute
from ..receiver import Received, Receiver

pytestmark = pytest.mark.usefixtures("webhooks_db")


def subscribe(receiver: Receiver, user=None, topic="*", **kwargs) -> str:
    context = {"user": (user or factories.User())["name"], "ignore_auth": False}
    return call_action("webhook_create", context, topic=topic, address=receiver.url, **kwargs)


def secret_of(hook: str) -> str:
    return call_action("webhook_secret_show", id=hook)["secret"]


def deliveries(columns: str = "status, tries, reason"):
    rows = model.Session.execute(
        sa.text(f"SELECT {columns} FROM webhooks_delivery ORDER BY sequence, id")
    ).all()
    model.Session.commit()
    return [tuple(row) for row in rows]


def make_due() -> None:
    model.Session.execute(sa.text("UPDATE webhooks_delivery SET due_at = clock_timestamp()"))
    model.Session.commit()


def sysadmin() -> dict:
    return {"user": factories.Sysadmin()["name"]}


def test_a_change_becomes_a_signed_post(receiver):
    hook = subscribe(receiver)
    dataset = factories.Dataset(resources=[{"url": "http://example.com/a.csv"}])
    assert tasks.work_once() == 2
    for request in receiver.requests:
        Verifier(secret_of(hook)).verify(request.body.decode(), request.headers)
    bodies = {r.json["topic"]: r.json for r in receiver.requests}
    assert sorted(bodies) == ["dataset/create", "resource/create"]
    told = bodies["dataset/create"]
    assert told["entity"]["id"] == dataset["id"]
    assert told["webhook_id"] == hook
    assert told["ckan"] == tk.config["ckan.site_url"]
    resource = bodies["resource/create"]
    assert resource["entity"]["package_id"] == dataset["id"]
    assert resource["dataset"]["name"] == dataset["name"]
    assert deliveries() == [("delivered", 1, None)] * 2


def test_what_failed_is_sent_again_byte_for_byte(receiver):
    subscribe(receiver, topic="dataset/create")
    receiver.respond = lambda request: (500, {}, b"no\x00t now")
    factories.Dataset()
    tasks.work_once()
    assert deliveries() == [("pending", 1, "the endpoint answered 500")]
    wait = model.Session.execute(
        sa.text("SELECT due_at - clock_timestamp() FROM webhooks_delivery")
    ).scalar_one()
    assert 3.5 < wait.total_seconds() < 6.1
    assert tasks.work_once() == 0, "it is not due yet"
    receiver.respond = lambda request: (204, {}, b"")
    make_due()
    tasks.work_once()
    first, second = receiver.requests
    assert (first.id, first.body) == (second.id, second.body)
    assert deliveries() == [("delivered", 2, None)]
    attempts = model.Session.execute(
        sa.text("SELECT number, http_status, answer FROM webhooks_attempt ORDER BY number")
    ).all()
    assert [tuple(a) for a in attempts] == [(1, 500, "no\ufffdt now"), (2, 204, "")]


def test_it_ends_as_failed_with_the_reason(receiver, monkeypatch):
    monkeypatch.setitem(tk.config, "ckanext.webhooks.retry_schedule", ["0", "0"])
    hook = subscribe(receiver, topic="dataset/create")
    receiver.respond = lambda request: (302, {"Location": "http://example.com/"}, b"")
    factories.Dataset()
    tasks.work_once()
    assert deliveries() == [("failed", 2, "the endpoint answered 302; redirects are not followed")]
    health = call_action("webhook_show", id=hook)["health"]
    assert health["failing_since"] and not health["last_success_at"]


def test_bytes_of_one_endpoint_keep_no_attempt_from_being_written(receiver):
    """libcurl quotes such a header in its error, which has a lone surrogate then."""
    with Receiver() as odd:
        odd.respond = lambda request: (500, {"Transfer-Encoding": "A\xffA"}, b"")
        subscribe(odd, topic="dataset/create")
        subscribe(receiver, topic="dataset/create")
        factories.Dataset()
        assert tasks.work_once() == 2
        assert tasks.work_once() == 0, "what came of both is known"
    told = deliveries("status, tries")
    assert sorted(told) == [("delivered", 1), ("pending", 1)]
    written = model.Session.execute(sa.text("SELECT number FROM webhooks_attempt")).all()
    assert len(written) == 2


@pytest.mark.parametrize(("status", "ends"), [(200, "delivered"), (500, "pending")])
def test_an_attempt_that_cannot_be_recorded_stops_no_other(receiver, status, ends):
    """Its own delivery is moved on without it, by the schedule."""
    receiver.respond = lambda request: (status, {}, b"")
    for _ in range(10):  # the failures of one would open its circuit
        subscribe(receiver, topic="dataset/create")
    factories.Dataset()
    with refusing("INSERT", "webhooks_attempt", "NEW.delivery_id % 10 = 5"):
        assert tasks.work_once() == 10
    assert tasks.work_once() == 0
    assert deliveries("status, tries") == [(ends, 1)] * 10
    recorded = model.Session.execute(sa.text("SELECT count(*) FROM webhooks_attempt"))
    assert recorded.scalar_one() == 9


def test_410_disables_the_webhook_and_cancels_what_waits(receiver):
    hook = subscribe(receiver, topic="dataset/create")
    factories.Dataset()
    receiver.respond = lambda request: (503, {}, b"")
    tasks.work_once()
    receiver.respond = lambda request: (410, {}, b"")
    factories.Dataset()
    tasks.work_once()
    assert [d[0] for d in deliveries()] == ["cancelled", "failed"]
    shown = call_action("webhook_show", id=hook)
    assert shown["state"] == "disabled"
    assert "410" in shown["state_reason"]
    factories.Dataset()
    assert tasks.work_once() == 0


def test_what_another_worker_may_have_taken_meanwhile_is_not_sent(receiver, monkeypatch, caplog):
    """A worker that was stopped, or whose claim was answered late, has a lease of the past."""
    subscribe(receiver, topic="dataset/create")
    factories.Dataset()
    tasks.dispatch()
    at_once, sent_before = owners.standing, []

    def late_at_first(*asked):
        sent_before.append(len(receiver.requests))
        time.sleep(0 if sent_before[1:] else 0.3)
        return at_once(*asked)

    monkeypatch.setattr(owners, "standing", late_at_first)
    monkeypatch.setattr(claiming, "LEASE_MARGIN", 0.2 - config.timeout())
    assert deliver_due(tell_newest) == 1
    assert sent_before == [0, 0], "it was claimed again before it was sent"
    assert "1 deliveries are not sent, since their lease is over" in caplog.text
    assert deliveries() == [("delivered", 1, None)]


def test_deleting_a_webhook_cancels_what_waits(receiver):
    user = factories.User()
    hook = subscribe(receiver, user, topic="dataset/create")
    receiver.respond = lambda request: (500, {}, b"")
    factories.Dataset()
    tasks.work_once()
    call_action("webhook_delete", {"user": user["name"], "ignore_auth": False}, id=hook)
    assert deliveries() == [("cancelled", 1, "the webhook was deleted")]


def test_after_a_rotation_both_secrets_sign(receiver):
    hook = subscribe(receiver, topic="dataset/create")
    old = secret_of(hook)
    call_action("webhook_secret_rotate", id=hook)
    factories.Dataset()
    tasks.work_once()
    (request,) = receiver.requests
    assert old != secret_of(hook)
    for secret in (old, secret_of(hook)):
        Verifier(secret).verify(request.body.decode(), request.headers)


def test_custom_headers_go_along(receiver):
    subscribe(receiver, topic="dataset/create", headers={"Authorization": "Bearer x"})
    factories.Dataset()
    tasks.work_once()
    headers = receiver.requests[0].headers
    assert headers["authorization"] == "Bearer x"
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert headers["accept"] == "*/*", "there are firewalls that want it"
    assert headers["user-agent"].startswith("ckanext-webhooks/")


def test_an_accept_of_one_s_own_goes_along_alone(receiver):
    subscribe(receiver, topic="dataset/create", headers={"accept": "text/plain"})
    factories.Dataset()
    tasks.work_once()
    assert receiver.requests[0].headers["accept"] == "text/plain"


@pytest.mark.parametrize("format_", ["classic", "standard", "cloudevents"])
def test_each_format_arrives(receiver, format_):
    subscribe(receiver, topic="dataset/create", format=format_)
    dataset = factories.Dataset()
    tasks.work_once()
    body = receiver.requests[0].json
    entity = body["entity"] if format_ == "classic" else body["data"]["entity"]
    assert entity["name"] == dataset["name"]


class TestWhatMayStillBeSent:
    """Between the event and the send, the world goes on."""

    def test_content_that_was_hidden_since_is_superseded(self, receiver):
        subscribe(receiver)
        dataset = factories.Dataset(title="secret from now on")
        call_action("package_patch", sysadmin(), id=dataset["id"], state="draft")
        tasks.work_once()
        assert deliveries() == [("cancelled", 0, "superseded"), ("delivered", 1, None)]
        (request,) = receiver.requests
        assert b"secret from now on" not in request.body
        assert request.json["entity"] == {
            "id": dataset["id"],
            "name": dataset["name"],
            "type": "dataset",
        }

    def test_a_title_set_while_hiding_never_leaves(self, receiver):
        organization = factories.Organization()
        subscribe(receiver)
        dataset = factories.Dataset(owner_org=organization["id"])
        tasks.work_once()
        call_action(
            "package_patch",
            sysadmin(),
            id=dataset["id"],
            private=True,
            title="hidden",
            name="hidden-name",
        )
        tasks.work_once()
        assert [r.json["topic"] for r in receiver.requests] == [
            "dataset/create",
            "dataset/delete",
        ]
        assert b"hidden" not in b"".join(r.body for r in receiver.requests)

    def test_a_deletion_carries_what_was_deleted(self, receiver):
        subscribe(receiver)
        dataset = factories.Dataset(title="a title", resources=[{"url": "http://example.com"}])
        tasks.work_once()
        receiver.clear()
        call_action("package_delete", sysadmin(), id=dataset["id"])
        tasks.work_once()
        bodies = {r.json["topic"]: r.json for r in receiver.requests}
        assert bodies["dataset/delete"]["entity"]["title"] == "a title"
        assert bodies["resource/delete"]["entity"]["url"] == "http://example.com"

    def test_a_removed_resource_is_told_as_it_was(self, receiver):
        subscribe(receiver, topic="resource/delete")
        dataset = factories.Dataset(resources=[{"url": "http://example.com/gone"}])
        call_action("resource_delete", sysadmin(), id=dataset["resources"][0]["id"])
        tasks.work_once()
        (request,) = receiver.requests
        assert request.json["entity"]["url"] == "http://example.com/gone"

    def test_a_purge_takes_back_and_says_nothing_more(self, receiver):
        subscribe(receiver, topic="dataset/delete")
        dataset = factories.Dataset(title="purged title")
        call_action("dataset_purge", sysadmin(), id=dataset["id"])
        tasks.work_once()
        (request,) = receiver.requests
        assert request.json["entity"]["id"] == dataset["id"]
        assert b"purged title" not in request.body

    @pytest.mark.parametrize("tried_before", [False, True])
    def test_an_owner_who_lost_the_right_gets_nothing_but_what_takes_it_back(
        self, receiver, tried_before
    ):
        organization = factories.Organization()
        user = factories.User()
        member = {"id": organization["id"], "username": user["name"]}
        call_action("organization_member_create", role="member", **member)
        subscribe(receiver, user)
        factories.Dataset(owner_org=organization["id"], private=True, title="members only")
        if tried_before:
            receiver.respond = lambda request: (500, {}, b"")
            tasks.work_once()
            receiver.clear()
        call_action("organization_member_delete", sysadmin(), **member)
        owners.forget()
        make_due()
        tasks.work_once()
        assert [r.json["topic"] for r in receiver.requests] == ["dataset/delete"] * tried_before
        assert b"members only" not in b"".join(r.body for r in receiver.requests)

    @pytest.mark.parametrize("comes_back", [True, False])
    def test_a_deleted_owner_gets_nothing_and_who_comes_back_misses_nothing(
        self, receiver, comes_back
    ):
        user = factories.User()
        hook = subscribe(receiver, user, topic="dataset/create")
        factories.Dataset()
        receiver.respond = lambda request: (500, {}, b"")
        tasks.work_once()
        receiver.respond = lambda request: (204, {}, b"")
        receiver.clear()
        call_action("user_delete", sysadmin(), id=user["id"])
        meanwhile = factories.Dataset()
        make_due()
        tasks.work_once()
        assert receiver.requests == []
        if comes_back:
            execute("UPDATE \"user\" SET state = 'active' WHERE id = :id", id=user["id"])
            owners.forget()
            make_due()
            tasks.work_once()
            assert len(receiver.requests) == 1
            call_action("webhook_replay", sysadmin(), id=hook)
            tasks.work_once()
            assert receiver.requests[-1].json["entity"]["id"] == meanwhile["id"]
        else:
            sweep.sweep()
            reason = "its owner is not an active user any more"
            assert deliveries() == [("cancelled", 1, reason)]

    def test_a_ping_of_a_deleted_owner_ends(self, receiver):
        user = factories.User()
        hook = subscribe(receiver, user)
        call_action("user_delete", sysadmin(), id=user["id"])
        sweep.sweep()
        with transaction() as connection:
            row = ping_row(model.Session.get(Webhook, hook))
            connection.execute(sa.insert(Delivery.__table__), row)
        tasks.work_once()
        assert deliveries() == [("cancelled", 0, "the owner is not an active user any more")]
        assert receiver.requests == []


@pytest.mark.parametrize("value", ["stub", "nonsense"])
def test_a_portal_may_have_stubs_sent_alone(receiver, monkeypatch, value):
    monkeypatch.setitem(tk.config, "ckanext.webhooks.entity", value)
    subscribe(receiver)
    dataset = factories.Dataset(title="Not told", resources=[{"url": "http://not.told/"}])
    call_action("package_delete", sysadmin(), id=dataset["id"])
    tasks.work_once()
    assert len(receiver.requests) == 4
    for request in receiver.requests:
        entity = request.json["entity"]
        assert entity.keys() in ({"id", "name", "type"}, {"id", "package_id"})
        assert b"ot told" not in request.body and b"not.told" not in request.body


def test_a_stub_of_what_was_published_has_the_name_under_which_it_was(receiver, monkeypatch):
    monkeypatch.setitem(tk.config, "ckanext.webhooks.entity", "stub")
    subscribe(receiver, factories.User())
    dataset = factories.Dataset(
        name="secret-name",
        owner_org=factories.Organization()["id"],
        private=True,
        resources=[{"url": "http://example.com/a"}],
    )
    call_action("package_patch", sysadmin(), id=dataset["id"], name="shown", private=False)
    call_action("package_patch", sysadmin(), id=dataset["id"], name="hidden", private=True)
    call_action("package_patch", sysadmin(), id=dataset["id"], name="shown", private=False)
    tasks.work_once()
    named = {(r.json.get("dataset") or r.json["entity"])["name"] for r in receiver.requests}
    assert named == {"shown"}
    assert all("owner_org" not in r.json.get("dataset", {}) for r in receiver.requests)


def test_an_address_that_is_not_allowed_any_more_is_not_called(receiver, monkeypatch):
    subscribe(receiver, topic="dataset/create")
    factories.Dataset()
    monkeypatch.setitem(tk.config, "ckanext.webhooks.allowed_networks", [])
    tasks.work_once()
    assert receiver.requests == []
    ((status, tries, reason),) = deliveries()
    assert (status, tries) == ("pending", 1)
    assert "ckanext.webhooks.allowed_networks" in reason


def test_a_lease_that_ran_out_is_taken_by_another(receiver):
    """As after a SIGKILL between the claim and the settlement."""
    subscribe(receiver, topic="dataset/create")
    factories.Dataset()
    while tasks.dispatch():
        pass
    places = Places(Bounds(all=10, webhook=10, host=10, owner=10))
    assert claim(10, places, timeout=10).deliveries
    assert claim(10, places, timeout=10) is None, "a lease is exclusive"
    assert tasks.work_once() == 0
    make_due()
    assert tasks.work_once() == 1
    assert deliveries() == [("delivered", 1, None)]


def test_a_slow_endpoint_delays_no_other(receiver, say):
    release = threading.Event()

    def hang(request: Received):
        release.wait(20)
        return 200, {}, b""

    with Receiver() as slow:
        slow.respond = hang
        subscribe(slow, topic="dataset/create")
        subscribe(receiver, topic="dataset/create")
        for _ in range(20):
            factories.Dataset()
        worker = threading.Thread(target=tasks.work_once)
        started = time.monotonic()
        worker.start()
        receiver.wait(20, timeout=5)
        took = time.monotonic() - started
        assert len(slow.requests) <= tk.config["ckanext.webhooks.max_in_flight_per_webhook"]
        release.set()
        worker.join()
    say(f"20 deliveries in {took * 1000:.0f} ms beside an endpoint that hangs")
    assert {d[0] for d in deliveries()} == {"delivered"}


def test_a_worker_without_a_free_place_waits_and_does_not_spin(receiver, monkeypatch, say):
    monkeypatch.setitem(tk.config, "ckanext.webhooks.max_in_flight", 2)
    monkeypatch.setitem(tk.config, "ckanext.webhooks.max_in_flight_per_host", 2)
    receiver.respond = lambda request: (time.sleep(1.5), (200, {}, b""))[1]
    for _ in range(3):
        subscribe(receiver, topic="dataset/create")
    factories.Dataset()
    started, spent = time.monotonic(), time.process_time()
    tasks.work_once()
    took, spent = time.monotonic() - started, time.process_time() - spent
    say(f"{spent:.2f} s of processor time in {took:.1f} s of waiting")
    assert {d[0] for d in deliveries()} == {"delivered"}
    assert spent < took / 2


def test_a_worker_whose_clock_is_wrong_signs_right(receiver, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)
    hook = subscribe(receiver, topic="dataset/create")
    factories.Dataset()
    tasks.work_once()
    monkeypatch.undo()
    (request,) = receiver.requests
    Verifier(secret_of(hook)).verify(request.body.decode(), request.headers)


def test_without_certificates_plain_http_goes_on(receiver, monkeypatch):
    monkeypatch.setitem(tk.config, "ckanext.webhooks.ca_bundle", "/etc/passwd")
    for address in (receiver.url, receiver.url.replace("http://", "https://")):
        call_action("webhook_create", sysadmin(), topic="dataset/create", address=address)
    factories.Dataset()
    tasks.work_once()
    assert sorted(deliveries("status")) == [("delivered",), ("pending",)]
    assert len(receiver.requests) == 1
    assert execute("SELECT FROM webhooks_attempt WHERE error IS NOT NULL") == [], (
        "no endpoint is to blame"
    )


def test_labels_that_take_longer_than_a_lease_are_known_to_the_next_claim(
    receiver, directory, monkeypatch, caplog
):
    """Everybody waits for a plugin that slow, and nobody for ever."""
    for _ in range(3):
        subscribe(receiver, topic="dataset/create")
    dataset = factories.Dataset()
    tasks.dispatch()
    usual = directory.get_user_dataset_labels

    def slowly(user):
        time.sleep(0.3)
        return usual(user)

    directory.get_user_dataset_labels = slowly
    monkeypatch.setattr(claiming, "LEASE_MARGIN", 0.5)
    monkeypatch.setattr(config, "timeout", lambda: 0.2)
    monkeypatch.setattr(owners, "FRESH_FOR", 0.6)
    owners.forget()
    tasks.work_once()
    assert [r.json["entity"]["id"] for r in receiver.requests] == [dataset["id"]] * 3
    assert "since their lease is over" in caplog.text


def test_one_that_cannot_be_written_stops_no_other(receiver, caplog):
    subscribe(receiver, topic="dataset/create")
    broken, whole = factories.Dataset(), factories.Dataset()
    tasks.dispatch()
    model.Session.execute(
        sa.text(
            "UPDATE webhooks_delivery d SET format = 'none' FROM webhooks_event e"
            " WHERE e.id = d.event_id AND e.dataset_id = :id"
        ),
        {"id": broken["id"]},
    )
    model.Session.commit()
    tasks.work_once()
    assert [r.json["entity"]["id"] for r in receiver.requests] == [whole["id"]]
    assert [d[0] for d in deliveries()] == ["pending", "delivered"]
    assert "failed and is put aside" in caplog.text
    attempts = execute(
        "SELECT d.status FROM webhooks_attempt JOIN webhooks_delivery d ON d.id = delivery_id"
    )
    assert attempts == [("delivered",)], "no endpoint is to blame"


def test_one_whose_answer_cannot_be_taken_stops_no_other(receiver, monkeypatch):
    """What is under way meanwhile ends, and is written down in the same drive."""
    hook = subscribe(receiver, topic="dataset/create")
    datasets = [factories.Dataset()["id"] for _ in range(3)]
    tasks.dispatch()
    first = threading.Event()

    def answer(request):
        if request.json["entity"]["id"] != datasets[0]:
            first.wait(20)
        return 200, {}, b""

    receiver.respond = answer
    usual = withheld.withhold

    def withhold(outcome, confidential):
        if not first.is_set():
            first.set()
            raise RuntimeError("its answer is odd")
        return usual(outcome, confidential)

    monkeypatch.setattr(withheld, "withhold", withhold)
    tasks.work_once()
    assert sorted(r.json["entity"]["id"] for r in receiver.requests) == sorted(datasets)
    assert [d[0] for d in deliveries()] == ["pending", "delivered", "delivered"]
    assert kinds() == ["delivery"]
    try_again()
    tasks.work_once()
    assert [d[0] for d in deliveries()] == ["delivered"] * 3 and kinds() == []
    assert call_action("webhook_show", id=hook)["health"]["failing_since"] is None


def test_a_secret_that_cannot_be_read_is_no_failure_of_the_endpoint(receiver, monkeypatch):
    hook = subscribe(receiver, topic="dataset/create")
    dataset = factories.Dataset()
    with monkeypatch.context() as other_key:
        other_key.setattr(config, "secret_keys", lambda: [encryption.derived_key("another")])
        tasks.work_once()
    assert receiver.requests == [] and kinds() == ["delivery"]
    shown = call_action("webhook_show", id=hook)
    assert (shown["state"], shown["health"]["failing_since"]) == ("active", None)
    (reason,) = execute("SELECT reason FROM webhooks_delivery")
    assert "the portal could not send it" in reason[0]
    try_again()
    tasks.work_once()
    assert [r.json["entity"]["id"] for r in receiver.requests] == [dataset["id"]]
    assert kinds() == []


def test_who_sends_a_ping_reads_that_the_secret_cannot_be_read(receiver, monkeypatch):
    hook = subscribe(receiver, topic="dataset/create")
    execute(
        "INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address, format)"
        " VALUES (:id, 'ping_1', 'ping', 0, :url, 'classic')",
        id=hook,
        url=receiver.url,
    )
    with monkeypatch.context() as other_key:
        other_key.setattr(config, "secret_keys", lambda: [encryption.derived_key("another")])
        tasks.work_once()
    ((status, tries, reason),) = deliveries()
    assert (status, tries) == ("failed", 1) and reason
    assert kinds() == []
