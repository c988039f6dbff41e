"""Which sandbox runs the programs: the one that was asked for, or the first that isolates here."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from goalwright_executor.sandbox.port import Sandbox

log = structlog.get_logger(__name__)


class Choice:
    """A part: `start()` takes the first candidate that proves itself. Where none does, `sandbox` stays None
    and `problem` says what was tried and how to mend it; programs are then refused, never run unprotected."""

    def __init__(self, candidates: Sequence[Sandbox]) -> None:
        self._candidates = candidates
        self.sandbox: Sandbox | None = None
        self.problem: str | None = "the sandbox is being checked"

    async def start(self) -> None:
        """Check the candidates in order; close those that are not taken."""
        problems = []
        for candidate in self._candidates:
            problem = "not needed" if self.sandbox else await candidate.check()
            if problem is None:
                self.sandbox = candidate
                continue
            problems.append(f"{candidate.name}: {problem}")
            await candidate.close()
        if self.sandbox is not None:
            self.problem = None
            log.info("programs run in a sandbox", sandbox=self.sandbox.name, lacks=self.sandbox.lacks)
        else:
            self.problem = "no sandbox isolates here, so programs are refused. " + " | ".join(problems)
            log.error("programs are refused", problem=self.problem)

    async def stop(self) -> None:
        """Close the sandbox; idempotent."""
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            await sandbox.close()
