"""What each owner was last served under, and where an event comes from."""

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


def downgrade() -> None:
    op.drop_table("webhooks_served")
    op.drop_column("webhooks_event", "user_id")
    op.drop_column("webhooks_event", "origin")
