"""What was told, told again: one delivery, or all since a time."""

from __future__ import annotations

import json

import ckan.plugins.toolkit as tk
import pytest
from ckan.tests import factories
from ckan.tests.helpers import call_action, changed_config

from ... import owners, tasks
from ...capture import snapshot
from ...dispatch import dispatch, replay
from ...sweep import sweep
from ..callers import call, create, days_pass, execute, join, stored
from ..receiver import accept
from .times import FIRST_TIMES, LAST_TIMES, NO_YEARS

pytestmark = pytest.mark.usefixtures("webhooks_db")

LONG_AGO = "2000-01-01"


def tell() -> None:
    owners.forget()
    while dispatch():
        pass


def end(status: str = "delivered", reason: str | None = None) -> None:
    execute(
        "UPDATE webhooks_delivery SET status = :status, reason = :reason, tries = 1,"
        " ended_at = clock_timestamp() WHERE status = 'pending'",
        status=status,
        reason=reason,
    )


def waiting() -> list[tuple[str, int]]:
    """Give what waits, by topic and number, in the order in which it goes."""
    rows = [row for row in stored("webhooks_delivery") if row.status == "pending"]
    assert all(row.due_at is None for row in rows), "it is held back"
    return [(row.topic, row.sequence) for row in rows]


def the_newest(hook: str):
    return [row for row in stored("webhooks_delivery") if row.webhook_id == hook][-1]


def replayed(user, hook: str, **data) -> int:
    """Follow the cursor to the end, and give how many are to be sent."""
    count, cursor = 0, ""
    while cursor is not None:
        page = call(user, "webhook_replay", id=hook, cursor=cursor, **data)
        count += page["deliveries"]
        cursor = page["cursor"]
    return count


def refusal(caller, action: str, **data) -> dict[str, list[str]]:
    before = stored("webhooks_delivery")
    with pytest.raises(tk.ValidationError) as error:
        call(caller, action, **data)
    assert stored("webhooks_delivery") == before
    return error.value.error_dict


class TestRedeliver:
    def test_it_is_the_same_event_once_more(self, user, receiver):
        hook = create(user, address=receiver.url, topic="dataset/create")
        factories.Dataset()
        tasks.work_once()
        old = the_newest(hook)
        new = call(user, "webhook_redeliver", id=old.id)
        assert new == the_newest(hook).id != old.id
        tasks.work_once()
        first, second = receiver.requests
        assert (first.id, first.body) == (second.id, second.body)
        assert the_newest(hook).status == "delivered"

    def test_it_goes_to_where_the_webhook_is_now(self, user, receiver):
        hook = create(user, topic="dataset/create")
        factories.Dataset()
        tell()
        end("failed")
        call(user, "webhook_patch", id=hook, address=receiver.url, format="standard")
        call(user, "webhook_redeliver", id=the_newest(hook).id)
        tasks.work_once()
        (request,) = receiver.requests
        assert request.json["type"] == "dataset.create"

    def test_what_was_hidden_since_is_not_sent_again(self, user, receiver):
        hook = create(user, address=receiver.url, topic="dataset/create")
        organization = factories.Organization()
        dataset = factories.Dataset(owner_org=organization["id"])
        tasks.work_once()
        call_action("package_patch", id=dataset["id"], private=True)
        call(user, "webhook_redeliver", id=the_newest(hook).id)
        tasks.work_once()
        assert len(receiver.requests) == 1
        again = the_newest(hook)
        assert (again.status, again.reason) == ("cancelled", "superseded")

    def test_what_cannot_be_is_refused_with_the_reason(self, user):
        hook = create(user, topic="dataset/create")
        factories.Dataset()
        tell()
        delivery = the_newest(hook).id
        assert "still to be sent" in str(refusal(user, "webhook_redeliver", id=delivery))
        end()
        execute("UPDATE webhooks_event SET id = 'another'")
        assert "log" in str(refusal(user, "webhook_redeliver", id=delivery))
        execute("UPDATE webhooks_delivery SET topic = 'ping'")
        assert "webhook_ping" in str(refusal(user, "webhook_redeliver", id=delivery))
        execute("UPDATE webhooks_delivery SET topic = 'dataset/create'")
        call(user, "webhook_patch", id=hook, state="disabled")
        assert "disabled" in str(refusal(user, "webhook_redeliver", id=delivery))
        call(user, "webhook_delete", id=hook)
        sysadmin = factories.Sysadmin()
        assert "deleted" in str(refusal(sysadmin, "webhook_redeliver", id=delivery))


