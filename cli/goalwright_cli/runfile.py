"""`$GOALWRIGHT_HOME/run.json`: how every command, tool and test finds the running system.

The supervisor holds a lock on `supervisor.lock` as long as it lives, so a file that it left behind (killed)
is told from a live one without trusting process ids. The file carries credentials: only we can read it.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import BinaryIO

from goalwright_shared.errors import Refused, Unreachable
from pydantic import BaseModel, ConfigDict

from goalwright_cli.embedded_nats import load_credentials


class Run(BaseModel):
    """The content of run.json. The NATS address has the rights of a client and of a custom performer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    nats_url: str
    postgres_dsn: str | None = None
    http_url: str | None = None
    services: dict[str, list[int]] = {}
    children: dict[str, int] = {}


def write(home: Path, run: Run) -> None:
    """Replace the file in one step."""
    fresh = home / "run.json.new"
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(json.dumps(run.model_dump(), indent=1) + "\n")
    fresh.replace(home / "run.json")


def remove(home: Path) -> None:
    """Forget the system; idempotent."""
    (home / "run.json").unlink(missing_ok=True)


def read(home: Path) -> Run | None:
    """The system that runs in `home`, or None; a file left behind by a dead supervisor does not count."""
    if not is_locked(home):
        return None
    try:
        return Run.model_validate_json((home / "run.json").read_bytes())
    except (OSError, ValueError):
        return None


def is_locked(home: Path) -> bool:
    """Whether a supervisor lives in `home` (it may still be starting, without a run.json)."""
    try:
        with (home / "supervisor.lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def claim(home: Path) -> BinaryIO | None:
    """Claim `home` for one supervisor: the file that holds the lock until it is closed (the kernel does that
    when we die), or None when somebody else holds it."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "supervisor.lock").open("ab")
    except OSError as error:
        raise Refused("bad_home", f"{home} cannot be used: {error}", hint="choose another --home") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def client_url(home: Path, nats_url: str | None) -> str:
    """Where a client connects: the address that was given, else the system that runs in `home`."""
    if nats_url:
        return nats_url
    run = read(home)
    if run is None:
        raise Unreachable(
            "nats_unreachable",
            f"no system runs in {home}",
            hint="start one with `goalwright up`, or set GOALWRIGHT_NATS_URL",
        )
    return run.nats_url


def operator_url(home: Path, nats_url: str | None) -> str:
    """Where the operator connects: as `client_url`, but with all rights on the embedded server."""
    url = client_url(home, nats_url)
    if nats_url or not (home / "nats" / "credentials.json").exists():
        return url
    return url.replace(f"client:{load_credentials(home / 'nats').client}@", _service_part(home))


def _service_part(home: Path) -> str:
    return f"service:{load_credentials(home / 'nats').service}@"
