"""What capture missed is found, and what was there before the log is noted."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ... import capture, owners, queue, tasks
from ...capture import Found, listeners, record
from ...dispatch import dispatch
from ..callers import create, execute

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture
def hook():
    return create(factories.User())


def forget_log() -> None:
    execute("DELETE FROM webhooks_event")


def by_hand(statement: str, **values) -> None:
    """Change the catalogue by SQL that no session hears."""
    with model.meta.engine.begin() as connection:
        connection.execute(sa.text(statement), values)
    model.Session.expire_all()


def told() -> list[str]:
    owners.forget()
    while dispatch():
        pass
    rows = execute("DELETE FROM webhooks_delivery RETURNING sequence, topic")
    return [topic for _sequence, topic in sorted(rows)]


def found(steps) -> dict[Found, int]:
    return dict(Counter(steps))


def log_rows():
    return execute("SELECT * FROM webhooks_event WHERE version IS NOT NULL ORDER BY position")


def test_what_was_there_before_the_log_is_noted_and_told_to_nobody(hook):
    active = factories.Dataset(resources=[{"url": "http://example.com/a"}])
    factories.Dataset(state="draft")
    factories.Dataset(type="harvest")
    forget_log()
    assert capture.count_unknown() == 1
    assert found(capture.snapshot()) == {Found.MISSED: 1}
    assert capture.count_unknown() == 0
    (row,) = log_rows()
    assert (row.dataset_id, row.origin, row.labels) == (active["id"], "seed", ["public"])
    assert told() == []
    assert found(capture.snapshot()) == found(capture.reconcile()) == {}, "it is done once"
    call_action("package_patch", id=active["id"], title="New")
    assert told() == ["dataset/update"]


def test_a_snapshot_that_was_stopped_goes_on():
    for _ in range(3):
        factories.Dataset()
    forget_log()
    next(capture.snapshot())
    assert capture.count_unknown() == 2
    assert found(capture.snapshot()) == {Found.MISSED: 2}


def test_nothing_is_found_where_nothing_was_missed(hook):
    dataset = factories.Dataset()
    call_action("package_patch", id=dataset["id"], title="New")
    deleted = factories.Dataset()
    call_action("package_delete", id=deleted["id"])
    purged = factories.Dataset()
    call_action("dataset_purge", id=purged["id"])
    assert found(capture.reconcile()) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("UPDATE package SET title = 'By hand', metadata_modified = now()", ["dataset/update"]),
        ("UPDATE package SET private = true", ["dataset/delete"]),
        ("UPDATE package SET state = 'deleted'", ["dataset/delete"]),
    ],
)
def test_what_was_changed_by_hand_is_told(hook, change, expected):
    dataset = factories.Dataset(owner_org=factories.Organization()["id"])
    told()
    by_hand(f"{change} WHERE id = :id", id=dataset["id"])
    assert found(capture.reconcile()) == {Found.MISSED: 1}
    assert told() == expected
    assert found(capture.reconcile()) == {}


def test_a_time_that_alone_moved_is_looked_at_once(hook):
    dataset = factories.Dataset()
    told()
    by_hand("UPDATE package SET metadata_modified = now() WHERE id = :id", id=dataset["id"])
    assert found(capture.reconcile()) == {Found.SAME: 1}
    assert found(capture.reconcile()) == {}
    assert told() == []


def test_a_dataset_that_vanished_by_hand_is_told_as_purged(hook):
    dataset = factories.Dataset(title="Vanished")
    told()
    by_hand("DELETE FROM package WHERE id = :id", id=dataset["id"])
    assert found(capture.reconcile()) == {Found.MISSED: 1}
    assert told() == ["dataset/delete"]
    assert [row.content for row in log_rows()] == [None, None]


@pytest.fixture
def broken(monkeypatch):
    """Capture has a bug for a while."""
    right = record.record

    def wrong(*_args):
        raise RuntimeError("planted")

    monkeypatch.setattr(record, "record", wrong)
    return lambda: monkeypatch.setattr(record, "record", right)


@pytest.fixture
def reported(monkeypatch):
    """What a web process asks the worker to capture again."""
    ids: list[str] = []
    monkeypatch.setattr(queue, "report_missed", ids.extend)
    return ids


def test_what_a_bug_kept_from_being_captured_is_reported_and_told_later(hook, broken, reported):
    factories.Dataset(name="before")
    dataset = factories.Dataset()
    assert log_rows() == []
    assert dataset["id"] in reported
    assert set(capture.reconcile_datasets(reported)) == set(reported), "the bug is still there"
    broken()
    execute(
        "INSERT INTO webhooks_event (id, sequence, entity_type, entity_id, dataset_id, state,"
        " occurred_at, captured_at) VALUES ('old', 0, 'dataset', 'x', 'x', 'purged',"
        " now() - interval '1 day', now() - interval '1 day')"
    )
    assert capture.reconcile_datasets([dataset["id"]]) == []
    # It was made since the log began: not a seed, but a create that was missed.
    assert told() == ["dataset/create"]


@pytest.mark.parametrize(
    ("action", "change", "expected"),
    [
        ("package_patch", {"title": "New"}, ["dataset/create", "resource/create"]),
        ("package_delete", {}, []),
        ("dataset_purge", {}, []),
    ],
)
def test_a_create_that_was_missed_is_told_by_what_comes_next(
    hook, reported, monkeypatch, action, change, expected
):
    """The next change may be captured before a worker looks, and be no first sight."""
    factories.Dataset()
    assert told() == ["dataset/create"]
    with monkeypatch.context() as patch:
        patch.setattr(record, "record", lambda *_: 1 / 0)
        dataset = factories.Dataset(resources=[{"url": "http://example.com/a"}])
    assert dataset["id"] in reported
    sysadmin = {"user": factories.Sysadmin()["name"]}
    call_action(action, sysadmin, id=dataset["id"], **change)
    assert told() == expected


def test_a_change_that_moved_neither_time_nor_labels_is_found_when_it_is_named(hook):
    dataset = factories.Dataset()
    told()
    by_hand("UPDATE package SET title = 'By hand' WHERE id = :id", id=dataset["id"])
    assert capture.reconcile_datasets([dataset["id"]]) == []
    assert told() == ["dataset/update"]


def test_what_one_statement_does_to_very_many_is_left_to_a_worker(hook, reported, monkeypatch):
    monkeypatch.setattr(listeners, "MOST_BUILT_HERE", 2)
    ids = [factories.Dataset()["id"] for _ in range(5)]
    told()
    reported.clear()
    model.Session.query(model.Package).update({"title": "New"}, synchronize_session=False)
    model.Session.commit()
    assert told() == ["dataset/update"] * 2
    assert len(reported) == 3 and set(reported) < set(ids)
    assert capture.reconcile_datasets(reported) == []
    assert told() == ["dataset/update"] * 3


def test_a_worker_tries_again_what_could_not_be_captured(broken, reported):
    dataset = factories.Dataset()
    tasks.reconcile_missed([dataset["id"]])
    assert tasks._missed == {dataset["id"]}
    tasks._missed.clear()


def delete_resource_without_time() -> str:
    """Delete a dataset's resource as CKAN 2.12 does: its time stays; gives its id."""
    dataset = factories.Dataset(resources=[{"url": "http://example.com/a"}])
    assert told() == ["dataset/create", "resource/create"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "record", lambda *_: 1 / 0)
        model.Resource.get(dataset["resources"][0]["id"]).state = "deleted"
        model.Session.commit()
    return dataset["id"]


