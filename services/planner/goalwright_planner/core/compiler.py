"""The compiler: a model's answer → a graph of tasks, or a compact list of what is wrong with it.

Names are made exact, every deliverable gets its one producer, edges follow from names, and what serves no
deliverable is left out with the reason. Errors name near names, so that one repair turn usually mends them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from goalwright_shared import graph
from goalwright_shared.messages import (
    ArtifactType,
    Contract,
    Deliverable,
    OutputSpec,
    Pruned,
    QuestionSpec,
    TaskSpec,
)

from goalwright_planner.core import mend, names
from goalwright_planner.core.answers import Draft, Named, PlanAnswer, Unusable, read_plan

PLAN_LANE = "plan"
_ERRORS_TOLD = 12
_QUESTIONS = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one plan."""

    max_tasks: int = 100
    max_depth: int = 4


DEFAULT_LIMITS = Limits()


_PAGE = re.compile(r"https?://[^\s<>\"']+")
_PAGES_TOLD = 3


@dataclass(frozen=True, slots=True)
class Brief:
    """What a plan is for: what is given, what is wanted, who may be asked."""

    objective: str
    inputs: tuple[str, ...]
    deliverables: tuple[Deliverable, ...]  # asked for by the client or the parent; empty: the plan names them
    lanes: tuple[str, ...]  # not empty
    limits: Limits = DEFAULT_LIMITS
    web: bool = False  # whether some role can fetch pages
    parent: TaskSpec | None = None  # the composite task that is being refined
    ancestors: frozenset[str] = frozenset()  # contract hashes of the tasks above


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph that compiles."""

    tasks: list[TaskSpec]
    contract: Contract
    deliverables: list[Deliverable]
    warnings: list[str]
    pruned: list[Pruned]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why an answer is no plan, one line each, for the model and for people."""

    errors: tuple[str, ...]


@dataclass(slots=True)
class _Mended:
    answer: PlanAnswer
    drafts: list[Draft]
    deliverables: list[Deliverable]
    meant: dict[str, list[str]]
    warnings: list[str]
    pruned: list[Pruned]


def told(errors: Sequence[str]) -> tuple[str, ...]:
    """The first errors: a model mends a short list better."""
    return (*errors[:_ERRORS_TOLD], *(["… and more"] if len(errors) > _ERRORS_TOLD else []))


def graph_errors(specs: Sequence[TaskSpec], inputs: Collection[str], wanted: Collection[str]) -> list[str]:
    """What keeps tasks from being a graph, as lines; no more of them than are told."""
    found = islice(graph.problems(specs, inputs, wanted), _ERRORS_TOLD + 1)
    return [f"{problem.code}: {problem.message}" for problem in found]


def refusal(answer: object) -> str | None:
    """The reason of an honest refusal (a plan without tasks that says why), else None."""
    try:
        plan = read_plan(answer)
    except Unusable:
        return None
    return " ".join(plan.assumptions) or None if not plan.tasks else None


def compile_plan(answer: object, brief: Brief) -> Plan | Rejected:
    """The plan that `answer` means, or what is wrong with it."""
    try:
        mended = _mend(_read(answer, brief), brief)
    except Unusable as error:
        return Rejected((str(error),))
    mend.settle_inputs(mended.drafts, brief.inputs, mended.meant, mended.warnings)
    _deliver_only_sink(mended)
    mend.settle_after(mended.drafts, (), mended.meant, mended.warnings)
    return _finish(mended, brief)


def compile_sequence(answer: object, brief: Brief) -> Plan | Rejected:
    """The last resort: the tasks one after the other as they were written, inputs that nobody made dropped,
    deliverables that nobody makes given to the last task. Flagged in the warnings."""
    try:
        mended = _mend(_read(answer, brief), brief)
    except Unusable as error:
        return Rejected((str(error),))
    mended.warnings.append("the plan could not be repaired: its tasks run one after the other as written")
    _in_sequence(mended, brief)
    return _finish(mended, brief)


def atomic(brief: Brief, spec: TaskSpec, reason: str) -> Plan:
    """A composite task done in one piece: what no split can gain, no model is asked to split."""
    one = spec.model_copy(
        update={"key": "do", "lane": mend.lane_for(mend.GENERALIST, _performers(brief.lanes)), "after": []}
    )
    contract = Contract(objective=brief.objective, deliverables=[out.name for out in spec.outputs])
    return Plan([one], contract, list(brief.deliverables), [f"not split: {reason}"], [])


