"""What time alone makes necessary."""

from __future__ import annotations

import secrets

import pytest
from ckan.tests import factories
from ckan.tests.helpers import call_action, changed_config

from .. import owners, sweep
from ..model import Kind
from .aside import put_aside
from .callers import call, create, execute, stored

pytestmark = pytest.mark.usefixtures("webhooks_db")

OPTION = "ckanext.webhooks.minimum_auth"


def event(id_: str, dataset: str = "d1", version: int | None = 1, age: int = 0, **columns) -> None:
    """Write a row of the log that was dispatched so many days ago."""
    row = {
        "id": id_,
        "dataset": dataset,
        "version": version,
        "age": age,
        "state": "active",
        "source": None,
        "dispatched": True,
        **columns,
    }
    execute(
        "INSERT INTO webhooks_event (id, sequence, entity_type, entity_id, dataset_id, version,"
        " source_id, state, occurred_at, captured_at, dispatched_at)"
        " SELECT :id, CASE WHEN :dispatched THEN nextval('webhooks_event_order') END,"
        " CASE WHEN CAST(:source AS text) IS NULL THEN 'dataset' ELSE 'resource' END,"
        " :dataset, :dataset, :version, :source, :state, at, at,"
        " CASE WHEN :dispatched THEN at END"
        " FROM (SELECT clock_timestamp() - :age * interval '1 day' AS at) t",
        **row,
    )


def delivery(event_id: str, hook: str = "w1", age: int | None = None) -> None:
    """Write a delivery with an attempt that ended so many days ago, or waits."""
    execute(
        "WITH d AS (INSERT INTO webhooks_delivery"
        " (webhook_id, event_id, topic, sequence, address, format, status, ended_at)"
        " SELECT :hook, id, 'dataset/update', sequence, 'http://x', 'classic',"
        " CASE WHEN CAST(:age AS int) IS NULL THEN 'pending' ELSE 'delivered' END,"
        " clock_timestamp() - CAST(:age AS int) * interval '1 day'"
        " FROM webhooks_event WHERE id = :event RETURNING id)"
        " INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration)"
        " SELECT id, 1, clock_timestamp(), 0.1 FROM d",
        hook=hook,
        event=event_id,
        age=age,
    )


def kept(table: str) -> list[str]:
    column = {"webhooks_event": "id", "webhooks_delivery": "event_id"}[table]
    return sorted(getattr(row, column) for row in stored(table))


def states() -> dict[str, str]:
    return {row.id: row.state for row in stored()}


def sweep_now() -> None:
    owners.forget()
    sweep.sweep()


def test_owners_without_the_role_are_paused_and_come_back_by_themselves():
    user, sysadmin = factories.User(), factories.Sysadmin()
    mine, disabled, theirs = create(user), create(user), create(sysadmin)
    call(user, "webhook_patch", id=disabled, state="disabled")
    event("e1")
    delivery("e1", mine)
    delivery("e1", theirs)
    sweep_now()
    assert states() == {mine: "active", disabled: "disabled", theirs: "active"}
    with changed_config(OPTION, "editor"):
        sweep_now()
        assert states() == {mine: "paused", disabled: "disabled", theirs: "active"}
        shown = call(user, "webhook_show", id=mine)
        assert OPTION in shown["state_reason"]
        # What waits is cancelled, with the reason; of others nothing.
        rows = {r.webhook_id: (r.status, r.reason) for r in stored("webhooks_delivery")}
        assert rows == {mine: ("cancelled", shown["state_reason"]), theirs: ("pending", None)}
        before = stored()
        sweep_now()
        assert stored() == before, "once is enough"
        factories.Organization(users=[{"name": user["name"], "capacity": "editor"}])
        sweep_now()
        assert states() == {mine: "active", disabled: "disabled", theirs: "active"}
        assert call(user, "webhook_show", id=mine)["state_reason"] is None


