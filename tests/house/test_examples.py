"""Every client and performer in examples/, and the snippets of the README, against a running system."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import nats
import pytest
from house.conftest import RunningSystem

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PYTHON, NODE = [sys.executable], ["node"]
CLIENTS = {"python": [*PYTHON, "clients/publish.py"], "socket": [*PYTHON, "clients/publish_raw.py"],
           "javascript": [*NODE, "clients/publish.mjs"]}  # fmt: skip
PERFORMERS = {
    "python": [*PYTHON, "performers/count_words.py"],
    "javascript": [*NODE, "performers/count_words.mjs"],
}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def javascript() -> None:
    """The packages of the JavaScript examples; skips where there is no Node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node and npm are not here: the JavaScript examples were not run")
    done = subprocess.run(["npm", "ci"], cwd=EXAMPLES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def lane(running_system: RunningSystem) -> str:
    """The lane of the example performers, added while the system runs."""
    running_system.goalwright(
        "lane", "add", "custom.words", "--description", "Counts the words of its inputs"
    )
    return "custom.words"


@contextlib.contextmanager
def running(command: Sequence[str], url: str) -> Iterator[None]:
    """A performer in the background, ended by its id."""
    process = subprocess.Popen([*command, url], cwd=EXAMPLES)
    try:
        yield
        assert process.poll() is None, "the performer ended on its own"
    finally:
        process.terminate()
        process.wait(timeout=10)


def goal_for(lane: str) -> dict[str, object]:
    """Two tasks in a row, so that an outcome has to unlock the next one."""
    first = {"key": "first", "lane": lane, "inputs": ["poem"], "outputs": [{"name": "words", "type": "text"}]}
    second = {"key": "second", "lane": lane, "inputs": ["words"], "outputs": [{"name": "n", "type": "text"}]}
    poem = {"name": "poem", "type": "text", "inline": "so much depends upon a red wheel barrow"}
    return {
        "id": uuid.uuid4().hex,
        "text": "Count",
        "inputs": [poem],
        "deliverables": [{"name": "words", "type": "text"}, {"name": "n", "type": "text"}],
        "plan": {"tasks": [first, second]},
    }


def publish(client: Sequence[str], url: str, goal: dict[str, object]) -> dict[str, object]:
    """Run a client to its end; the data of the goal.finished it printed."""
    done = subprocess.run(
        [*client, url, json.dumps(goal)],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [line.split(" ", 1)[0] for line in done.stdout.splitlines()]
    assert kinds[0] == "goal.accepted" and kinds[-1] == "goal.finished", done.stdout
    data: dict[str, object] = json.loads(done.stdout.splitlines()[-1].split(" ", 1)[1])
    return data


def texts(data: dict[str, object]) -> dict[str, str]:
    """The deliverables of a goal.finished, by name."""
    deliverables = data["deliverables"]
    assert isinstance(deliverables, dict)
    return {name: ref["inline"] for name, ref in deliverables.items()}


@pytest.mark.parametrize("performer", PERFORMERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_goal_of_any_client_is_done_by_a_performer_in_any_language(
    running_system: RunningSystem, lane: str, client: str, performer: str, request: pytest.FixtureRequest
) -> None:
    if "javascript" in (client, performer):
        request.getfixturevalue("javascript")
    with running(PERFORMERS[performer], running_system.nats_url):
        data = publish(CLIENTS[client], running_system.nats_url, goal_for(lane))
    assert data["status"] == "done", data
    assert texts(data) == {"words": "8", "n": "1"}


async def test_the_same_id_twice_is_one_goal(running_system: RunningSystem, lane: str) -> None:
    goal = json.dumps(goal_for(lane)).encode()
    async with await nats.connect(running_system.nats_url) as client:
        first = json.loads((await client.request("goals.request", goal, timeout=10)).data)
        second = json.loads((await client.request("goals.request", goal, timeout=10)).data)
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["goal_id"] == second["goal_id"]


def snippets(language: str) -> list[str]:
    """The README's blocks of a language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize(("language", "command"), [("python", PYTHON), ("js", NODE)])
def test_the_clients_printed_in_the_readme_run_as_they_stand(
    running_system: RunningSystem, language: str, command: list[str], request: pytest.FixtureRequest
) -> None:
    if language == "js":
        request.getfixturevalue("javascript")
    (snippet,) = snippets(language)
    script = EXAMPLES / "node_modules" / f"readme.{'mjs' if language == 'js' else 'py'}"
    script.parent.mkdir(exist_ok=True)
    script.write_text(snippet)
    try:
        done = subprocess.run(
            [*command, str(script)],
            env={**os.environ, "NATS_URL": running_system.nats_url},
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip
    finally:
        script.unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status": "done"' in done.stdout.replace('":"', '": "'), done.stdout


def test_a_model_can_be_checked_on_a_running_system(running_system: RunningSystem) -> None:
    said = running_system.goalwright("check-model", "impossible")
    assert re.search(r"^impossible +refused +0 +0 +failed +yes", said, re.MULTILINE), (
        "it refuses, as it should"
    )
    assert "no intelligence" in said
