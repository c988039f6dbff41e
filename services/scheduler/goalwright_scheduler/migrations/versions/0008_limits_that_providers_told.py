"""limits that providers told"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rate", sa.Column("told_requests", sa.BigInteger(), nullable=True))
    op.add_column("rate", sa.Column("told_tokens", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("rate", "told_tokens")
    op.drop_column("rate", "told_requests")
