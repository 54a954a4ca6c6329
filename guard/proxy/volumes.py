"""How often each agent called lately, for the limits that owners set.

A window is counted in twenty parts and may only be counted too long, by one part. What was counted is stored within a
second, so that a restart forgets nothing but that second. Every guard process counts for itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import anyio
import structlog

from guard.errors import StoreUnavailableError
from guard.model import Classification, Limit
from guard.ports import Baselines, Clock
from guard.reasons import Code, Reason

log = structlog.get_logger()

PARTS: Final = 20
_KEY: Final = "volume:"
_SOON: Final = 1.0


@dataclass(slots=True)
class _Window:
    """The calls of one agent under one limit: how many in each part of `seconds`."""

    seconds: float
    parts: Counter[int] = field(default_factory=Counter)

    def index(self, now: float) -> int:
        """The part of the window that `now` falls into."""
        return int(now * PARTS / self.seconds)

    def total(self, now: float) -> int:
        """How many calls lie within the window; what is older is forgotten, what a set-back clock left ahead is not."""
        oldest = self.index(now) - PARTS
        for part in [part for part in self.parts if part < oldest]:
            del self.parts[part]
        return self.parts.total()


class Volumes:
    """Counts executed calls by agent and limit."""

    def __init__(self, baselines: Baselines, clock: Clock) -> None:
        """Keep what is counted in `baselines`, too."""
        self._baselines, self._clock = baselines, clock
        self._counted: dict[str, dict[str, _Window]] = {}
        self._dirty: set[str] = set()
        self._moved = anyio.Event()

    async def recall(self, subject: str) -> None:
        """Have what was counted for an agent in memory.

        Raises:
            StoreUnavailableError: it cannot be read, so nobody can tell whether the agent is over a limit.
        """
        if subject not in self._counted:
            stored = await anyio.to_thread.run_sync(self._baselines.get, _KEY + subject)
            self._counted.setdefault(subject, _read(stored))

    def judged(self, subject: str, tags: Classification) -> Classification:
        """The tags, with what the limits require of an agent whose call, with its inner calls, does not fit them."""
        mentions = Counter(tags.limits)
        over = [limit for limit, calls in mentions.items() if self._total(subject, limit) + calls > limit.calls]
        if not over:
            return tags
        return replace(
            tags,
            demands=tags.demands.union(*(limit.demands for limit in over)),
            quorums=tags.quorums.union(*(limit.quorums for limit in over)),
            reasons=(*tags.reasons, *(Reason(Code.OVER_LIMIT, tags.owner, _said(limit)) for limit in over)),
        )

    def count(self, subject: str, limits: Sequence[Limit]) -> None:
        """Count a call that is about to be forwarded; a limit that is named twice (inner calls) counts twice."""
        now = self._clock.now()
        for limit in limits:
            window = self._window(subject, limit)
            window.parts[window.index(now)] += 1
        if limits:
            self._dirty.add(subject)
            self._moved.set()

    async def run(self) -> None:
        """Store what was counted, a second later; tries again while the store is away. Runs until cancelled."""
        while True:
            await self._moved.wait()
            await anyio.sleep(_SOON)
            self._moved = anyio.Event()
            taken = self._take()
            try:
                await anyio.to_thread.run_sync(self._put, taken)
            except StoreUnavailableError as error:
                log.warning("volume.unsaved", detail=error.detail)
                self._dirty |= taken.keys()
                self._moved.set()

    def save(self) -> None:
        """Store what was counted since the last time. Blocks.

        Raises:
            StoreUnavailableError: not everything is stored.
        """
        self._put(self._take())

    def _take(self) -> dict[str, str]:
        """What is to be stored, made where calls are counted and nowhere else."""
        taken = {subject: self._snapshot(subject) for subject in self._dirty}
        self._dirty.clear()
        return taken

    def _put(self, taken: Mapping[str, str]) -> None:
        for subject, snapshot in taken.items():
            self._baselines.put(_KEY + subject, snapshot)

    def _total(self, subject: str, limit: Limit) -> int:
        return self._window(subject, limit).total(self._clock.now())

    def _window(self, subject: str, limit: Limit) -> _Window:
        windows = self._counted.setdefault(subject, {})
        known = windows.get(limit.name)
        if known is None or known.seconds != limit.seconds:
            fresh = _Window(limit.seconds)
            if known is not None:  # the owner changed the window; what was counted counts as of now
                fresh.parts[fresh.index(self._clock.now())] = known.total(self._clock.now())
            windows[limit.name] = known = fresh
        return known

    def _snapshot(self, subject: str) -> str:
        now, windows = self._clock.now(), self._counted[subject]
        for name in [name for name, window in windows.items() if not window.total(now)]:
            del windows[name]
        return json.dumps({name: [window.seconds, window.parts] for name, window in windows.items()})


def _read(stored: str | None) -> dict[str, _Window]:
    """What a snapshot says; only `Volumes` writes them."""
    found: Mapping[str, tuple[float, Mapping[str, int]]] = json.loads(stored or "{}")
    return {
        name: _Window(seconds, Counter({int(part): count for part, count in parts.items()}))
        for name, (seconds, parts) in found.items()
    }


def _said(limit: Limit) -> str:
    return limit.reason or f"{limit.calls} calls in {limit.seconds:g} s ({limit.name})"
