"""Fixtures of the database tier; the acceptance tier's are in test_path.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from ckan import model

from .. import owners

TABLES = "webhooks, webhooks_event, webhooks_delivery, webhooks_attempt"


@pytest.fixture
def webhooks_db(clean_db: None, migrate_db_for, with_plugins: None) -> Iterator[None]:
    """A CKAN without datasets, and with empty tables of this extension."""
    migrate_db_for("webhooks")
    model.Session.execute(sa.text(f"TRUNCATE {TABLES}"))
    model.Session.commit()
    owners.forget()
    yield
    model.Session.rollback()
