"""Follow a goal from its first event to its end: what `run` and `watch` share.

`follow` reads events, keeps the view, lets a `Screen` show it, and puts questions to the person at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import Event
from rich.text import Text

from goalwright_cli import exits, tree
from goalwright_cli.client import Client, Feed, refs_of
from goalwright_cli.order import Inbox, receive, skip_gap
from goalwright_cli.render import Bill
from goalwright_cli.screen import Screen
from goalwright_cli.view import (
    ENDED,
    GoalView,
    Question,
    apply,
    with_account,
    with_note,
)
from goalwright_cli.words import clean

_FRAME_SECONDS = 0.125
_LOOK_SECONDS = 2.0
_GAP_SECONDS = 1.0
"""How long an event may be late; one that is missing for longer has left the stream."""
_WHYS = 6
"""Tasks whose reason to wait is asked for at a time."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to follow: a time, or until a person is needed (`wait_for_people` false)."""

    timeout_seconds: float | None = None
    wait_for_people: bool = True


@dataclass(frozen=True, slots=True)
class Ending:
    """Where following stopped: the last view and the exit code it means."""

    view: GoalView
    code: int


async def follow(client: Client, goal: dict[str, Any], screen: Screen, patience: Patience) -> Ending:
    """Show a goal (an answer of `query.goal`) until it ends, patience ends, or Ctrl-C detaches."""
    with _interrupts() as detached:
        async with client.events(goal["goal_id"], goal["owner"]) as feed:
            follower = _Follower(client, screen, patience, detached, GoalView(goal["goal_id"]))
            looking = asyncio.create_task(follower.look())
            try:
                return await follower.run(feed, goal)
            finally:
                looking.cancel()
                follower.stop_asking()
                screen.close()


