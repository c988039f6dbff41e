"""Plays the system around the model, as `services/agent/README.md` describes it: cards, turns, programs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Message = dict[str, Any]
Ask = Callable[[Request], Message]
"""A chat completion request → the assistant's message."""

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("run_program", "ask", "read_artifact", "finish")
]
LANES = [{"name": f"agent.{role}", "description": role} for role in ("analyst", "coder", "writer")]
EXCERPT = 2000


@dataclass(frozen=True)
class Run:
    """What a program did."""

    exit_code: int
    stdout: str
    stderr: str


class Programs:
    """Runs programs in folders of their own, by a fork server under the programs' libraries."""

    def __init__(self, python: Path, environment: Mapping[str, str], home: Path) -> None:
        self._home = home
        self._count = 0
        self._server = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("forkserver.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment),
        )  # fmt: skip

    def run(self, source: str, inputs: Mapping[str, Path]) -> tuple[Run, Path]:
        """The run, and the folder `out`."""
        self._count += 1
        folder = self._home / str(self._count)
        (folder / "in").mkdir(parents=True)
        (folder / "out").mkdir()
        (folder / "main.py").write_text(source, encoding="utf-8")
        for name, path in inputs.items():
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, folder / "in" / name)
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps({"folder": str(folder)}) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        printed = {name: (folder / name).read_text(errors="replace") for name in ("stdout", "stderr")}
        return Run(answer["exit_code"], **printed), folder / "out"

    def stop(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)


@dataclass
class Played:
    """How a task went."""

    status: str  # succeeded | given_up
    summary: str
    runs: list[Run] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)


@dataclass
class Stage:
    """The artifacts of a goal, and the performers around the model."""

    ask: Ask
    programs: Programs
    artifacts: dict[str, Path] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def give(self, name: str, path: Path, type: str = "table") -> None:
        """Add an artifact."""
        self.artifacts[name], self.types[name] = path, type

    def describe(self, name: str) -> dict[str, Any]:
        """An artifact as cards show it."""
        path = self.artifacts[name]
        data = b"" if path.is_dir() else path.read_bytes()
        try:
            excerpt = data.decode()[:EXCERPT]
        except UnicodeDecodeError:
            excerpt = ""
        return {
            "name": name,
            "type": self.types[name],
            "media_type": "",
            "size": len(data),
            "excerpt": excerpt,
        }

    def plan(self, goal: str, deliverables: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """The Plan the model answers."""
        card = {
            "kind": "plan",
            "goal": goal,
            "inputs": [self.describe(name) for name in self.artifacts],
            "deliverables": deliverables or [],
            "lanes": LANES,
        }
        return self.structured("Plan", card)

    def structured(self, title: str, card: Mapping[str, Any], schema: Any = None) -> dict[str, Any]:
        """The JSON answer to a card."""
        form = {"name": title, "strict": True, "schema": schema or {"type": "object", "title": title}}
        request = {
            "messages": [{"role": "system", "content": "…"}, with_card(card)],
            "response_format": {"type": "json_schema", "json_schema": form},
        }
        answer: dict[str, Any] = json.loads(self.ask(request)["content"])
        return answer

    def perform(self, task: Mapping[str, Any], errors: list[dict[str, str]] | None = None) -> Played:
        """Do a role task as the agent does: turns until it finishes or gives up."""
        card = {
            "kind": "task",
            "role": task["lane"].removeprefix("agent."),
            "key": task["key"],
            "title": task["title"],
            "instruction": task["instruction"],
            "inputs": [self.describe(name) for name in task["inputs"]],
            "outputs": task["outputs"],
            "errors": errors or [],
            "params": None,
        }
        transcript: list[Message] = [{"role": "system", "content": "…"}, with_card(card)]
        played = Played("given_up", "")
        for _ in range(8):
            message = self.ask({"messages": [*transcript, *NOW[: len(transcript) > 2]], "tools": TOOLS})
            (call,) = message["tool_calls"]
            arguments = json.loads(call["function"]["arguments"])
            transcript.append({"role": "assistant", "content": message["content"], "tool_calls": [call]})
            if call["function"]["name"] == "finish":
                played.summary = arguments["summary"]
                if all(out["name"] in self.artifacts for out in task["outputs"]):
                    played.status = "succeeded"
                return played
            result = self._run(arguments, played)
            transcript.append({"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)})
        raise AssertionError("the task has not finished within 8 turns")

    def _run(self, arguments: Mapping[str, Any], played: Played) -> dict[str, Any]:
        inputs = {name: self.artifacts[name] for name in arguments["inputs"]}
        run, out = self.programs.run(arguments["source"], inputs)
        played.runs.append(run)
        played.sources.append(arguments["source"])
        if run.exit_code == 0:
            for output in arguments["outputs"]:
                self.give(output["name"], output_file(out, output["name"]), output["type"])
        return {
            "status": "succeeded" if run.exit_code == 0 else "dead",
            "exit_code": run.exit_code,
            "stdout": run.stdout,
            "stderr": run.stderr,
            "limit": None,
            "outputs": [],
            "error": None if run.exit_code == 0 else f"exit code {run.exit_code}",
        }


NOW: list[Message] = [{"role": "user", "content": '## Now\n{"turn": 2}'}]


def with_card(card: Mapping[str, Any]) -> Message:
    """The first user message."""
    return {"role": "user", "content": f"Do it.\n\n## Card\n```json\n{json.dumps(card, indent=1)}\n```"}


def output_file(out: Path, name: str) -> Path:
    """out/<name> or the only out/<name>.*, as the executor collects it."""
    exact = out / name
    if exact.exists():
        return exact
    (found,) = out.glob(f"{name}.*")
    return found
