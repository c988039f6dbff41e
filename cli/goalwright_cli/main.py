"""The command `goalwright`: a table of commands, each imported only when it is used.

A target is `module:name`; it names a function (annotated as Typer wants) or, for a group, a `typer.Typer`.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_WORK, _STEER, _OPERATE = "Goals", "Steer", "Operate"

COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("run:run", "Submit a goal, watch it, and leave its deliverables in a folder.", _WORK),
    "submit": ("submit:submit", "Submit a goal and return at once.", _WORK),
    "watch": ("watch:watch", "Follow a goal live until it ends.", _WORK),
    "ls": ("inspect:list_goals", "List goals.", _WORK),
    "status": ("inspect:status", "Show where a goal stands and what it cost.", _WORK),
    "graph": ("inspect:graph", "Show a goal's tasks as a tree, mermaid or JSON.", _WORK),
    "why": ("inspect:why", "Say what a task is waiting for.", _WORK),
    "task": ("inspect:task", "Show a task: prompt, reply, tokens, cost, attempts.", _WORK),
    "logs": ("inspect:logs", "Follow the live output of a goal or a task.", _WORK),
    "artifacts": ("inspect:artifacts", "List, fetch or query what a goal has made.", _WORK),
    "inbox": ("inspect:inbox", "List the questions that wait for a person.", _WORK),
    "answer": ("steer:answer", "Answer a question.", _STEER),
    "feedback": ("steer:feedback", "Rate, accept or correct a goal's result.", _STEER),
    "budget": ("steer:budget", "Change a goal's budget.", _STEER),
    "pause": ("steer:pause", "Pause a goal.", _STEER),
    "resume": ("steer:resume", "Resume a paused goal.", _STEER),
    "cancel": ("steer:cancel", "Cancel a goal.", _STEER),
    "retry": ("steer:retry", "Try a dead task again.", _STEER),
    "skip": ("steer:skip", "Skip a task.", _STEER),
    "replan": ("steer:replan", "Ask for a new plan, with a reason.", _STEER),
    "up": ("up:up", "Start the whole system here and keep it running.", _OPERATE),
    "serve": ("serve:serve", "Run one service.", _OPERATE),
    "lane": ("lane:app", "Add and list lanes.", _OPERATE),
    "allow": ("steer:allow", "Limit what an owner may spend over all goals.", _OPERATE),
    "topology": ("topology:app", "Apply, show or verify streams and consumers.", _OPERATE),
    "db": ("db:app", "Migrate, prune or look at the database.", _OPERATE),
    "config": ("config:app", "Show the configuration and where it comes from.", _OPERATE),
    "check-model": ("check_model:check_model", "Try the configured model on twelve small goals.", _OPERATE),
    "doctor": ("doctor:doctor", "Check this machine and say how to mend it.", _OPERATE),
    "version": ("main:version", "Print the version.", _OPERATE),
}


class LazyGroup(TyperGroup):
    """Knows names and help of all commands; imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Replace the stub of the called command by the real one."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = _load(args[0])
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    """The command behind a name of the table."""
    target, text, _ = COMMANDS[name]
    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(f"goalwright_cli.{module}"), attribute)
    if "structlog" in sys.modules:  # whose default is to print logs on stdout, where our answers go
        from goalwright_shared.telemetry import configure_logging

        configure_logging("cli", level="error")
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    one = typer.Typer(add_completion=False)
    one.command(name, help=found.__doc__ or text)(found)
    return typer.main.get_command(one)


def build() -> typer.Typer:
    """The application, with a stub for every command."""
    app = typer.Typer(
        cls=LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=True,
        help="Publish a goal; get its deliverables back: planned, paced, paid, audited and durable.",
    )  # fmt: skip
    for name, (_, text, panel) in COMMANDS.items():
        app.command(name, help=text, rich_help_panel=panel)(_stub)
    app.callback()(_everywhere)
    return app


def _stub() -> None:
    """Stands for a command that was not called."""


def _everywhere(
    home: Annotated[
        Path | None, typer.Option(help="state of the embedded system (GOALWRIGHT_HOME)", show_default=False)
    ] = None,
    nats_url: Annotated[
        str | None, typer.Option(help="NATS to use (GOALWRIGHT_NATS_URL)", show_default=False)
    ] = None,
) -> None:
    """Options before the command; a flag wins over the environment."""
    if home is not None:
        os.environ["GOALWRIGHT_HOME"] = str(home)
    if nats_url is not None:
        os.environ["GOALWRIGHT_NATS_URL"] = nats_url


def version() -> None:
    """Print the version."""
    from importlib import metadata

    print(f"goalwright {metadata.version('goalwright')}")


def main() -> None:
    """The entry point: errors that a person can act on are printed without a traceback."""
    try:
        build()(prog_name="goalwright")
    except Exception as error:
        if (found := _explained(error)) is None:
            raise
        text, code = found
        print(f"goalwright: {text}", file=sys.stderr)
        sys.exit(code)


def _explained(error: Exception) -> tuple[str, int] | None:
    """What to print and the exit code, for an error that a person can act on; else None."""
    from goalwright_shared.errors import GoalwrightError, Unreachable
    from pydantic import ValidationError

    from goalwright_cli import exits

    if isinstance(error, Unreachable):
        return str(error), exits.UNREACHABLE
    if isinstance(error, GoalwrightError):
        return str(error), exits.of_error(error.code)
    if isinstance(error, ValidationError) and error.title.endswith("Settings"):
        wrong = "; ".join(f"{_variable(part['loc'])}: {part['msg']}" for part in error.errors())
        return f"a setting is wrong. {wrong}. Fix: see `goalwright config show`", exits.USAGE
    return None


def _variable(path: tuple[int | str, ...]) -> str:
    name = ".".join(map(str, path))
    return name if name.isupper() else f"GOALWRIGHT_{name.upper()}"


if __name__ == "__main__":
    main()
