"""Liveness, readiness and metrics over HTTP: /live, /ready, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping

import structlog
import uvicorn
from prometheus_client import REGISTRY, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

log = structlog.get_logger(__name__)

ReadyCheck = Callable[[], Awaitable[str | None]]
"""None when ready, else what is missing, for people."""


class Health:
    """A part: a small HTTP server on loopback (unless told otherwise). /live answers while the event loop
    turns; /ready runs the service's checks, once every part has started."""

    all_started = True
    """False between the first start of a part and the last; `lifecycle.run` sets it."""

    def __init__(
        self,
        service: str,
        host: str,
        port: int,
        check: ReadyCheck,
        facts: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        """`facts` are told with readiness: what people want to know of this service, as JSON."""
        self._service, self._host, self._port, self._check = service, host, port, check
        self._facts = facts
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it answers; with port 0 known once it has started."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen; logs the address."""
        listener = socket.create_server((self._host, self._port))
        self._port = listener.getsockname()[1]
        app = Starlette(
            routes=[
                Route("/live", self._live),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
            ]
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
            )
        )
        # uvicorn would take the process's signals; there is one handler per process, and it is not this one
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="health")
        log.info("health", live=f"{self.url}/live")

    async def stop(self) -> None:
        """Stop listening; idempotent."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
            self._server = self._task = None

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"service": self._service, "live": True})

    async def _ready(self, _: Request) -> Response:
        missing = await self._check() if self.all_started else "still starting"
        body = {"service": self._service, "ready": missing is None, "missing": missing, **self._facts()}
        return JSONResponse(body, status_code=200 if missing is None else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(REGISTRY), media_type="text/plain; version=0.0.4")
