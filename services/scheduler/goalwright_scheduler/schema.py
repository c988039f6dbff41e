"""The schema, as SQLAlchemy tables. Alembic's migrations must lead to exactly this (tested).

A map in prose. A `goal` is a budget, a deadline and a root task; what is wide and rarely read is in
`goal_spec`. A `task` row is narrow and hot: it changes at every step of its life; its text is in `task_spec`
(written once) and what became of each try in `task_result` (one row per epoch; at most one is `done`).
`children` of a task are its dependants among its siblings; `parent` and `generation` say which `expansion`
it belongs to. `artifact` gives names to values inside a scope: scope 0 is the goal's own (its inputs and
deliverables), any other scope is the id of the parent whose children see the name; generation 0 of a scope
holds what the parent brought. `ledger` has a row per paid dispatch; `account` limits an owner over all goals, and
follows their money by a trigger. `outbox` holds events between commit and
publication. All money is in micro-dollars.

What is written per task has no foreign keys: each would lock a row of the goal or task for every row written
(decision 0007). The one writer and `prune` keep rows together; the invariants checked by tests look for orphans.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from goalwright_scheduler.core.states import GoalStatus, State

metadata = MetaData()

_moment = DateTime(timezone=True)


def _one_of(column: str, values: object) -> str:
    names = ", ".join(f"'{value}'" for value in sorted(values))  # type: ignore[call-overload]
    return f"{column} IN ({names})"


task_ids = Sequence("task_ids", metadata=metadata)

goal = Table(
    "goal",
    metadata,
    Column("num", BigInteger, Identity(), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("goal_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("value", Double, nullable=False, server_default=text("1")),
    Column("budget", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False, server_default=text("0")),
    Column("held", BigInteger, nullable=False, server_default=text("0")),
    Column("overrun", BigInteger, nullable=False, server_default=text("0")),
    Column("fenced", BigInteger, nullable=False, server_default=text("0")),  # kept for the closing summary
    Column("closing", BigInteger),  # the task that writes it
    Column("root_task", BigInteger),
    Column("revision", Integer, nullable=False, server_default=text("0")),
    Column("tasks", Integer, nullable=False, server_default=text("0")),
    Column("next_seq", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", _moment, nullable=False),
    Column("deadline", _moment, nullable=False),
    Column("ask_until", _moment),
    Column("finished_at", _moment),
    Column("begun_at", _moment),  # again, when it had ended: its time runs from then
    UniqueConstraint("owner", "goal_id", name="goal_owner_id"),
    CheckConstraint(_one_of("status", GoalStatus), name="goal_status"),
    CheckConstraint("spent >= 0 AND held >= 0 AND overrun >= 0", name="goal_money_positive"),
    CheckConstraint("spent + held <= budget", name="goal_within_budget"),
    Index("goal_open", "deadline", postgresql_where=text("finished_at IS NULL")),
)

goal_spec = Table(
    "goal_spec",
    metadata,
    Column("goal", BigInteger, ForeignKey("goal.num", ondelete="CASCADE"), primary_key=True),
    Column("text", Text, nullable=False),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    Column("contract", JSONB),
    Column("pruned", JSONB, nullable=False, server_default=text("'[]'")),
    Column("missing", ARRAY(Text)),
    Column("summary", Text),
)

task = Table(
    "task",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("goal", BigInteger, nullable=False),
    Column("parent", BigInteger),
    Column("generation", Integer, nullable=False, server_default=text("0")),
    Column("depth", SmallInteger, nullable=False, server_default=text("0")),
    Column("lane", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("epoch", Integer, nullable=False, server_default=text("0")),
    Column("turn", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("unmet", Integer, nullable=False, server_default=text("0")),
    Column("children", ARRAY(BigInteger), nullable=False, server_default=text("'{}'")),
    Column("expansions", Integer, nullable=False, server_default=text("0")),
    Column("open_children", Integer, nullable=False, server_default=text("0")),
    Column("head_start", Double, nullable=False, server_default=text("0")),
    Column("rank", Double, nullable=False, server_default=text("0")),
    Column("hold", BigInteger, nullable=False, server_default=text("0")),
    Column("screened", Boolean, nullable=False, server_default=text("false")),
    Column("announced", Boolean, nullable=False, server_default=text("false")),
    Column("ready_at", _moment),
    Column("dispatched_at", _moment),
    Column("over_budget", BigInteger),  # parked for money: what its cheapest deliverable would need
    Column("due_at", _moment),  # end of the lease, of the retry wait or of the question, by state
    CheckConstraint(_one_of("state", State), name="task_state"),
    CheckConstraint("unmet >= 0 AND open_children >= 0 AND hold >= 0", name="task_counts_positive"),
    CheckConstraint("state <> 'ready' OR unmet = 0", name="task_ready_has_all"),
    CheckConstraint("state <> 'dispatched' OR due_at IS NOT NULL", name="task_dispatched_has_lease"),
    CheckConstraint("state IN ('dispatched', 'retry_wait') OR hold = 0", name="task_hold_is_in_flight"),
    CheckConstraint(
        "over_budget IS NULL OR state NOT IN ('blocked', 'ready', 'dispatched')", name="task_over_budget"
    ),
    CheckConstraint("state NOT IN ('succeeded') OR open_children = 0", name="task_succeeded_is_whole"),
    # no index on what changes in a task's life: its updates stay on its page (HOT) and touch no index
    Index("task_parent", "parent", "generation"),
    Index("task_goal", "goal", "id"),
    Index("task_over_budget", "goal", postgresql_where=text("over_budget IS NOT NULL")),
    postgresql_with={"fillfactor": 60},
)

task_spec = Table(
    "task_spec",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False),
    Column("inputs", ARRAY(Text), nullable=False),
    Column("outputs", ARRAY(Text), nullable=False),
    Column("value", Double, nullable=False, server_default=text("1")),
    Column("action", Text, nullable=False, server_default=text("''")),  # digest of what it does
    Column("spec", JSON, nullable=False),
)

task_result = Table(
    "task_result",
    metadata,
    Column("task", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("at", _moment, nullable=False),
    Column("seconds", Double),
    Column("summary", Text, nullable=False, server_default=text("''")),
    Column("error", JSONB),
    Column("call", JSONB),
    Column("program", JSONB),
    Column("checks", JSONB),
    Column("worker", Text),
    Index("task_result_done", "task", unique=True, postgresql_where=text("kind = 'done'")),
)

expansion = Table(
    "expansion",
    metadata,
    Column(
        "parent", BigInteger, ForeignKey("task.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("revision", Integer, nullable=False, server_default=text("0")),
    Column("continuation", JSONB),
    Column("revisions", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    CheckConstraint("kind IN ('resume', 'replace', 'check', 'vote')", name="expansion_kind"),
    CheckConstraint("kind <> 'resume' OR continuation IS NOT NULL", name="expansion_resumes_with"),
)

artifact = Table(
    "artifact",
    metadata,
    Column("goal", BigInteger, primary_key=True, autoincrement=False),
    Column("scope", BigInteger, primary_key=True, autoincrement=False),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("task", BigInteger),
    Column("ref", JSON, nullable=False),
)

contract = Table(
    "contract",
    metadata,
    Column("goal", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, primary_key=True),  # of what decides a task's result
    Column("task", BigInteger, nullable=False),
    Index("contract_hash", "hash"),
)

follower = Table(
    "follower",
    metadata,
    Column("task", BigInteger, primary_key=True, autoincrement=False),
    Column("leader", BigInteger, nullable=False),
    Index("follower_leader", "leader"),
)

lane = Table(
    "lane",
    metadata,
    Column("name", Text, primary_key=True),
    Column("lane", JSONB, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("task", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("goal", BigInteger, ForeignKey("goal.num", ondelete="CASCADE"), nullable=False),
    Column("hold", BigInteger, nullable=False),
    Column("charged", BigInteger, nullable=False, server_default=text("0")),
    Column("overrun", BigInteger, nullable=False, server_default=text("0")),
    Column("model", Text),
    Column("tokens_in", BigInteger, nullable=False, server_default=text("0")),
    Column("tokens_cached", BigInteger, nullable=False, server_default=text("0")),
    Column("tokens_out", BigInteger, nullable=False, server_default=text("0")),
    Column("why", Text),
    Column("at", _moment, nullable=False),
    Column("settled_at", _moment),
    CheckConstraint("charged <= hold", name="ledger_charges_within_hold"),
    Index("ledger_goal", "goal"),
)

rate = Table(
    "rate",
    metadata,
    Column("pool", Text, primary_key=True),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("told_requests", BigInteger),  # a minute, by the provider's headers
    Column("told_tokens", BigInteger),
    Column("next_request", _moment),
    Column("next_tokens", _moment),
    Column("blocked_until", _moment),
    Column("blocked_reason", Text),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("goal", BigInteger, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("at", _moment, nullable=False),
    Column("events", Text, nullable=False),  # a JSON array of events as they are published; never compressed
)

note = Table(
    "note",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("goal", BigInteger, ForeignKey("goal.num", ondelete="CASCADE"), nullable=False),
    Column("author", Text, nullable=False),  # a lane, reflector or person
    Column("key", Text),  # of the task that posted it
    Column("text", Text, nullable=False),
    Column("pinned", Boolean, nullable=False, server_default=text("false")),
    Column("signal_id", Text),
    Column("at", _moment, nullable=False),
    Index("note_goal", "goal", "id"),
    Index("note_signal", "goal", "signal_id", unique=True, postgresql_where=text("signal_id IS NOT NULL")),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("goal", BigInteger, ForeignKey("goal.num", ondelete="CASCADE"), nullable=False),
    Column("rating", Double),
    Column("text", Text, nullable=False, server_default=text("''")),
    Column("at", _moment, nullable=False),
)

prompt_variant = Table(
    "prompt_variant",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("variant", Text, primary_key=True),
    Column("accepted", BigInteger, nullable=False, server_default=text("0")),
    Column("rejected", BigInteger, nullable=False, server_default=text("0")),
    Column("spent", BigInteger, nullable=False, server_default=text("0")),
)

account = Table(
    "account",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("budget", BigInteger, nullable=False),
    Column("per", Text, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("since", _moment, nullable=False),  # begin of the day that `spent` is of
    CheckConstraint("per IN ('day', 'total')", name="account_per"),
)

lane_calibration = Table(
    "lane_calibration",
    metadata,
    Column("lane", Text, primary_key=True),
    *(
        Column(name, Double, nullable=False)
        for name in (
            "cost_tasks",
            "cost_estimated",
            "cost_actual",
            "seconds_tasks",
            "seconds_estimated",
            "seconds_actual",
        )
    ),
)

leader = Table(
    "leader",
    metadata,
    Column("one", Boolean, primary_key=True, server_default=text("true")),
    Column("term", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("until", _moment, nullable=False),
    CheckConstraint("one", name="leader_is_one"),
)
