"""What a task may still do after what it has read. Decided here, whatever a model says.

Contents of artifacts are never trusted, and most are private. An address that a task asks for can carry what it has
read to the host. So a task that has read anything private fetches a page only when a person allows that very address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goalwright_shared.messages import ArtifactRef, ChildResult, OutputSpec, QuestionSpec, TaskSpec, Work

WEB_LANE = "tool.web"
ALLOW, REFUSE = "allow", "refuse"

_NAMED = 8
"""Of what was read, so many are named in the question."""


def private_reads(work: Work, artifacts: Mapping[str, ArtifactRef], *, asked: bool) -> list[str]:
    """What a task has read, or could read by now, that may hold something of the goal's own data: its inputs, what its
    children have left (`artifacts`), notes of other roles, and a question that another role wrote (`asked`)."""
    found = [name for name, ref in {**work.inputs, **artifacts}.items() if ref.private]
    if any(note.author.startswith("agent.") for note in work.notes):
        found.append("notes of other tasks")
    if asked:
        found.append("the question of another task")
    return found


def marked(outputs: Mapping[str, ArtifactRef], *, private: bool) -> dict[str, ArtifactRef]:
    """Artifacts that a task has made: private as soon as anything was that it had read."""
    return {name: ref.model_copy(update={"private": private}) for name, ref in outputs.items()}


def fetch_task(key: str, url: str, work: Work, private: Sequence[str], approved: Sequence[str]) -> TaskSpec:
    """The child of a `fetch_url`: the page, or first the question to a person whether it may be fetched."""
    if not private or url in approved:
        return TaskSpec(
            key=key,
            title=f"Fetch {url}"[:200],
            lane=WEB_LANE,
            outputs=[OutputSpec(name=f"{key}-page", description="the text of the page")],
            params={"url": url},
            max_failures=2,
        )
    more = f" and {len(private) - _NAMED} more" if len(private) > _NAMED else ""
    text = (
        f"Task {work.spec.key} wants to fetch {url!r}. It has read {', '.join(private[:_NAMED])}{more}, and an address "
        "can carry what was read to its host. May it be fetched?"
    )
    return TaskSpec(
        key=key,
        title=f"Allow {url}"[:200],
        lane="human",
        outputs=[OutputSpec(name=f"{key}-answer")],
        question=QuestionSpec(text=text, options=[ALLOW, REFUSE], default=REFUSE),
    )


def allowed_by(child: ChildResult) -> bool | None:
    """What a person said to the question of `fetch_task`; None when the child was the page itself."""
    answer = child.outputs.get(f"{child.key}-answer")
    if answer is None:
        return None
    return (answer.inline or "").strip().lower() == ALLOW
