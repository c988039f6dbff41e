"""Role files that are dropped in or changed while the agent runs. Polled: a mount may not tell of changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

import structlog
from goalwright_shared.errors import GoalwrightError, TopologyMissing
from goalwright_shared.worker import Worker
from nats.errors import Error as NatsError

from goalwright_agent.handlers import Agent
from goalwright_agent.roles import Role, load_roles

log = structlog.get_logger(__name__)

POLL_SECONDS = 2.0

_Seen = dict[str, tuple[int, int]]
"""Time of change (ns) and size of each role file, by name."""


class RoleFolder:
    """A part: watches the folder of role files. A role whose file goes is performed until the agent ends, as tasks of
    it may wait; planners are no longer offered it once the topology was applied.

    With `all_lanes` a new role is served as soon as its lane is applied; else only known roles are kept up to date.
    """

    def __init__(self, folder: Path, agent: Agent, worker: Worker, *, web: bool, all_lanes: bool) -> None:
        self._folder, self._agent, self._worker = folder, agent, worker
        self._web, self._all_lanes = web, all_lanes
        self._roles: Mapping[str, Role] = {}
        self._told: set[str] = set()  # what was complained of, once
        self._polling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch."""
        self._roles = await asyncio.to_thread(load_roles, self._folder, web=self._web)
        seen = await asyncio.to_thread(_looked_at, self._folder)
        self._polling = asyncio.create_task(self._poll(seen), name="role-folder")

    async def stop(self) -> None:
        """Watch no longer. Idempotent."""
        if self._polling is not None:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling

    async def _poll(self, seen: _Seen) -> None:
        waiting = False
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                now = await asyncio.to_thread(_looked_at, self._folder)
                if waiting or now != seen:
                    seen, waiting = now, not await self._take()
            except (GoalwrightError, NatsError, OSError, TimeoutError) as error:
                waiting = True  # a file that is half written, or NATS that is away: the next look tells
                self._tell(str(error) or type(error).__name__)

    async def _take(self) -> bool:
        """Take over what the files say; whether nothing is left to wait for. Raises Refused for a bad file."""
        found = await asyncio.to_thread(load_roles, self._folder, web=self._web)
        ready = True
        for role in found.values():
            if self._roles.get(role.name) == role:
                continue
            if role.name not in self._roles:
                if not self._all_lanes:
                    continue
                try:
                    await self._worker.add(role.lane)
                except TopologyMissing as missing:
                    self._tell(f"role {role.name} is not performed yet: {missing}")
                    ready = False
                    continue
            self._agent.learn(role)
            self._roles = {**self._roles, role.name: role}
            log.info("role taken over", role=role.name)
        return ready

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("role files", problem=what)


def _looked_at(folder: Path) -> _Seen:
    files = ((path.name, path.stat()) for path in folder.glob("*.md"))
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in files}