def test_a_deleted_user_s_webhooks_are_paused_and_what_waits_is_cancelled():
    user, other = factories.User(), factories.User()
    hook, theirs = create(user), create(other)
    event("e1")
    for id_ in (hook, theirs):
        delivery("e1", id_)
    held_back(hook)
    call_action("user_delete", id=user["id"])
    sweep_now()
    (row,) = (r for r in stored() if r.id == hook)
    assert (row.state, row.state_reason) == ("paused", "its owner is not an active user any more")
    assert row.missed_since is not None
    assert states()[theirs] == "active"
    waiting = {r.webhook_id: (r.status, r.reason) for r in stored("webhooks_delivery")}
    assert waiting == {hook: ("cancelled", row.state_reason), theirs: ("pending", None)}
    # Whoever comes back goes on.
    execute("UPDATE \"user\" SET state = 'active' WHERE id = :id", id=user["id"])
    sweep_now()
    assert states() == {hook: "active", theirs: "active"}


def test_what_is_being_told_while_a_webhook_is_paused_counts_as_missed():
    """Another worker's transaction, which found the webhook paused, is committed after that."""
    user = factories.User()
    create(user)
    event("e1")
    execute("UPDATE webhooks_event SET dispatched_at = clock_timestamp()")
    ((begun,),) = execute("SELECT clock_timestamp()")
    call_action("user_delete", id=user["id"])
    sweep_now()
    (row,) = stored()
    (told,) = stored("webhooks_event")
    assert told.dispatched_at < row.missed_since < begun


@pytest.mark.ckan_config(OPTION, "editor")
def test_the_reason_for_a_pause_is_the_one_of_now():
    user = factories.User()
    factories.Organization(users=[{"name": user["name"], "capacity": "editor"}])
    hook = create(user)
    with changed_config(OPTION, "sysadmin"):
        sweep_now()
        (before,) = stored()
        call_action("user_delete", id=user["id"])
        sweep_now()
    (row,) = stored()
    assert row.id == hook and (before.state, row.state) == ("paused", "paused")
    assert OPTION in before.state_reason and "not an active user" in row.state_reason


def held_back(hook: str) -> None:
    execute("UPDATE webhooks_delivery SET due_at = NULL WHERE webhook_id = :id", id=hook)


def test_what_is_not_verified_does_not_become_active_by_a_pause():
    user = factories.User()
    with changed_config("ckanext.webhooks.verify", True):
        hook = create(user)
    with changed_config(OPTION, "sysadmin"):
        sweep_now()
    sweep_now()
    assert states() == {hook: "unverified"}


def test_old_secrets_are_forgotten_when_they_sign_no_more():
    user = factories.User()
    over, still, never = create(user), create(user), create(user)
    for hook in (over, still):
        call(user, "webhook_secret_rotate", id=hook)
    execute(
        "UPDATE webhooks SET previous_secret_until = clock_timestamp() - interval '1 second'"
        " WHERE id = :id",
        id=over,
    )
    before = {hook: call(user, "webhook_secret_show", id=hook)["secret"] for hook in states()}
    sweep_now()
    rows = {r.id: (r.previous_secret is None, r.previous_secret_until is None) for r in stored()}
    assert rows == {over: (True, True), still: (False, False), never: (True, True)}
    after = {hook: call(user, "webhook_secret_show", id=hook)["secret"] for hook in states()}
    assert after == before


def test_what_is_older_than_the_retention_goes_and_the_newest_state_stays():
    event("oldest", version=1, age=90)
    event("older", version=2, age=60)
    event("resource of older", version=None, age=60, source="older")
    event("newest", version=3, age=45)
    event("resource of newest", version=None, age=45, source="newest")
    event("young", dataset="d2", version=1, age=29)
    event("younger", dataset="d2", version=2, age=1)
    # Deleted long ago: that it was, and what it was, is its newest state.
    event("created", dataset="d3", version=1, age=90)
    event("deleted", dataset="d3", version=2, age=90, state="deleted")
    sweep.prune()
    sweep.prune()
    assert kept("webhooks_event") == ["deleted", "newest", "young", "younger"]
    with changed_config("ckanext.webhooks.retention_days", 7):
        sweep.prune()
    assert kept("webhooks_event") == ["deleted", "newest", "younger"]
    with changed_config("ckanext.webhooks.retention_days", 0.01):
        sweep.prune()
    assert kept("webhooks_event") == ["deleted", "newest", "younger"]


