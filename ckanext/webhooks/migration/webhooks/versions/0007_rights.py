"""That what users may see has changed is noted in the transaction that changes it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhooks_right",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("user_id", sa.Text),
        sa.Column(
            "noted_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("now()"),
        ),
        sa.Column("sequence", sa.BigInteger),
    )
    op.create_index("webhooks_right_sequence_idx", "webhooks_right", ["sequence"])
    op.create_index("webhooks_right_user_id_idx", "webhooks_right", ["user_id", "sequence"])
    # Since when anybody had the rights of now was noted by nobody so far.
    op.execute("INSERT INTO webhooks_right (user_id) VALUES (NULL)")


def downgrade() -> None:
    op.drop_table("webhooks_right")
