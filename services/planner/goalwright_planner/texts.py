"""The texts in `prompts/`, read once at the start."""

from __future__ import annotations

from importlib import resources

from goalwright_planner.core.cards import Prompts


def load() -> Prompts:
    """The prompts that come with the package."""
    folder = resources.files("goalwright_planner") / "prompts"
    return Prompts(
        plan=(folder / "plan.md").read_text("utf-8"),
        revise=(folder / "revise.md").read_text("utf-8"),
        repair=(folder / "repair.md").read_text("utf-8"),
    )
