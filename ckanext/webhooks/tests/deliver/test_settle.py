"""A set is written down by its ids, whatever the statistics say of the table."""

from __future__ import annotations

import pytest
from ckan.tests import factories

from ...deliver import lease, settle
from ..callers import create, execute

pytestmark = pytest.mark.usefixtures("webhooks_db")


@pytest.fixture
def pending() -> list[int]:
    """Fill the table after it was analysed, when nothing in it was pending."""
    hook = create(factories.User())
    write = (
        "INSERT INTO webhooks_delivery"
        " (webhook_id, event_id, topic, sequence, address, format, status)"
        " SELECT :hook, 'no-' || n, 'dataset/update', n, 'http://example.com', 'classic', :status"
        " FROM generate_series(1, :count) n"
    )
    execute(write, hook=hook, status="delivered", count=8000)
    execute("ANALYZE webhooks_delivery")
    execute(write, hook=hook, status="pending", count=8000)
    return [row.id for row in execute("SELECT id FROM webhooks_delivery WHERE status = 'pending'")]


@pytest.mark.parametrize("statement", [settle._SETTLE, settle._CANCEL, lease._GIVE_BACK])
def test_each_of_a_set_is_not_looked_for_among_all(pending, statement):
    set_up, _semicolon, looking = str(statement).rpartition(";")
    values = dict.fromkeys(statement.compile().params, "{}") | {"ids": pending[:500]}
    if "until" in values and statement is lease._GIVE_BACK:
        values["until"] = "2026-01-01"
    if statement is not settle._CANCEL:
        values["ids"] = "{" + ",".join(map(str, values["ids"])) + "}"
    else:
        values["reasons"] = ["superseded"] * 500
    lines = execute(f"{set_up}{_semicolon} EXPLAIN {looking}", **values)
    plan = "\n".join(row[0] for row in lines)
    assert not ("Nested Loop" in plan and "Seq Scan on webhooks_delivery" in plan), plan
