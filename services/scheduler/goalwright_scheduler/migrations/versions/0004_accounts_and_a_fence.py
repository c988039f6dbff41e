"""accounts of owners, and money kept for a closing summary"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("goal", sa.Column("fenced", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("goal", sa.Column("closing", sa.BigInteger(), nullable=True))
    op.add_column("goal_spec", sa.Column("summary", sa.Text(), nullable=True))
    op.create_table(
        "account",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("budget", sa.BigInteger(), nullable=False),
        sa.Column("per", sa.Text(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("per IN ('day', 'total')", name="account_per"),
        sa.PrimaryKeyConstraint("owner"),
    )
    # a trigger, because goals' money moves in several statements and an account must miss none
    op.execute(
        """CREATE FUNCTION account_follows() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE today timestamptz := date_trunc('day', goalwright_clock(), 'UTC');
        BEGIN
            UPDATE account
            SET held = held + NEW.held - OLD.held,
                spent = CASE WHEN per = 'day' AND since < today THEN 0 ELSE spent END
                        + NEW.spent + NEW.overrun - OLD.spent - OLD.overrun,
                since = CASE WHEN per = 'day' THEN greatest(since, today) ELSE since END
            WHERE owner = NEW.owner;
            RETURN NULL;
        END $$"""
    )
    op.execute(
        """CREATE TRIGGER account_follows AFTER UPDATE OF held, spent, overrun ON goal FOR EACH ROW
        WHEN (OLD.held <> NEW.held OR OLD.spent <> NEW.spent OR OLD.overrun <> NEW.overrun)
        EXECUTE FUNCTION account_follows()"""
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER account_follows ON goal")
    op.execute("DROP FUNCTION account_follows")
    op.drop_table("account")
    op.drop_column("goal_spec", "summary")
    op.drop_column("goal", "closing")
    op.drop_column("goal", "fenced")
