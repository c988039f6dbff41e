"""a clock that tests own"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # VOLATILE as `clock_timestamp` is, so that Postgres puts the body in the place of the call
    op.execute(
        """CREATE FUNCTION goalwright_clock() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
        SELECT coalesce(nullif(current_setting('goalwright.clock', true), '')::timestamptz, clock_timestamp())
        $$"""
    )
    op.execute(
        """COMMENT ON FUNCTION goalwright_clock() IS
        'The time of every statement: now, unless the session has set goalwright.clock (tests do)'"""
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION goalwright_clock()")
