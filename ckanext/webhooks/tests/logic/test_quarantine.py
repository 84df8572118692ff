"""What is put aside is shown, tried at once and given up, by sysadmins."""

from __future__ import annotations

import threading

import ckan.plugins.toolkit as tk
import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories

from ... import quarantine, tasks
from ...logic import quarantine as logic
from ...model import Kind, dispatch_lock, transaction
from ..aside import WHY, put_aside, refusing, waiting
from ..callers import call, create, execute, stored
from .test_stats import write

pytestmark = pytest.mark.usefixtures("webhooks_db")

ACTIONS = ("webhook_quarantine_list", "webhook_quarantine_retry", "webhook_quarantine_give_up")


@pytest.fixture
def sysadmin():
    return factories.Sysadmin()


@pytest.fixture
def hook(user):
    return create(user)


def an_event() -> tuple[str, str]:
    """Give the id of a captured change that nobody has dispatched, and that of its dataset."""
    dataset = factories.Dataset()
    (event,) = execute("SELECT id FROM webhooks_event WHERE dataset_id = :id", id=dataset["id"])
    return event.id, dataset["id"]


def a_delivery(hook: str, **columns: str) -> int:
    write(hook, 1, **columns)
    return int(stored("webhooks_delivery")[-1].id)


def row(table: str, id_: object):
    (found,) = execute(f"SELECT * FROM {table} WHERE id = :id", id=id_)
    return found


class TestWhoMay:
    def test_nobody_but_sysadmins(self, user):
        number = put_aside(Kind.WEBHOOK, create(user))
        for action in ACTIONS:
            for caller in (None, user):
                with pytest.raises(tk.NotAuthorized):
                    call(caller, action, id=number)
        assert len(waiting()) == 1

    @pytest.mark.parametrize("action", ACTIONS[1:])
    def test_what_is_not_put_aside_is_not_found(self, sysadmin, hook, action):
        delivery = a_delivery(hook)
        number = put_aside(Kind.DELIVERY, delivery)
        execute("UPDATE webhooks_delivery SET due_at = clock_timestamp()")  # it is tried
        for id_ in (number, 10**12):
            with pytest.raises(tk.ObjectNotFound, match=f"under the number {id_}"):
                call(sysadmin, action, id=id_)
        with pytest.raises(tk.ValidationError, match="Invalid integer"):
            call(sysadmin, action, id="soon")


class TestList:
    def test_each_says_what_it_is_about_why_and_when_it_is_tried(self, sysadmin, user, hook):
        event, dataset = an_event()
        delivery = a_delivery(hook)
        put_aside(Kind.EVENT, event, dataset_id=dataset)
        put_aside(
            Kind.RIGHTS,
            f"{user['id']} {dataset}",
            dataset_id=dataset,
            user_id=user["id"],
            labels=[],
        )
        put_aside(Kind.DELIVERY, delivery)
        put_aside(Kind.WEBHOOK, hook)
        put_aside(Kind.WEBHOOK, hook)
        found = call(sysadmin, "webhook_quarantine_list")
        about = ("kind", "event_id", "user_id", "delivery_id", "webhook_id", "dataset_id", "tries")
        assert [tuple(one[name] for name in about) for one in found] == [
            ("event", event, None, None, None, dataset, 1),
            ("rights", None, user["id"], None, None, dataset, 1),
            ("delivery", None, None, delivery, None, None, 1),
            ("webhook", None, None, None, hook, None, 2),
        ]
        assert {one["reason"] for one in found} == {f"ValueError: {WHY}"}
        assert all(one["put_aside_at"] < one["next_try_at"] for one in found)

    def test_there_are_as_many_as_are_asked_for_the_oldest_first(self, sysadmin):
        numbers = [put_aside(Kind.EVENT, f"e{n}") for n in range(3)]
        found = call(sysadmin, "webhook_quarantine_list", limit=2)
        assert [one["id"] for one in found] == numbers[:2]
        for limit in (0, 1001):
            with pytest.raises(tk.ValidationError):
                call(sysadmin, "webhook_quarantine_list", limit=limit)

    def test_that_of_which_nothing_is_left_to_do_is_not_there(self, sysadmin, user, hook):
        delivery = a_delivery(hook)
        put_aside(Kind.DELIVERY, delivery)
        put_aside(Kind.WEBHOOK, hook)
        call(user, "webhook_delete", id=hook)
        assert call(sysadmin, "webhook_quarantine_list") == []