def _read(answer: object, brief: Brief) -> PlanAnswer:
    """The answer; raises Unusable also for one so large that even pruning could not help it."""
    plan = read_plan(answer)
    if len(plan.tasks) > 2 * brief.limits.max_tasks:
        raise Unusable(_too_many(len(plan.tasks), brief))
    return plan


def _too_many(count: int, brief: Brief) -> str:
    return (
        f"too_many_tasks: {count} tasks, at most {brief.limits.max_tasks} are allowed; "
        "merge steps that one performer can do in one go"
    )


def _mend(answer: PlanAnswer, brief: Brief) -> _Mended:
    """Keys, lanes, outputs and deliverables made exact."""
    warnings: list[str] = []
    drafts, meant, pruned = mend.settle_keys(answer.tasks, (), warnings)
    mend.settle_lanes(drafts, brief.lanes, warnings)
    mend.settle_outputs(drafts)
    mended = _Mended(answer, drafts, [], meant, warnings, pruned)
    mended.deliverables = _deliverables(mended, brief)
    _align_deliverables(mended)
    return mended


def _deliverables(mended: _Mended, brief: Brief) -> list[Deliverable]:
    """What was asked for; else what the plan names; else what no task consumes."""
    written = {
        names.slug(named.name): named for named in mended.answer.deliverables if names.slug(named.name)
    }
    if brief.deliverables:
        asked = [deliverable.name for deliverable in brief.deliverables]
        extra = [name for name in written if names.match(name, asked) is None]
        mended.warnings.extend(f"the deliverable {name} was not asked for" for name in extra)
        return list(brief.deliverables)
    given = [name for name in written if name in brief.inputs]
    mended.warnings.extend(f"the deliverable {name} is an input already" for name in given)
    types = {out.name: out.type for draft in mended.drafts for out in draft.outputs}
    own = [
        _deliverable(named, name)
        if named.typed
        else _deliverable(named, name, types.get(names.match(name, types) or ""))
        for name, named in written.items()
        if name not in given
    ]
    return own or _sinks_as_deliverables(mended)


def _deliverable(named: Named, name: str, made: ArtifactType | None = None) -> Deliverable:
    """A deliverable as written; one without a type is of the type that is `made` under its name."""
    return Deliverable(name=name, type=made or named.type, description=named.description)


def _sinks_as_deliverables(mended: _Mended) -> list[Deliverable]:
    consumed = {names.slug(name) for draft in mended.drafts for name in draft.inputs}
    sinks = [out for draft in mended.drafts for out in draft.outputs if out.name not in consumed]
    if sinks:
        mended.warnings.append("the plan names no deliverables: what no task consumes is delivered")
    return [_deliverable(sink, sink.name) for sink in {sink.name: sink for sink in sinks}.values()]


def _align_deliverables(mended: _Mended) -> None:
    """The output that a deliverable means gets the deliverable's name."""
    wanted = {deliverable.name for deliverable in mended.deliverables}
    for deliverable in mended.deliverables:
        made = _made(mended.drafts)
        if deliverable.name not in made:
            meaning = names.match(deliverable.name, [name for name in made if name not in wanted])
            if meaning:
                _deliver(mended, meaning, deliverable.name)


def _deliver_only_sink(mended: _Mended) -> None:
    """The one thing that nobody consumes is the one deliverable that nobody makes, if the types agree (any type
    is a file)."""
    made = _made(mended.drafts)
    missing = [deliverable for deliverable in mended.deliverables if deliverable.name not in made]
    used = {name for draft in mended.drafts for name in draft.inputs}
    used |= {deliverable.name for deliverable in mended.deliverables}
    sinks = [out for draft in mended.drafts for out in draft.outputs if out.name not in used]
    if len(missing) == 1 and len(sinks) == 1 and missing[0].type in (sinks[0].type, ArtifactType.FILE):
        _deliver(mended, sinks[0].name, missing[0].name)


