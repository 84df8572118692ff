"""What an endpoint does is kept with its webhook, and holds its deliveries alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# As in model.webhook; a migration stays what it was.
_HOST = r"lower(substring(address from '://(\[[^]]*\]|[^/:?#]*)'))"
_PENDING = "status = 'pending'"


def upgrade() -> None:
    for column in (
        sa.Column("host", sa.Text, sa.Computed(_HOST, persisted=True)),
        sa.Column("circuit", sa.Text, nullable=False, server_default="closed"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_at", sa.DateTime(timezone=True)),
        sa.Column("max_rate", sa.Integer),
        sa.Column("newest_only", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("mailed", sa.Text),
        sa.Column("missed_since", sa.DateTime(timezone=True)),
        sa.Column("challenge", sa.Text),
    ):
        op.add_column("webhooks", column)
    op.create_index("webhooks_host_idx", "webhooks", ["host"])
    op.create_index(
        "webhooks_next_idx",
        "webhooks",
        ["next_at"],
        postgresql_where=sa.text("next_at IS NOT NULL"),
    )
    op.alter_column("webhooks_delivery", "due_at", nullable=True)
    op.add_column("webhooks_delivery", sa.Column("coalesced", sa.Integer))
    op.drop_index("webhooks_delivery_due_idx", "webhooks_delivery")
    op.create_index(
        "webhooks_delivery_due_idx",
        "webhooks_delivery",
        ["due_at", "id"],
        postgresql_where=sa.text(f"{_PENDING} AND due_at IS NOT NULL"),
    )
    op.create_index(
        "webhooks_delivery_held_idx",
        "webhooks_delivery",
        ["webhook_id", "id"],
        postgresql_where=sa.text(f"{_PENDING} AND due_at IS NULL"),
    )
    for name in ("resolve", "connect", "tls", "wait"):
        op.add_column("webhooks_attempt", sa.Column(name, sa.REAL))


def downgrade() -> None:
    for name in ("resolve", "connect", "tls", "wait"):
        op.drop_column("webhooks_attempt", name)
    op.drop_index("webhooks_delivery_held_idx", "webhooks_delivery")
    op.drop_index("webhooks_delivery_due_idx", "webhooks_delivery")
    op.drop_column("webhooks_delivery", "coalesced")
    op.execute("UPDATE webhooks_delivery SET due_at = clock_timestamp() WHERE due_at IS NULL")
    op.alter_column("webhooks_delivery", "due_at", nullable=False)
    op.create_index(
        "webhooks_delivery_due_idx",
        "webhooks_delivery",
        ["due_at", "id"],
        postgresql_where=sa.text(_PENDING),
    )
    # The version before knows no such state, and told such a webhook nothing.
    op.execute("UPDATE webhooks SET state = 'disabled' WHERE state = 'unverified'")
    op.drop_index("webhooks_next_idx", "webhooks")
    op.drop_index("webhooks_host_idx", "webhooks")
    for name in (
        "challenge",
        "missed_since",
        "mailed",
        "newest_only",
        "max_rate",
        "next_at",
        "failures",
        "circuit",
        "host",
    ):
        op.drop_column("webhooks", name)
