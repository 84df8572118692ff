"""What fails alone is put aside, so that all else goes on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhooks_quarantine",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("dataset_id", sa.Text),
        sa.Column("user_id", sa.Text),
        sa.Column("labels", JSONB(none_as_null=True)),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False, server_default="1"),
        sa.Column("is_stuck", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column(
            "put_aside_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("clock_timestamp()"),
        ),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("webhooks_quarantine_key", "webhooks_quarantine", ["kind", "key"], unique=True)
    op.create_index(
        "webhooks_quarantine_dataset_id_idx",
        "webhooks_quarantine",
        ["dataset_id"],
        postgresql_where=sa.text("dataset_id IS NOT NULL"),
    )
    op.add_column("webhooks_event", sa.Column("held_from", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("webhooks_event", "held_from")
    op.drop_table("webhooks_quarantine")
