"""The auditor: follows the event stream beside the work, and tells the scheduler what it finds.

Any number of reflectors share one durable, so one process sees only some of a goal's events as deliveries.
Events are numbered without gaps per goal: where one is missing (another process took it, or this one has just
started), the goal's events are read from the stream. So every audit is whole, and a restart goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field

import structlog
from goalwright_shared.clock import Clock
from goalwright_shared.errors import Unreachable
from goalwright_shared.lifecycle import Stopper
from goalwright_shared.messages import Event
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from goalwright_reflector.control import Say
from goalwright_reflector.core.audit import observe, said_by
from goalwright_reflector.core.cadence import progress, review_asked, review_due, tick
from goalwright_reflector.core.model import Audit, Rules, Signal
from goalwright_reflector.feed import EventFeed

log = structlog.get_logger(__name__)

_MAX_DELIVERIES = 10
_LONGEST_DELAY = 30.0
_TICK_SECONDS = 1.0


@dataclass
class Watched:
    """A goal in memory: its audit, where in the stream it stands, and what is still to be said."""

    audit: Audit
    position: int = 0
    unsaid: list[Signal] = field(default_factory=list)


class Auditor:
    """A part: one loop over events, one over the clock. Nothing it knows is lost with it: an event is acked
    when all it gave reason to say was answered."""

    def __init__(
        self, *, feed: EventFeed, say: Say, rules: Rules, clock: Clock, stopper: Stopper, max_goals: int
    ) -> None:
        self._feed, self._say, self._rules, self._clock = feed, say, rules, clock
        self._stopper, self._max_goals = stopper, max_goals
        self._watched: OrderedDict[tuple[str, str], Watched] = OrderedDict()  # by owner and goal_id
        self._stopping = False
        self._turn = asyncio.Lock()  # events and clock take turns, so that an audit changes in one place
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to follow."""
        self._loops = [
            asyncio.create_task(self._running(self._follow()), name="auditor-events"),
            asyncio.create_task(self._running(self._watch_clock()), name="auditor-clock"),
        ]

    async def stop(self) -> None:
        """Stop at once: what was not acked comes again. Idempotent."""
        self._stopping = True  # `wait_for` of Python 3.11 may swallow a cancellation that races with a reply
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []

    async def _running(self, loop: Coroutine[None, None, None]) -> None:
        """A loop that fails ends the process: its supervisor starts a new one, which goes on."""
        try:
            await loop
        except Exception:
            log.exception("auditor failed")
            self._stopper.fatal("the auditor failed")

    # --- events

    async def _follow(self) -> None:
        while not self._stopping:
            for message in await self._feed.next_batch():
                if not self._stopping:
                    await self._take(message)

    async def _take(self, message: Msg) -> None:
        """One event from delivery to ack; the ack comes last."""
        if self._is_known(message):
            await self._settle(message)
            return
        event = await self._feed.read(message)
        if event is None:
            await self._settle(message)
            return
        try:
            async with self._turn:
                await self.hear(event, message.metadata.sequence.stream)
        except (Unreachable, NatsError, TimeoutError) as error:
            await self._hand_back(message, event, error)
        else:
            await self._settle(message)

    def _is_known(self, message: Msg) -> bool:
        """Whether it was read from the stream before it was delivered, with nothing left to be said."""
        _, owner, goal_id, *_ = message.subject.split(".")
        watched = self._watched.get((owner, goal_id))
        if watched is None or watched.unsaid:
            return False
        return watched.audit.state == "finished" or message.metadata.sequence.stream <= watched.position

    async def _hand_back(self, message: Msg, event: Event, error: Exception) -> None:
        tries = message.metadata.num_delivered or 1
        with structlog.contextvars.bound_contextvars(goal=event.goal_id):
            if tries >= _MAX_DELIVERIES:
                log.error("given up", tries=tries, error=str(error))
                await self._settle(message)
                return
            log.warning("handed back", tries=tries, error=str(error))
        with contextlib.suppress(NatsError):
            await message.nak(delay=min(0.5 * 2**tries, _LONGEST_DELAY))

    @staticmethod
    async def _settle(message: Msg) -> None:
        with contextlib.suppress(NatsError):  # a lost ack is a redelivery, which `seq` makes harmless
            await message.ack()

    async def hear(self, event: Event, position: int) -> None:
        """Take an event into its goal's audit, and say what follows. Raises `Unreachable`."""
        watched = self._watch(event.owner, event.goal_id)
        if watched.audit.state == "finished":
            return
        if event.seq > watched.audit.seq + 1:
            await self._catch_up(watched)
        self._learn(watched, event, position)
        await self._speak(watched)

    def _watch(self, owner: str, goal_id: str) -> Watched:
        known = self._watched.get((owner, goal_id))
        watched = known or Watched(Audit(goal_id=goal_id, owner=owner))
        self._watched[owner, goal_id] = watched
        self._watched.move_to_end((owner, goal_id))
        while len(self._watched) > self._max_goals:
            self._watched.popitem(last=False)
        return watched

    def _learn(self, watched: Watched, event: Event, position: int, *, replayed: bool = False) -> None:
        now = event.at if replayed else self._clock.now()
        watched.audit, signals = observe(watched.audit, event, now, self._rules)
        watched.position = max(watched.position, position)
        watched.unsaid += signals
        recorded = said_by(event)
        if recorded is not None:
            watched.unsaid = [signal for signal in watched.unsaid if signal.signal_id != recorded]
        if watched.audit.state == "finished":
            watched.unsaid.clear()

    async def _catch_up(self, watched: Watched) -> None:
        """Read what the stream has of this goal beyond what is known."""
        audit = watched.audit
        async for event, position in self._feed.replay(audit.owner, audit.goal_id, watched.position):
            self._learn(watched, event, position, replayed=True)

    async def _speak(self, watched: Watched) -> None:
        """Say what is unsaid, and ask for a review when one is due."""
        while watched.unsaid:
            await self._signal(watched.unsaid[0])
            watched.unsaid.pop(0)
        now = self._clock.now()
        reason = review_due(watched.audit, now, self._rules)
        if reason is not None:
            granted = await self._ask_review(watched.audit, reason)
            watched.audit = review_asked(watched.audit, now, granted=granted)

    async def _signal(self, signal: Signal) -> None:
        answer = await self._say("signal", signal.owner, signal.body())
        said = {"goal": signal.goal_id, "signal": signal.signal, "action": signal.action}
        if "error" in answer:
            log.warning("signal refused", **said, error=answer["error"])
        elif signal.signal != "progress":
            log.info("signalled", **said, reason=signal.message)

    async def _ask_review(self, audit: Audit, reason: str) -> bool:
        answer = await self._say("review", audit.owner, {"goal_id": audit.goal_id, "reason": reason})
        granted = "error" not in answer
        log.info("review asked for", goal=audit.goal_id, reason=reason, granted=granted)
        return granted

    # --- the clock

    async def _resume(self) -> None:
        """Goals that are open but quiet raise no event: a new process must look for them."""
        for owner, goal_id in sorted(await self._feed.open_goals())[: self._max_goals]:
            watched = self._watch(owner, goal_id)
            async with self._turn:
                await self._catch_up(watched)

    async def _watch_clock(self) -> None:
        try:
            await self._resume()
        except (NatsError, TimeoutError) as error:
            log.warning("open goals could not be read; they are met at their next event", error=str(error))
        while not self._stopping:
            await asyncio.sleep(_TICK_SECONDS)
            for watched in list(self._watched.values()):
                if self._stopping:
                    return
                async with self._turn:
                    await self._look(watched)

    async def _look(self, watched: Watched) -> None:
        """What the clock finds; what could not be said is said at the next tick."""
        if not watched.unsaid and not self._something_due(watched.audit):
            return
        self._watch(watched.audit.owner, watched.audit.goal_id)  # quiet, but not forgotten
        try:
            await self._catch_up(watched)  # another reflector may have taken the newest events
            now = self._clock.now()
            watched.audit, signals = tick(watched.audit, now, self._rules)
            watched.audit, report = progress(watched.audit, now, self._rules)
            watched.unsaid += signals + ([report] if report else [])
            await self._speak(watched)
        except (Unreachable, NatsError, TimeoutError) as error:
            log.warning("could not look", goal=watched.audit.goal_id, error=str(error))

    def _something_due(self, audit: Audit) -> bool:
        now = self._clock.now()
        if audit.state != "open":
            return False
        found = tick(audit, now, self._rules)[1] or progress(audit, now, self._rules)[1]
        return bool(found) or review_due(audit, now, self._rules) is not None