def _deliver(mended: _Mended, output: str, deliverable: str) -> None:
    mend.rename_artifact(mended.drafts, output, deliverable)
    mended.warnings.append(f"the output {output} was read as the deliverable {deliverable}")


def _made(drafts: Iterable[Draft]) -> dict[str, None]:
    return dict.fromkeys(out.name for draft in drafts for out in draft.outputs)


def _finish(mended: _Mended, brief: Brief) -> Plan | Rejected:
    """Prune, check, apply the stop rules."""
    wanted = [deliverable.name for deliverable in mended.deliverables]
    kept, useless = _pruned(mended.drafts, wanted)
    specs = [_as_asked(spec, mended.deliverables, mended.warnings) for spec in map(mend.to_spec, kept)]
    errors = graph_errors(specs, brief.inputs, wanted)
    if specs and not wanted and brief.parent is None:
        errors.append(
            "no_deliverables: nothing is handed back; name what is, as an output of the task that makes it"
        )
    if len(specs) > brief.limits.max_tasks:
        errors.append(_too_many(len(specs), brief))
    if errors:
        return Rejected(told(errors))
    tasks = _stopped(specs, brief, mended.warnings)
    mended.warnings.extend(_dear(tasks, brief))
    mended.warnings.extend(_out_of_reach(brief))
    return Plan(
        tasks=tasks,
        contract=_contract(mended.answer, brief, wanted),
        deliverables=[_valued(one, tasks, brief) for one in mended.deliverables],
        warnings=mended.warnings,
        pruned=mended.pruned + useless,
    )


def _pruned(drafts: Sequence[Draft], wanted: Collection[str]) -> tuple[list[Draft], list[Pruned]]:
    """Walk back from the deliverables: what they need, and the rest with the reason.

    When a deliverable has no producer, nothing is left out: any task may be the one that was meant."""
    makers: dict[str, list[str]] = {}
    for draft in drafts:
        for out in draft.outputs:
            makers.setdefault(out.name, []).append(draft.key)
    if not wanted or not all(name in makers for name in wanted):
        return list(drafts), []
    needs = {d.key: [key for name in d.inputs for key in makers.get(name, ())] + d.after for d in drafts}
    start = {key for name in wanted for key in makers[name]}
    serving = start | graph.ancestors(needs, start)
    reason = f"serves none of the deliverables ({', '.join(wanted)})"
    return (
        [draft for draft in drafts if draft.key in serving],
        [Pruned(key=draft.key, reason=reason) for draft in drafts if draft.key not in serving],
    )


def _as_asked(spec: TaskSpec, deliverables: Sequence[Deliverable], warn: list[str]) -> TaskSpec:
    """The task with the types, schemas and descriptions of the deliverables it makes (their acceptance is
    added by the scheduler, also to plans that clients bring)."""
    asked = {deliverable.name: deliverable for deliverable in deliverables}
    outputs = []
    for out in spec.outputs:
        deliverable = asked.get(out.name)
        if deliverable is None:
            outputs.append(out)
            continue
        if out.type is not deliverable.type:
            warn.append(f"{out.name} is delivered as {deliverable.type}, not as {out.type}")
        outputs.append(
            OutputSpec(
                name=out.name,
                type=deliverable.type,
                description=deliverable.description or out.description,
                schema=deliverable.schema_ or out.schema_,
            )
        )
    return spec.model_copy(update={"outputs": outputs})


def _stopped(specs: list[TaskSpec], brief: Brief, warn: list[str]) -> list[TaskSpec]:
    """Plan tasks that would only plan the same again become work."""
    performers = _performers(brief.lanes)
    found = []
    for spec in specs:
        repeats = (
            len(specs) == 1
            or graph.canonical_hash(spec, {}) in brief.ancestors
            or (brief.parent is not None and _same_contract(spec, brief.parent))
        )
        if spec.lane == PLAN_LANE and repeats:
            warn.append(f"task {spec.key} would only be planned again: it is done in one piece")
            spec = spec.model_copy(update={"lane": mend.lane_for(mend.GENERALIST, performers)})
        found.append(spec)
    return found


def _dear(tasks: Sequence[TaskSpec], brief: Brief) -> list[str]:
    """A warning when the children are estimated well above the part they came from."""
    part = _tokens(brief.parent) if brief.parent is not None else 0
    total = sum(map(_tokens, tasks))
    return [f"split into {total} tokens of work, estimated at {part}"] if total > 1.5 * part > 0 else []


