"""`python -m goalwright_rehearsal --port 0`: serve until a signal; one JSON line on stdout says where."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys

import uvicorn

from goalwright_rehearsal.app import build_app
from goalwright_rehearsal.settings import RehearsalSettings
from goalwright_rehearsal.wire import MODEL


class _Server(uvicorn.Server):
    """Tells when it serves."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print `{"url", "model", "pid"}`."""
        await super().startup(sockets)
        line = {"url": self._url, "model": MODEL, "pid": os.getpid(), "note": "a rehearsal, no intelligence"}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Parse flags over the environment, listen, serve."""
    settings = _settings(arguments)
    listener = socket.create_server((settings.host, settings.port))
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        build_app(settings), log_level="warning", access_log=False, timeout_graceful_shutdown=1,
        timeout_keep_alive=120,  # longer than clients keep idle connections, so that none is cut under a request
    )  # fmt: skip
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn drains first and then raises it again
        signal.signal(number, lambda *_: sys.exit(0))
    _Server(config, f"http://{host}:{port}/v1").run(sockets=[listener])
    return 0


def _settings(arguments: list[str] | None) -> RehearsalSettings:
    """Every setting is a flag of the same name; what is not given comes from the environment."""
    parser = argparse.ArgumentParser(prog="python -m goalwright_rehearsal", description=__doc__)
    for name, field in RehearsalSettings.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=(field.description or "").replace("%", "%%"))
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    return RehearsalSettings(**given)


if __name__ == "__main__":
    sys.exit(main())