@contextlib.contextmanager
def _interrupts() -> Iterator[asyncio.Event]:
    """SIGINT and SIGTERM set an event instead of ending us."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, asked.set)
    try:
        yield asked
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class _Follower:
    """One goal being followed."""

    def __init__(
        self, client: Client, screen: Screen, patience: Patience, detached: asyncio.Event, view: GoalView
    ) -> None:
        self._client = client
        self._screen = screen
        self._patience = patience
        self._detached = detached
        self._inbox = Inbox()
        self._whole_at = time.monotonic()
        self._asking: asyncio.Task[str] | None = None
        self._asked: Question | None = None
        self._settled: set[str] = set()
        self._notes: dict[str, str] = {}
        self._account: dict[str, Any] = {}
        self.view = view

    async def run(self, feed: Feed, goal: dict[str, Any]) -> Ending:
        """The loop: take events, show, ask, until there is an ending."""
        deadline = time.monotonic() + (self._patience.timeout_seconds or float("inf"))
        while True:
            self._take(await feed.take(_FRAME_SECONDS), feed)
            if feed.caught_up:
                if self.view.seq == 0 and goal["status"] in ENDED:
                    self._remember(goal)
                code = await self._person()
                if code is None:
                    code = self._end(deadline)
                self._draw()
                if code is not None:
                    return Ending(self.view, code)

    def _take(self, events: list[Event], feed: Feed) -> None:
        for event in events:
            self._inbox, due = receive(self._inbox, event)
            self._apply(due)
        if not self._inbox.early:
            self._whole_at = time.monotonic()
        elif time.monotonic() - self._whole_at > _GAP_SECONDS and feed.caught_up:
            self._inbox, due = skip_gap(self._inbox)
            self._apply(due)

    def _apply(self, events: list[Event]) -> None:
        for event in events:
            self.view = apply(self.view, event)
            self._screen.tell(self.view, event)

    def _draw(self) -> None:
        for task_id, note in self._notes.items():
            self.view = with_note(self.view, task_id, note)
        if self._account and not self.view.finished:
            self.view = with_account(self.view, self._account)
        if self._asking is None:
            self._screen.draw(self.view)

    def _end(self, deadline: float) -> int | None:
        """The exit code when following is over."""
        if self.view.finished:
            return exits.of_goal(self.view.status, self.view.reason)
        if self._detached.is_set():
            return exits.DETACHED
        if time.monotonic() >= deadline:
            return exits.TIMED_OUT
        return None

    # --- people ----------------------------------------------------------------------------------------

    async def _person(self) -> int | None:
        """Put the next question to the person; the exit code when there is nobody to wait for."""
        question = self._next_question()
        if self._asked is not None and question != self._asked:
            self.stop_asking()
        if question is None:
            return None
        if not self._screen.can_ask:
            return self._nobody(question)
        if self._asking is None:
            self._asked = question
            self._asking = asyncio.create_task(self._screen.ask(_prompt(question)))
        if self._asking.done():
            answer = self._asking.result()
            self.stop_asking()
            return await self._answer(question, answer)
        return None

    def _nobody(self, question: Question) -> int | None:
        if self._patience.wait_for_people:
            return None
        return exits.BUDGET if question.task_id == _BUDGET else exits.WAITING

    def _next_question(self) -> Question | None:
        if self.view.finished:
            return None
        if self.view.status == "paused" and self.view.reason == "budget":
            return _about_budget(self.view)
        self._settled &= {*self.view.questions}
        return next((q for q in self.view.questions.values() if q.task_id not in self._settled), None)

    def stop_asking(self) -> None:
        """The question is settled, or nobody is there any more."""
        if self._asking is not None:
            self._asking.cancel()
        self._asking = self._asked = None

    async def _answer(self, question: Question, answer: str) -> int | None:
        goal_id = self.view.goal_id
        try:
            if question.task_id == _BUDGET:
                if not answer:
                    return exits.BUDGET
                await self._client.control("budget", goal_id=goal_id, budget_usd=_sum(answer, self.view))
                return None
            given = answer or question.default
            if given is None:
                return None  # asked again: there is no default
            await self._client.control("answer", goal_id=goal_id, task_id=question.task_id, answer=given)
            self._settled.add(question.task_id)
        except (GoalwrightError, ValueError) as error:
            self._screen.say([Text(f"  {error}", "red")])
        return None

    # --- what events do not tell -------------------------------------------------------------------------

    async def look(self) -> None:
        """Every two seconds, for the screen: what is spent so far, and why visible tasks wait."""
        while True:
            with contextlib.suppress(GoalwrightError, KeyError):
                self._account = await self._client.query("goal", goal_id=self.view.goal_id)
                self._notes = await self._whys()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _whys(self) -> dict[str, str]:
        shown = (row.task for row in tree.rows(self.view, 30) if row.task is not None)
        waiting = [task.task_id for task in shown if task.state == "ready"][:_WHYS]
        return {task_id: await self._why(task_id) for task_id in waiting}

    async def _why(self, task_id: str) -> str:
        answer = await self._client.query("why", goal_id=self.view.goal_id, task_id=task_id)
        return str(answer.get("detail") or str(answer.get("reason", "")).replace("_", " "))

    def _remember(self, goal: dict[str, Any]) -> None:
        """The goal ended so long ago that its events are gone: what the query says must do."""
        self.view = with_account(
            GoalView(
                self.view.goal_id,
                text=goal.get("text") or "",
                status=goal["status"],
                reason=goal.get("reason"),
                deliverables=refs_of(goal.get("deliverables")),
            ),
            goal,
        )


_BUDGET = "budget"
"""Stands for a task id in the question whether to add money."""


def _about_budget(view: GoalView) -> Question:
    spent = f"${view.spent_usd:.4f} of ${view.budget_usd or 0:.2f}"
    return Question(
        _BUDGET, f"The budget is used up ({spent}). New budget in USD, or +1 to add (Enter: leave it paused)"
    )


def _prompt(question: Question) -> str:
    options = f" [{' | '.join(question.options)}]" if question.options else ""
    default = f" (Enter: {question.default})" if question.default is not None else ""
    return clean(f"? {question.text}{options}{default}:", lines=True)


def _sum(answer: str, view: GoalView) -> float:
    return new_budget(answer, view.budget_usd or 0)


def new_budget(text: str, now: float) -> float:
    """`2`, `$2` or `+0.5` as a budget in USD; raises ValueError."""
    try:
        amount = float(text.replace("$", "").lstrip("+"))
    except ValueError:
        raise ValueError(f"{text!r} is no amount; say 2 or +0.50") from None
    return round(now + amount, 6) if text.strip().startswith("+") else amount


async def bill_of(client: Client, goal_id: str) -> Bill:
    """What a goal cost, from its ledger."""
    ledger = await client.query("ledger", goal_id=goal_id)
    entries = ledger.get("entries") or []
    paid = [entry for entry in entries if entry.get("model")]
    return Bill(
        spent_usd=float(ledger.get("spent_usd") or 0),
        budget_usd=ledger.get("budget_usd"),
        overrun_usd=float(ledger.get("overrun_usd") or 0),
        calls=len(paid),
        tokens_in=sum(int(entry.get("tokens_in") or 0) for entry in paid),
        tokens_out=sum(int(entry.get("tokens_out") or 0) for entry in paid),
        models=tuple(sorted({str(entry["model"]) for entry in paid})),
    )
