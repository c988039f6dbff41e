"""The system of compose.yaml, built from this tree and running on the engine of this machine."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import engine
from container.engine import IMAGE_TAG, System


@pytest.fixture(scope="session")
def base_image() -> str:
    """The base image; skips (or fails, when an engine is required) where there is no engine."""
    missing = engine.why_no_engine()
    if missing and os.environ.get("GOALWRIGHT_REQUIRE_ENGINE"):
        pytest.fail(f"an engine is required: {missing}")
    if missing:
        pytest.skip(f"container tier not run: {missing}")
    return engine.base_image()


@pytest.fixture(scope="session")
def checkout(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the two images built from it."""
    folder = engine.checkout(tmp_path_factory.mktemp("checkout"))
    arguments = {"BASE_IMAGE": base_image, "CA_BUNDLE": "deploy/test-ca.crt"}
    for image, dockerfile in (("goalwright", "Dockerfile"), ("goalwright-programs", "programs.Dockerfile")):
        engine.build(f"{image}:{IMAGE_TAG}", folder / "deploy" / dockerfile, folder, arguments)
    return folder


@pytest.fixture(scope="session")
def system(base_image: str, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Everything up and ready; gone again, volumes too, at the end."""
    nats, postgres = engine.build_standins(base_image, tmp_path_factory.mktemp("standins"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    passwords = {
        "GOALWRIGHT_NATS_SERVICE_PASSWORD": "p" + secrets.token_hex(12),
        "GOALWRIGHT_NATS_CLIENT_PASSWORD": "p" + secrets.token_hex(12),
        "GOALWRIGHT_POSTGRES_PASSWORD": "p" + secrets.token_hex(12),
        "OPENAI_API_KEY": "test-" + secrets.token_hex(12),
    }
    engine_socket = Path(os.environ.get("DOCKER_SOCKET", "/var/run/docker.sock"))
    compose = engine.Compose(
        checkout,
        f"goalwright-test-{os.getpid()}",
        {
            **passwords,
            "GOALWRIGHT_VERSION": IMAGE_TAG,
            "NATS_IMAGE": nats,
            "POSTGRES_IMAGE": postgres,
            "NATS_PORT": str(port),
            "DOCKER_GROUP": str(engine_socket.stat().st_gid),
            "COMPOSE_PROFILES": "rehearsal",
            "OPENAI_BASE_URL": "http://rehearsal:8000/v1",
            "GOALWRIGHT_MODEL": "rehearsal",
        },
    )
    client = f"nats://client:{passwords['GOALWRIGHT_NATS_CLIENT_PASSWORD']}@127.0.0.1:{port}"
    try:
        try:
            compose("up", "--detach", "--no-build", "--pull", "never", "--wait", "--wait-timeout", "180")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{compose('logs', '--tail', '40')}") from error
        yield System(compose, client, passwords)
    finally:
        compose("down", "--volumes", "--remove-orphans", "--timeout", "20")
