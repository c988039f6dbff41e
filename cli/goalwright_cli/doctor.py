"""`goalwright doctor`: looks at this machine as the system would, and says how to mend what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.telemetry import redact

from goalwright_cli import runfile
from goalwright_cli.settings import SystemSettings

if TYPE_CHECKING:
    from goalwright_agent.endpoints import Endpoint

_LITTLE_DISK_BYTES = 2 << 30
_PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class Finding:
    """What one check found; `fix` is the exact thing to do when it is not ok."""

    check: str
    status: Literal["ok", "warning", "broken"]
    detail: str
    fix: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False) -> None:
    """Check this machine and say how to mend it; exit code 1 when something is broken."""
    findings = asyncio.run(examine(SystemSettings()))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"[{finding.status:^7}] {finding.check:<18} {finding.detail}")
            if finding.fix:
                print(f"{'':<29}Fix: {finding.fix}")
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(1)


async def examine(settings: SystemSettings) -> list[Finding]:
    """All checks, in the order in which the system needs what they look at."""
    findings = [_python(), _disk(settings.home)]
    checks: list[tuple[str, Callable[[SystemSettings], Awaitable[Finding]]]] = [
        ("nats", _nats), ("postgres", _postgres), ("sandbox", _sandbox),
        ("program libraries", _libraries), ("model", _model),
    ]  # fmt: skip
    for name, check in checks:
        try:
            findings.append(await check(settings))
        except GoalwrightError as error:
            findings.append(Finding(name, "broken", error.message, error.hint or ""))
    return findings


def _python() -> Finding:
    # an older one could not have imported this file
    return Finding("python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}")


def _disk(home: Path) -> Finding:
    folder = next(path for path in (home.absolute(), *home.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:.1f} GiB free for {home}"
    if not os.access(folder, os.W_OK):
        return Finding(
            "disk", "broken", f"{folder} cannot be written", "set GOALWRIGHT_HOME to a folder of yours"
        )
    if free < _LITTLE_DISK_BYTES:
        return Finding("disk", "warning", detail, "make room, or set GOALWRIGHT_HOME to another disk")
    return Finding("disk", "ok", detail)


async def _nats(settings: SystemSettings) -> Finding:
    """The server that is given or runs, else the one that would be started."""
    from goalwright_cli.embedded_nats import binary
    from goalwright_cli.topology import connection

    run = runfile.read(settings.home)
    if url := settings.nats_url or (run and run.nats_url):
        async with connection(url) as client:
            account = await client.jetstream().account_info()
        return Finding("nats", "ok", f"answers at {redact(url)}, {account.streams} streams")
    version = await _output([binary(), "--version"])
    return Finding("nats", "ok", f"embedded: {version}")


async def _postgres(settings: SystemSettings) -> Finding:
    from goalwright_cli.embedded_postgres import binaries

    run = runfile.read(settings.home)
    if dsn := settings.postgres_dsn or (run and run.postgres_dsn):
        from goalwright_scheduler import migrations

        have, newest = await migrations.status(dsn)
        if have != newest:
            return Finding("postgres", "broken", f"schema {have}, newest {newest}", "goalwright db migrate")
        return Finding("postgres", "ok", f"answers at {redact(dsn)}, schema {have}")
    return Finding("postgres", "ok", f"embedded: {await _output([binaries() / 'postgres', '--version'])}")


async def _sandbox(_: SystemSettings) -> Finding:
    """The executor's own choice, with the fixes of those that do not isolate here."""
    from goalwright_executor.app import sandboxes
    from goalwright_executor.libraries import Libraries
    from goalwright_executor.sandbox.choose import Choice
    from goalwright_executor.settings import ExecutorSettings

    settings = ExecutorSettings()
    choice = Choice(sandboxes(settings, Libraries(settings)))
    await choice.start()
    try:
        if choice.sandbox is None:
            return Finding("sandbox", "broken", "programs would be refused", choice.problem or "")
        lacks = "".join(f"; {lack}" for lack in choice.sandbox.lacks)
        return Finding("sandbox", "ok", f"{choice.sandbox.name} isolates programs here{lacks}")
    finally:
        await choice.stop()


async def _libraries(_: SystemSettings) -> Finding:
    from goalwright_executor import libraries
    from goalwright_executor.settings import ExecutorSettings

    place = libraries.folder(ExecutorSettings())
    if not libraries.is_complete(place):
        return Finding(
            "program libraries", "warning", f"{place} is not built yet: the executor builds it at its start",
            "python -m goalwright_executor.libraries",
        )  # fmt: skip
    return Finding("program libraries", "ok", str(place))


async def _model(_: SystemSettings) -> Finding:
    """One listing of models from each provider that a lane uses, as the agent would ask; no call is paid."""
    from goalwright_agent.settings import AgentSettings, pools

    settings = AgentSettings()
    if not settings.openai_api_key and not settings.openai_base_url and not settings.providers:
        return Finding(
            "model", "warning", "none is set: `goalwright up` starts the rehearsal model (no intelligence)",
            "set OPENAI_API_KEY (or OPENAI_BASE_URL) and GOALWRIGHT_MODEL",
        )  # fmt: skip
    used = dict.fromkeys(limit.pool.partition("/")[0] for limit in pools(settings))
    found = [await _provider(settings.endpoints()[name]) for name in used]
    broken = [one for one in found if one.status != "ok"]
    if broken:
        return broken[0]
    said = "; ".join(one.detail for one in found)
    return Finding("model", "ok", f"{said}; model {settings.model}")


async def _provider(endpoint: Endpoint) -> Finding:
    import aiohttp

    if endpoint.needs_key and not endpoint.key:
        return Finding("model", "broken", f"no key for {endpoint.shown}", f"set {endpoint.key_source}")
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    timeout = aiohttp.ClientTimeout(total=_PROBE_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as client,
            client.get(f"{endpoint.base_url}/models", headers=headers) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, TimeoutError) as error:
        why = redact(str(error)) or "timed out"
        return Finding(
            "model",
            "broken",
            f"{endpoint.shown} does not answer: {why}",
            f"look at the address of {endpoint.name}",
        )
    if status in (401, 403):
        return Finding(
            "model", "broken", f"{endpoint.shown} refuses the key", f"look at {endpoint.key_source}"
        )
    return Finding("model", "ok", f"{endpoint.shown} answers ({status})")


async def _output(command: list[str | Path]) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        timeout=_PROBE_SECONDS,
    )
    return done.stdout.strip() or done.stderr.strip()
