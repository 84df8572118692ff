"""What could not be captured is noted in the save's own transaction."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Rows of room: so many changes can be noted while the disk is full.
_ROOM = 1000


def upgrade() -> None:
    op.create_table(
        "webhooks_missed",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("dataset_id", sa.Text, nullable=False),
        sa.Column(
            "missed_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
        ),
        sa.Column(
            "due_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")
        ),
    )
    # A full disk is why changes are missed. PostgreSQL can still write where it has pages:
    # it gets some, and autovacuum, which frees them, does not give them back.
    op.execute("ALTER TABLE webhooks_missed SET (vacuum_truncate = off)")
    op.execute(
        "INSERT INTO webhooks_missed (dataset_id)"
        f" SELECT repeat('-', 36) FROM generate_series(1, {_ROOM})"
    )
    op.execute("DELETE FROM webhooks_missed")


def downgrade() -> None:
    op.drop_table("webhooks_missed")
