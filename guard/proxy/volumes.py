"""How often each agent called lately, and how much it was given, for the limits that owners set.

A window is counted in twenty parts and may only be counted too long, by one part. What was counted is stored within a
second, so that a restart forgets nothing but that second. Each process adds to what is stored, and learns of the others
as it does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import anyio
import structlog

from guard.errors import StoreUnavailableError
from guard.model import Classification, Limit, Measure
from guard.ports import Baselines, Clock
from guard.reasons import Code, Reason

log = structlog.get_logger()

PARTS: Final = 20
_KEY: Final = "volume:"
_SOON: Final = 1.0

_Parts: TypeAlias = dict[str, tuple[float, Counter[int]]]
"""By a limit's name its window in seconds, and how much in each part of it."""


@dataclass(slots=True)
class _Window:
    """What one agent had under one limit (calls, bytes or rows): how much in each part of `seconds`.

    `parts` are those of every process, as far as this one knows; `mine` are its own, which count whatever is stored;
    `fresh` are those of its own that are still to be stored.
    """

    seconds: float
    parts: Counter[int] = field(default_factory=Counter)
    mine: Counter[int] = field(default_factory=Counter)
    fresh: Counter[int] = field(default_factory=Counter)

    def add(self, now: float, amount: int = 1) -> None:
        """Count a call, or the bytes or rows of a result."""
        part = _index(self.seconds, now)
        for counter in (self.parts, self.mine, self.fresh):
            counter[part] += amount

    def total(self, now: float) -> int:
        """How much lies within the window."""
        _forget(self.parts, self.seconds, now)
        _forget(self.mine, self.seconds, now)
        return max(self.parts.total(), self.mine.total())