class TestReplay:
    def test_it_tells_all_since_a_time_in_order(self, user):
        hook = create(user)
        other = create(factories.User())
        first = factories.Dataset()
        tell()
        since = execute("SELECT clock_timestamp()")[0][0].isoformat()
        call_action("package_patch", id=first["id"], title="New")
        factories.Dataset(resources=[{"url": "http://example.com/a"}])
        tell()
        until = execute("SELECT clock_timestamp()")[0][0].isoformat()
        factories.Dataset()
        tell()
        told = [(r.topic, r.sequence) for r in stored("webhooks_delivery") if r.webhook_id == hook]
        end()
        assert replayed(user, hook, since=since, until=until) == 3
        assert waiting() == told[1:4]
        assert {row.webhook_id for row in stored("webhooks_delivery")} == {hook, other}
        assert [row.next_at is not None for row in stored() if row.id == hook] == [True]

    def test_what_waits_already_is_not_told_twice(self, user):
        hook = create(user, topic="dataset/create")
        factories.Dataset()
        factories.Dataset()
        tell()
        assert replayed(user, hook, since=LONG_AGO) == 0
        end()
        assert replayed(user, hook, since=LONG_AGO) == 2
        assert replayed(user, hook, since=LONG_AGO) == 0

    def test_it_tells_what_the_owner_the_topics_and_the_filters_let_through_now(self, user):
        hook = create(user, topic=["dataset/create", "resource/*"], filters={"tag": "water"})
        organization = factories.Organization()
        water = {"tags": [{"name": "water"}]}
        private = {"owner_org": organization["id"], "private": True}
        factories.Dataset(resources=[{"url": "http://example.com/a"}], **water)
        factories.Dataset()
        factories.Dataset(**water, **private)
        tell()
        end()
        assert replayed(user, hook, since=LONG_AGO) == 2
        assert [topic for topic, _ in waiting()] == ["dataset/create", "resource/create"]
        end()
        join(organization, user)
        assert replayed(user, hook, since=LONG_AGO) == 3

    def test_from_the_start_it_gives_each_dataset_there_is(self, user):
        known = factories.Dataset()
        execute("DELETE FROM webhooks_event")
        for _ in snapshot():
            pass
        tell()
        before = factories.Dataset()
        tell()
        hook = create(user)
        assert stored("webhooks_delivery") == []
        assert replayed(user, hook, since=LONG_AGO) == 2
        events = {row.id: row.dataset_id for row in stored("webhooks_event")}
        rows = stored("webhooks_delivery")
        assert [(r.topic, events[r.event_id]) for r in rows] == [
            ("dataset/create", known["id"]),
            ("dataset/create", before["id"]),
        ]

    def test_what_was_purged_since_is_not_sent(self, user, receiver):
        hook = create(user, address=receiver.url)
        dataset = factories.Dataset(title="To be purged")
        tasks.work_once()
        receiver.clear()
        call_action("dataset_purge", id=dataset["id"])
        tell()
        end()
        replayed(user, hook, since=LONG_AGO)
        tasks.work_once()
        assert [r.json["topic"] for r in receiver.requests] == ["dataset/delete"]
        assert "To be purged" not in json.dumps([r.json for r in receiver.requests])

    def test_a_version_replaced_before_its_owner_could_see_it_has_no_content(self, user, receiver):
        hook = create(user, address=receiver.url, topic="dataset/*")
        organization = factories.Organization()
        dataset = factories.Dataset(owner_org=organization["id"], private=True, title="Secret")
        call_action("package_patch", id=dataset["id"], title="Mended")
        tell()
        join(organization, user)
        tasks.work_once()
        receiver.clear()
        replayed(user, hook, since=LONG_AGO)
        tasks.work_once()
        bodies = [r.json for r in receiver.requests]
        assert "Secret" not in str(bodies) and "Mended" in str(bodies)
        for delivery in stored("webhooks_delivery"):
            assert "Secret" not in str(call(user, "webhook_delivery_show", id=delivery.id))

    def test_pages_join_without_gap_or_repeat(self, user, monkeypatch):
        hook = create(user, topic="dataset/create")
        for _ in range(7):
            factories.Dataset()
        tell()
        told = [(row.topic, row.sequence) for row in stored("webhooks_delivery")]
        monkeypatch.setattr(replay, "AT_ONCE", 2)
        monkeypatch.setattr(replay, "_LOOKED_AT", 5)
        for most in (1, 3, 7, 100):
            monkeypatch.setattr(replay, "MOST", most)
            end("failed")
            assert replayed(user, hook, since=LONG_AGO) == 7
            assert waiting() == told
            end("failed")
            assert replayed(user, hook, failed_only=True) == 7
            assert waiting() == told

    def test_it_makes_up_for_what_was_missed(self, user):
        hook = create(user, topic="dataset/create")
        call(user, "webhook_patch", id=hook, state="disabled")
        missed = factories.Dataset()
        tell()
        call(user, "webhook_patch", id=hook, state="active")
        since = call(user, "webhook_show", id=hook)["health"]["missed_since"]
        assert stored("webhooks_delivery") == []
        assert replayed(user, hook, since=since, until=since) == 0
        assert call(user, "webhook_show", id=hook)["health"]["missed_since"] == since
        assert replayed(user, hook, since="2999-01-01") == 0
        assert call(user, "webhook_show", id=hook)["health"]["missed_since"] == since
        assert replayed(user, hook) == 1
        assert the_newest(hook).event_id in {
            row.id for row in stored("webhooks_event") if row.dataset_id == missed["id"]
        }
        assert call(user, "webhook_show", id=hook)["health"]["missed_since"] is None
        assert list(refusal(user, "webhook_replay", id=hook)) == ["since"]

    @pytest.mark.parametrize("how", ["a person", "a 410", "a lost role"])
    def test_what_waited_when_it_was_cancelled_was_missed_too(self, user, how, receiver):
        hook = create(user, topic="dataset/create", address=receiver.url)
        for _ in range(2):
            factories.Dataset()
        tell()
        execute("UPDATE webhooks_event SET dispatched_at = dispatched_at - interval '2 hours'")
        if how == "a person":
            call(user, "webhook_patch", id=hook, state="disabled")
            call(user, "webhook_patch", id=hook, state="active")
        elif how == "a 410":
            receiver.respond = lambda request: (410, {}, b"")
            execute("UPDATE webhooks_delivery SET due_at = NULL WHERE id % 2 = 0")
            tasks.work_once()
            receiver.respond = accept
            call(user, "webhook_patch", id=hook, state="active")
        else:
            with changed_config("ckanext.webhooks.minimum_auth", "sysadmin"):
                owners.forget()
                sweep()
            owners.forget()
            sweep()
        cancelled = [r for r in stored("webhooks_delivery") if r.status == "cancelled"]
        assert len(cancelled) == (1 if how == "a 410" else 2), "and the 410 itself has failed"
        factories.Dataset()
        tell()
        (new,) = [r for r in stored("webhooks_delivery") if r.status == "pending"]
        end()
        count = replayed(user, hook)
        again = [r.event_id for r in stored("webhooks_delivery") if r.status == "pending"]
        assert len(again) == count
        assert {r.event_id for r in (*cancelled, new)} <= set(again)

    def test_what_waited_when_it_was_disabled_days_ago_was_missed_too(self, user):
        hook = create(user, topic="dataset/create")
        factories.Dataset()
        tell()
        end()
        days_pass(1)
        waited = [factories.Dataset()["id"] for _ in range(2)]
        tell()
        days_pass(1)
        call(user, "webhook_patch", id=hook, state="disabled")
        meanwhile = factories.Dataset()["id"]
        tell()
        days_pass(5)
        call(user, "webhook_patch", id=hook, state="active")
        assert replayed(user, hook) == 3
        again = {r.event_id for r in stored("webhooks_delivery") if r.status == "pending"}
        events = {row.id: row.dataset_id for row in stored("webhooks_event")}
        assert {events[id_] for id_ in again} == {*waited, meanwhile}, "not what was told before"

    def test_missed_is_forgotten_with_the_last_page(self, user, monkeypatch):
        monkeypatch.setattr(replay, "MOST", 1)
        hook = create(user, topic="dataset/create")
        call(user, "webhook_patch", id=hook, state="disabled")
        factories.Dataset()
        tell()
        call(user, "webhook_patch", id=hook, state="active")
        since = call(user, "webhook_show", id=hook)["health"]["missed_since"]
        page = call(user, "webhook_replay", id=hook, since=since)
        assert (page["deliveries"], page["cursor"] is None) == (1, False)
        assert call(user, "webhook_show", id=hook)["health"]["missed_since"] == since
        call(user, "webhook_replay", id=hook, since=since, cursor=page["cursor"])
        assert call(user, "webhook_show", id=hook)["health"]["missed_since"] is None

    def test_what_failed_is_told_again_once(self, user):
        hook = create(user, topic="dataset/create")
        for status, reason in (
            ("delivered", None),
            ("failed", "the endpoint answered 500"),
            ("cancelled", "disabled"),
            ("cancelled", "superseded"),
        ):
            factories.Dataset()
            tell()
            end(status, reason)
        sequences = [row.sequence for row in stored("webhooks_delivery")]
        assert replayed(user, hook, failed_only=True) == 2
        assert [sequence for _, sequence in waiting()] == sequences[1:3]
        assert replayed(user, hook, failed_only=True) == 0, "it waits already"
        end()
        assert replayed(user, hook, failed_only=True) == 0, "it was told"
        assert replayed(user, hook, failed_only=True, since="2999-01-01") == 0

    def test_a_dry_run_counts_what_a_replay_would_tell_and_changes_nothing(self, user, monkeypatch):
        monkeypatch.setattr(replay, "MOST", 2)
        monkeypatch.setattr(replay, "AT_ONCE", 1)
        hook = create(user, topic="dataset/create", filters={"tag": ["wet"]})
        for tags in ([{"name": "wet"}], [], [{"name": "wet"}], [{"name": "wet"}]):
            factories.Dataset(tags=tags, resources=[{"url": "http://example.com/a"}])
        tell()
        end("failed")
        execute("UPDATE webhooks SET missed_since = clock_timestamp()")
        before = stored(), stored("webhooks_delivery")
        for asked in ({"since": LONG_AGO}, {"failed_only": True}):
            counted = replayed(user, hook, dry_run=True, **asked)
            assert (stored(), stored("webhooks_delivery")) == before
            assert counted == 3
        assert replayed(user, hook, failed_only=True) == 3
        assert replayed(user, hook, failed_only=True, dry_run=True) == 0, "it waits already"

    def test_a_dry_run_of_what_cannot_be_is_refused_as_well(self, user):
        hook = create(user)
        call(user, "webhook_patch", id=hook, state="disabled")
        said = refusal(user, "webhook_replay", id=hook, since=LONG_AGO, dry_run=True)
        assert "disabled" in str(said)

    def test_what_fails_again_can_be_told_again(self, user):
        hook = create(user, topic="dataset/create")
        factories.Dataset()
        tell()
        for _ in range(3):
            end("failed")
            assert replayed(user, hook, failed_only=True) == 1

    def test_it_is_sent(self, user, receiver):
        hook = create(user, address=receiver.url, topic="dataset/create")
        for _ in range(3):
            factories.Dataset()
        tasks.work_once()
        assert replayed(user, hook, since=LONG_AGO) == 3
        tasks.work_once()
        ids = [request.id for request in receiver.requests]
        assert len(ids) == 6 and sorted(ids[3:]) == sorted(ids[:3])
        assert [row.next_at for row in stored()] == [None], "nothing is held back any more"

    def test_only_an_active_webhook_is_told(self, user, monkeypatch):
        hook = create(user, topic="dataset/create")
        factories.Dataset()
        tell()
        end()
        # Disabled between the look and the lock, by a worker.
        with monkeypatch.context() as patched:
            patched.setattr(replay, "_hold_back", lambda connection, id_: False)
            assert "not active" in str(refusal(user, "webhook_replay", id=hook, since=LONG_AGO))
        call(user, "webhook_patch", id=hook, state="disabled")
        assert "disabled" in str(refusal(user, "webhook_replay", id=hook, since=LONG_AGO))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("since", "yesterday"),
            ("until", 5),
            *(("since", year) for year in NO_YEARS),
            *(("until", year) for year in NO_YEARS),
            ("failed_only", "maybe"),
            ("dry_run", "maybe"),
            ("cursor", -1),
            ("topic", "*"),
        ],
    )
    def test_what_makes_no_sense_is_refused_with_the_reason(self, user, field, value):
        hook = create(user)
        data = {"since": LONG_AGO, field: value}
        assert list(refusal(user, "webhook_replay", id=hook, **data)) == [field]

    @pytest.mark.parametrize("first", FIRST_TIMES)
    @pytest.mark.parametrize("last", LAST_TIMES)
    def test_times_at_the_ends_of_all_are_times(self, user, first, last):
        hook = create(user, topic="dataset/create")
        factories.Dataset()
        tell()
        end("failed")
        assert replayed(user, hook, since=last, dry_run=True) == 0
        assert replayed(user, hook, since=LONG_AGO, until=first, dry_run=True) == 0
        assert replayed(user, hook, failed_only=True, since=first, until=last, dry_run=True) == 1
        assert replayed(user, hook, since=first, until=last) == 1


def test_they_are_for_the_owner_and_sysadmins_alone(user):
    hook = create(user, topic="dataset/create")
    factories.Dataset()
    tell()
    end()
    delivery = the_newest(hook).id
    for caller, error in ((None, tk.NotAuthorized), (factories.User(), tk.ObjectNotFound)):
        for action, id_ in (("webhook_replay", hook), ("webhook_redeliver", delivery)):
            with pytest.raises(error):
                call(caller, action, id=id_, **({"since": LONG_AGO} if id_ == hook else {}))
    sysadmin = factories.Sysadmin()
    assert call(sysadmin, "webhook_redeliver", id=delivery)
    end()
    assert call(sysadmin, "webhook_replay", id=hook, since=LONG_AGO)["deliveries"] == 1
