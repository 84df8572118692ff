"""The tables come, go, and take over those of the 2015 extension."""

from __future__ import annotations

import datetime
import re

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from ckan import model
from ckan.tests import factories

from ... import encryption
from ..callers import ADDRESS, call, create, stored
from ..tables import OURS

pytestmark = pytest.mark.usefixtures("webhooks_db")

COLUMNS_2015 = ["id", "address", "topic", "user_id", "created_at"]
# As the extension of 2015 defined it, by SQLAlchemy's create_all.
TABLE_2015 = """
    CREATE TABLE webhooks (
        id TEXT NOT NULL,
        address TEXT,
        topic TEXT,
        user_id TEXT,
        created_at TIMESTAMP WITHOUT TIME ZONE,
        PRIMARY KEY (id)
    )
"""
MOMENT = datetime.datetime(2015, 6, 7, 8, 9, 10)


@pytest.fixture
def migrate(migrate_db_for):
    """Migrate to a revision; at the end everything is as other tests want it."""

    def run(revision: str) -> None:
        # A connection that still reads would wait for ever, and we for it.
        model.Session.remove()
        migrate_db_for("webhooks", revision, forward=revision != "base")

    yield run
    run("head")


def tables() -> dict[str, list[str]]:
    """Give the columns of each table of this extension."""
    inspector = sa.inspect(model.meta.engine)
    return {
        name: [column["name"] for column in inspector.get_columns(name)]
        for name in inspector.get_table_names()
        if name.startswith("webhooks") and not name.endswith("_alembic_version")
    }


def indexes() -> set[str]:
    inspector = sa.inspect(model.meta.engine)
    return {index["name"] for name in tables() for index in inspector.get_indexes(name)}


def execute(statement: str, **values) -> None:
    model.Session.execute(sa.text(statement), values)
    model.Session.commit()


def wrong_defaults() -> list[str]:
    """Name columns whose defaults differ; Alembic's own comparison varies by version."""
    inspector = sa.inspect(model.meta.engine)
    return [
        f"{name}.{found['name']}"
        for name in tables()
        for found in inspector.get_columns(name)
        if found["name"] in model.meta.metadata.tables[name].c
        and _stored_default(found)
        != _model_default(model.meta.metadata.tables[name].c[found["name"]])
    ]


def _stored_default(column) -> str:
    made = next((kind for kind in ("identity", "computed") if column.get(kind)), None)
    return made or _bare(column["default"] or "")


def _model_default(column) -> str:
    default = column.server_default
    if default is None:
        return ""
    if isinstance(default, (sa.Identity, sa.Computed)):
        return type(default).__name__.lower()
    return _bare(str(default.arg))


def _bare(text: str) -> str:
    """Write a default without casts and quotes, which PostgreSQL adds."""
    return re.sub(r"::\w+|'", "", text)


def differences() -> list:
    """Give what Alembic would change so that the tables are as the models say."""

    def is_ours(name: str | None, type_: str) -> bool:
        if type_ != "table" or name is None:
            return True
        return name.startswith("webhooks") and not name.endswith("_alembic_version")

    options = {
        "include_name": lambda name, type_, parents: is_ours(name, type_),
        "include_object": lambda object_, name, type_, *others: is_ours(name, type_),
        "compare_type": True,
    }
    with model.meta.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        return [*compare_metadata(context, model.meta.metadata), *wrong_defaults()]


def insert_2015(**row) -> None:
    values = {**dict.fromkeys(COLUMNS_2015), **row}
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    execute(f"INSERT INTO webhooks ({names}) VALUES ({marks})", **values)


def test_the_models_are_what_the_migration_makes():
    assert differences() == []
    assert set(tables()) == set(OURS)
    # The comparison sees what is not so.
    execute("ALTER TABLE webhooks ADD COLUMN surplus text")
    execute("ALTER TABLE webhooks ALTER COLUMN state SET DEFAULT 'paused'")
    execute("DROP INDEX webhooks_delivery_due_idx")
    try:
        assert len(differences()) == 3
    finally:
        execute("ALTER TABLE webhooks DROP COLUMN surplus")
        execute("ALTER TABLE webhooks ALTER COLUMN state SET DEFAULT 'active'")
        execute(
            "CREATE INDEX webhooks_delivery_due_idx ON webhooks_delivery (due_at, id, webhook_id)"
            " WHERE status = 'pending' AND due_at IS NOT NULL"
        )
    assert differences() == []