class TestRetry:
    def due(self, number: int) -> bool:
        (found,) = execute(
            "SELECT due_at <= clock_timestamp() AS is_due FROM webhooks_quarantine WHERE id = :id",
            id=number,
        )
        return bool(found.is_due)

    def test_one_is_tried_now_and_the_others_after_their_pauses(self, sysadmin):
        one, other = put_aside(Kind.EVENT, "e1"), put_aside(Kind.EVENT, "e2")
        assert call(sysadmin, "webhook_quarantine_retry", id=one) == 1
        assert self.due(one) and not self.due(other)

    def test_without_an_id_all_are(self, sysadmin, hook):
        numbers = [
            put_aside(Kind.EVENT, "no number"),
            put_aside(Kind.DELIVERY, a_delivery(hook)),
            put_aside(Kind.DELIVERY, a_delivery(hook), is_stuck=True),
            put_aside(Kind.WEBHOOK, hook),
        ]
        assert call(sysadmin, "webhook_quarantine_retry") == 4
        assert all(map(self.due, numbers))

    def test_a_delivery_comes_due_with_it_and_is_put_aside_until_it_is_taken(self, sysadmin, hook):
        delivery = a_delivery(hook)
        number = put_aside(Kind.DELIVERY, delivery)
        call(sysadmin, "webhook_quarantine_retry", id=number)
        assert (
            row("webhooks_delivery", delivery).due_at == row("webhooks_quarantine", number).due_at
        )
        assert waiting() == [("delivery", str(delivery))]

    def test_the_row_of_one_that_is_stuck_is_left_alone(self, sysadmin, hook):
        delivery = a_delivery(hook, due_at="'2026-11-24'")
        number = put_aside(Kind.DELIVERY, delivery, is_stuck=True)
        with refusing("UPDATE", "webhooks_delivery", "true"):
            assert call(sysadmin, "webhook_quarantine_retry", id=number) == 1
        assert self.due(number)
        assert f"{row('webhooks_delivery', delivery).due_at:%F}" == "2026-11-24"

    def test_what_a_worker_has_at_this_moment_is_not_waited_for(self, sysadmin, hook):
        delivery = a_delivery(hook)
        put_aside(Kind.DELIVERY, delivery)
        event = put_aside(Kind.EVENT, "e1")
        other = put_aside(Kind.EVENT, "e2")
        with transaction() as connection:
            for locked in (
                f"webhooks_delivery WHERE id = {delivery}",
                f"webhooks_quarantine WHERE id = {event}",
            ):
                connection.execute(sa.text(f"SELECT FROM {locked} FOR UPDATE"))
            assert call(sysadmin, "webhook_quarantine_retry") == 1
        assert self.due(other) and not self.due(event)

    @pytest.mark.parametrize("is_stuck", [False, True])
    def test_what_goes_through_then_is_put_aside_no_more(self, sysadmin, user, receiver, is_stuck):
        hook = create(user, address=receiver.url)
        factories.Dataset()
        tasks._dispatch_all()
        (delivery,) = stored("webhooks_delivery")
        event, dataset = an_event()
        put_aside(Kind.DELIVERY, delivery.id, is_stuck=is_stuck)
        put_aside(Kind.EVENT, event, dataset_id=dataset)
        put_aside(Kind.WEBHOOK, hook)
        tasks.work_once()
        assert receiver.requests == [] and len(waiting()) == 3
        call(sysadmin, "webhook_quarantine_retry")
        tasks.work_once()
        tasks.work_once()
        assert waiting() == []
        assert sorted(r.json["event_id"] for r in receiver.requests) == sorted(
            [delivery.event_id, event]
        )

    def test_a_worker_is_told(self, sysadmin, monkeypatch):
        nudges: list[int] = []
        monkeypatch.setattr(logic.queue, "nudge", lambda: nudges.append(1))
        number = put_aside(Kind.EVENT, "e1")
        call(sysadmin, "webhook_quarantine_retry", id=number)
        call(sysadmin, "webhook_quarantine_give_up", id=number)
        assert len(nudges) == 2


