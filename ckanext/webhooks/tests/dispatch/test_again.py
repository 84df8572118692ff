"""What waits behind something put aside, and what its readers get when it goes on."""

from __future__ import annotations

import pytest
from ckan.tests import factories

from ... import owners, tasks
from ..aside import kinds, refusing, try_again
from ..callers import call, create, execute, join

pytestmark = pytest.mark.usefixtures("webhooks_db")


def refuse(dataset: dict):
    """Have a dataset's events refused."""
    return refusing("UPDATE", "webhooks_event", f"NEW.dataset_id = ''{dataset['id']}''")


def patch(dataset: dict, title: str) -> None:
    call(factories.Sysadmin(), "package_patch", id=dataset["id"], title=title)


def titles(receiver, dataset: dict) -> list[str | None]:
    """Give what was told of a dataset, in order: its titles, None where that was left out."""
    requests = sorted(receiver.requests, key=lambda request: request.json["sequence"])
    return [
        request.json["entity"].get("title")
        for request in requests
        if request.json["entity"]["id"] == dataset["id"]
    ]


def work() -> None:
    """Work until nothing is left to do at once."""
    while tasks.work_once():
        pass


def test_later_changes_of_the_dataset_wait_and_all_others_go_on(receiver, user):
    create(user, topic="dataset/*", address=receiver.url)
    odd, other = factories.Dataset(title="1"), factories.Dataset(title="1")
    with refuse(odd):
        work()
        for title in ("2", "3"):
            patch(odd, title)
            patch(other, title)
            work()
        assert titles(receiver, odd) == []
        assert titles(receiver, other) == ["1", "2", "3"]
        assert kinds() == ["event"]
        try_again()
        work()
        assert titles(receiver, odd) == [], "the cause is not gone"
    try_again()
    work()
    assert titles(receiver, odd) == ["1", "2", "3"]
    assert kinds() == []


def test_the_pauses_grow_up_to_an_hour(user):
    create(user, topic="dataset/*")
    odd = factories.Dataset()
    pauses = []
    with refuse(odd):
        for _ in range(7):
            tasks.dispatch()
            rows = execute(
                "SELECT tries, extract(epoch FROM due_at - clock_timestamp()) AS pause"
                " FROM webhooks_quarantine"
            )
            pauses += [(row.tries, round(float(row.pause))) for row in rows or []]
            try_again()
    assert pauses == [(1, 5), (2, 20), (3, 80), (4, 320), (5, 1280), (6, 3600), (7, 3600)]


def test_it_keeps_no_right_back_and_who_gained_one_meanwhile_gets_old_states_without_content(
    receiver, user
):
    organization = factories.Organization()
    create(user, topic="dataset/*", address=receiver.url)
    private = {"owner_org": organization["id"], "private": True}
    odd, other = factories.Dataset(title="1", **private), factories.Dataset(title="1", **private)
    work()
    with refuse(odd):
        patch(odd, "secret")
        work()
        patch(odd, "mended")
        join(organization, user)
        work()
        assert titles(receiver, other) == ["1"], "the right is given"
        assert kinds() == ["event"]
    try_again()
    work()
    assert "mended" in titles(receiver, odd)
    assert "secret" not in str([request.body for request in receiver.requests])


def test_what_a_move_means_for_a_dataset_comes_before_what_happened_to_it_since(receiver, user):
    organization = factories.Organization()
    create(user, topic="dataset/*", address=receiver.url)
    private = {"owner_org": organization["id"], "private": True}
    odd, other = factories.Dataset(title="1", **private), factories.Dataset(title="1", **private)
    work()
    is_its_move = f"NEW.source_id IS NOT NULL AND NEW.entity_id = ''{odd['id']}''"
    with refusing("INSERT", "webhooks_event", is_its_move):
        join(organization, user)
        work()
        assert titles(receiver, other) == ["1"]
        assert kinds() == ["rights"]
        patch(odd, "2")
        work()
        assert titles(receiver, odd) == []
    try_again()
    work()
    work()
    told = sorted(receiver.requests, key=lambda request: request.json["sequence"])
    of_it = [r.json for r in told if r.json["entity"]["id"] == odd["id"]]
    assert [each["topic"] for each in of_it] == ["dataset/create", "dataset/update"]
    assert of_it[-1]["entity"]["title"] == "2"
    assert kinds() == []


def test_a_labels_plugin_is_asked_under_no_lock(user, directory):
    """It may take as long as it likes: PostgreSQL ends a transaction that waits for 10 s."""
    create(user, topic="dataset/create")
    factories.Dataset()
    asked = []
    usual = directory.get_user_dataset_labels

    def ask(who):
        # Other databases of this server may hold some of their own.
        (row,) = (
            execute(
                "SELECT count(*) AS n FROM pg_locks JOIN pg_database d ON d.oid = database"
                " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
            )
            or []
        )
        asked.append(row.n)
        return usual(who)

    directory.get_user_dataset_labels = ask
    owners.forget()
    assert tasks.dispatch() is not None
    assert asked and set(asked) == {0}
