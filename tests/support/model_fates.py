"""What becomes of goals and tasks in the reference model (`support.model`): ends, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from goalwright_shared.graph import Compiled, GraphError, compile_generation
from goalwright_shared.messages import Lane, Outcome, PoolLimit, TaskSpec

from support.model_pools import Pool
from support.model_tasks import (
    CHARGED_WHOLE,
    ENDED,
    Account,
    Generation,
    Goal,
    Limits,
    Refusal,
    Task,
    dependants,
    is_replan,
    made_under,
    orphans,
    under,
)


class Fates:
    """The part of the model in which tasks end, money moves and time has passed; what arrives is in `Model`."""

    def __init__(self, lanes: Sequence[Lane], limits: Limits, pools: Sequence[PoolLimit]) -> None:
        self.lanes = {lane.name: lane for lane in lanes}
        self.limits = limits
        self.goals: dict[str, Goal] = {}
        self.by_id: dict[int, Task] = {}  # as Postgres numbers them
        self.accounts: dict[str, Account] = {}  # by owner
        self._paid: list[tuple[float, str, int]] = []  # when, by which owner, how much
        self.now = 0.0
        self.leases_expire = False
        self.pools = {limit.pool: Pool.of(limit) for limit in pools}
        self.reloaded: set[str] = set()  # goals whose waiting tasks the loop reads anew after this turn
        self._after: list[Callable[[], None]] = []
        self._fresh: list[Task] = []  # became ready for the first time, and nobody has looked at them
        self._overrun: set[Goal] = set()

    def tasks(self) -> list[Task]:
        """Every task of every goal."""
        return [task for goal in self.goals.values() for task in goal.tasks]

    def hold(self, lane: str) -> int:
        """What one call may cost at most."""
        row = self.lanes[lane]
        return round(
            row.max_input_tokens * row.input_usd_per_mtok + row.max_output_tokens * row.output_usd_per_mtok
        )

    def begin(self, now: datetime) -> None:
        """A turn begins."""
        self.now = now.timestamp()
        self.reloaded = set()

    def settle_up(self) -> None:
        """The end of a turn, before work goes out: overruns pause."""
        self._follow()
        for goal in self._overrun:
            self._pause(goal, "budget", self.limits.ask_timeout_seconds)
        self._overrun = set()

    def _follow(self) -> None:
        while self._after:
            self._after.pop(0)()

    def _compiled(self, specs: Sequence[TaskSpec], inputs: Sequence[str], exports: Sequence[str]) -> Compiled:
        try:
            return compile_generation(specs, inputs, exports)
        except GraphError as error:
            raise Refusal(error.code) from error

    def _insert(
        self,
        parent: Task,
        generation: Generation,
        specs: Iterable[TaskSpec],
        needs: dict[str, tuple[str, ...]],
        *,
        share: bool = True,
    ) -> None:
        """Children of a new generation, or one more."""
        if generation not in parent.generations:
            parent.generations.append(generation)
        number = parent.generations.index(generation) + 1
        shares = share and self.limits.share_equal_tasks != "never"
        added = [Task(parent.goal, parent, number, spec, lane=spec.lane, shares=shares) for spec in specs]
        generation.children += added
        alive = {
            task.key: task
            for task in generation.children
            if task.state not in ("dead", "cancelled", "skipped")
        }
        for task in added:
            task.needs = [alive[key] for key in needs[task.key]]
        for task in added:
            self._wake(task)

    def _wake(self, task: Task) -> None:
        """A blocked task that has all it needs is ready; a question is asked."""
        if task.state != "blocked" or task.unmet or task.twin is not None:
            return
        if task.lane != "human":
            task.state = "ready"
            self._fresh.append(task)
            return
        task.state = "parked"
        task.epoch += 1
        question = task.spec.question
        seconds = question.timeout_seconds if question else None
        task.due = None if seconds is None else self.now + seconds

    def _pause(self, goal: Goal, reason: str, ask_seconds: float | None) -> None:
        if goal.may_run:
            goal.status, goal.reason = "paused", reason
            goal.ask_until = None if ask_seconds is None else self.now + ask_seconds

    def _finish(self, goal: Goal, status: str) -> None:
        if goal.status in ENDED:
            return
        goal.status, goal.ask_until = status, None
        for task in goal.tasks:
            if task.open:
                self._end(task, "cancelled")

    # --- what becomes of tasks ---

    def _again(self, task: Task, turns: int = 0) -> None:
        task.state, task.hold, task.due = "ready", 0, None
        task.turn += turns

    def _end(self, task: Task, state: str) -> None:
        """Final, without a look at anybody else. A call under way is charged in full."""
        if task.state == "dispatched" and task.hold:
            self._bill(task, task.hold, 0)
        task.state, task.hold, task.due, task.over_budget = state, 0, None, False
        self._after.append(lambda: self._release(task))

    def _release(self, twin: Task) -> None:
        """Who waited for this task takes its result, or does it."""
        for task in twin.goal.tasks:
            if task.twin is twin:
                task.twin = None
                self._wake(task)

    def _succeed(self, task: Task, made: dict[str, str]) -> None:
        task.made = made
        self._end_well(task)

    def _end_well(self, task: Task) -> None:
        task.state, task.hold, task.due = "succeeded", 0, None
        self._after.append(lambda: self._release(task))
        for sibling in task.siblings:
            if task in sibling.needs:
                self._wake(sibling)
        self._child_ended(task)
        if task is task.goal.root:
            self._after.append(lambda: self._finish(task.goal, "done"))

    def _close(self, tasks: Sequence[Task], state: str) -> None:
        """End open tasks without success, with everything under them."""
        ended: list[Task] = []
        for task in tasks:
            if task.open:
                self._end(task, state)
                ended.append(task)
        for task in [below for one in ended for below in under(one) if below.open]:
            self._end(task, "cancelled")
        for task in ended:
            self._child_ended(task)

    def _child_ended(self, task: Task) -> None:
        """A task is final: those who needed a dead one after its replan, then the parent, learn of it."""
        parent = task.parent
        if parent is None or not parent.open:
            return
        if is_replan(task.spec):
            self._after.append(lambda: self._close(orphans(task.siblings), "skipped"))
        if parent.open_children:
            return
        generation = parent.generations[-1]
        if generation.kind == "resume" and parent.state == "expanded":
            self._again(parent, turns=1)
        elif generation.kind == "replace" and parent.state == "expanded":
            self._end_with_children(parent, generation)
        elif generation.kind == "check" and parent.state == "checking":
            self._after.append(lambda: self._verdict(parent, generation))
        elif generation.kind == "vote" and parent.state == "expanded":
            self._after.append(lambda: self._count_votes(parent))

    def _end_with_children(self, parent: Task, generation: Generation) -> None:
        made = made_under(generation)
        declared = [output.name for output in parent.spec.outputs]
        parent.made = {name: made[name] for name in declared if name in made}
        if len(parent.made) < len(declared):
            self._die(parent)
            return
        self._end_well(parent)

    def _verdict(self, task: Task, generation: Generation) -> None:
        if task.state != "checking":
            return
        rejected = any(
            child.state != "succeeded" or any('"passed": false' in text for text in child.made.values())
            for child in generation.children
        )
        if rejected:
            self._fail(task, retryable=True)
        else:
            self._succeed(task, generation.answer)

    def _count_votes(self, task: Task) -> None:
        """The answer that most replicas gave is the task's; of equals, that of the first."""
        if task.state != "expanded":
            return
        replicas = [child for generation in task.generations for child in generation.children]
        given = [replica.made for replica in replicas if replica.state == "succeeded"]
        if given:
            self._succeed(task, max(given, key=given.count))
        else:
            self._die(task)

    def _fail(self, task: Task, *, retryable: bool) -> None:
        if not retryable or task.failures + 1 >= task.spec.max_failures:
            self._die(task)
            return
        task.state, task.hold = "retry_wait", 0
        task.failures += 1
        task.due = -1.0  # with jitter: read from Postgres, and judged there

    def _die(self, task: Task) -> None:
        goal, policy = task.goal, task.spec.on_dead
        if policy == "fail_goal" and task is not goal.root:
            self._close([task], "dead")
            self._after.append(lambda: self._finish(goal, "failed"))
            return
        if policy == "replan" and self._open_replan(task.parent):
            self._close([task], "dead")
            return
        self._close(dependants([task]), "skipped")
        self._close([task], "dead")
        if task is goal.root:
            self._after.append(lambda: self._finish(goal, "failed"))

    def _open_replan(self, parent: Task | None) -> bool:
        try:
            self._open_replan_of(parent)
        except Refusal:
            return False
        return True

    def _open_replan_of(self, target: Task | None) -> None:
        """A plan task beside the target's children."""
        if target is None or target.state != "expanded" or target.generations[-1].kind != "replace":
            raise Refusal("no_plan")
        made = [task for task in target.goal.tasks if task.key.startswith("replan-")]
        if any(task.open for task in made) or len(made) >= self.limits.max_replans:
            raise Refusal("replan_is_open")
        spec = TaskSpec(key=f"replan-{len(made) + 1}", lane="plan", max_failures=2)
        self._insert(target, target.generations[-1], [spec], {spec.key: ()})

    # --- money -------------------------------------------------------------------------------------------

    def _settle(self, task: Task, outcome: Outcome, *, answered: bool, code: str | None = None) -> None:
        usage, lane = outcome.usage, self.lanes[task.lane]
        if lane.pool is not None:
            self.pools[lane.pool].told(outcome.rate)
            if usage is not None:
                self.pools[lane.pool].answered(self.now, lane.max_input_tokens - usage.tokens_in)
        if usage is None:
            self._bill(task, task.hold if answered or code in CHARGED_WHOLE else 0, 0)
            return
        cost = round(usage.tokens_in * lane.input_usd_per_mtok + usage.tokens_out * lane.output_usd_per_mtok)
        self._bill(task, min(cost, task.hold), max(0, cost - task.hold))

    def _bill(self, task: Task, charged: int, overrun: int) -> None:
        """Settle the current dispatch, once."""
        goal = task.goal
        hold = goal.bills.pop((task, task.epoch), None)
        if hold is None:
            return
        goal.held -= hold
        goal.spent += charged
        goal.overrun += overrun
        self._paid.append((self.now, goal.owner, charged + overrun))
        self.reloaded.add(goal.id)
        if goal.owner in self.accounts:
            self.reloaded |= {other.id for other in self.goals_of(goal.owner)}
        if overrun:
            self._overrun.add(goal)

    def goals_of(self, owner: str) -> list[Goal]:
        """All goals of an owner."""
        return [goal for goal in self.goals.values() if goal.owner == owner]

    def balance(self, owner: str) -> tuple[int, int]:
        """What an owner has spent (a daily one: since midnight, UTC) and what is held, over all goals."""
        since = self.now // 86400 * 86400 if self.accounts[owner].per == "day" else 0
        spent = sum(amount for at, payer, amount in self._paid if payer == owner and at >= since)
        return spent, sum(goal.held for goal in self.goals_of(owner))

    # --- what the scheduler decides ----------------------------------------------------------------------

    def dispatched(self, task: Task) -> None:
        """A ready task went out."""
        hold = self.hold(task.lane)
        task.state, task.hold, task.announced = "dispatched", hold, False
        task.epoch += 1
        task.due = self.now + self.lanes[task.lane].lease_seconds
        lane = self.lanes[task.lane]
        if lane.pool is not None:
            self.pools[lane.pool].called(self.now, lane.max_input_tokens + lane.max_output_tokens)
            task.goal.bills[task, task.epoch] = hold
            task.goal.held += hold

    def blocked(self, lane: str) -> bool:
        """Whether the pool of a lane is left alone."""
        pool = self.pool(lane)
        return pool is not None and pool.blocked_until > self.now

    def pool(self, lane: str) -> Pool | None:
        """The pool of a lane whose calls are paid and paced."""
        name = self.lanes[lane].pool
        return None if name is None else self.pools[name]

    def park_over_budget(self, task: Task) -> None:
        """A task that has not begun waits for money."""
        task.state, task.over_budget = "parked", True

    def readmit(self, task: Task) -> None:
        """There is money for it again."""
        task.state, task.over_budget, task.twin = "blocked", False, None
        self._wake(task)

    def affordable(self, task: Task) -> bool:
        """Whether a ready task's call fits what its goal and its owner have left."""
        goal, hold = task.goal, self.hold(task.lane)
        account = self.accounts.get(goal.owner)
        if account is not None and hold and sum(self.balance(goal.owner)) + hold > account.budget:
            return False
        return goal.spent + goal.held + hold <= goal.budget
