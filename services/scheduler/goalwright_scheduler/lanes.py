"""Fill the lane table and the pools' limits: what `goalwright topology apply` does in Postgres."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
from goalwright_shared.errors import Unreachable
from goalwright_shared.messages import Lane, PoolLimit
from goalwright_shared.telemetry import redact


async def store_lanes(dsn: str, lanes: Sequence[Lane], pools: Sequence[PoolLimit]) -> list[str]:
    """Insert or update lanes and limits; lanes of users stay. Lanes of roles whose file is gone stay for the tasks that
    are on them, and are offered to planners no more. Idempotent. Returns what changed, for people."""
    try:
        db = await asyncpg.connect(dsn)
    except (OSError, asyncpg.PostgresError) as error:
        raise Unreachable(
            "postgres_unreachable", f"Postgres does not answer at {redact(dsn)}: {error}",
            hint="start one with `goalwright up`, or set GOALWRIGHT_POSTGRES_DSN",
        ) from error  # fmt: skip
    try:
        changed = [await _store_lane(db, lane) for lane in lanes]
        gone = await db.fetch(
            """UPDATE lane SET lane = jsonb_set(lane, '{plannable}', 'false')
               WHERE name LIKE 'agent.%' AND name <> ALL($1::text[]) AND (lane->>'plannable')::bool RETURNING name""",
            [lane.name for lane in lanes],
        )
        changed += [f"lane {row['name']} has no role any more: it is not offered to planners" for row in gone]
        for pool in pools:
            await db.execute(
                """INSERT INTO rate (pool, requests_per_minute, tokens_per_minute) VALUES ($1, $2, $3)
                   ON CONFLICT (pool) DO UPDATE SET requests_per_minute = excluded.requests_per_minute,
                       tokens_per_minute = excluded.tokens_per_minute""",
                pool.pool, pool.requests_per_minute, pool.tokens_per_minute,
            )  # fmt: skip
    finally:
        await db.close()
    return [line for line in changed if line]


async def _store_lane(db: asyncpg.Connection[asyncpg.Record], lane: Lane) -> str | None:
    row = await db.fetchrow(
        """INSERT INTO lane AS l (name, lane) VALUES ($1, $2)
           ON CONFLICT (name) DO UPDATE SET lane = excluded.lane WHERE l.lane <> excluded.lane
           RETURNING old.name IS NULL AS new""",
        lane.name, lane.model_dump_json(),
    )  # fmt: skip
    if row is None:
        return None
    return f"lane {lane.name} {'created' if row['new'] else 'changed'}"


async def load_custom_lanes(dsn: str) -> list[Lane]:
    """Lanes that users added."""
    db = await asyncpg.connect(dsn)
    try:
        rows = await db.fetch("SELECT lane FROM lane WHERE lane->>'performer' = 'custom' ORDER BY name")
    finally:
        await db.close()
    return [Lane.model_validate_json(row["lane"]) for row in rows]
