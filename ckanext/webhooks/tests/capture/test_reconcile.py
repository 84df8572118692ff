"""What capture missed is found, and what was there before the log is noted."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from ckan.tests.helpers import call_action

from ... import capture, owners, queue, tasks
from ...capture import Found, listeners, missed, record
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


def plant(monkeypatch, module, name):
    """Break a function; gives what mends it again."""
    right = getattr(module, name)

    def wrong(*_args):
        raise RuntimeError("planted")

    monkeypatch.setattr(module, name, wrong)
    return lambda: monkeypatch.setattr(module, name, right)


@pytest.fixture
def broken(monkeypatch):
    """Capture has a bug for a while."""
    return plant(monkeypatch, record, "record")


@pytest.fixture
def reported(monkeypatch):
    """What a web process asks the worker to capture again."""
    ids: list[str] = []
    monkeypatch.setattr(queue, "report_missed", lambda some: ids.extend(some) or True)
    return ids


@pytest.fixture
def unnoted(monkeypatch):
    """The table of what was missed cannot be written to for a while."""
    return plant(monkeypatch, missed, "note")


def noted() -> list[str]:
    """Give the datasets that a worker is to capture, without a commit of the session's."""
    with model.meta.engine.connect() as other:
        rows = other.execute(sa.text("SELECT dataset_id FROM webhooks_missed ORDER BY 1")).all()
    return [row.dataset_id for row in rows]


def kept() -> list[str]:
    """Give the datasets that this process is still to note."""
    return [dataset_id for dataset_id, _since in listeners._kept]


def all_due() -> None:
    execute("UPDATE webhooks_missed SET due_at = now()")


def capture_missed() -> list[str]:
    """Do what a worker does each second; gives what is left."""
    all_due()
    capture.capture_missed()
    return noted()


def test_what_a_bug_kept_from_being_captured_is_noted_and_told_later(hook, broken, reported):
    factories.Dataset(name="before")
    dataset = factories.Dataset()
    assert log_rows() == []
    assert dataset["id"] in noted() and reported == []
    left = capture_missed()
    assert dataset["id"] in left, "the bug is still there"
    broken()
    execute(
        "INSERT INTO webhooks_event (id, sequence, entity_type, entity_id, dataset_id, state,"
        " occurred_at, captured_at) VALUES ('old', 0, 'dataset', 'x', 'x', 'purged',"
        " now() - interval '1 day', now() - interval '1 day')"
    )
    assert capture_missed() == []
    # They were made since the log began: not a seed, but a create that was missed.
    assert told() == ["dataset/create"] * 2


def test_what_cannot_be_captured_is_looked_at_less_and_less_often(broken):
    factories.Dataset()
    waits = []
    for age in ("0 s", "1 minute", "1 day"):
        execute(f"UPDATE webhooks_missed SET due_at = now(), missed_at = now() - interval '{age}'")
        capture.capture_missed()
        capture.capture_missed()  # it is not due
        waits += execute("SELECT max(extract(epoch FROM due_at - now())) FROM webhooks_missed")
    for (wait,), expected in zip(waits, (5, 15, 3600), strict=True):
        assert expected - 3 < wait < expected + 3


@pytest.mark.parametrize(
    ("action", "change", "expected"),
    [
        ("package_patch", {"title": "New"}, ["dataset/create", "resource/create"]),
        ("package_delete", {}, []),
        ("dataset_purge", {}, []),
    ],
)
def test_a_create_that_was_missed_is_told_by_what_comes_next(
    hook, monkeypatch, action, change, expected
):
    """The next change may be captured before a worker looks, and be no first sight."""
    factories.Dataset()
    assert told() == ["dataset/create"]
    with monkeypatch.context() as patch:
        patch.setattr(record, "record", lambda *_: 1 / 0)
        dataset = factories.Dataset(resources=[{"url": "http://example.com/a"}])
    assert dataset["id"] in noted()
    sysadmin = {"user": factories.Sysadmin()["name"]}
    call_action(action, sysadmin, id=dataset["id"], **change)
    assert told() == expected
    assert capture_missed() == []
    assert told() == []


def test_a_change_that_moved_neither_time_nor_labels_is_found_when_it_is_named(hook):
    dataset = factories.Dataset()
    told()
    by_hand("UPDATE package SET title = 'By hand' WHERE id = :id", id=dataset["id"])
    assert capture.reconcile_datasets([dataset["id"]]) == {dataset["id"]: Found.MISSED}
    assert told() == ["dataset/update"]


def test_what_one_statement_does_to_very_many_is_left_to_a_worker(hook, monkeypatch):
    monkeypatch.setattr(listeners, "MOST_BUILT_HERE", 2)
    monkeypatch.setattr(missed, "PAGE", 2)
    ids = [factories.Dataset()["id"] for _ in range(5)]
    told()
    assert noted() == []
    model.Session.query(model.Package).update({"title": "New"}, synchronize_session=False)
    model.Session.commit()
    assert told() == ["dataset/update"] * 2
    assert len(noted()) == 3 and set(noted()) < set(ids)
    assert capture_missed() == []
    assert told() == ["dataset/update"] * 3


def delete_resource_without_time() -> str:
    """Delete a dataset's resource as CKAN 2.12 does: its time stays; gives its id."""
    dataset = factories.Dataset(resources=[{"url": "http://example.com/a"}])
    assert told() == ["dataset/create", "resource/create"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "record", lambda *_: 1 / 0)
        model.Resource.get(dataset["resources"][0]["id"]).state = "deleted"
        model.Session.commit()
    return dataset["id"]


