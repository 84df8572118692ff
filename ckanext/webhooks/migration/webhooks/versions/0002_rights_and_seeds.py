"""What each owner was last served under, where an event comes from, fewer indexes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "webhooks_event", sa.Column("origin", sa.Text, nullable=False, server_default="change")
    )
    op.add_column("webhooks_event", sa.Column("user_id", sa.Text))
    op.create_table(
        "webhooks_served",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("labels", JSONB, nullable=False),
        sa.Column("next_labels", JSONB),
        sa.Column("since", sa.BigInteger),
        sa.Column("cursor", sa.Text),
    )
    # Each index of the deliveries is written for each of 100,000 webhooks.
    op.drop_index("webhooks_delivery_event_key", "webhooks_delivery")
    op.create_index("webhooks_delivery_sequence_idx", "webhooks_delivery", ["sequence"])
    op.drop_index("webhooks_delivery_webhook_idx", "webhooks_delivery")
    op.create_index(
        "webhooks_delivery_webhook_idx",
        "webhooks_delivery",
        ["webhook_id", "id"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )

    _compress_quickly()


def _compress_quickly() -> None:
    """Let PostgreSQL 14 and later, where built with it, use LZ4 for what a save writes."""
    knows_lz4 = op.get_bind().execute(
        sa.text(
            "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
        )
    )
    if knows_lz4.scalar():
        op.execute("ALTER TABLE webhooks_event ALTER content SET COMPRESSION lz4")


def downgrade() -> None:
    op.drop_index("webhooks_delivery_webhook_idx", "webhooks_delivery")
    op.create_index("webhooks_delivery_webhook_idx", "webhooks_delivery", ["webhook_id", "id"])
    op.drop_index("webhooks_delivery_sequence_idx", "webhooks_delivery")
    op.create_index(
        "webhooks_delivery_event_key",
        "webhooks_delivery",
        ["event_id", "webhook_id"],
        unique=True,
    )
    op.drop_table("webhooks_served")
    op.drop_column("webhooks_event", "user_id")
    op.drop_column("webhooks_event", "origin")
