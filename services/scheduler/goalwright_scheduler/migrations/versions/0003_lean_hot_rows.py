"""rows that are written per task: no index on what changes, no foreign keys, JSON as text"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OPEN = "state IN ('dispatched', 'retry_wait', 'parked')"
_FINAL = "state IN ('cancelled', 'dead', 'skipped', 'succeeded')"
_KEYS = (
    ("task", "goal", "goal", "num"),
    ("task_spec", "id", "task", "id"),
    ("task_result", "task", "task", "id"),
    ("artifact", "goal", "goal", "num"),
    ("outbox", "goal", "goal", "num"),
)


def upgrade() -> None:
    for index in ("task_ready", "task_due", "task_goal_open"):
        op.drop_index(index, table_name="task")
    for table, column, _, _ in _KEYS:
        op.drop_constraint(f"{table}_{column}_fkey", table, type_="foreignkey")
    op.execute("ALTER TABLE task SET (fillfactor = 60)")
    op.add_column("goal", sa.Column("tasks", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.execute("UPDATE goal g SET tasks = (SELECT count(*) FROM task t WHERE t.goal = g.num)")
    op.add_column("task_spec", sa.Column("action", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.execute("ALTER TABLE task_spec ALTER COLUMN spec TYPE json USING spec::json")
    op.execute("ALTER TABLE artifact ALTER COLUMN ref TYPE json USING ref::json")
    op.execute(
        """UPDATE outbox o SET events = (
               SELECT jsonb_agg(e.event || jsonb_build_object(
                   'event_id', g.goal_id || ':' || (o.first_seq + e.place - 1), 'seq', o.first_seq + e.place - 1,
                   'goal_id', g.goal_id, 'owner', g.owner, 'at', o.at) ORDER BY e.place)
               FROM jsonb_array_elements(o.events) WITH ORDINALITY AS e(event, place))
           FROM goal g WHERE g.num = o.goal"""
    )
    op.execute("ALTER TABLE outbox ALTER COLUMN events TYPE text USING events::text")
    op.execute("ALTER TABLE outbox ALTER COLUMN events SET STORAGE EXTERNAL")


def downgrade() -> None:
    raise NotImplementedError("this release cannot be taken back: restore a backup")
