"""Compares what the loop did with what the model says, and judges what only the loop decides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from support import invariants
from support.model import Model
from support.model_pools import Pool
from support.model_tasks import FINAL, Goal, Task
from support.rig import Rig, Row, Snapshot

_NEAR = 1e-3  # seconds: times go through floats
_ENDS = {
    "succeeded": "task.succeeded",
    "dead": "task.failed",
    "cancelled": "task.cancelled",
    "skipped": "task.skipped",
}


class Judge:
    """One per example."""

    def __init__(self, model: Model, rig: Rig) -> None:
        self._model, self._rig = model, rig
        self._told: dict[str, int] = defaultdict(int)  # events seen, by goal
        self._checked = 0  # Work looked at
        self._by_id = model.by_id

    async def compare(self, *, went_out: bool, tick: bool = False) -> None:
        """After a turn: Postgres holds what the model says, and what was published belongs to it."""
        was_ready = [task for task in self._model.tasks() if task.state == "ready" and task.id]
        snapshot = await self._rig.snapshot()
        self._bind(snapshot, whole=False)
        self._take_admissions(snapshot)
        self._model.screen()
        self._bind(snapshot)
        self._take_leaders(snapshot)
        if tick:
            self._take_pauses(snapshot)
        sent = self._take_dispatches(snapshot)
        self._judge_order(sent, was_ready, snapshot, went_out=went_out)
        self._take_jitter(snapshot)
        for task in self._by_id.values():
            _assert_equal(task, snapshot.tasks[task.id])
        for goal in self._model.goals.values():
            self._assert_goal(goal, snapshot.goals[goal.id])
        self._assert_accounts(snapshot.accounts)
        for name, pool in self._model.pools.items():
            _assert_paced(pool, snapshot.pools[name])
        broken = await invariants.broken_in(self._rig.db)
        broken.pop(invariants.LATE, None)  # the model knows to the turn when a goal must end
        assert broken == {}, broken
        self._judge_published(snapshot, went_out=went_out)

    def _bind(self, snapshot: Snapshot, *, whole: bool = True) -> None:
        """Model and Postgres hold the same tasks, once the model is `whole`; new ones learn under which ids."""
        assert set(snapshot.goals) == set(self._model.goals)
        paths: dict[int, tuple[Any, ...]] = {}
        roots: Counter[tuple[str, str]] = Counter()
        for row in snapshot.tasks.values():
            if row.parent is None:
                paths[row.id] = (row.goal_id, roots[row.goal_id, row.key], row.key)
                roots[row.goal_id, row.key] += 1
            else:
                paths[row.id] = (*paths[row.parent], row.generation, row.key)
        ids = {path: id for id, path in paths.items()}
        tasks = {task.path: task for task in self._model.tasks()}
        assert set(ids) >= set(tasks), f"only in the model {set(tasks) - set(ids)}"
        assert not whole or set(ids) == set(tasks), f"only in Postgres {set(ids) - set(tasks)}"
        for path, task in tasks.items():
            task.id = ids[path]
        self._by_id.update((task.id, task) for task in tasks.values())

    def _take_admissions(self, snapshot: Snapshot) -> None:
        """The loop parks tasks of a plan that were never begun while the plan costs more than is left, and brings
        them back."""
        for row in snapshot.tasks.values():
            task, over = self._by_id.get(row.id), row.over_budget and row.state == "parked"
            if task is None:
                continue
            if over and not task.over_budget:
                assert task.state in ("blocked", "ready") and not task.epoch and task.lane != "human"
                assert task.parent is task.goal.root, f"{task.path} was parked for money"
                self._model.park_over_budget(task)
            elif task.over_budget and not over:
                self._model.readmit(task)

    def _take_leaders(self, snapshot: Snapshot) -> None:
        """Of equal tasks that became ready together, one is done and the others wait for it."""
        for equals in self._model.equals:
            leads = [task for task in equals if snapshot.tasks[task.id].twin is None]
            assert len(leads) == 1 or not equals[0].open, (
                f"of {[t.path for t in equals]} {len(leads)} are done"
            )
            if len(leads) == 1 and leads[0] is not equals[0] and leads[0].open:
                self._model.leads(leads[0])

    def _take_pauses(self, snapshot: Snapshot) -> None:
        """The loop pauses goals whose next call does not fit the budget, when nothing of theirs is under way."""
        for goal in self._model.goals.values():
            row = snapshot.goals[goal.id]
            if not goal.may_run or (row["status"], row["reason"]) != ("paused", "budget"):
                continue
            short = [
                task
                for task in goal.tasks
                if task.over_budget or (task.state == "ready" and not self._model.affordable(task))
            ]
            assert short, f"{goal.id} was paused for its budget and nothing of it is too dear"
            goes_on = [
                task
                for task in goal.tasks
                if task.state in ("dispatched", "retry_wait")
                or (task.state == "ready" and self._model.affordable(task))
            ]
            assert not goes_on, f"{goal.id} was paused for its budget and something of it goes on"
            goal.status, goal.reason = "paused", "budget"
            goal.ask_until = self._model.now + self._model.limits.ask_timeout_seconds

    def _take_dispatches(self, snapshot: Snapshot) -> list[Task]:
        """Ready tasks of the model that are dispatched in Postgres: they may, and their call fits."""
        sent = []
        for row in sorted(snapshot.tasks.values(), key=lambda row: -row.rank):
            task = self._by_id[row.id]
            if task.state != "ready" or row.state != "dispatched":
                continue
            assert task.goal.may_run, f"{task.path} went out although its goal is {task.goal.status}"
            assert self._model.affordable(task), f"{task.path} went out beyond the budget"
            assert not self._model.blocked(task.lane), f"{task.path} went out although its pool is blocked"
            pool = self._model.pool(task.lane)
            assert pool is None or pool.free_at() <= self._model.now + _NEAR, f"{task.path} went out too soon"
            self._model.dispatched(task)
            beyond = pool.too_many(self._model.now) if pool is not None else None
            assert beyond is None, f"{task.path} went beyond the rate: {beyond}"
            sent.append(task)
        return sent

    def _judge_order(
        self, sent: Sequence[Task], was_ready: Sequence[Task], snapshot: Snapshot, *, went_out: bool
    ) -> None:
        """Nothing that waited, could go and had a slot ranks above what went out."""
        for left in was_ready:
            if left.state != "ready" or left.goal.id in self._model.reloaded or not self._could_go(left):
                continue
            untold = 0 if went_out else sum(task.lane == left.lane for task in sent)  # NATS has not seen them
            slot = self._rig.nats.free(left.lane) > untold and self._rig.nats.is_connected
            for task in sent:
                shared = task.lane == left.lane or (slot and self._pool(task) == self._pool(left))
                above = snapshot.tasks[left.id].rank > snapshot.tasks[task.id].rank + _NEAR
                assert not (task.goal is left.goal and shared and above), (
                    f"{task.path} went out before {left.path}, which ranks higher"
                )

    def _pool(self, task: Task) -> str:
        return self._model.lanes[task.lane].pool or task.lane

    def _could_go(self, task: Task) -> bool:
        """A ready task that neither its goal, nor money, nor its pool's clock keeps back."""
        pool = self._pool(task)
        short = any(
            other.state == "ready" and other.goal.may_run and self._pool(other) == pool
            and not self._model.affordable(other)
            for other in self._by_id.values()
        )  # fmt: skip
        return task.goal.may_run and not short and not self._model.blocked(task.lane)

    def waits(self) -> list[Task]:
        """Ready tasks that stay behind although they could go now and have a slot."""
        nats, now = self._rig.nats, self._model.now
        if nats.trouble is not None or self._rig.unconfirmed():
            return []
        found = []
        for task in self._by_id.values():
            if task.state != "ready" or nats.free(task.lane) <= 0 or not self._could_go(task):
                continue
            pool = self._model.pool(task.lane)
            if pool is None or pool.free_at() <= now - _NEAR:
                found.append(task)
        return found

    def _take_jitter(self, snapshot: Snapshot) -> None:
        """A retry waits between half and all of its exponential backoff."""
        for task in self._by_id.values():
            if task.state == "retry_wait" and task.due == -1.0:
                due = snapshot.tasks[task.id].due
                ceiling = min(60.0, 0.5 * 2.0**task.failures)
                assert due is not None and ceiling / 2 - _NEAR <= due - self._model.now <= ceiling + _NEAR
                task.due = due

    def _assert_goal(self, goal: Goal, row: dict[str, Any]) -> None:
        names = ("status", "budget", "spent", "held", "overrun")
        mine, theirs = ({name: getattr(goal, name) for name in names}, {name: row[name] for name in names})
        assert theirs == mine, f"{goal.id}: Postgres has {theirs}, the model {mine}"
        assert abs(row["deadline"] - goal.deadline) < _NEAR, (
            f"{goal.id}: {row['deadline']}, not {goal.deadline}"
        )
        if goal.status == "paused":
            assert row["reason"] == goal.reason

    def _assert_accounts(self, rows: dict[str, dict[str, Any]]) -> None:
        mine = {}
        for owner, account in self._model.accounts.items():
            spent, held = self._model.balance(owner)
            mine[owner] = {"budget": account.budget, "per": account.per, "spent": spent, "held": held}
        assert rows == mine, f"Postgres has the accounts {rows}, the model {mine}"

    def _judge_published(self, snapshot: Snapshot, *, went_out: bool) -> None:
        nats = self._rig.nats
        for goal, events in nats.events.items():
            fresh = [event["seq"] for event in events[self._told[goal] :]]
            assert fresh == list(range(self._told[goal] + 1, len(events) + 1)), f"events of {goal}: {fresh}"
            self._told[goal] = len(events)
        if went_out and nats.trouble is None:
            assert self._rig.backlog() == 0
            for goal, row in snapshot.goals.items():
                assert self._told[goal] == row["next_seq"] - 1, f"events of {goal} were not published"
        for work in nats.works[self._checked :]:
            assert work["epoch"] <= snapshot.tasks[int(work["task_id"])].epoch, f"{work} is not in Postgres"
            self._judge_work(work)
        self._checked = len(nats.works)

    def _judge_work(self, work: dict[str, Any]) -> None:
        """A Work that is current brings the values of what its task needs, and what it remembers."""
        task = self._by_id[int(work["task_id"])]
        if (task.state, task.epoch) != ("dispatched", work["epoch"]):
            return
        inputs = {name: ref["inline"] for name, ref in work["inputs"].items()}
        assert inputs == task.given(), f"{task.path} was given {inputs}, and needs {task.given()}"
        assert (work["turn"], work["depth"], work["lane"]) == (task.turn, task.depth, task.lane)
        last = task.generations[-1] if task.generations else None
        if last is None or last.kind != "resume":
            assert work["continuation"] is None
            return
        assert work["continuation"] == last.continuation
        children = [(child.key, child.state, child.made) for child in last.children]
        told = [
            (child["key"], child["status"], {name: ref["inline"] for name, ref in child["outputs"].items()})
            for child in work["children"]
        ]
        assert told == children

    async def finish(self) -> None:
        """The end of an example: every goal ends by its deadline, and each end of a task was told once."""
        self._rig.nats.reconnect()
        await self._rig.advance(90_000)
        self._model.begin(self._rig.now)
        self._model.tick(self._rig.unconfirmed())
        self._model.settle_up()
        assert await self._rig.turn(tick=True)
        await self.compare(went_out=True, tick=True)
        broken = await invariants.broken_in(self._rig.db)
        assert broken == {}, broken
        for goal in self._model.goals.values():
            assert goal.status not in ("planning", "running", "paused") and goal.held == 0
        self._judge_ends()

    def _judge_ends(self) -> None:
        told: dict[int, list[str]] = defaultdict(list)
        for events in self._rig.nats.events.values():
            for event in events:
                if event["kind"] in _ENDS.values() and event["data"].get("final", True):
                    told[int(event["task_id"])].append(event["kind"])
        for task in self._by_id.values():
            assert told[task.id] == [_ENDS[task.state]], (
                f"of {task.path}, {task.state}, was told {told[task.id]}"
            )


