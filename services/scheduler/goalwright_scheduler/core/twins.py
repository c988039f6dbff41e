"""Tasks that may share one result, and tasks that are done several times and voted on. Pure."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from goalwright_shared.messages import TaskSpec

_NEVER_SHARED = frozenset({"plan", "reflect", "human", "agent.judge", "tool.web"})
"""Lanes whose answer depends on more than the contract: on the state of the goal, on a person, on the world."""


def screened(spec: TaskSpec, *, share: bool) -> bool:
    """Whether a task is looked at when it becomes ready: it is voted on, or may share another's result."""
    return spec.replicas > 1 or (share and shareable(spec))


def shareable(spec: TaskSpec) -> bool:
    """Whether a contract says enough to be compared, and doing it once is as good as doing it twice."""
    says_something = spec.instruction.strip() or spec.program or spec.prompt or spec.params is not None
    return (
        bool(says_something)
        and spec.replicas == 1
        and spec.effects == "none"
        and spec.lane not in _NEVER_SHARED
    )


def contract_hash(spec: TaskSpec, inputs: Mapping[str, str]) -> bytes:
    """SHA-256 of what decides a task's result: lane, words, program, prompt, contents of the inputs (SHA-256 by
    name), types and schemas of the outputs. Not its key, title, value or estimates; names of inputs and outputs
    count only where a program says them."""
    names = spec.program is not None
    contract = {
        "lane": spec.lane,
        "instruction": " ".join(unicodedata.normalize("NFC", spec.instruction).split()),
        "inputs": [[name if names else "", inputs.get(name, "")] for name in spec.inputs],
        "outputs": [[out.name if names else "", out.type, out.schema_] for out in spec.outputs],
        "acceptance": [check.model_dump(mode="json") for check in spec.acceptance],
        "program": spec.program and spec.program.model_dump(mode="json"),
        "prompt": spec.prompt and spec.prompt.model_dump(mode="json", by_alias=True),
        "params": spec.params,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(contract, sort_keys=True, separators=(",", ":")).encode()).digest()


def replicas(spec: TaskSpec) -> list[TaskSpec]:
    """The same task so many times, each on its own. What follows when one is dead is for the vote to say."""
    own = {"replicas": 1, "after": [], "on_dead": "skip"}
    return [
        spec.model_copy(update={"key": f"{spec.key[:118]}-r{number}", **own})
        for number in range(1, spec.replicas + 1)
    ]


def winner(answers: Sequence[tuple[str, ...]]) -> tuple[int, int]:
    """The place of the answer that most gave (of equals, that which came first), and how many gave it. Answers are
    the content hashes of their outputs; there is at least one."""
    counts = Counter(answers)
    best = max(range(len(answers)), key=lambda place: (counts[answers[place]], -place))
    return best, counts[answers[best]]