def test_what_was_missed_and_moved_no_time_is_found_in_comparing(hook, reported):
    delete_resource_without_time()
    assert found(capture.reconcile()) == {Found.MISSED: 1}
    assert told() == ["dataset/update", "resource/delete"]
    assert found(capture.reconcile()) == {}


def test_a_worker_notes_what_it_cannot_capture_before_it_ends(hook, reported, monkeypatch):
    """Where the save could not note it: a full disk, a lock."""
    with monkeypatch.context() as patch:
        patch.setattr(record, "doubt", lambda *_: 1 / 0)
        id_ = delete_resource_without_time()
    with monkeypatch.context() as patch:
        patch.setattr(record, "record", lambda *_: 1 / 0)
        tasks.reconcile_missed([id_])
        assert all(row.metadata_modified for row in log_rows())
        patch.setattr(tasks.stopping, "wait", lambda _seconds: tasks.stopping.set())
        tasks.keep_reconciled()
    tasks.stopping.clear()
    tasks._missed.clear()
    assert [row.metadata_modified for row in log_rows()] == [None]
    assert found(capture.reconcile()) == {Found.MISSED: 1}


def test_what_cannot_be_noted_does_not_put_off_the_comparison(monkeypatch):
    compared: list = []
    seconds = itertools.count(0, 10)
    monkeypatch.setattr(tasks, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(capture, "reconcile", lambda _stopping: compared.append(1) or [])
    monkeypatch.setattr(capture, "reconcile_datasets", list)
    monkeypatch.setattr(capture, "doubt", lambda _ids: 1 / 0)
    monkeypatch.setattr(
        tasks.stopping, "wait", lambda _: tasks.stopping.set() if next(seconds) > 300 else None
    )
    tasks._missed.add("a")
    tasks.keep_reconciled()
    tasks.stopping.clear()
    tasks._missed.clear()
    assert len(compared) > 1


def test_what_a_worker_was_asked_for_is_kept_while_the_database_is_away(monkeypatch):
    monkeypatch.setattr(capture, "reconcile_datasets", lambda _ids: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tasks.reconcile_missed(["a"])
    assert tasks._missed == {"a"}
    tasks._missed.clear()


def test_one_dataset_that_cannot_be_captured_stops_no_other(hook, monkeypatch):
    bad, good = sorted(factories.Dataset()["id"] for _ in range(2))
    forget_log()
    right = record.record

    def sometimes(session, dataset_id, touched):
        if dataset_id == bad:
            raise RuntimeError("planted")
        return right(session, dataset_id, touched)

    monkeypatch.setattr(record, "record", sometimes)
    assert found(capture.snapshot()) == {Found.FAILED: 1, Found.MISSED: 1}
    assert [row.dataset_id for row in log_rows()] == [good]


def test_a_purge_blanks_what_the_log_had_of_a_dataset(hook):
    for delete_first in (True, False):
        dataset = factories.Dataset(title="Confidential", resources=[{"url": "http://x/y"}])
        call_action("package_patch", id=dataset["id"], title="Confidential too")
        call_action("resource_delete", id=dataset["resources"][0]["id"])
        if delete_first:
            call_action("package_delete", id=dataset["id"])
        told()
        call_action("dataset_purge", id=dataset["id"])
        told()
        rows = execute(
            "SELECT content FROM webhooks_event WHERE dataset_id = :id", id=dataset["id"]
        )
        assert {row.content for row in rows} == {None}


def test_what_an_endpoint_sent_back_is_blanked_too():
    dataset = factories.Dataset()
    while dispatch():
        pass
    (event,) = log_rows()
    execute(
        "WITH d AS (INSERT INTO webhooks_delivery (webhook_id, event_id, topic, sequence, address,"
        " format) VALUES ('w', :id, 'dataset/create', :sequence, 'http://x', 'classic')"
        " RETURNING id)"
        " INSERT INTO webhooks_attempt (delivery_id, number, sent_at, duration, answer)"
        " SELECT id, 1, now(), 1, 'echo' FROM d",
        id=event.id,
        sequence=event.sequence,
    )
    call_action("dataset_purge", id=dataset["id"])
    while dispatch():
        pass
    assert execute("SELECT answer FROM webhooks_attempt") == [(None,)]


def test_the_seed_is_what_the_catalogue_shows():
    dataset = factories.Dataset(tags=[{"name": "tag"}], extras=[{"key": "k", "value": "v"}])
    (captured,) = log_rows()
    forget_log()
    list(capture.snapshot())
    (seeded,) = log_rows()
    assert json.loads(seeded.content)["id"] == dataset["id"]
    assert seeded.digest == captured.digest
