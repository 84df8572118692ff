"""What is due of one webhook is found in the index of all that is due."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_DUE = sa.text("status = 'pending' AND due_at IS NOT NULL")


def upgrade() -> None:
    _index("due_at", "id", "webhook_id")


def downgrade() -> None:
    _index("due_at", "id")


def _index(*columns: str) -> None:
    op.drop_index("webhooks_delivery_due_idx", "webhooks_delivery")
    op.create_index(
        "webhooks_delivery_due_idx", "webhooks_delivery", list(columns), postgresql_where=_DUE
    )
