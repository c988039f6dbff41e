"""Whatever a model answers, the transcript only ever grows at its end, and every call gets one result."""

from __future__ import annotations

import json
from typing import Any

from goalwright_agent.core.turns import State, child_result, fault_message, resumed, step_of, tool_message
from goalwright_shared import graph
from goalwright_shared.messages import ChildResult, TaskSpec, Work
from hypothesis import given
from hypothesis import strategies as st

from agent.play import text_ref, work_of

NAMES = st.sampled_from(["orders", "a", "b", "nope", "../x", "report"])
SPEC = TaskSpec(key="t", lane="agent.coder", inputs=["orders"])
WORK: Work = work_of(SPEC, inputs={"orders": text_ref("orders", "x")})
ALLOWED = ("run_program", "ask", "read_artifact", "finish")

OUTPUTS = st.lists(
    st.fixed_dictionaries({"name": NAMES, "type": st.sampled_from(["text", "file"])}), max_size=2
)
PROGRAMS = st.fixed_dictionaries(
    {"source": st.text(max_size=20), "inputs": st.lists(NAMES, max_size=2), "outputs": OUTPUTS}
)
ASKS = st.fixed_dictionaries({"role": NAMES | st.just("critic"), "instruction": st.text(max_size=9)})
READS = st.fixed_dictionaries({"name": NAMES, "offset": st.integers(-1, 9)})
JUNK = st.recursive(st.none() | st.integers() | st.text(max_size=9), lambda x: st.lists(x, max_size=2))
ARGUMENTS = PROGRAMS | ASKS | READS | JUNK
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from(["", "same", "x"]),
            "function": st.fixed_dictionaries(
                {
                    "name": st.sampled_from([*ALLOWED, "fly"]),
                    "arguments": ARGUMENTS.map(json.dumps) | ARGUMENTS,
                }
            )
            | st.none(),
        }
    ),
    max_size=4,
)


def child_of(spec: TaskSpec, fails: bool) -> ChildResult:
    """How a child may end."""
    outputs = {} if fails else {out.name: text_ref(out.name, "x", out.type) for out in spec.outputs}
    return ChildResult(
        key=spec.key, task_id=spec.key, status="dead" if fails else "succeeded", outputs=outputs
    )


def played(state: State, raw: list[dict[str, Any]], fails: bool) -> State:
    """One turn, as the handlers play it."""
    step = step_of("", raw, WORK, state, ALLOWED, ["critic", "analyst"])
    if step.children:
        graph.compile_generation(step.children, [*SPEC.inputs, *step.artifacts])
    now = [fault_message(call) for call in step.faults]
    now += [tool_message(call.call_id, {"status": "succeeded"}) for call in step.at_once]
    now += [tool_message(step.finish.call_id, {"status": "error"})] if step.finish else []
    state = state.said(step.message, *now, pending=list(step.pending))
    state = State.model_validate_json(state.model_dump_json(by_alias=True, exclude_defaults=True))
    children = [child_of(spec, fails) for spec in step.children]
    return resumed(state, {child.key: child_result(child, {}, []) for child in children}, children)


@given(st.lists(st.tuples(CALLS, st.booleans()), max_size=5))
def test_transcript_is_append_only_and_every_call_is_answered_once(
    turns: list[tuple[list[dict[str, Any]], bool]],
) -> None:
    state = State(messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])
    for raw, fails in turns:
        before = state.messages
        state = played(state, raw, fails)
        assert state.messages[: len(before)] == before
        assert len(state.messages) > len(before)
        called = [call["id"] for m in state.messages for call in m.get("tool_calls", ())]
        answered = [m["tool_call_id"] for m in state.messages if m["role"] == "tool"]
        assert sorted(called) == sorted(answered)
        assert len(set(called)) == len(called)
        assert state.pending == []
