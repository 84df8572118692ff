"""What is asked of the tables: each stage and each action, as it is in life."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ckan.plugins.toolkit as tk
import sqlalchemy as sa
from ckan import model

from bench.big_tables.fill import ALL, DAYS
from bench.stand import Stand, execute
from ckanext.webhooks import capture, doctor, owners, sweep
from ckanext.webhooks.deliver import deliver_due
from ckanext.webhooks.dispatch import dispatch, move_on, notice_rights, tell_newest

# What a page is made of answers within so many ms, with a million deliveries of a webhook.
PAGE = 300.0
# Days; what is older than that is a quarter of the tables.
RETENTION = 30
DELIVER_FOR = 3.0  # seconds


@dataclass(frozen=True)
class Asked:
    """One thing that is asked.

    :ivar run: asks it
    :ivar limit: milliseconds, where there is a limit
    :ivar repeatable: it changes nothing
    :ivar whole: why it may read a table whole, where it may
    """

    what: str
    run: Callable[[], object]
    limit: float | None = None
    repeatable: bool = False
    whole: str = ""


def webhook(n: int) -> str:
    """Give the id of one of fill's webhooks."""
    return str(execute(sa.text("SELECT CAST(md5('webhook' || :n) AS uuid)"), n=n)[0][0])


# By their numbers: one that wants all and has a million deliveries; one that wants all and holds
# back a fifth of that; one of an organization, with some of each kind.
BUSY, FAILING, HOLDING, SMALL = 0, 2, ALL - 1, ALL + 1