def _out_of_reach(brief: Brief) -> list[str]:
    """A warning for each page that the goal names where nobody can fetch pages."""
    named = [] if brief.web or brief.parent is not None else _PAGE.findall(brief.objective)
    return [
        f"the goal names {page[:200]}, and nobody can fetch pages here: GOALWRIGHT_WEB_HOSTS allows hosts"
        for page in dict.fromkeys(named)
    ][:_PAGES_TOLD]


def _tokens(spec: TaskSpec) -> int:
    return spec.effort.tokens_in + spec.effort.tokens_out


def _performers(lanes: Sequence[str]) -> tuple[str, ...]:
    return tuple(lane for lane in lanes if lane != PLAN_LANE) or (mend.GENERALIST,)


def _same_contract(one: TaskSpec, other: TaskSpec) -> bool:
    """Whether two composite tasks ask for the same: same words, same outputs."""
    return one.instruction.split() == other.instruction.split() and (
        {out.name for out in one.outputs} == {out.name for out in other.outputs}
    )


def _valued(deliverable: Deliverable, tasks: Sequence[TaskSpec], brief: Brief) -> Deliverable:
    """A deliverable that the plan named is worth what its producer is."""
    if brief.deliverables:
        return deliverable
    worth = next(t.value for t in tasks if any(out.name == deliverable.name for out in t.outputs))
    return deliverable.model_copy(update={"value": worth})


def _contract(answer: PlanAnswer, brief: Brief, wanted: list[str]) -> Contract:
    questions = [question for question in answer.questions if question.text][:_QUESTIONS]
    return Contract(
        objective=answer.objective or brief.objective,
        deliverables=wanted,
        constraints=answer.constraints,
        out_of_scope=answer.out_of_scope,
        assumptions=answer.assumptions,
        questions=[
            QuestionSpec(text=one.text, options=one.options, default=one.default or None) for one in questions
        ],
    )


def _in_sequence(mended: _Mended, brief: Brief) -> None:
    """Emission order, made a chain in which every name has one producer before its consumers."""
    drafts = mended.drafts
    if not drafts:
        return
    left = _times_made(drafts)
    current = {name: name for name in brief.inputs}  # as written -> as it is called now
    taken = {*brief.inputs, *left, *(deliverable.name for deliverable in mended.deliverables)}
    for before, draft in zip([None, *drafts], drafts, strict=False):
        draft.after = [before.key] if before else []
        draft.inputs = _read_in_sequence(draft, current, mended.warnings)
        for out in draft.outputs:
            written = out.name
            left[written] -= 1
            if left[written] or written in brief.inputs:  # only the last maker keeps the name
                out.name = names.unique(written, taken)
                taken.add(out.name)
            current[written] = out.name
    _give_missing_to_last(mended, brief)


def _times_made(drafts: Iterable[Draft]) -> dict[str, int]:
    times: dict[str, int] = {}
    for draft in drafts:
        for out in draft.outputs:
            times[out.name] = times.get(out.name, 0) + 1
    return times


def _read_in_sequence(draft: Draft, current: Mapping[str, str], warn: list[str]) -> list[str]:
    found: dict[str, None] = {}
    for written in draft.inputs:
        meaning = written if written in current else names.match(written, current)
        if meaning is None:
            warn.append(f"task {draft.key}: nothing before it makes {written}; the input was dropped")
        else:
            found[current[meaning]] = None
    return list(found)


def _give_missing_to_last(mended: _Mended, brief: Brief) -> None:
    made = _made(mended.drafts)
    last = mended.drafts[-1]
    if not mended.deliverables and brief.parent is None:
        name = names.unique("result", {*brief.inputs, *made})
        mended.deliverables = [Deliverable(name=name, type=ArtifactType.TEXT, description="what came out")]
    for deliverable in mended.deliverables:
        if deliverable.name not in made and deliverable.name not in brief.inputs:
            last.outputs.append(Named(deliverable.name, deliverable.type, deliverable.description))
            mended.warnings.append(f"nothing made {deliverable.name}: the last task {last.key} has to")
