"""What a graph means: names → producers → edges, in one generation. Pure; planner and scheduler both use it.

Nobody writes edges: a task names its inputs and outputs, and an edge is an input that a sibling produces
(plus the explicit `after`). Everything here is linear in tasks and names, and never recurses.
"""

from __future__ import annotations

import difflib
import hashlib
import heapq
import json
import re
import unicodedata
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from goalwright_shared.messages import TaskSpec

_SHOWN = 8
"""Names listed in a message before it says how many more there are."""

_COMPARED = 2000
"""Candidates that are compared letter by letter for near names; above it only look-alikes are."""


class GraphError(ValueError):
    """A graph that means nothing. `code` is one of empty_plan, duplicate_key, unknown_input, two_producers,
    cycle, unknown_after, missing_output, self_dependency; `field` is relative to the plan (`tasks.3.key`)."""

    def __init__(self, code: str, message: str, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Compiled:
    """The edges of one generation."""

    needs: dict[str, tuple[str, ...]]  # key -> keys it waits for: producers of its inputs, then `after`
    producers: dict[str, str]  # artifact name -> key
    order: tuple[str, ...]  # topological; emission order among equals
    exports: dict[str, str]  # declared output of the parent -> producing key
    unconsumed: tuple[str, ...]  # names that no task consumes


def compile_generation(
    tasks: Sequence[TaskSpec], scope_inputs: Collection[str], exports: Collection[str] = ()
) -> Compiled:
    """The graph of a generation whose parent sees `scope_inputs` and must export `exports`.

    Raises GraphError with the first problem; `problems` gives all of them.
    """
    for problem in _name_problems(tasks, frozenset(scope_inputs), exports):
        raise problem
    producers = _producers(tasks)
    needs = _needs(tasks, producers)
    order = topological_order(needs)
    if len(order) < len(needs):
        raise _cycle_error(tasks, needs)
    consumed = {name for task in tasks for name in task.inputs}
    return Compiled(
        needs=needs,
        producers=producers,
        order=order,
        exports={name: producers[name] for name in exports},
        unconsumed=tuple(name for name in producers if name not in consumed),
    )


def problems(
    tasks: Sequence[TaskSpec], scope_inputs: Collection[str], exports: Collection[str] = ()
) -> Iterator[GraphError]:
    """Everything that keeps these tasks from being a graph, lazily; cycles only when all else is right."""
    clean = True
    for problem in _name_problems(tasks, frozenset(scope_inputs), exports):
        clean = False
        yield problem
    if clean:
        needs = _needs(tasks, _producers(tasks))
        if len(topological_order(needs)) < len(needs):
            yield _cycle_error(tasks, needs)


def topological_order(needs: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Keys, each after all it needs, earliest emitted first among equals; keys on or behind a cycle lack."""
    position = {key: at for at, key in enumerate(needs)}
    keys = tuple(needs)
    if all(position.get(need, at) < at for at, wanted in enumerate(needs.values()) for need in wanted):
        return keys  # emitted in order, as the most are
    waiting = {key: len(set(wanted)) for key, wanted in needs.items()}
    dependants = _dependants(needs)
    ready = [position[key] for key, count in waiting.items() if count == 0]
    order: list[str] = []
    while ready:
        key = keys[heapq.heappop(ready)]
        order.append(key)
        for dependant in dependants.get(key, ()):
            waiting[dependant] -= 1
            if waiting[dependant] == 0:
                heapq.heappush(ready, position[dependant])
    return tuple(order)


def descendants(needs: Mapping[str, Sequence[str]], keys: Iterable[str]) -> set[str]:
    """Every key that waits, directly or not, for one of `keys` (which are not among them)."""
    start = set(keys)
    return _reached(_dependants(needs), start) - start


def ancestors(needs: Mapping[str, Sequence[str]], keys: Iterable[str]) -> set[str]:
    """Every key that one of `keys` waits for, directly or not (`keys` are not among them)."""
    start = set(keys)
    return _reached(needs, start) - start


def near_names(name: str, candidates: Iterable[str], limit: int = 3) -> list[str]:
    """Names that `name` may have been meant for, nearest first; case and separators do not count."""
    folded: dict[str, str] = {}
    for candidate in candidates:
        folded.setdefault(_folded(candidate), candidate)
    wanted = _folded(name)
    if len(folded) > _COMPARED:
        folded = {f: c for f, c in folded.items() if abs(len(f) - len(wanted)) <= 3 and f[:2] == wanted[:2]}
    pool = list(folded)[:_COMPARED]
    return [folded[match] for match in difflib.get_close_matches(wanted, pool, limit, 0.6)]


def canonical_hash(spec: TaskSpec, input_hashes: Mapping[str, str]) -> str:
    """SHA-256 (hex) of what decides a task's result: two tasks with the same hash may share one.

    `input_hashes` maps input names to the SHA-256 of their content. Key, title, value and estimates do not
    count; white space in the instruction does not either.
    """
    contract = {
        "lane": spec.lane,
        "instruction": _normalised(spec.instruction),
        "inputs": {name: input_hashes[name] for name in sorted(set(spec.inputs)) if name in input_hashes},
        "outputs": [
            {"name": out.name, "type": out.type.value, "schema": out.schema_, "says": out.description}
            for out in sorted(spec.outputs, key=lambda out: out.name)
        ],
        "acceptance": [check.model_dump(mode="json", by_alias=True) for check in spec.acceptance],
        "program": spec.program and spec.program.model_dump(mode="json", by_alias=True),
        "prompt": spec.prompt and spec.prompt.model_dump(mode="json", by_alias=True),
        "question": spec.question and spec.question.model_dump(mode="json", by_alias=True),
        "params": spec.params,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(contract, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _producers(tasks: Sequence[TaskSpec]) -> dict[str, str]:
    return {out.name: task.key for task in tasks for out in task.outputs}


def _needs(tasks: Sequence[TaskSpec], producers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {
        task.key: tuple(
            dict.fromkeys([producers[name] for name in task.inputs if name in producers] + task.after)
        )
        for task in tasks
    }


def _dependants(needs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    dependants: dict[str, list[str]] = defaultdict(list)
    for key, wanted in needs.items():
        for other in dict.fromkeys(wanted):
            dependants[other].append(key)
    return dependants


def _reached(edges: Mapping[str, Sequence[str]], start: Iterable[str]) -> set[str]:
    seen = set(start)
    queue = deque(seen)
    while queue:
        for other in edges.get(queue.popleft(), ()):
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return seen


def _name_problems(
    tasks: Sequence[TaskSpec], scope: frozenset[str], exports: Collection[str]
) -> Iterator[GraphError]:
    if not tasks:
        yield GraphError("empty_plan", "the plan has no tasks", "tasks", "give at least one task")
        return
    yield from _key_problems(tasks)
    yield from _producer_problems(tasks, scope)
    producers = _producers(tasks)
    yield from _input_problems(tasks, scope, producers)
    yield from _after_problems(tasks)
    for name in exports:
        if name not in producers:
            yield GraphError(
                "missing_output",
                f"no task produces {name}{_did_you_mean(name, producers)}",
                "tasks",
                f"declare {name} as an output of the task that makes it",
            )


def _key_problems(tasks: Sequence[TaskSpec]) -> Iterator[GraphError]:
    first: dict[str, int] = {}
    for at, task in enumerate(tasks):
        before = first.setdefault(task.key, at)
        if before != at:
            yield GraphError(
                "duplicate_key",
                f"the key {task.key} is used twice, by tasks {before} and {at}",
                f"tasks.{at}.key",
                "give every task of a plan its own key",
            )


def _producer_problems(tasks: Sequence[TaskSpec], scope: frozenset[str]) -> Iterator[GraphError]:
    first: dict[str, str] = {}
    for at, task in enumerate(tasks):
        for number, out in enumerate(task.outputs):
            if out.name in scope:
                who = f"it is given as an input, and task {task.key} produces it too"
            elif out.name in first:
                who = f"by the tasks {first[out.name]} and {task.key}"
            else:
                first[out.name] = task.key
                continue
            yield GraphError(
                "two_producers",
                f"{out.name} is produced twice: {who}",
                f"tasks.{at}.outputs.{number}.name",
                "rename one of them",
            )


def _input_problems(
    tasks: Sequence[TaskSpec], scope: frozenset[str], producers: Mapping[str, str]
) -> Iterator[GraphError]:
    unknown: dict[str, list[tuple[str, str]]] = {}  # name -> (consumer, field)
    for at, task in enumerate(tasks):
        own = {out.name for out in task.outputs}
        for number, name in enumerate(task.inputs):
            if name in own and name not in scope:
                yield GraphError(
                    "self_dependency",
                    f"task {task.key} needs its own output {name}",
                    f"tasks.{at}.inputs.{number}",
                    f"remove the input {task.key}.{name}",
                )
            elif name not in scope and name not in producers:
                unknown.setdefault(name, []).append((task.key, f"tasks.{at}.inputs.{number}"))
    for name, consumers in unknown.items():
        keys = list(dict.fromkeys(key for key, _ in consumers))
        yield GraphError(
            "unknown_input",
            f"input {name} of task{'s' if len(keys) > 1 else ''} {_listed(keys)} is produced by nobody"
            + _did_you_mean(name, [*scope, *producers]),
            consumers[0][1],
            "name an input of the goal or an output of another task",
        )


def _after_problems(tasks: Sequence[TaskSpec]) -> Iterator[GraphError]:
    keys = {task.key for task in tasks}
    for at, task in enumerate(tasks):
        for number, other in enumerate(task.after):
            field = f"tasks.{at}.after.{number}"
            if other == task.key:
                yield GraphError(
                    "self_dependency",
                    f"task {task.key} waits for itself",
                    field,
                    f"remove {other} from its after",
                )
            elif other not in keys:
                yield GraphError(
                    "unknown_after",
                    f"task {task.key} waits for {other}, which is no task{_did_you_mean(other, keys)}",
                    field,
                    "name the key of another task of this plan",
                )


def _cycle_error(tasks: Sequence[TaskSpec], needs: Mapping[str, Sequence[str]]) -> GraphError:
    """One cycle, in the direction the artifacts flow, beginning with its first emitted task."""
    cycle = _cycle(needs)
    by_key = {task.key: task for task in tasks}
    position = {task.key: at for at, task in enumerate(tasks)}
    start = min(range(len(cycle)), key=lambda at: position[cycle[at]])
    cycle = cycle[start:] + cycle[:start]
    inputs, afters = [], []
    for before, key in zip([cycle[-1], *cycle[:-1]], cycle, strict=True):
        made = {out.name for out in by_key[before].outputs}
        names = [name for name in dict.fromkeys(by_key[key].inputs) if name in made]
        inputs += [f"{key}.{name}" for name in names]
        afters += [] if names else [f"{key}.{before}"]
    edges = {"inputs": inputs, "after entries": afters}
    ways = [f"the {what} {_listed(found)}" for what, found in edges.items() if found]
    path = [*cycle[:_SHOWN], f"… ({len(cycle) - _SHOWN} more)"] if len(cycle) > _SHOWN else cycle
    return GraphError(
        "cycle",
        f"the tasks {' → '.join([*path, cycle[0]])} wait for one another",
        "tasks",
        f"remove one of {' or '.join(ways)}",
    )


def _cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The keys of one cycle, each before one that needs it; `needs` must have a cycle."""
    done = set(topological_order(needs))
    stuck = {key: [n for n in wanted if n not in done] for key, wanted in needs.items() if key not in done}
    at: dict[str, int] = {}
    key = next(iter(stuck))
    while key not in at:  # each stuck task needs a stuck one, so this walk must meet itself
        at[key] = len(at)
        key = stuck[key][0]
    return [step for step, index in at.items() if index >= at[key]][::-1]


def _did_you_mean(name: str, candidates: Iterable[str]) -> str:
    near = near_names(name, candidates)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.casefold()) or name


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
