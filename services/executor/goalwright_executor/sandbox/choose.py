"""Which sandbox runs the programs: the one that was asked for, or the strongest that isolates here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from goalwright_executor.sandbox.port import Sandbox

log = structlog.get_logger(__name__)


class Choice:
    """A part: `start()` takes the candidate that lacks least of those that prove themselves. Where none does,
    `sandbox` stays None and `problem` says what was tried and how to mend it; programs are then refused, never
    run unprotected."""

    def __init__(self, candidates: Sequence[Sandbox]) -> None:
        """Of candidates that lack equally much, the earlier one is taken."""
        self._candidates = candidates
        self.sandbox: Sandbox | None = None
        self.problem: str | None = "the sandbox is being checked"

    async def start(self) -> None:
        """Check all candidates; close those that are not taken."""
        problems = await asyncio.gather(*(candidate.check() for candidate in self._candidates))
        checked = list(zip(self._candidates, problems, strict=True))
        isolating = [candidate for candidate, problem in checked if problem is None]
        self.sandbox = min(isolating, key=lambda one: len(one.lacks), default=None)
        others = [
            f"{one.name}: {problem or f'isolates too, and lacks {list(one.lacks)}'}"
            for one, problem in checked
            if one is not self.sandbox
        ]
        for candidate in self._candidates:
            if candidate is not self.sandbox:
                await candidate.close()
        if self.sandbox is not None:
            self.problem = None
            log.info(
                "programs run in a sandbox",
                sandbox=self.sandbox.name,
                lacks=self.sandbox.lacks,
                not_taken=others,
            )
        else:
            self.problem = "no sandbox isolates here, so programs are refused. " + " | ".join(others)
            log.error("programs are refused", problem=self.problem)

    async def stop(self) -> None:
        """Close the sandbox; idempotent."""
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            await sandbox.close()
