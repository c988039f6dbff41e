"""One Docker engine as the adapter uses it: hardened containers that wait for a program on their stdin.

Nothing of our disk is mounted anywhere and no port is opened: all goes through the engine's own connection, so
it may be on another machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from goalwright_executor import core
from goalwright_executor.sandbox import inside, seccomp
from goalwright_executor.sandbox.port import SandboxLost
from goalwright_executor.sandbox.restrictions import is_container

log = structlog.get_logger(__name__)

GRACE_SECONDS = 15
"""Between the end of a program's time and what ends its container should we be gone."""

_OWNER, _DEADLINE = "goalwright.program.of", "goalwright.program.deadline"  # labels
_USER = "61000"
_OWN_PROCESSES = 5  # docker's init, the shell, who waits for us to go, timeout, the program's launcher
_SWEEP_SECONDS = 60
_CONNECT_SECONDS = 10  # where another sandbox would do, an engine that hangs must not hold up the start
_ANSWER_SECONDS = 60
_SHM_BYTES = 16 << 20
_CONNECTIONS = 10

# `.start` is the shell's own part of what is sent (see `docker`): it sets marker, stdin and the command
_WAIT = """
tar -x -f - -C /job && cd /job && [ -f .start ] && mkdir out || exit 125
. ./.start
rm .start
if [ -f .stdin ]; then mv .stdin /tmp/.stdin && stdin=/tmp/.stdin; fi
exec 3<&0
( read -r _; kill -9 -1 ) <&3 3<&- &  # nobody is attached any more: nobody wants the program
exec 0>&1 3<&-
set -- unlimited "$stdin" "$@"
"""


@dataclass(frozen=True)
class Bounds:
    """What is fixed when a container is made."""

    memory_bytes: int
    processes: int
    disk_bytes: int  # of each of its two folders
    room_bytes: int  # for the program's own files, on top of memory and of the first folder

    def host_config(self) -> dict[str, Any]:
        """The engine's part of the isolation, in its own words."""
        from docker.types import HostConfig, LogConfig, Ulimit

        memory = self.memory_bytes + self.room_bytes  # what lies in the folders counts as memory
        owner = f"nr_inodes={core.MAX_FILES},exec,uid={_USER},gid={_USER},mode=0700"
        config: dict[str, Any] = HostConfig(
            version="1.40",
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges", f"seccomp={seccomp.profile()}"],
            pids_limit=self.processes + _OWN_PROCESSES,
            mem_limit=memory,
            memswap_limit=memory,
            nano_cpus=1_000_000_000,
            shm_size=_SHM_BYTES,
            init=True,
            log_config=LogConfig(type="none"),
            tmpfs={
                "/job": f"size={self.disk_bytes + self.room_bytes},{owner}",
                "/tmp": f"size={self.disk_bytes},{owner}",  # noqa: S108  # the container's own
            },
            ulimits=[Ulimit(name="core", soft=0, hard=0), Ulimit(name="nofile", soft=1024, hard=1024)],
        )
        return config


@dataclass
class Container:
    """A container that was started and waits for the one program that it will see."""

    id: str
    stream: Any  # the one connection to it; it ends when this is closed
    bounds: Bounds
    started: float = field(default_factory=time.monotonic)

    def is_silent(self) -> bool:
        """True when nothing has come from it and the connection stands."""
        try:
            self.stream.settimeout(0)
            self.stream.recv(1)
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
            self.stream.settimeout(_ANSWER_SECONDS)
            return True
        except OSError:
            return False
        return False


