"""tasks parked over their budget, and what lanes have taught about estimates"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("task", sa.Column("over_budget", sa.BigInteger(), nullable=True))
    op.create_check_constraint(
        "task_over_budget", "task", "over_budget IS NULL OR state NOT IN ('blocked', 'ready', 'dispatched')"
    )
    op.create_index("task_over_budget", "task", ["goal"], postgresql_where=sa.text("over_budget IS NOT NULL"))
    op.create_table(
        "lane_calibration",
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("cost_tasks", sa.Double(), nullable=False),
        sa.Column("cost_estimated", sa.Double(), nullable=False),
        sa.Column("cost_actual", sa.Double(), nullable=False),
        sa.Column("seconds_tasks", sa.Double(), nullable=False),
        sa.Column("seconds_estimated", sa.Double(), nullable=False),
        sa.Column("seconds_actual", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("lane"),
    )


def downgrade() -> None:
    op.drop_table("lane_calibration")
    op.drop_index("task_over_budget", "task")
    op.drop_constraint("task_over_budget", "task")
    op.drop_column("task", "over_budget")
