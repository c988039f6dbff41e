"""Mending drafts before they are compiled: keys, lanes, outputs, inputs and `after` made exact.

Every change that could surprise somebody is told in `warn`. What cannot be mended without a guess is left as
it is: the graph compiler finds it and says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from goalwright_shared.messages import ArtifactType, Effort, OutputSpec, Pruned, QuestionSpec, TaskSpec

from goalwright_planner.core import names
from goalwright_planner.core.answers import Draft, Named

GENERALIST = "agent.generalist"
_EXECUTOR = "exec"
_CODER = "agent.coder"
_ROLES = {
    "coder": (
        "code",
        "coding",
        "programmer",
        "developer",
        "engineer",
        "python",
        "shell",
        "executor",
        "program",
    ),
    "analyst": ("analysis", "analyzer", "analyser", "datascientist", "statistician", "data"),
    "researcher": ("research", "search", "investigator", "scout"),
    "writer": ("write", "writing", "author", "editor", "reporter"),
    "critic": ("review", "reviewer", "qa", "tester", "verifier", "validator", "critique", "judge"),
    "generalist": ("assistant", "agent", "general", "llm", "model"),
}
_ROLE_OF = {word: role for role, words in _ROLES.items() for word in words}


def settle_keys(
    drafts: Sequence[Draft], taken: Collection[str], warn: list[str]
) -> tuple[list[Draft], dict[str, list[str]], list[Pruned]]:
    """Drafts with keys of their own; which keys each written key stands for; exact repeats, left out."""
    kept: list[Draft] = []
    meant: dict[str, list[str]] = {}
    pruned: list[Pruned] = []
    used = set(taken)
    for number, draft in enumerate(drafts):
        twin = next((one for one in kept if one.key in meant.get(draft.key, ()) and _same(one, draft)), None)
        if twin is not None:
            pruned.append(Pruned(key=twin.key, reason="written twice; the repetition was left out"))
            continue
        first_output = draft.outputs[0].name if draft.outputs else ""
        wanted = (
            names.slug(draft.key) or names.slug(draft.title) or names.slug(first_output) or f"task-{number}"
        )
        key = names.unique(wanted, used)
        if key != wanted:
            warn.append(f"the key {wanted} is used twice; the later task is called {key}")
        used.add(key)
        meant.setdefault(draft.key, []).append(key)
        kept.append(replace(draft, key=key))
    return kept, meant, pruned


def settle_lanes(drafts: Iterable[Draft], lanes: Sequence[str], warn: list[str]) -> None:
    """Every draft on a lane that exists: the one meant, else the generalist."""
    for draft in drafts:
        lane = lane_for(draft.lane, lanes)
        if lane != draft.lane:
            warn.append(f"task {draft.key}: the lane {draft.lane or '(none)'} is not offered; {lane} does it")
        draft.lane = lane


def lane_for(wanted: str, lanes: Sequence[str]) -> str:
    """The offered lane that `wanted` means; `lanes` is not empty."""
    if wanted in lanes:
        return wanted
    if wanted == _EXECUTOR and _CODER in lanes:
        return _CODER  # planners have no program yet; a coder writes it when the inputs exist
    bare = wanted.lower().rsplit(".", 1)[-1].strip()
    folded = "".join(letter for letter in bare if letter.isalnum())
    for candidate in (f"agent.{bare}", f"agent.{_ROLE_OF.get(folded, folded)}"):
        if candidate in lanes:
            return candidate
    by_bare = {lane.rsplit(".", 1)[-1]: lane for lane in reversed(lanes)}
    near = names.match(bare, by_bare)
    if near is not None:
        return by_bare[near]
    agents = [lane for lane in lanes if lane.startswith("agent.")]
    return GENERALIST if GENERALIST in lanes else (agents or list(lanes))[0]


def settle_outputs(drafts: Iterable[Draft]) -> None:
    """Every output with a valid name, once per task."""
    for draft in drafts:
        found: dict[str, Named] = {}
        for output in draft.outputs:
            name = names.slug(output.name) or names.unique(draft.key, found)
            found.setdefault(name, replace(output, name=name))
        draft.outputs = list(found.values())


def settle_inputs(
    drafts: Sequence[Draft], known: Collection[str], meant: Mapping[str, Sequence[str]], warn: list[str]
) -> None:
    """Every input with the name of the artifact it means: one of `known` or another draft's output."""
    made = {output.name for draft in drafts for output in draft.outputs}
    everything = {*known, *made}
    by_key = {draft.key: draft for draft in drafts}
    for draft in drafts:
        own = {output.name for output in draft.outputs}
        found: dict[str, None] = {}
        for written in draft.inputs:
            if written in own and written not in known:
                warn.append(f"task {draft.key} named its own output {written} as an input; removed")
                continue
            if written in everything:
                found[written] = None
                continue
            keys = [key for key in meant.get(written, [written]) if key != draft.key]
            producers = [by_key[key] for key in keys if key in by_key]
            meaning = [output.name for producer in producers for output in producer.outputs]
            if not meaning:
                close = names.match(written, sorted(everything - own))
                meaning = [close] if close else []
            if meaning:
                warn.append(f"task {draft.key}: the input {written} was read as {', '.join(meaning)}")
            found.update(dict.fromkeys(meaning or [name for name in [names.slug(written)] if name]))
        draft.inputs = list(found)