class Volumes:
    """Counts executed calls and delivered results by agent and limit."""

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
            known = {name: _Window(seconds, parts) for name, (seconds, parts) in _read(stored).items()}
            self._counted.setdefault(subject, known)

    def judged(self, subject: str, tags: Classification) -> Classification:
        """The tags, with what the limits require of an agent whose call, with its inner calls, does not fit them."""
        mentions = Counter(limit for limit in tags.limits if limit.measure is Measure.CALLS)
        over = [limit for limit, calls in mentions.items() if self._total(subject, limit) + calls > limit.most]
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
            if limit.measure is Measure.CALLS:
                self._window(subject, limit).add(now)
        self._stir(subject)

    def exceeded(self, subject: str, limits: Sequence[Limit], size: int, rows: int | None) -> tuple[Limit, ...]:
        """The limits on results that one of `size` bytes and so many rows does not fit; `rows` None: nobody knows."""
        amounts = {Measure.BYTES: size, Measure.ROWS: rows}
        return tuple(
            limit
            for limit in dict.fromkeys(limits)
            if limit.measure in amounts
            and ((more := amounts[limit.measure]) is None or self._total(subject, limit) + more > limit.most)
        )

    def deliver(self, subject: str, limits: Sequence[Limit], size: int, rows: int | None) -> None:
        """Count a result that goes to the agent; once for each limit, however often inner calls name it."""
        now, amounts = self._clock.now(), {Measure.BYTES: size, Measure.ROWS: rows}
        for limit in dict.fromkeys(limits):
            if more := amounts.get(limit.measure):
                self._window(subject, limit).add(now, more)
        self._stir(subject)

    def _stir(self, subject: str) -> None:
        """See that what was counted is stored soon."""
        self._dirty.add(subject)
        self._moved.set()

    async def run(self) -> None:
        """Store what was counted, a second later; tries again while the store is away. Runs until cancelled."""
        while True:
            await self._moved.wait()
            await anyio.sleep(_SOON)
            self._moved = anyio.Event()
            for subject in [*self._dirty]:
                try:
                    await self._keep(subject)
                except StoreUnavailableError as error:
                    log.warning("volume.unsaved", detail=error.detail)
                    self._moved.set()

    def save(self) -> None:
        """Store what was counted since the last time. Blocks.

        Raises:
            StoreUnavailableError: not everything is stored; call again.
        """
        for subject in [*self._dirty]:
            with self._taken(subject) as taken:
                whole = self._store(subject, taken)
            self._learn(subject, whole)

    async def _keep(self, subject: str) -> None:
        with self._taken(subject) as taken:
            whole = await anyio.to_thread.run_sync(self._store, subject, taken)
        self._learn(subject, whole)

    @contextmanager
    def _taken(self, subject: str) -> Iterator[_Parts]:
        """What is to be stored; it still is when it could not be, or when nobody waited for it."""
        windows = self._counted.setdefault(subject, {})
        taken = {name: (window.seconds, window.fresh) for name, window in windows.items() if window.fresh}
        for name in taken:
            windows[name].fresh = Counter()
        self._dirty.discard(subject)
        try:
            yield taken
        except BaseException:
            for name, (seconds, parts) in taken.items():
                window = windows.setdefault(name, _Window(seconds))
                window.fresh.update(_moved(parts, seconds, window.seconds, self._clock.now()))
                _forget(window.fresh, window.seconds, self._clock.now())
            self._dirty.add(subject)
            raise

    def _store(self, subject: str, taken: _Parts) -> _Parts:
        """Add what was counted here to what is stored, by other processes too; what it is now."""
        now, whole = self._clock.now(), _read(self._baselines.get(_KEY + subject))
        for name, (seconds, parts) in taken.items():
            known, stored = whole.get(name, (seconds, Counter[int]()))
            whole[name] = seconds, _moved(stored, known, seconds, now) + parts
        for seconds, parts in whole.values():
            _forget(parts, seconds, now)
        whole = {name: (seconds, parts) for name, (seconds, parts) in whole.items() if parts}
        self._baselines.put(_KEY + subject, json.dumps(whole))
        return whole

    def _learn(self, subject: str, whole: _Parts) -> None:
        """Know what is stored; what was counted while it was being stored comes on top."""
        now, windows = self._clock.now(), self._counted[subject]
        for name, (seconds, parts) in whole.items():
            window = windows.setdefault(name, _Window(seconds))
            window.parts = _moved(parts, seconds, window.seconds, now) + window.fresh
        for name in [name for name, window in windows.items() if not window.total(now)]:
            del windows[name]

    def _total(self, subject: str, limit: Limit) -> int:
        return self._window(subject, limit).total(self._clock.now())

    def _window(self, subject: str, limit: Limit) -> _Window:
        windows = self._counted.setdefault(subject, {})
        known = windows.get(limit.name)
        if known is None or known.seconds != limit.seconds:
            fresh, now = _Window(limit.seconds), self._clock.now()
            if known is not None:
                fresh.parts = _moved(known.parts, known.seconds, limit.seconds, now)
                fresh.mine = _moved(known.mine, known.seconds, limit.seconds, now)
                fresh.fresh = _moved(known.fresh, known.seconds, limit.seconds, now)
            windows[limit.name] = known = fresh
        return known


def _index(seconds: float, now: float) -> int:
    """The part of a window of `seconds` that `now` falls into."""
    return int(now * PARTS / seconds)


def _forget(parts: Counter[int], seconds: float, now: float) -> None:
    """Drop what is older than the window; what a set-back clock left ahead is not."""
    oldest = _index(seconds, now) - PARTS
    if parts and min(parts) < oldest:  # seldom, and this is asked for every call
        for part in [part for part in parts if part < oldest]:
            del parts[part]


def _moved(parts: Counter[int], before: float, after: float, now: float) -> Counter[int]:
    """The parts of another window, if the owner changed it: what was counted counts as of now."""
    if before == after:
        return parts
    _forget(parts, before, now)
    return Counter({_index(after, now): parts.total()})


def _read(stored: str | None) -> _Parts:
    """What a snapshot says; only `Volumes` writes them."""
    found: Mapping[str, tuple[float, Mapping[str, int]]] = json.loads(stored or "{}")
    return {
        name: (seconds, Counter({int(part): count for part, count in parts.items()}))
        for name, (seconds, parts) in found.items()
    }


def _said(limit: Limit) -> str:
    return limit.reason or f"{limit.most} calls in {limit.seconds:g} s ({limit.name})"
