"""A reference model of goals and tasks, written from DESIGN and not from the scheduler: plain objects, no SQL.

`Model` takes what arrives (submissions, outcomes, control, time) and knows from it the state of every task.
What only the scheduler decides is read from Postgres and judged (`support.judge`): which ready tasks went out,
what a budget admits, which of equal tasks is done, the jitter of a retry, the ids under which Postgres keeps tasks.
Not modelled: the closing summary, lanes that are added.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set

from goalwright_shared.graph import Compiled
from goalwright_shared.messages import (
    AddTask,
    Done,
    DropTask,
    Expand,
    Failed,
    GoalSubmission,
    Operation,
    Outcome,
    OutputSpec,
    ProgramCheck,
    Revise,
    RubricCheck,
    TaskSpec,
    Throttled,
    ValueTask,
)

from support.model_tasks import (
    ENDED,
    LOST,
    Account,
    Generation,
    Goal,
    Refusal,
    Task,
    dependants,
    is_replan,
    made_under,
    without,
)
from support.model_twins import Twins


class Model(Twins):
    """See the module. Every verb is one item of one turn; `settle_up` ends the turn."""

    # --- goals ---

    def submit(self, wanted: GoalSubmission, owner: str) -> None:
        """A goal, unless its id is known."""
        assert wanted.id is not None
        if wanted.id in self.goals:
            return
        seconds, micro = wanted.deadline_seconds or 86400, round((wanted.budget_usd or 0) * 1e6)
        goal = Goal(wanted.id, owner, micro, seconds, self.now + seconds)
        goal.inputs = {item.name: item.inline or "" for item in wanted.inputs}
        outputs = [OutputSpec(name=item.name, type=item.type) for item in wanted.deliverables]
        plan = wanted.plan.tasks if wanted.plan is not None else []
        names = [output.name for output in outputs]
        compiled = self._compiled(plan, list(goal.inputs), names) if plan else None
        if compiled is not None and not outputs:
            free = set(compiled.unconsumed)
            outputs = [output for task in plan for output in task.outputs if output.name in free]
        spec = TaskSpec(key="goal", lane="plan", inputs=list(goal.inputs), outputs=outputs)
        goal.root = Task(goal, None, 0, spec, "ready", lane="plan")
        self.goals[goal.id] = goal
        if compiled is not None:
            goal.status = "running"
            goal.root.state = "expanded"
            share = self.limits.share_equal_tasks == "always"
            self._insert(goal.root, Generation("replace"), plan, compiled.needs, share=share)
        self._follow()

    def pause(self, goal: Goal) -> None:
        """`control.pause`."""
        self._must_run(goal)
        self._pause(goal, "user", None)

    def resume(self, goal: Goal) -> None:
        """`control.resume`."""
        self._must_run(goal)
        if goal.status != "paused":
            return
        planned = goal.root.state == "expanded" and any(g.kind == "replace" for g in goal.root.generations)
        goal.status, goal.reason, goal.ask_until = "running" if planned else "planning", None, None
        self.reloaded.add(goal.id)

    def cancel(self, goal: Goal) -> None:
        """`control.cancel`."""
        self._finish(goal, "cancelled")

    def set_budget(self, goal: Goal, micro: int) -> None:
        """`control.budget`."""
        self._must_run(goal)
        if micro < goal.spent + goal.held:
            raise Refusal("below_spent")
        goal.budget = micro
        self.reloaded.add(goal.id)
        if goal.status == "paused" and goal.reason == "budget":
            self.resume(goal)

    def allow(self, owner: str, micro: int | None, per: str) -> None:
        """`control.budget` of an owner; None lifts it."""
        if micro is None:
            self.accounts.pop(owner, None)
        else:
            self.accounts[owner] = Account(micro, per)
        for goal in self.goals_of(owner):
            self.reloaded.add(goal.id)
            if goal.status == "paused" and goal.reason == "budget":
                self.resume(goal)

    def _must_run(self, goal: Goal) -> None:
        if goal.status in ENDED:
            raise Refusal("goal_ended")

    # --- outcomes ----------------------------------------------------------------------------------------

    def outcomes(self, lane: str, batch: Sequence[Outcome]) -> None:
        """A message of outcomes: answers that end tasks first, the others in their order."""
        found = [
            (task, outcome) for outcome in batch if (task := self.find(int(outcome.task_id))) is not None
        ]
        plain = [isinstance(outcome, Done) and self._ends(task, outcome) for task, outcome in found]
        for first in (True, False):
            for (task, outcome), ends in zip(found, plain, strict=True):
                if ends is first and self._current(task, lane, outcome):
                    self._outcome(task, outcome)
        self._follow()

    def find(self, task_id: int) -> Task | None:
        """The task that Postgres keeps under this id."""
        return self.by_id.get(task_id)

    def _current(self, task: Task, lane: str, outcome: Outcome) -> bool:
        if (task.epoch, task.lane, task.goal.id) != (outcome.epoch, lane, outcome.goal_id):
            return False
        late = isinstance(outcome, Done) and self._ends(task, outcome) and task.state == "retry_wait"
        return task.state == "dispatched" or late

    def _ends(self, task: Task, outcome: Done) -> bool:
        """A whole answer that nobody else must check."""
        return self._whole(task, outcome) and not _checks(task)

    def _whole(self, task: Task, outcome: Done) -> bool:
        have = {name: ref.type for name, ref in outcome.outputs.items()}
        right = all(have.get(output.name) == output.type for output in task.spec.outputs)
        return right and all(check.passed for check in outcome.checks)

    def _outcome(self, task: Task, outcome: Outcome) -> None:
        lane = self.lanes[task.lane]
        if outcome.kind not in (*lane.may, "done", "failed", "throttled"):
            self._refuse(task, outcome)
            return
        try:
            match outcome:
                case Done():
                    self._done(task, outcome)
                case Expand():
                    self._expand(task, outcome)
                case Revise():
                    self._revise(task, outcome)
                case Failed():
                    self._failed(task, outcome)
                case Throttled():
                    self._throttled(task, outcome)
        except Refusal:
            self._refuse(task, outcome)

    def _refuse(self, task: Task, outcome: Outcome) -> None:
        self._settle(task, outcome, answered=True)
        self._fail(task, retryable=False)

    def _done(self, task: Task, outcome: Done) -> None:
        self._settle(task, outcome, answered=True)
        if not self._whole(task, outcome):
            self._fail(task, retryable=True)
            return
        made = {output.name: outcome.outputs[output.name].inline or "" for output in task.spec.outputs}
        if not _checks(task):
            self._succeed(task, made)
            return
        task.state, task.hold, task.due = "checking", 0, None
        taken = {*task.spec.inputs, *made}
        specs = [_check_spec(number, check, made, taken) for number, check in enumerate(_checks(task), 1)]
        needs: dict[str, tuple[str, ...]] = {spec.key: () for spec in specs}
        self._insert(task, Generation("check", answer=made), specs, needs, share=False)

    def _expand(self, task: Task, outcome: Expand) -> None:
        lane = self.lanes[task.lane]
        continues = outcome.continuation is not None
        if continues and task.turn + 1 >= task.spec.max_turns:
            raise Refusal("too_many_turns")
        if any(not _may_use(lane.child_lanes, spec.lane) for spec in outcome.tasks):
            raise Refusal("not_allowed")
        adopts = task is task.goal.root and not continues
        outputs = list(task.spec.outputs)
        if adopts:
            own = {output.name for output in outputs}
            outputs += [
                OutputSpec(name=d.name, type=d.type) for d in outcome.deliverables if d.name not in own
            ]
        exports = [] if continues else [output.name for output in outputs]
        compiled = self._compiled(outcome.tasks, task.spec.inputs, exports) if outcome.tasks else None
        if task.depth + 1 > self.limits.max_depth:
            raise Refusal("too_deep")
        self._settle(task, outcome, answered=True)
        if adopts:
            task.spec = task.spec.model_copy(update={"outputs": outputs})
            task.goal.status = "running" if task.goal.status == "planning" else task.goal.status
        task.state, task.hold, task.due = "expanded", 0, None
        generation = Generation("resume" if continues else "replace", continuation=outcome.continuation)
        self._insert(task, generation, outcome.tasks, compiled.needs if compiled else {})
        if not outcome.tasks:
            self._again(task, turns=1)

    def _revise(self, task: Task, outcome: Revise) -> None:
        if task is task.goal.root or task.spec.outputs:
            raise Refusal("not_planned")
        target = self.find(int(outcome.target_task_id))
        if target is None or target.goal is not task.goal:
            raise Refusal("unknown_task")
        self._apply_revision(target, outcome.generation, outcome.base_revision, outcome.operations)
        self._settle(task, outcome, answered=True)
        if task.open:
            self._succeed(task, {})

    def _apply_revision(
        self, target: Task, number: int, base: int, operations: Sequence[Operation], *, by_hand: bool = False
    ) -> None:
        if target.state != "expanded" or number != len(target.generations):
            raise Refusal("stale_revision")
        generation = target.generations[-1]
        if generation.revision != base or generation.kind == "vote":
            raise Refusal("stale_revision")
        by_key = {task.key: task for task in generation.children}
        dropped = [self._touchable(by_key, op.key) for op in operations if isinstance(op, DropTask)]
        valued = [(self._touchable(by_key, op.key), op) for op in operations if isinstance(op, ValueTask)]
        added = [op.task for op in operations if isinstance(op, AddTask)]
        if any(spec.key in by_key for spec in added):
            raise Refusal("duplicate_key")
        if target.depth + 1 > self.limits.max_depth:
            raise Refusal("too_deep")
        alive = [task for task in generation.children if task.state not in LOST]
        kept = [task for task in alive if task not in dropped]
        exports = [output.name for output in target.spec.outputs] if generation.kind == "replace" else []
        compiled = self._compiled([*(task.spec for task in kept), *added], target.spec.inputs, exports)
        changed = {task: task.spec.model_copy(update={"value": op.value}) for task, op in valued}
        done = "".join(operation.model_dump_json() for operation in operations)
        before = _mark(task.spec for task in alive)
        after = _mark([*(changed.get(task, task.spec) for task in kept), *added])
        seen = generation.marks
        if not by_hand and (done in seen or (after != before and after in seen)):
            raise Refusal("oscillation")
        for task, spec in changed.items():
            task.spec = spec
        target.goal.revision += 1
        generation.revision += 1
        generation.marks += [done, before, after]
        self._insert_revised(target, generation, added, kept, compiled)
        for task in dropped:
            task.dropped = True
        self._close(dropped, "cancelled")

    def _insert_revised(
        self,
        target: Task,
        generation: Generation,
        added: Sequence[TaskSpec],
        kept: Sequence[Task],
        compiled: Compiled,
    ) -> None:
        number, shares = len(target.generations), self.limits.share_equal_tasks != "never"
        new = [Task(target.goal, target, number, spec, lane=spec.lane, shares=shares) for spec in added]
        generation.children += new
        alive = {task.key: task for task in [*kept, *new]}
        for task in alive.values():
            task.needs = [alive[key] for key in compiled.needs[task.key]]
        for task in alive.values():
            if task.state == "ready" and task.unmet:
                task.state = "blocked"
            self._wake(task)

    @staticmethod
    def _touchable(by_key: dict[str, Task], key: str) -> Task:
        task = by_key.get(key)
        if task is None or not task.open:
            raise Refusal("unknown or finished")
        return task

    def _failed(self, task: Task, outcome: Failed) -> None:
        error = outcome.error
        self._settle(task, outcome, answered=False, code=error.code)
        if error.code == "redelivered":
            self._again(task)
        elif error.too_big and task.lane.startswith("agent.") and task.spec.prompt is None:
            task.lane = "plan"
            task.spec = task.spec.model_copy(update={"lane": "plan"})
            task.failures += 1
            self._again(task)
        else:
            self._fail(task, retryable=error.retryable)

    def _throttled(self, task: Task, outcome: Throttled) -> None:
        lane, seconds = self.lanes[task.lane], outcome.retry_after_seconds
        self._bill(task, 0, 0)
        if lane.pool is None and seconds > 0:
            task.state, task.hold, task.due = "retry_wait", 0, self.now + seconds
            return
        if lane.pool is not None:
            pool = self.pools[lane.pool]
            pool.told(outcome.rate)
            if outcome.reason is not None and outcome.reason.startswith("pool_blocked:"):
                pool.refused(self.now + self.limits.pool_park_seconds, for_its_key=True)
            elif seconds > 0:
                pool.refused(self.now + seconds, for_its_key=False)
        self._again(task)

    # --- the reflector ---

    def signal(self, goal: Goal, signal_id: str, action: str, task: Task) -> None:
        """`control.signal`: a finding counts once."""
        self._must_run(goal)
        if signal_id in goal.signals:
            return
        goal.signals.add(signal_id)
        match action:
            case "retry" if task.state == "dispatched":
                self._bill(task, task.hold, 0)
                self._fail(task, retryable=True)
            case "replan":
                self._open_replan(goal.root)
            case "pause":
                self._pause(goal, "loop", self.limits.ask_timeout_seconds)
            case "stop_loop" | "stop_off_topic":
                self._finish(goal, {"stop_loop": "stopped_loop"}.get(action, "stopped_off_topic"))
        self._follow()

    def review(self, goal: Goal) -> None:
        """`control.review`: at most one is open."""
        self._must_run(goal)
        reviews = [task for task in goal.tasks if task.lane == "reflect"]
        if not any(task.open for task in reviews):
            spec = TaskSpec(key=f"review-{len(reviews) + 1}", lane="reflect", max_failures=1)
            Task(goal, None, 0, spec, "ready", lane="reflect")

    # --- tasks, by hand ---

    def replan(self, target: Task) -> None:
        """`control.replan`."""
        self._must_run(target.goal)
        self._open_replan_of(target)

    def skip(self, task: Task) -> None:
        """`control.skip`."""
        self._must_run(task.goal)
        if task.state == "skipped":
            return
        if not task.open or task is task.goal.root:
            raise Refusal("not_open")
        self._close(dependants([task]), "skipped")
        self._close([task], "skipped")
        self._follow()

    def retry(self, task: Task) -> None:
        """`control.retry`: a parked or waiting task goes on, a dead one is cloned with those it took along, an ended
        goal is taken up again."""
        if task.goal.status in ENDED:
            self._reopen(task.goal)
            return
        if task.state in ("parked", "retry_wait") and task.lane != "human":
            if task.over_budget:
                raise Refusal("over_budget")
            self._again(task)
            return
        if task.state != "dead" or task.parent is None:
            raise Refusal("not_dead")
        generation = task.parent.generations[task.generation - 1]
        useful = [other.key for other in task.siblings if other.state not in LOST]
        if any(_name(key) == _name(task.key) for key in useful):
            return  # it was retried already
        branch = [task, *without(task, [other for other in task.siblings if other.state == "skipped"])]
        clones = _clones(branch, generation.revision + 1, useful)
        operations = [AddTask(task=spec) for spec in clones]
        self._apply_revision(task.parent, task.generation, generation.revision, operations, by_hand=True)
        self._follow()

    def _reopen(self, goal: Goal) -> None:
        """Under a new root come clones of what the last plan had not finished: of a task and its retries the newest,
        and none that was dropped, or of which something is made by others. Without a plan it is planned anew."""
        if goal.status == "done":
            raise Refusal("goal_ended")
        old = goal.root
        plan = old.generations[-1] if old.generations and old.generations[-1].kind == "replace" else None
        made = made_under(plan) if plan is not None else {}
        clones = _clones(_unfinished(plan, set(made)), goal.revision + 1, ()) if plan is not None else []
        if plan is not None and not clones:
            raise Refusal("nothing_open")
        inputs = [*old.spec.inputs, *sorted(made.keys() - set(old.spec.inputs))]
        spec = old.spec.model_copy(update={"inputs": inputs})
        wanted = [output.name for output in spec.outputs if output.name not in made]
        compiled = self._compiled(clones, inputs, wanted) if clones else None
        goal.revision += 1
        goal.status, goal.reason, goal.ask_until = "planning" if plan is None else "running", None, None
        goal.deadline = self.now + goal.seconds
        goal.root = Task(goal, None, 0, spec, "ready" if plan is None else "expanded", lane="plan")
        self.reloaded.add(goal.id)
        if compiled is not None:
            self._insert(goal.root, Generation("replace", made=made), clones, compiled.needs)

    def answer(self, task: Task, text: str = "well") -> None:
        """`control.answer`."""
        self._must_run(task.goal)
        if task.state != "parked" or task.over_budget:
            raise Refusal("not_asked")
        if task.lane != "human":
            self._again(task)
        else:
            self._succeed(task, {output.name: text for output in task.spec.outputs})
        self._follow()

    def alive(self, task: Task, epoch: int) -> None:
        """A performer announced a task."""
        if task.state == "dispatched" and task.epoch == epoch:
            task.announced = True
            task.due = self.now + self.lanes[task.lane].lease_seconds

    # --- time --------------------------------------------------------------------------------------------

    def tick(self, unconfirmed: set[int]) -> None:
        """What time brings."""
        tasks = sorted(self.tasks(), key=lambda t: (t.due or 0, t.id))
        for task in tasks:
            if task.state == "retry_wait" and self._is_due(task):
                self._again(task)
        for task in [t for t in tasks if t.state in ("dispatched", "parked") and self._is_due(t)]:
            if task.state == "parked":
                self._unanswered(task)
            elif task.state == "dispatched" and task.id in unconfirmed:
                task.due = self.now + self.lanes[task.lane].lease_seconds
            elif task.state == "dispatched" and self.leases_expire:
                self._expired(task)
        for goal in self.goals.values():
            late = goal.deadline <= self.now or (goal.ask_until is not None and goal.ask_until <= self.now)
            if late:
                self._finish(goal, "partial")
        self._follow()

    def _is_due(self, task: Task) -> bool:
        return task.due is not None and task.due <= self.now

    def _unanswered(self, task: Task) -> None:
        default = task.spec.question.default if task.spec.question else None
        if default is None:
            self._die(task)
        else:
            self._succeed(task, {output.name: default for output in task.spec.outputs})

    def _expired(self, task: Task) -> None:
        if not task.announced and self.lanes[task.lane].performer == "service":
            self._bill(task, 0, 0)
            self._again(task)
            return
        self._bill(task, task.hold, 0)
        if task.spec.effects == "external":
            task.state, task.hold, task.due = "parked", 0, None
            task.epoch += 1
            return
        self._fail(task, retryable=True)


def _checks(task: Task) -> list[ProgramCheck | RubricCheck]:
    return [check for check in task.spec.acceptance if isinstance(check, ProgramCheck | RubricCheck)]


def _check_spec(
    number: int, check: ProgramCheck | RubricCheck, made: dict[str, str], taken: Set[str]
) -> TaskSpec:
    """A check as a child task, as far as its life goes; what it makes has none of the names `taken`."""
    if isinstance(check, ProgramCheck):
        return TaskSpec(
            key=f"check-{number}", lane="exec", inputs=list(made), program=check.program, max_failures=2
        )
    name = f"verdict-{number}"
    while name in taken:
        name += "-"
    verdict = OutputSpec(name=name, type="json")  # type: ignore[arg-type]
    return TaskSpec(
        key=f"check-{number}", lane="agent.judge", inputs=list(made), outputs=[verdict], max_failures=2
    )


def _unfinished(plan: Generation, made: set[str]) -> list[Task]:
    found: list[Task] = []
    names = {_name(child.key) for child in plan.children if child.state == "succeeded"}
    for child in reversed(plan.children):
        outputs = {output.name for output in child.spec.outputs}
        again = child.state == "succeeded" or _name(child.key) in names or outputs & made
        if not again and not child.dropped and not is_replan(child.spec):
            found.insert(0, child)
            names.add(_name(child.key))
            made |= outputs
    return found


def _clones(tasks: Sequence[Task], number: int, others: Iterable[str]) -> list[TaskSpec]:
    """The same tasks under new keys, after those of them and of the others that they were after."""
    renamed = {task.key: f"{_name(task.key)}.r{number}" for task in tasks}
    known = {key: key for key in others} | renamed
    return [
        task.spec.model_copy(
            update={
                "key": renamed[task.key],
                "after": [known[key] for key in task.spec.after if key in known],
            }
        )
        for task in tasks
    ]


def _may_use(lanes: Sequence[str], lane: str) -> bool:
    return any(lane == one or (one.endswith("*") and lane.startswith(one[:-1])) for one in lanes)


def _name(key: str) -> str:
    """A key without the numbers of its retries."""
    return re.sub(r"(\.r\d+)+$", "", key)


def _mark(specs: Iterable[TaskSpec]) -> str:
    """What a plan is, whatever its tasks are called."""
    return "\n".join(
        sorted(spec.model_dump_json(exclude={"key", "title"}) for spec in specs if not is_replan(spec))
    )