class Engine:
    """Makes, asks, kills and removes containers. Raises `SandboxLost` where the engine does not do as asked."""

    def __init__(self, image: str, callers: int) -> None:
        """`callers` threads may ask at once."""
        self.image, self.image_id = image, ""
        self._callers = callers
        self.instance = secrets.token_hex(8)  # several executors may share an engine
        self._client: Any = None
        self._sweeping = threading.Lock()
        self._swept, self._ended = 0.0, frozenset[str]()

    def connect(self) -> tuple[str | None, tuple[str, ...]]:
        """What is wrong, with its fix, or None; and what this engine does not bound. The image is looked up here
        and never again: every program of this executor runs in the same bytes, whatever its tag names later."""
        import docker
        from docker.errors import DockerException, ImageNotFound
        from docker.utils import kwargs_from_env

        try:
            self._client = docker.APIClient(
                **kwargs_from_env(),
                timeout=_CONNECT_SECONDS,
                max_pool_size=_CONNECTIONS
                + self._callers,  # with fewer than callers its pools may break in use
            )
            self.image_id = self._client.inspect_image(self.image)["Id"]
            lacks = gaps(self._client.info())
            self._client.timeout = _ANSWER_SECONDS
            return None, lacks
        except ImageNotFound:
            return no_image(self.image), ()
        except (DockerException, OSError) as error:
            host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
            return no_engine(str(error), host, sys.platform, is_container=is_container()), ()

    def close(self) -> None:
        """Remove what is still ours (the engine was away when it should have gone), close the connection."""
        if self._client is None:
            return
        with contextlib.suppress(SandboxLost), _answering():
            for left in self._client.containers(all=True, filters={"label": f"{_OWNER}={self.instance}"}):
                self._remove(left["Id"])
        self._client.close()

    def start(self, bounds: Bounds, seconds: float) -> Container:
        """A new container, waiting. Whoever finds it after `seconds` and some grace may remove it."""
        with _answering():
            made = self._client.create_container(
                self.image_id,
                entrypoint=["/bin/sh", "-c", _WAIT + inside.SHELL, "sh"],
                user=f"{_USER}:{_USER}",
                hostname="sandbox",
                working_dir="/",
                environment=inside.ENVIRONMENT,
                stdin_open=True,
                labels={
                    _OWNER: self.instance,
                    _DEADLINE: str(int(time.time() + seconds + 4 * GRACE_SECONDS)),
                },
                host_config=bounds.host_config(),
            )
            try:
                params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                stream = self._client.attach_socket(made["Id"], params=params)
                container = Container(made["Id"], getattr(stream, "_sock", stream), bounds)
                self._client.start(container.id)
            except BaseException:
                self._remove(made["Id"])
                raise
            return container

    def is_waiting(self, container: Container) -> bool:
        """True when it runs, is attached to us, and has said nothing."""
        try:
            return container.is_silent() and bool(self.state(container)["Running"])
        except SandboxLost:
            return False

    def state(self, container: Container) -> Mapping[str, Any]:
        """What the engine tells of it: `Running`, `ExitCode`, `OOMKilled`, `Error`."""
        with _answering():
            found: Mapping[str, Any] = self._client.inspect_container(container.id)["State"]
            return found

    def kill(self, container: Container) -> None:
        """From a thread of its own: the engine only answers while somebody drains the connection."""
        with contextlib.suppress(SandboxLost), _answering():  # it has just ended
            self._client.kill(container.id)

    def remove(self, container: Container) -> None:
        """End it, whatever it does, and leave nothing of it."""
        container.stream.close()
        self._remove(container.id)

    def sweep(self) -> None:
        """Remove what executors that crashed have left."""
        with self._sweeping:
            if self._swept and time.monotonic() - self._swept < _SWEEP_SECONDS:
                return
            self._swept = time.monotonic()
        with _answering():
            found = self._client.containers(all=True, filters={"label": _DEADLINE})
        left, self._ended = leftovers(found, time.time(), self._ended)
        for container in left:
            log.info("swept what a crashed executor left", container=container)
            self._remove(container)

    def _remove(self, container: str) -> None:
        from docker.errors import NotFound

        try:
            with _answering(), contextlib.suppress(NotFound):
                self._client.remove_container(container, force=True, v=True)
        except SandboxLost as lost:
            log.warning("container not removed, a later sweep will", container=container, error=lost.message)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    from docker.errors import DockerException

    try:
        yield
    except (DockerException, OSError) as error:
        raise SandboxLost(f"the Docker engine failed: {error}") from error


def leftovers(
    found: Sequence[Mapping[str, Any]], now: float, ended_before: frozenset[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """Which of our containers nobody will remove, and which had ended by now. A living executor removes its own
    at once: left are those that had already ended a sweep ago, and those past their deadline (Unix seconds)."""
    ended = frozenset(one["Id"] for one in found if one["State"] in ("exited", "dead"))
    late = frozenset(one["Id"] for one in found if float(one["Labels"].get(_DEADLINE, 0)) < now)
    return late | (ended & ended_before), ended


def gaps(info: Mapping[str, Any]) -> tuple[str, ...]:
    """What an engine does not bound, by what it tells of itself: it ignores such limits without a word."""
    missing = [
        ("MemoryLimit", "the engine limits no memory: give it the memory control group"),
        ("SwapLimit", "the engine does not count swap: a program may swap out more than its memory"),
        ("PidsLimit", "the engine limits no processes: give it the pids control group"),
        ("CpuCfsQuota", "the engine limits no CPU: a program may use every core"),
    ]
    found = [text for name, text in missing if not info.get(name)]
    if not any("seccomp" in option for option in info.get("SecurityOptions") or ()):
        found.append("the engine filters no system calls")
    return tuple(found)


def no_image(image: str) -> str:
    """What to do about an image that the engine does not have."""
    if "@sha256:" in image:
        return f"the engine has no image {image}: docker pull {image}"
    if image.startswith("sha256:"):
        return f"the engine has no image {image}: docker load it, or name another in GOALWRIGHT_PROGRAM_IMAGE"
    return (
        f"the engine has no image {image}: build it with `docker build -t {image} "
        "-f deploy/programs.Dockerfile .`, or name another one in GOALWRIGHT_PROGRAM_IMAGE"
    )


def no_engine(said: str, host: str, system: str, *, is_container: bool) -> str:
    """What to do when no engine answers at `host`; `system` is `sys.platform`, `said` the client's error."""
    problem = f"no Docker engine answers at {host} ({said})"
    if host.startswith("ssh:"):
        machine = host.removeprefix("ssh://")
        return (
            "no Docker engine is asked over ssh: forward its socket with `ssh -nNT -L "
            f"$HOME/goalwright-docker.sock:/var/run/docker.sock {machine}` and set "
            "DOCKER_HOST=unix://$HOME/goalwright-docker.sock"
        )
    if not host.startswith("unix:"):
        return f"{problem}: start it there, or correct DOCKER_HOST (and DOCKER_TLS_VERIFY, DOCKER_CERT_PATH)"
    path = host.removeprefix("unix://")
    if "ermission denied" in said and is_container:
        return f"{problem}: start this container with --group-add $(stat -c %g {path}), the socket's group outside"
    if "ermission denied" in said:
        return (
            f"{problem}: this user may not use it; sudo usermod -aG docker $USER, then log in again (whoever may "
            "use it is root on its machine)"
        )
    if is_container:
        return f"{problem}: start this container with -v {path}:{path} --group-add $(stat -c %g {path})"
    if system == "darwin":
        return (
            f"{problem}: start Docker Desktop or colima; where its socket is another one, export "
            "DOCKER_HOST=$(docker context inspect --format '{{.Endpoints.docker.Host}}')"
        )
    return (
        f"{problem}: sudo systemctl start docker (Debian, Ubuntu: sudo apt-get install docker.io first), or set "
        "DOCKER_HOST"
    )