def test_of_a_purged_dataset_nothing_stays():
    event("active", version=1, age=90)
    event("purged", version=2, age=90, state="purged")
    event("purged lately", dataset="d2", version=1, age=1, state="purged")
    # While a delivery waits, its newest state is that it may not be sent.
    event("waited for", dataset="d3", version=1, age=90)
    event("purged meanwhile", dataset="d3", version=2, age=90, state="purged")
    delivery("waited for")
    sweep.prune()
    sweep.prune()
    assert kept("webhooks_event") == ["purged lately", "purged meanwhile", "waited for"]


def test_what_waits_is_not_old():
    event("to be dispatched", dataset="d0", version=1, age=90, dispatched=False)
    event("waited for", version=1, age=90)
    event("told and old", version=2, age=90)
    event("told lately", version=3, age=90)
    event("not dispatched", version=4, age=90, dispatched=False)
    delivery("waited for")
    delivery("told and old", age=31)
    delivery("told lately", age=29)
    sweep.prune()
    assert kept("webhooks_delivery") == ["told lately", "waited for"]
    assert len(stored("webhooks_attempt")) == 2, "attempts go with their delivery"
    # The newest that was dispatched stays: the next comparison is with it.
    assert kept("webhooks_event") == [
        "not dispatched",
        "to be dispatched",
        "told lately",
        "waited for",
    ]


def test_pruning_goes_on_over_many_sets(monkeypatch):
    monkeypatch.setattr(sweep.old, "BATCH", 2)
    for version in range(1, 8):
        event(f"e{version}", version=version, age=60)
        delivery(f"e{version}", age=60)
    # Seven deliveries, and six events that are not the newest.
    assert sweep.prune() == 13
    assert sweep.prune() == 0
    assert kept("webhooks_event") == ["e7"]
    assert stored("webhooks_delivery") == stored("webhooks_attempt") == []


def test_a_log_that_is_too_large_loses_its_oldest_events_before_their_time(monkeypatch):
    # What PostgreSQL cannot compress, so that the size is what it says.
    content = secrets.token_hex(400_000)
    for version in range(1, 5):
        event(f"e{version}", version=version, age=1)
    event("other", dataset="d2", version=1, age=2)
    event("waited for", dataset="d3", version=1, age=2)
    event("newer", dataset="d3", version=2, age=2)
    delivery("e1", age=1)
    delivery("waited for")
    execute("UPDATE webhooks_event SET content = :content", content=content)
    assert sweep.trim_log() == 0
    with changed_config("ckanext.webhooks.log_max_size", 2):
        assert sweep.trim_log() == 3
    assert kept("webhooks_event") == ["e4", "newer", "other", "waited for"]
    assert kept("webhooks_delivery") == ["e1", "waited for"], (
        "that it was delivered stays on record"
    )


def test_what_is_not_put_aside_any_more_is_forgotten_once_it_was_tried(user):
    hook = create(user)
    event("e1")
    delivery("e1", hook)
    event("e2", "d2")
    delivery("e2", hook)
    still, tried = (d.id for d in stored("webhooks_delivery"))
    for id_ in (still, tried):
        put_aside(Kind.DELIVERY, id_)
    put_aside(Kind.WEBHOOK, "deleted")
    put_aside(Kind.EVENT, "e3")
    execute("UPDATE webhooks_quarantine SET due_at = due_at - interval '59 minutes'")
    execute(
        "UPDATE webhooks_delivery d SET due_at = q.due_at FROM webhooks_quarantine q"
        " WHERE q.key = CAST(d.id AS text) AND d.id = :still",
        still=still,
    )
    keys = [str(still), str(tried), "deleted", "e3"]

    def left() -> list[str]:
        sweep_now()
        return [row.key for row in stored("webhooks_quarantine")]

    assert left() == keys, "a worker may be trying it now"
    execute("UPDATE webhooks_quarantine SET due_at = due_at - interval '2 minutes'")
    execute("UPDATE webhooks_delivery SET due_at = due_at - interval '2 minutes'")
    assert left() == [keys[0], "e3"]
