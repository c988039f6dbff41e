"""What is set aside for a call, and what an owner may spend over all goals, in total or a day.

A trigger moves an owner's account with the money of the owner's goals.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from goalwright_shared.messages import Lane

from goalwright_scheduler import goals
from goalwright_scheduler.change import Change
from goalwright_scheduler.core import money


async def holds(change: Change, tasks: Sequence[tuple[int, Lane]]) -> list[int]:
    """What dispatching each task on its lane sets aside: the price of the lane's caps, or of the smaller one of the
    task's own prompt."""
    asks = [task for task, lane in tasks if lane.name == money.ASK and money.hold(lane)]
    caps = {row["id"]: row["cap"] for row in await change.fetch("own_caps", asks)} if asks else {}
    return [money.hold(lane, caps.get(task)) for task, lane in tasks]


async def allow(change: Change, owner: str, budget: int | None, per: str) -> int:
    """Set (or with None lift) an owner's budget in micro-dollars. Returns how many goals go on that had paused.

    A budget below what is spent is taken: nothing more is dispatched, what runs is paid.
    """
    if budget is None:
        await change.db.execute("DELETE FROM account WHERE owner = $1", owner)
    else:
        await change.db.execute(
            """INSERT INTO account (owner, budget, per, spent, held, since)
               SELECT $1, $2, $3, CASE $3 WHEN 'total' THEN ever.spent ELSE (
                   SELECT coalesce(sum(l.charged + l.overrun), 0) FROM ledger l JOIN goal g ON g.num = l.goal
                   WHERE g.owner = $1 AND l.settled_at >= date_trunc('day', $4::timestamptz, 'UTC')) END,
                   ever.held, date_trunc('day', $4::timestamptz, 'UTC')
               FROM (SELECT coalesce(sum(spent + overrun), 0) AS spent, coalesce(sum(held), 0) AS held
                     FROM goal WHERE owner = $1) AS ever
               ON CONFLICT (owner) DO UPDATE SET budget = excluded.budget, per = excluded.per,
                   spent = excluded.spent, held = excluded.held, since = excluded.since""",
            owner, budget, per, change.now,
        )  # fmt: skip
    rows = await change.db.fetch(
        """SELECT num, status = 'paused' AND reason = 'budget' AS asks FROM goal
           WHERE owner = $1 AND finished_at IS NULL""",
        owner,
    )
    change.reload.update(row["num"] for row in rows)  # what was too dear may fit now
    asking = [row["num"] for row in rows if row["asks"]]
    for goal in asking:
        await goals.resume(change, goal)
    return len(asking)


async def begin_day(change: Change, *, witnessed: bool) -> None:
    """Daily accounts begin anew at midnight (UTC), and goals that wait for their money go on. Accounts that somebody
    has charged since then have begun already: they count for a leader that has `witnessed` the midnight."""
    today = change.now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    paused = await change.db.fetch(
        """WITH begun AS (
               UPDATE account SET spent = 0, since = $1 WHERE per = 'day' AND since < $1 RETURNING owner
           )
           SELECT num FROM goal WHERE status = 'paused' AND reason = 'budget' AND (
               owner IN (SELECT owner FROM begun)
               OR $2 AND owner IN (SELECT owner FROM account WHERE per = 'day'))""",
        today, witnessed,
    )  # fmt: skip
    for row in paused:
        await goals.resume(change, row["num"])


async def told(change: Change, owner: str) -> dict[str, object]:
    """An owner's account as answers tell it."""
    row = await change.db.fetchrow("SELECT * FROM account WHERE owner = $1", owner)
    if row is None:
        return {"owner": owner, "budget_usd": None}
    return {
        "owner": owner, "budget_usd": money.usd(row["budget"]), "per": row["per"],
        "spent_usd": money.usd(row["spent"]), "held_usd": money.usd(row["held"]),
    }  # fmt: skip