def _assert_paced(pool: Pool, row: dict[str, Any]) -> None:
    told = (row["told_requests"], row["told_tokens"], row["probes"])
    assert told == (pool.requests.told, pool.tokens.told, pool.probes)
    clocks = (pool.requests.next, pool.tokens.next, pool.blocked_until)
    for name, mine in zip(("next_request", "next_tokens", "blocked_until"), clocks, strict=True):
        assert abs((row[name] or 0.0) - max(mine, 0.0)) < _NEAR, f"{name}: {row[name]}, not {mine}"


def _assert_equal(task: Task, row: Row) -> None:
    mine = {
        "state": task.state, "epoch": task.epoch, "lane": task.lane, "hold": task.hold, "turn": task.turn,
        "failures": task.failures, "unmet": task.unmet, "open_children": task.open_children,
        "over_budget": task.over_budget,
    }  # fmt: skip
    if task.state == "blocked":
        mine["twin"] = task.twin.id if task.twin is not None else None
    if task.state in FINAL:
        mine = {"state": task.state, "epoch": task.epoch, "hold": 0}
    theirs = {name: getattr(row, name) for name in mine}
    assert theirs == mine, f"{task.path}: Postgres has {theirs}, the model {mine}"
    if task.open and task.due is not None:
        assert row.due is not None and abs(row.due - task.due) < _NEAR, (
            f"{task.path}: due {row.due}, not {task.due}"
        )
