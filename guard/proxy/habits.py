"""What is learnt about an agent's client by watching it: how long it waits, and whether it answers questions.

A client that waited 40 seconds for an answer may be held that long; one that leaves a longer hold shows that it may
not. A client that twice in a row did not answer whether it opens a page is not asked again for a day. Habits
decide how a pause is said, never whether a call is paused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Final

import anyio
import structlog

from guard.errors import StoreUnavailableError
from guard.ports import Baselines, Clock
from guard.proxy.ladder import DROPPED, HOLD_LIMIT

log = structlog.get_logger()

FORGET: Final = 86_400.0
"""Seconds until a client that did not answer is asked again: it may have been updated."""

_KEY: Final = "habit:"
_STEP: Final = 1.0


@dataclass(frozen=True, slots=True)
class Habit:
    """One agent: the longest wait seen in seconds, questions left unanswered in a row, and when the last was."""

    waited: float = 0.0
    dropped: int = 0
    dropped_at: float = 0.0


def recall(baselines: Baselines, subject: str) -> Habit:
    """What is known of an agent. Blocks.

    Raises:
        StoreUnavailableError: it cannot be read.
    """
    return _read(baselines.get(_KEY + subject))


def _read(stored: str | None) -> Habit:
    try:
        found = json.loads(stored or "{}")
        return Habit(float(found["waited"]), int(found["dropped"]), float(found["dropped_at"]))
    except (ValueError, KeyError, TypeError):
        return Habit()


class Habits:
    """The habits of every agent that was seen, remembered in front of the store."""

    def __init__(self, baselines: Baselines, clock: Clock) -> None:
        self._baselines, self._clock = baselines, clock
        self._known: dict[str, Habit] = {}

    async def of(self, subject: str) -> Habit:
        """The habit of an agent; an unread one counts as unknown, which holds briefly and asks politely."""
        habit = self._known.get(subject)
        if habit is None:
            try:
                habit = await anyio.to_thread.run_sync(recall, self._baselines, subject)
            except StoreUnavailableError as error:
                log.warning("habit.unread", principal=subject, detail=error.detail)
                return Habit()
            self._known[subject] = habit
        if habit.dropped and self._clock.now() - habit.dropped_at > FORGET:
            return replace(habit, dropped=0)
        return habit

    async def waited(self, subject: str, seconds: float) -> None:
        """The client was still there after so many seconds, and got its answer."""
        habit, seen = await self.of(subject), min(seconds, HOLD_LIMIT)
        if seen >= habit.waited + _STEP:
            await self._keep(subject, replace(habit, waited=round(seen, 1)))

    async def left(self, subject: str, seconds: float) -> None:
        """The client left a call that was held so long: half of it is what it may be trusted to wait."""
        habit = await self.of(subject)
        if habit.waited > seconds / 2:
            await self._keep(subject, replace(habit, waited=round(seconds / 2, 1)))

    async def dropped(self, subject: str) -> None:
        """The client did not answer a question it had said it can answer."""
        habit = await self.of(subject)
        count = min(habit.dropped + 1, DROPPED)
        await self._keep(subject, replace(habit, dropped=count, dropped_at=self._clock.now()))

    async def answered(self, subject: str) -> None:
        """The client answered a question."""
        habit = await self.of(subject)
        if habit.dropped:
            await self._keep(subject, replace(habit, dropped=0))

    async def _keep(self, subject: str, habit: Habit) -> None:
        self._known[subject] = habit
        try:
            await anyio.to_thread.run_sync(self._baselines.put, _KEY + subject, json.dumps(asdict(habit)))
        except StoreUnavailableError as error:  # learnt again with the next call; in memory it counts already
            log.warning("habit.unsaved", principal=subject, detail=error.detail)
