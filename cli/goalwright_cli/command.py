"""What every command for goals shares: its common options, the way to a system, errors as exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from goalwright_cli import exits

if TYPE_CHECKING:
    from goalwright_cli.client import Client

P = ParamSpec("P")

NatsUrl = Annotated[
    str | None,
    typer.Option(
        "--nats-url",
        envvar="GOALWRIGHT_NATS_URL",
        help="NATS to use (default: the system that runs here)",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Goal = Annotated[str, typer.Argument(metavar="GOAL", help="a goal's id, a unique start of it, or - (latest)")]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="a task's id or key")]


def command(work: Callable[P, Coroutine[Any, Any, int | None]]) -> Callable[P, None]:
    """A command from a coroutine that returns its exit code (None is 0).

    An error that names facts becomes one line on stderr (and JSON on stdout with --json) and its exit code.
    """

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from goalwright_shared.errors import GoalwrightError

        try:
            code = asyncio.run(work(*args, **kwargs))
        except GoalwrightError as error:
            if kwargs.get("as_json"):
                print(error.answer().model_dump_json(exclude_none=True))
            print(f"goalwright: {error}", file=sys.stderr)
            raise typer.Exit(exits.of_error(error.code)) from None
        except KeyboardInterrupt:
            print("goalwright: interrupted", file=sys.stderr)
            raise typer.Exit(exits.DETACHED) from None
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output has gone, as `| head` does: nothing more to say
            raise typer.Exit(exits.DONE) from None
        raise typer.Exit(code or exits.DONE)

    return run


@contextlib.asynccontextmanager
async def session(nats_url: str | None) -> AsyncIterator[Client]:
    """A connection to the system for one command; raises `Unreachable`."""
    from goalwright_cli import runfile
    from goalwright_cli.client import connected
    from goalwright_cli.settings import SystemSettings

    settings = SystemSettings()
    async with connected(runfile.client_url(settings.home, nats_url or settings.nats_url)) as client:
        yield client


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