@contextmanager
def locked(*tables: str):
    with model.meta.engine.connect() as other, other.begin():
        other.execute(sa.text(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE"))
        yield


def test_what_was_missed_while_the_log_is_locked_and_the_broker_away_is_told(hook, monkeypatch):
    dataset = factories.Dataset(resources=[{"url": "http://example.com/a"}])
    told()
    monkeypatch.setattr(queue, "_try", lambda telling, otherwise: False)
    with locked("webhooks_event", "webhooks_delivery"):
        # As CKAN 2.12 deletes one: the dataset's time stays.
        model.Resource.get(dataset["resources"][0]["id"]).state = "deleted"
        model.Session.commit()
    assert capture_missed() == []
    assert told() == ["dataset/update", "resource/delete"]


def test_of_what_is_rolled_back_nothing_is_noted(broken):
    factories.Dataset()
    execute("DELETE FROM webhooks_missed")
    model.Session.query(model.Package).update({"title": "New"}, synchronize_session=False)
    sa.event.listen(model.Session, "before_commit", fail := lambda session: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            model.Session.commit()
    finally:
        sa.event.remove(model.Session, "before_commit", fail)
        model.Session.rollback()
    assert noted() == []


def test_a_save_of_many_waits_for_the_log_once(caplog):
    ids = sorted(factories.Dataset()["id"] for _ in range(3))
    with locked("webhooks_event"):
        model.Session.query(model.Package).update({"title": "New"}, synchronize_session=False)
        model.Session.commit()
    assert caplog.text.count("was not captured") == 1
    assert noted() == ids


def test_what_changed_before_the_migration_is_told_after_it(hook):
    """The code comes first, as in a rolling upgrade: a column is missing."""
    dataset = factories.Dataset()
    told()
    execute("ALTER TABLE webhooks_event RENAME COLUMN origin TO away")
    try:
        call_action("package_patch", id=dataset["id"], title="New")
    finally:
        execute("ALTER TABLE webhooks_event RENAME COLUMN away TO origin")
    assert noted() == [dataset["id"]]
    assert capture_missed() == []
    assert told() == ["dataset/update"]


class TestWhatCannotBeNoted:
    """The table of what was missed is locked, too, or its disk is full."""

    def test_is_reported_to_a_worker_which_notes_it(self, hook, unnoted, reported, monkeypatch):
        id_ = delete_resource_without_time()
        assert reported == [id_] and noted() == []
        with pytest.raises(RuntimeError):
            tasks.note_missed(reported)
        unnoted()
        monkeypatch.setattr(tasks.stopping, "wait", lambda _seconds: tasks.stopping.set())
        tasks.keep_captured()
        tasks.stopping.clear()
        assert noted() == [] and not tasks._unnoted
        assert told() == ["dataset/update", "resource/delete"]

    def test_is_noted_by_the_next_transaction_where_the_broker_is_away_too(
        self, hook, unnoted, monkeypatch
    ):
        monkeypatch.setattr(queue, "_try", lambda telling, otherwise: False)
        id_ = delete_resource_without_time()
        assert kept() == [id_]
        factories.User()
        assert kept() == [id_], "it still cannot be noted"
        unnoted()
        model.Session.execute(sa.text("SELECT 1"))
        model.Session.commit()
        assert (kept(), noted()) == ([], [id_])

    def test_is_kept_where_the_next_transaction_is_rolled_back(self, hook, unnoted, monkeypatch):
        monkeypatch.setattr(queue, "_try", lambda telling, otherwise: False)
        id_ = delete_resource_without_time()
        unnoted()
        sa.event.listen(model.Session, "before_commit", fail := lambda session: 1 / 0)
        try:
            with pytest.raises(ZeroDivisionError):
                model.Session.commit()
        finally:
            sa.event.remove(model.Session, "before_commit", fail)
            model.Session.rollback()
        assert (kept(), noted()) == ([id_], [])
        model.Session.commit()
        assert (kept(), noted()) == ([], [id_])


def test_a_comparison_that_fails_is_begun_again_soon(monkeypatch):
    compared: list = []
    seconds = itertools.count(0, 10)
    monkeypatch.setattr(tasks, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(capture, "reconcile", lambda _stopping: compared.append(1) or 1 / 0)
    monkeypatch.setattr(
        tasks.stopping, "wait", lambda _: tasks.stopping.set() if next(seconds) > 300 else None
    )
    tasks.keep_reconciled()
    tasks.stopping.clear()
    assert len(compared) > 1


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


def test_a_dataset_whose_labels_cannot_be_read_keeps_no_other_from_being_compared(
    hook, monkeypatch
):
    bad, _good = (factories.Dataset() for _ in range(2))
    execute("UPDATE package SET metadata_modified = now() at time zone 'utc', title = 'By hand'")
    right = record.labels

    def labels(package):
        return 1 / 0 if package.id == bad["id"] else right(package)

    monkeypatch.setattr(record, "labels", labels)
    assert found(capture.reconcile()) == {Found.FAILED: 1, Found.MISSED: 1}
    monkeypatch.undo()
    assert found(capture.reconcile()) == {Found.MISSED: 1}


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
