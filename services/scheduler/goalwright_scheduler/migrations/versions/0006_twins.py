"""tasks that share one result, and tasks that are voted on"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "task", sa.Column("screened", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.drop_constraint("expansion_kind", "expansion")
    op.create_check_constraint(
        "expansion_kind", "expansion", "kind IN ('resume', 'replace', 'check', 'vote')"
    )
    op.create_table(
        "contract",
        sa.Column("goal", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("goal", "hash"),
    )
    op.create_index("contract_hash", "contract", ["hash"])
    op.create_table(
        "follower",
        sa.Column("task", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("leader", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task"),
    )
    op.create_index("follower_leader", "follower", ["leader"])


def downgrade() -> None:
    op.drop_table("follower")
    op.drop_table("contract")
    op.drop_constraint("expansion_kind", "expansion")
    op.create_check_constraint("expansion_kind", "expansion", "kind IN ('resume', 'replace', 'check')")
    op.drop_column("task", "screened")
