"""a turn in one statement, which may be refused"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """CREATE FUNCTION goalwright_refuse(why text) RETURNS text LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION USING MESSAGE = why, ERRCODE = 'GW001'; END $$"""
    )
    op.execute(
        """COMMENT ON FUNCTION goalwright_refuse(text) IS
           'A statement that finds that it is not enough undoes itself: relay.sql'"""
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION goalwright_refuse(text)")