def settle_after(
    drafts: Sequence[Draft], known: Collection[str], meant: Mapping[str, Sequence[str]], warn: list[str]
) -> None:
    """Every `after` with the key it means: a task's, or the producer's of an artifact."""
    keys = {*known, *(draft.key for draft in drafts)}
    producer = {output.name: draft.key for draft in drafts for output in draft.outputs}
    for draft in drafts:
        found: dict[str, None] = {}
        for written in draft.after:
            wanted = list(meant.get(written, ())) or ([written] if written in keys else [])
            if not wanted and written in producer:
                wanted = [producer[written]]
            if not wanted:
                close = names.match(written, sorted(keys))
                wanted = [close] if close else []
                if close:
                    warn.append(f"task {draft.key}: after {written} was read as {close}")
            found.update(dict.fromkeys(wanted or [name for name in [names.slug(written)] if name]))
        found.pop(draft.key, None)
        draft.after = list(found)


def rename_artifact(drafts: Iterable[Draft], old: str, new: str) -> None:
    """The same artifact under another name, for its producer and its consumers."""
    for draft in drafts:
        for output in draft.outputs:
            output.name = new if output.name == old else output.name
        draft.inputs = [new if name == old else name for name in draft.inputs]


def to_spec(draft: Draft) -> TaskSpec:
    """The draft as a task; a human one asks its instruction."""
    outputs = draft.outputs
    question = None
    if draft.lane == "human":
        question = QuestionSpec(text=draft.instruction or draft.title or draft.key)
        outputs = outputs or [Named(f"{draft.key[:120]}_answer", ArtifactType.TEXT)]
    return TaskSpec(
        key=draft.key,
        title=draft.title or draft.key,
        instruction=draft.instruction or draft.title,
        lane=draft.lane,
        inputs=draft.inputs,
        outputs=[OutputSpec(name=o.name, type=o.type, description=o.description) for o in outputs],
        after=draft.after,
        value=draft.value,
        effort=Effort(tokens_in=draft.tokens_in, tokens_out=draft.tokens_out, seconds=draft.seconds),
        confidence=draft.confidence,
        max_failures=draft.max_failures,
        on_dead=_on_dead(draft.on_dead),
        question=question,
    )


def _on_dead(written: str) -> Literal["skip", "fail_goal", "replan"]:
    return "replan" if written == "replan" else "fail_goal" if written == "fail_goal" else "skip"


def _same(one: Draft, other: Draft) -> bool:
    """Whether two drafts under one key are the same task."""
    return (one.lane, one.instruction, one.inputs, one.outputs) == (
        other.lane, other.instruction, other.inputs, other.outputs,
    )  # fmt: skip