def reading() -> Iterator[Asked]:
    """Give what only reads: what pages, the API and commands ask."""

    def page(what: str, name: str, **data: Any) -> Asked:
        return Asked(what, _asking(name, **data), PAGE, repeatable=True)

    webhooks = {"a million": webhook(BUSY), "much held back": webhook(HOLDING)}
    webhooks["little"] = webhook(SMALL)
    busy, middle, listed = webhooks["a million"], _ago(DAYS / 2), "webhook_delivery_list"
    yield page("webhook_list", "webhook_list", limit=25)
    ids = [one["id"] for one in call("webhook_list", limit=25)]
    yield page("webhook_history of 25 webhooks", "webhook_history", ids=ids)
    yield page("webhook_history of a million", "webhook_history", ids=[busy])
    for name, id_ in webhooks.items():
        yield page(f"{listed} of {name}", listed, id=id_)
        for status in ("pending", "delivered", "failed", "cancelled"):
            yield page(f"{listed} of {name}, {status}", listed, id=id_, status=status)
        yield page(f"{listed} of {name}, a topic", listed, id=id_, topic="resource/*")
        yield page(f"{listed} of {name}, a topic of none", listed, id=id_, topic="ping")
    yield page(f"{listed}, since an hour", listed, id=busy, since=_ago(1 / 24))
    yield page(f"{listed}, until the middle", listed, id=busy, until=middle)
    day = {"since": middle, "until": _ago(DAYS / 2 - 1)}
    yield page(f"{listed}, failed in a day", listed, id=busy, status="failed", **day)
    yield page(f"{listed}, a later page", listed, id=busy, cursor=_ended(busy))
    yield page("webhook_delivery_show", "webhook_delivery_show", id=_ended(busy))
    yield page("webhook_load", "webhook_load")
    # The limit is for a million: of twenty, a sample of all is mostly not in memory.
    yield Asked("webhook_load of a month", _asking("webhook_load", hours=720), repeatable=True)
    yield page("webhook_dataset_told", "webhook_dataset_told", id="dataset-7")
    for what, data in (
        ("all", {}),
        ("a million", {"id": busy}),
        ("little", {"id": webhooks["little"]}),
    ):
        yield Asked(f"webhook_stats of {what}", _asking("webhook_stats", **data), repeatable=True)
    newest = int(execute(sa.text("SELECT max(sequence) FROM webhooks_event"))[0][0])
    for what, after in (("the start", 0), ("the middle", newest // 2)):
        for user in ("admin", "owner-0"):
            feed = _asking("webhook_event_list", user, after=after)
            yield Asked(f"webhook_event_list from {what}, as {user}", feed, repeatable=True)
    yield Asked("webhook_show", _asking("webhook_show", id=busy), repeatable=True)
    yield Asked("doctor", lambda: list(doctor.findings()))


def writing(stand: Stand) -> Iterator[Asked]:
    """Give what changes something: the stages in their order, and actions."""
    busy, small = webhook(BUSY), webhook(SMALL)
    execute(
        sa.text("UPDATE webhooks SET address = :address"), address=stand.endpoints.address("good")
    )
    yield Asked("capture: create, change, delete, purge", _save)
    commit(100)
    yield Asked("dispatch", _dispatch_all)
    yield Asked("deliver: claim, hold back, settle", _deliver)
    execute(_FAILING, id=webhook(FAILING))
    commit(20)
    _dispatch_all()
    yield Asked("deliver to one that fails, and is disabled", _deliver)
    execute(_NEWEST_ONLY, id=webhook(HOLDING))
    yield Asked("deliver of what is held back the newest", _deliver)
    execute(_OPEN, id=webhook(HOLDING))
    execute(sa.text("UPDATE webhooks_served SET labels = '[]' WHERE user_id = 'owner-1'"))
    yield Asked("a move of rights, two pages", _move)
    execute(_MOVED)
    yield Asked("sweep, with nothing old", sweep.sweep)
    execute(sa.text("UPDATE \"user\" SET state = 'deleted' WHERE id = 'owner-3'"))
    owners.forget()
    yield Asked("sweep, an owner is gone", sweep.sweep)
    yield Asked("tell owners", sweep.tell_owners)
    tk.config["ckanext.webhooks.retention_days"] = RETENTION
    yield Asked("prune, ten steps", lambda: list(itertools.islice(sweep.drop_old(), 10)))
    tk.config["ckanext.webhooks.log_max_size"] = _nearly_all()
    yield Asked(
        "trim the log",
        sweep.trim_log,
        whole="hourly, where the log is larger than log_max_size",
    )
    yield Asked(
        "compare log and catalogue",
        lambda: list(capture.reconcile()),
        whole="hourly, it looks at every dataset",
    )
    yield Asked("capture what was missed", _capture_missed)
    replay, since = "webhook_replay", _ago(DAYS + 1)
    yield Asked(f"{replay} of all, a page", _asking(replay, id=busy, since=since))
    yield Asked(f"{replay} of what failed, a page", _asking(replay, id=busy, failed_only=True))
    day = {"since": _ago(2), "until": _ago(1)}
    yield Asked(f"{replay}, failed in a day", _asking(replay, id=busy, failed_only=True, **day))
    yield Asked("webhook_redeliver", _asking("webhook_redeliver", id=_ended(busy)))
    yield Asked("webhook_patch to disabled", _asking("webhook_patch", id=busy, state="disabled"))
    yield Asked("webhook_patch to active", _asking("webhook_patch", id=busy, state="active"))
    yield Asked("webhook_delete", _asking("webhook_delete", id=small))


def call(action: str, user: str = "admin", **data: Any) -> Any:
    try:
        return tk.get_action(action)({"user": user}, data)
    finally:
        model.Session.remove()


def _asking(action: str, user: str = "admin", **data: Any) -> Callable[[], object]:
    return lambda: call(action, user, **data)


def _save() -> None:
    """Save a dataset as people do."""
    name = f"saved-{time.monotonic_ns()}"
    call("organization_create", name=f"org-{name}")
    resources = [{"url": "http://example.com/"}]
    call("package_create", name=name, owner_org=f"org-{name}", resources=resources)
    call("package_patch", id=name, title="Another")
    call("package_delete", id=name)
    call("dataset_purge", id=name)


def _capture_missed() -> None:
    """Miss changes of as many datasets as a worker takes at once, and capture them."""
    ids = [row.id for row in execute(sa.text("SELECT id FROM package ORDER BY id LIMIT 100"))]
    capture.note_missed(ids)
    capture.capture_missed()


def commit(number: int) -> None:
    """Commit a change of each of so many of fill's datasets."""
    execute(_CHANGE, number=number)


def _dispatch_all() -> None:
    while dispatch():
        pass


def _deliver() -> None:
    """Deliver for some seconds: there may be very much."""
    until = time.monotonic() + DELIVER_FOR
    deliver_due(tell_newest, lambda: time.monotonic() > until)


def _move() -> None:
    owners.forget()
    notice_rights()
    for _ in range(2):
        move_on()


def _ago(days: float) -> str:
    statement = sa.text("SELECT clock_timestamp() - :days * interval '1 day'")
    return str(execute(statement, days=days)[0][0].isoformat())


def _ended(webhook_id: str) -> int:
    """Give a delivery of a webhook that ended, from the middle of all."""
    statement = """
        SELECT id FROM webhooks_delivery
        WHERE (webhook_id, id) > (:id, (SELECT max(id) / 2 FROM webhooks_delivery))
            AND ended_at IS NOT NULL
        ORDER BY webhook_id, id LIMIT 1
    """
    return int(execute(sa.text(statement), id=webhook_id)[0][0])


def _nearly_all() -> int:
    """Give the MiB of content that the log has, but a little: whole ones, and not none."""
    statement = sa.text("SELECT sum(pg_column_size(content)) FROM webhooks_event")
    return max(1, int(execute(statement)[0][0] / 2**20 * 0.99))


_CHANGE = sa.text(
    """
    INSERT INTO webhooks_event (id, entity_type, entity_id, dataset_id, version, state, occurred_at,
        captured_at, labels_before, labels, facets_before, facets, content, digest,
        metadata_modified)
    SELECT gen_random_uuid(), 'dataset', dataset_id, dataset_id, version + 1, 'active',
        clock_timestamp(), clock_timestamp(), labels, labels, facets, facets,
        replace(content, '"name" : "', '"name" : "new-'), digest, metadata_modified
    FROM generate_series(0, :number - 1) n
        CROSS JOIN LATERAL (
            SELECT * FROM webhooks_event
            WHERE dataset_id = CAST(CAST(md5('dataset' || n) AS uuid) AS text)
                AND version IS NOT NULL
            ORDER BY version DESC LIMIT 1) newest
    """
)
# An endpoint that refuses connections, and has for longer than is waited for.
_FAILING = sa.text(
    """
    UPDATE webhooks SET address = 'http://127.0.0.1:1/', failures = 9,
        failing_since = now() - interval '10 days' WHERE id = :id
    """
)
_NEWEST_ONLY = sa.text(
    "UPDATE webhooks SET newest_only = true, circuit = 'closed', next_at = now() WHERE id = :id"
)
_OPEN = sa.text(
    """
    UPDATE webhooks SET newest_only = false, circuit = 'open', next_at = now() + interval '1 day'
    WHERE id = :id
    """
)
_MOVED = sa.text(
    """
    UPDATE webhooks_served SET labels = next_labels, next_labels = NULL, since = NULL, cursor = NULL
    WHERE next_labels IS NOT NULL
    """
)
