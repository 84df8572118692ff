"""The four tables; adopts the ``webhooks`` table of the 2015 extension."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NOW = sa.text("timezone('utc', clock_timestamp())")


def upgrade() -> None:
    if sa.inspect(op.get_bind()).has_table("webhooks"):
        _adopt_2015()
    else:
        _create_webhooks()
    op.create_index("webhooks_user_id_idx", "webhooks", ["user_id", "created_at"])
    op.create_index(
        "webhooks_active_idx",
        "webhooks",
        ["user_id"],
        postgresql_where=sa.text("state = 'active'"),
    )
    _create_event()
    _create_delivery()
    _create_attempt()


def downgrade() -> None:
    """Leave what the 2015 extension had: its five columns and its rows."""
    op.drop_table("webhooks_attempt")
    op.drop_table("webhooks_delivery")
    op.drop_table("webhooks_event")
    op.drop_index("webhooks_active_idx", "webhooks")
    op.drop_index("webhooks_user_id_idx", "webhooks")
    for column in _added_columns():
        op.drop_column("webhooks", column.name)
    for name in ("address", "topic", "user_id", "created_at"):
        op.alter_column("webhooks", name, nullable=True)
    op.alter_column("webhooks", "created_at", server_default=None)


def _added_columns() -> list[sa.Column]:
    return [
        sa.Column("updated_at", sa.DateTime, nullable=False, server_default=NOW),
        sa.Column("topics", ARRAY(sa.Text), nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="active"),
        sa.Column("state_reason", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("filters", JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("format", sa.Text, nullable=False, server_default="classic"),
        sa.Column("headers", sa.Text),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("previous_secret", sa.Text),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True)),
        sa.Column("failing_since", sa.DateTime(timezone=True)),
        sa.Column("last_success_at", sa.DateTime(timezone=True)),
        sa.Column("last_failure_at", sa.DateTime(timezone=True)),
    ]


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.UnicodeText, primary_key=True),
        sa.Column("address", sa.UnicodeText, nullable=False),
        sa.Column("topic", sa.UnicodeText, nullable=False),
        sa.Column("user_id", sa.UnicodeText, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False, server_default=NOW),
        *_added_columns(),
    )


def _adopt_2015() -> None:
    """Keep rows, ids and owners; what could not work any more is disabled."""
    for column in _added_columns():
        op.add_column("webhooks", _without_not_null(column))
    connection = op.get_bind()
    users = {
        row[0]
        for row in connection.execute(sa.text("SELECT id FROM \"user\" WHERE state = 'active'"))
    }
    rows = connection.execute(
        sa.text("SELECT id, address, topic, user_id FROM webhooks ORDER BY created_at, id")
    ).all()
    for row in rows:
        reason = _refusal(row.address, row.topic, row.user_id in users)
        connection.execute(
            sa.text(
                "UPDATE webhooks SET address = coalesce(address, ''), topic = coalesce(topic, ''),"
                " user_id = coalesce(user_id, ''),"
                " created_at = coalesce(created_at, timezone('utc', now())),"
                " topics = string_to_array(coalesce(topic, ''), ','), secret = :secret,"
                " state = :state, state_reason = :reason WHERE id = :id"
            ),
            {
                "id": row.id,
                "secret": _new_secret(),
                "state": "disabled" if reason else "active",
                "reason": reason,
            },
        )
    for name in ("address", "topic", "user_id", "created_at", "topics", "secret"):
        op.alter_column("webhooks", name, nullable=False)
    op.alter_column("webhooks", "created_at", server_default=NOW)


def _without_not_null(column: sa.Column) -> sa.Column:
    # A column without a default cannot be NOT NULL while old rows lack it.
    column.nullable = column.nullable or column.server_default is None
    return column


def _refusal(address: str | None, topic: str | None, has_owner: bool) -> str | None:
    # Imported here: what is refused is the rule of today, not of this migration.
    from ckanext.webhooks import config, topics
    from ckanext.webhooks.deliver import addresses, is_own

    if not has_owner:
        return "it has no owner who is an active user: nobody's sight says what it may be told"
    # 2015 had one topic; where this migration was undone, there may be several.
    if not all(topics.is_subscribable(name) for name in (topic or "").split(",")):
        return f"its topic {topic!r} does not exist"
    try:
        addresses.check_url(address or "", config.allowed_networks(), is_own)
    except addresses.RefusedAddress as error:
        return f"its address is refused: {error}"
    return None


def _new_secret() -> str:
    from ckanext.webhooks import config, encryption

    return encryption.encrypt(encryption.new_secret(), config.secret_keys())


def _create_event() -> None:
    op.create_table(
        "webhooks_event",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("sequence", sa.BigInteger),
        sa.Column("entity_type", sa.Text, nullable=False),
        sa.Column("entity_id", sa.Text, nullable=False),
        sa.Column("dataset_id", sa.Text, nullable=False),
        sa.Column("source_id", sa.Text),
        sa.Column("version", sa.Integer),
        sa.Column("transaction_id", sa.BigInteger),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dispatched_at", sa.DateTime(timezone=True)),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("labels_before", ARRAY(sa.Text)),
        sa.Column("labels", ARRAY(sa.Text)),
        sa.Column("facets_before", JSONB),
        sa.Column("facets", JSONB),
        sa.Column("content", sa.Text),
        sa.Column("digest", sa.Text),
        sa.Column("metadata_modified", sa.DateTime),
        sa.Column("first_sight", JSONB),
        sa.Column("changed", ARRAY(sa.Text)),
    )
    # Owned, so that whatever drops the table drops it too.
    op.execute("CREATE SEQUENCE webhooks_event_order OWNED BY webhooks_event.sequence")
    op.create_index(
        "webhooks_event_version_key",
        "webhooks_event",
        ["dataset_id", "version"],
        unique=True,
        postgresql_where=sa.text("version IS NOT NULL"),
    )
    op.create_index(
        "webhooks_event_waiting_idx",
        "webhooks_event",
        ["position"],
        postgresql_where=sa.text("sequence IS NULL"),
    )
    op.create_index("webhooks_event_sequence_key", "webhooks_event", ["sequence"], unique=True)
    op.create_index(
        "webhooks_event_source_id_idx",
        "webhooks_event",
        ["source_id"],
        postgresql_where=sa.text("source_id IS NOT NULL"),
    )


def _create_delivery() -> None:
    op.create_table(
        "webhooks_delivery",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("webhook_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="pending"),
        sa.Column("reason", sa.Text),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.clock_timestamp(),
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.clock_timestamp(),
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    )
    op.create_index(
        "webhooks_delivery_event_key",
        "webhooks_delivery",
        ["event_id", "webhook_id"],
        unique=True,
    )
    op.create_index(
        "webhooks_delivery_due_idx",
        "webhooks_delivery",
        ["due_at", "id"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("webhooks_delivery_webhook_idx", "webhooks_delivery", ["webhook_id", "id"])
    op.create_index(
        "webhooks_delivery_ended_idx",
        "webhooks_delivery",
        ["ended_at"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )


def _create_attempt() -> None:
    op.create_table(
        "webhooks_attempt",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("delivery_id", sa.BigInteger, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration", sa.Float, nullable=False),
        sa.Column("dialled", sa.Text),
        sa.Column("http_status", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("answer", sa.Text),
    )
    op.create_index("webhooks_attempt_delivery_idx", "webhooks_attempt", ["delivery_id", "number"])