class TestGiveUp:
    def test_an_event_is_numbered_and_told_to_nobody(self, sysadmin, hook):
        event, dataset = an_event()
        number = put_aside(Kind.EVENT, event, dataset_id=dataset)
        assert call(sysadmin, "webhook_quarantine_give_up", id=number) == number
        factories.Dataset()
        tasks._dispatch_all()
        assert waiting() == [] and row("webhooks_event", event).dispatched_at
        (later,) = execute("SELECT * FROM webhooks_event WHERE id <> :id", id=event)
        assert [d.event_id for d in stored("webhooks_delivery")] == [later.id]
        assert later.sequence > row("webhooks_event", event).sequence

    def test_an_event_stays_in_the_feed_at_the_number_that_it_has_now(self, sysadmin):
        factories.Dataset()
        tasks._dispatch_all()
        event, dataset = an_event()
        number = put_aside(Kind.EVENT, event, dataset_id=dataset)
        before = call(sysadmin, "webhook_event_list")["cursor"]
        call(sysadmin, "webhook_quarantine_give_up", id=number)
        found = call(sysadmin, "webhook_event_list", after=before)["events"]
        assert [one["event_id"] for one in found] == [event]
        assert row("webhooks_event", event).held_from == before

    @pytest.mark.parametrize("kind", [Kind.EVENT, Kind.RIGHTS])
    def test_what_waited_behind_it_is_told_as_old_as_it_is(self, sysadmin, user, hook, kind):
        event, dataset = an_event()
        key = event if kind is Kind.EVENT else f"{user['id']} {dataset}"
        number = put_aside(kind, key, dataset_id=dataset, user_id=user["id"], sequence=7)
        call(sysadmin, "package_patch", id=dataset, title="Later")
        tasks._dispatch_all()
        assert stored("webhooks_delivery") == []
        call(sysadmin, "webhook_quarantine_give_up", id=number)
        tasks._dispatch_all()
        later = stored("webhooks_delivery")[-1].event_id
        assert {e.held_from for e in stored("webhooks_event")} == {7}
        assert (row("webhooks_event", later).version, later != event) == (2, True)

    def test_another_that_cannot_be_written_behind_it_is_no_hindrance(self, sysadmin):
        event, dataset = an_event()
        number = put_aside(Kind.EVENT, event, dataset_id=dataset)
        for title in ("Odd", "Later"):
            call(sysadmin, "package_patch", id=dataset, title=title)
        with refusing("UPDATE", "webhooks_event", "NEW.version = 2"):
            call(sysadmin, "webhook_quarantine_give_up", id=number)
        held = execute("SELECT held_from IS NOT NULL FROM webhooks_event ORDER BY version")
        assert held == [(True,), (False,), (True,)]

    def test_one_that_was_dispatched_meanwhile_keeps_its_number(self, sysadmin):
        event, dataset = an_event()
        number = put_aside(Kind.EVENT, event, dataset_id=dataset)
        execute("UPDATE webhooks_event SET sequence = nextval('webhooks_event_order')")
        before = row("webhooks_event", event)
        call(sysadmin, "webhook_quarantine_give_up", id=number)
        assert row("webhooks_event", event) == before and waiting() == []

    def test_an_event_that_cannot_be_written_is_deleted(self, sysadmin):
        event, dataset = an_event()
        number = put_aside(Kind.EVENT, event, dataset_id=dataset)
        with refusing("UPDATE", "webhooks_event", "true"):
            call(sysadmin, "webhook_quarantine_give_up", id=number)
        assert stored("webhooks_event") == [] and waiting() == []

    def test_of_a_purged_dataset_nothing_is_kept(self, sysadmin):
        dataset = factories.Dataset(title="Patient zero")["id"]
        tasks._dispatch_all()
        call(sysadmin, "dataset_purge", id=dataset)
        (event,) = execute("SELECT id FROM webhooks_event WHERE sequence IS NULL")
        number = put_aside(Kind.EVENT, event.id, dataset_id=dataset)
        call(sysadmin, "webhook_quarantine_give_up", id=number)
        assert "Patient zero" not in str(stored("webhooks_event"))

    def test_no_number_is_given_while_a_worker_gives_some(self, sysadmin, monkeypatch):
        monkeypatch.setattr(logic, "_DISPATCH_PATIENCE", 50)
        event, dataset = an_event()
        number = put_aside(Kind.EVENT, event, dataset_id=dataset)
        with transaction() as connection:
            dispatch_lock(connection)
            with pytest.raises(tk.ValidationError, match="at this moment: ask again"):
                call(sysadmin, "webhook_quarantine_give_up", id=number)
        assert len(waiting()) == 1
        call(sysadmin, "webhook_quarantine_give_up", id=number)
        assert waiting() == []

    def test_rights_are_forgotten(self, sysadmin, user):
        key = f"{user['id']} d1"
        number = put_aside(Kind.RIGHTS, key, dataset_id="d1", user_id=user["id"], labels=["a"])
        call(sysadmin, "webhook_quarantine_give_up", id=number)
        assert stored("webhooks_quarantine") == []

    @pytest.mark.parametrize("is_stuck", [False, True])
    def test_a_delivery_is_cancelled_and_says_so(self, sysadmin, user, hook, is_stuck):
        delivery = a_delivery(hook)
        number = put_aside(Kind.DELIVERY, delivery, is_stuck=is_stuck)
        call(sysadmin, "webhook_quarantine_give_up", id=number)
        shown = call(user, "webhook_delivery_show", id=delivery)
        assert shown["status"] == "cancelled" and shown["ended_at"]
        assert shown["reason"] == "a sysadmin gave it up, since the portal could not send it"
        assert waiting() == []

    def test_a_delivery_that_cannot_be_written_is_deleted(self, sysadmin, hook):
        other, delivery = a_delivery(hook), a_delivery(hook)
        number = put_aside(Kind.DELIVERY, delivery, is_stuck=True)
        with refusing("UPDATE", "webhooks_delivery", "true"):
            call(sysadmin, "webhook_quarantine_give_up", id=number)
        assert [d.id for d in stored("webhooks_delivery")] == [other]

    def test_a_delivery_that_a_worker_has_is_not_waited_for(self, sysadmin, hook):
        delivery = a_delivery(hook)
        number = put_aside(Kind.DELIVERY, delivery)
        with transaction() as connection:
            connection.execute(sa.text("SELECT FROM webhooks_delivery FOR UPDATE"))
            with pytest.raises(tk.ValidationError, match="at this moment: ask again"):
                call(sysadmin, "webhook_quarantine_give_up", id=number)
        assert row("webhooks_delivery", delivery).status == "pending" and len(waiting()) == 1

    def test_a_webhook_is_disabled_and_a_replay_begins_where_it_was_put_aside(
        self, sysadmin, user, hook
    ):
        delivery = a_delivery(hook)
        number = put_aside(Kind.WEBHOOK, hook)
        factories.Dataset()
        tasks._dispatch_all()
        execute("UPDATE webhooks_event SET dispatched_at = '2026-11-24'")
        call(sysadmin, "webhook_quarantine_give_up", id=number)
        shown = call(user, "webhook_show", id=hook)
        assert shown["state"] == "disabled"
        assert shown["state_reason"] == (
            "a sysadmin gave it up, since the portal could not write what it is told"
        )
        assert shown["health"]["missed_since"].startswith("2026-11-24")
        assert row("webhooks_delivery", delivery).status == "cancelled"
        assert waiting() == []
        assert call(user, "webhook_patch", id=hook, state="active")["state"] == "active"

    def test_a_webhook_that_is_disabled_keeps_its_reason(self, sysadmin, user, hook):
        call(user, "webhook_patch", id=hook, state="disabled")
        call(sysadmin, "webhook_quarantine_give_up", id=put_aside(Kind.WEBHOOK, hook))
        assert call(user, "webhook_show", id=hook)["state_reason"] == "by a person"
        assert waiting() == []

    def test_of_several_who_give_one_up_one_does(self, sysadmin):
        event, dataset = an_event()
        number = put_aside(Kind.EVENT, event, dataset_id=dataset)
        done: list[str] = []

        def give_up() -> None:
            try:
                call(sysadmin, "webhook_quarantine_give_up", id=number)
                done.append("given up")
            except tk.ObjectNotFound:
                done.append("not found")
            finally:
                model.Session.remove()

        threads = [threading.Thread(target=give_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == ["given up", *["not found"] * 3]
        assert waiting() == [] and row("webhooks_event", event).sequence


def test_kinds_are_counted_and_each_is_there():
    put_aside(Kind.EVENT, "e1")
    put_aside(Kind.EVENT, "e2")
    put_aside(Kind.WEBHOOK, "gone")
    with transaction() as connection:
        counts = quarantine.counts(connection)
    assert counts == {"event": 2, "rights": 0, "delivery": 0, "webhook": 0}