def test_downgrade_leaves_what_2015_had_and_upgrade_takes_it_up_again(migrate):
    user = factories.User()
    one = create(user, topic="dataset/create")
    several = create(user, topic=["dataset/*", "resource/create"], description="d")
    everything = create(user, topic="*")
    before = {row.id: row for row in stored()}
    made = indexes()

    migrate("base")
    assert tables() == {"webhooks": COLUMNS_2015}
    assert [row.id for row in stored()] == sorted(before)
    for row in stored():
        old = before[row.id]
        assert (row.address, row.topic, row.user_id, row.created_at) == (
            old.address,
            old.topic,
            old.user_id,
            old.created_at,
        )
    # The code of that time may write what it wrote.
    insert_2015(id="bare")
    execute("DELETE FROM webhooks WHERE id = 'bare'")

    migrate("head")
    assert differences() == []
    assert indexes() == made
    shown = {id_: call(user, "webhook_show", id=id_) for id_ in before}
    assert {id_: (hook["state"], hook["topics"]) for id_, hook in shown.items()} == {
        one: ("active", ["dataset/create"]),
        several: ("active", ["dataset/*", "resource/create"]),
        everything: ("active", ["*"]),
    }
    migrate("base")
    migrate("head")
    assert len(stored()) == 3


def test_what_is_missed_while_the_disk_is_full_has_room(migrate):
    """Nothing of the file system is asked for: neither the table nor its index grows."""
    migrate("0005")
    migrate("head")
    size = """
        SELECT pg_relation_size('webhooks_missed'), pg_relation_size('webhooks_missed_pkey')
    """
    with model.meta.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
        other.execute(sa.text("VACUUM webhooks_missed"))  # as autovacuum does within a minute
        before = other.execute(sa.text(size)).one()
        other.execute(
            sa.text(
                "INSERT INTO webhooks_missed (dataset_id)"
                " SELECT repeat('x', 36) FROM generate_series(1, 300)"
            )
        )
        assert other.execute(sa.text(size)).one() == before
        other.execute(sa.text("DELETE FROM webhooks_missed"))
        other.execute(sa.text("VACUUM webhooks_missed"))
        assert other.execute(sa.text(size)).one() == before


def test_the_table_of_2015_is_adopted(migrate):
    user, gone = factories.User(), factories.User(state="deleted")
    migrate("base")
    execute("DROP TABLE webhooks")
    execute(TABLE_2015)
    works = {"address": ADDRESS, "topic": "dataset/create", "user_id": user["id"]}
    refused = {
        "without owner": {"user_id": None},
        "of nobody": {"user_id": "no-such-user"},
        "of a deleted user": {"user_id": gone["id"]},
        "private address": {"address": "http://10.1.2.3/"},
        "no address": {"address": None},
        "no url": {"address": "example.com"},
        "unknown topic": {"topic": "dataset/purge"},
        "no topic": {"topic": None},
        "empty": {"address": None, "topic": None, "user_id": None},
    }
    insert_2015(id="works", created_at=MOMENT, **works)
    insert_2015(id="undated", **works)
    for id_, wrong in refused.items():
        insert_2015(id=id_, created_at=MOMENT, **{**works, **wrong})

    migrate("head")
    assert differences() == []
    rows = {row.id: row for row in stored()}
    assert set(rows) == {"works", "undated", *refused}
    for id_ in ("works", "undated"):
        row = rows[id_]
        assert (row.address, row.topic, row.user_id) == tuple(works.values())
        assert (row.topics, row.state, row.state_reason) == (["dataset/create"], "active", None)
        assert (row.format, row.filters) == ("classic", {})
    assert rows["works"].created_at == MOMENT
    assert rows["undated"].created_at is not None
    reasons = {
        "without owner": "no owner",
        "of nobody": "no owner",
        "of a deleted user": "no owner",
        "private address": "address is refused",
        "no address": "address is refused",
        "no url": "address is refused",
        "unknown topic": "topic",
        "no topic": "topic",
        "empty": "no owner",
    }
    for id_, reason in reasons.items():
        assert rows[id_].state == "disabled", id_
        assert reason in rows[id_].state_reason, id_

    # They are webhooks like any other: shown, signed, changed and deleted.
    secrets = {
        id_: call(user, "webhook_secret_show", id=id_)["secret"] for id_ in ("works", "undated")
    }
    assert len(set(secrets.values())) == 2
    assert all(encryption.secret_bytes(secret) for secret in secrets.values())
    assert call(user, "webhook_show", id="works")["created_at"] == MOMENT.isoformat()
    sysadmin = factories.Sysadmin()
    assert len(call(sysadmin, "webhook_list")) == len(rows)
    mended = call(user, "webhook_patch", id="private address", address=ADDRESS, state="active")
    assert (mended["state"], mended["state_reason"]) == ("active", None)
    assert call(user, "webhook_delete", id="works") == "works"
    assert call(sysadmin, "webhook_delete", id="without owner") == "without owner"
