"""An empty CKAN for each test."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import sqlalchemy as sa
from ckan import model
from ckan.tests import factories
from sqlalchemy.orm.session import close_all_sessions

OURS = (
    "webhooks",
    "webhooks_event",
    "webhooks_delivery",
    "webhooks_attempt",
    "webhooks_served",
    "webhooks_missed",
    "webhooks_right",
    "webhooks_quarantine",
)


def empty() -> None:
    """Leave CKAN's and this extension's tables without a row.

    CKAN's fixture ``clean_db`` asks first which tables there are, one by one, and deletes from
    one after the other; that takes longer than most tests do.
    """
    close_all_sessions()  # whoever has a transaction open would make us wait
    with model.meta.engine.begin() as connection:
        connection.execute(sa.text(_statement(len(model.meta.metadata.tables))))
    model.Session.remove()
    factories.fake.unique.clear()


def empty_ours() -> None:
    """Leave this extension's tables without a row, and forget what was cached of them."""
    model.Session.execute(sa.text(_deletes(OURS)))
    model.Session.commit()
    # Not at the top: loading CKAN's configuration silences loggers that are there before it.
    from .. import owners

    owners.forget()


@cache
def _statement(known: int) -> str:
    """Give the statement that deletes all.

    :param known: how many tables CKAN and the plugins that were loaded so far have
    """
    there = set(sa.inspect(model.meta.engine).get_table_names())
    names = [table.name for table in reversed(model.meta.metadata.sorted_tables)]
    emptied = [*OURS, *(name for name in names if name in there and name != "alembic_version")]
    return _deletes(emptied)


def _deletes(names: Iterable[str]) -> str:
    # Not TRUNCATE, which takes 100 times as long where a table is empty.
    return "; ".join(f'DELETE FROM "{name}"' for name in names)
