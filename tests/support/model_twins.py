"""What the reference model (`support.model`) knows of equal tasks, which share one result, and of replicas."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from support.model_fates import Fates
from support.model_tasks import Generation, Task

_NEVER_SHARED = frozenset({"plan", "reflect", "human", "agent.judge"})
_WORTH_WAITING_FOR = ("ready", "dispatched", "retry_wait", "checking")


class Twins(Fates):
    """The part of the model that looks at tasks when they become ready."""

    def screen(self) -> None:
        """Tasks that have become ready for the first time are done by replicas, take what a twin has made, wait for
        one, or are to be done; which of equal ones is to be done, the loop decides (`leads`)."""
        self.equals: list[list[Task]] = []
        while self._fresh:
            fresh = [task for task in dict.fromkeys(self._fresh) if task.state == "ready" and not task.epoch]
            self._fresh = []
            for task in fresh:
                if task.spec.replicas > 1:
                    self._have_voted_on(task)
            self._share([(task, said) for task in fresh if (said := contract(task)) is not None])
            self._follow()

    def leads(self, task: Task) -> None:
        """Of equal tasks that became ready together, this one is to be done."""
        equals = next(group for group in self.equals if task in group)
        task.state, task.twin = "ready", None
        for other in equals:
            if other is not task and other.open:
                other.state, other.twin = "blocked", task
        task.goal.doing[contract(task)] = task

    def _share(self, sharing: Sequence[tuple[Task, Hashable]]) -> None:
        led: dict[tuple[str, Hashable], list[Task]] = {}
        takes: list[tuple[Task, Task]] = []
        for task, said in sharing:
            goal = task.goal
            known = goal.doing.get(said)
            twin = known if known is not None and _counts_for(known, task) else None
            if (goal.id, said) in led:
                equals = led[goal.id, said]
                task.state, task.twin = "blocked", equals[0]
                equals.append(task)
            elif twin is not None and twin.state == "succeeded":
                takes.append((task, twin))
            elif twin is not None and twin.state in _WORTH_WAITING_FOR:
                task.state, task.twin = "blocked", twin
            elif known is None and (done := self._done_elsewhere(task, said)) is not None:
                takes.append((task, done))
            else:
                led[goal.id, said] = [task]
        for (_, said), equals in led.items():
            equals[0].goal.doing[said] = equals[0]
            self.equals.append(equals)
        for task, twin in takes:
            values = [twin.made[output.name] for output in twin.spec.outputs]
            names = [output.name for output in task.spec.outputs]
            self._succeed(task, dict(zip(names, values, strict=True)))

    def _done_elsewhere(self, task: Task, said: Hashable) -> Task | None:
        """Who has done the same in another goal of the same owner, latest first."""
        if not self.limits.share_across_goals:
            return None
        goals = [goal for goal in self.goals_of(task.goal.owner) if goal is not task.goal]
        found = [goal.doing[said] for goal in goals if said in goal.doing]
        return max((other for other in found if other.state == "succeeded"), key=lambda t: t.id, default=None)

    def _have_voted_on(self, task: Task) -> None:
        """Each replica is a generation of its own: they make the same names."""
        task.state = "expanded"
        for number in range(1, task.spec.replicas + 1):
            key = f"{task.key}-r{number}"
            own = {"key": key, "replicas": 1, "after": [], "on_dead": "skip"}
            spec = task.spec.model_copy(update=own)
            self._insert(task, Generation("vote"), [spec], {key: ()}, share=False)


def contract(task: Task) -> Hashable | None:
    """What decides a task's result: not its key, title, value or estimates, and names only where a program says
    them. None where no result may be shared."""
    spec = task.spec
    says = spec.instruction.strip() or spec.program or spec.prompt or spec.params is not None
    mute = not says or spec.replicas > 1 or spec.effects != "none" or spec.lane in _NEVER_SHARED
    if mute or not task.shares:
        return None
    given, named = task.given(), spec.program is not None
    return (
        spec.lane,
        " ".join(spec.instruction.split()),
        tuple((named and name, given.get(name)) for name in spec.inputs),
        tuple((named and output.name, output.type, str(output.schema_)) for output in spec.outputs),
        repr((spec.acceptance, spec.program, spec.prompt, spec.params)),
    )


def _counts_for(known: Task, task: Task) -> bool:
    """Not an earlier turn of the same parent, which has seen that result and asks again."""
    return known is not task and (known.parent is not task.parent or known.generation == task.generation)
