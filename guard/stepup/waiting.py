"""Waiting for a challenge to change, in this process or another, with one shared poller.

A waiter registers before it reads the challenge, and the poller asks for the states of everything that is
waited for after it saw the store move. So no change falls between a read and the wait that follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import anyio
from anyio.abc import TaskStatus

from guard.errors import StoreUnavailableError
from guard.model import Challenge, State
from guard.ports import Store

POLL: Final = 0.1
"""Seconds between two looks at the store's change counter."""


class Watch:
    """One waiter's place; use it through `Waiting.watch`."""

    def __init__(self) -> None:
        self.seen: tuple[State, int] | None = None
        self.event = anyio.Event()
        self.news: Challenge | None = None

    async def wait(self, challenge: Challenge) -> Challenge | None:
        """Return when the challenge may have changed since this reading of it: what this process made of it, if known.

        That saves the waiter a look at the store, and proves nothing: others may have changed it further.
        """
        self.seen = challenge.state, challenge.version
        event = self.event
        await event.wait()
        self.event, news, self.news = anyio.Event(), self.news, None
        return news


class Waiting:
    """Who waits for which challenge in this process."""

    def __init__(self, store: Store) -> None:
        """Poll `store` for what other processes change."""
        self._store = store
        self._watches: dict[str, set[Watch]] = {}

    @contextmanager
    def watch(self, challenge_id: str) -> Iterator[Watch]:
        """Hold a place; from here on no change of the challenge is missed."""
        watch = Watch()
        self._watches.setdefault(challenge_id, set()).add(watch)
        try:
            yield watch
        finally:
            self._watches[challenge_id].discard(watch)
            if not self._watches[challenge_id]:
                del self._watches[challenge_id]

    def wake(self, challenge_id: str, news: Challenge | None = None) -> None:
        """Let every waiter of this challenge look again, or at what it has become."""
        for watch in self._watches.get(challenge_id, ()):
            watch.news = news
            watch.event.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Poll the store while anybody waits; ends by cancellation.

        When the store is away every waiter looks for itself, and fails closed.
        """
        task_status.started()
        counter: int | None = None
        while True:
            await anyio.sleep(POLL)
            if not self._watches:
                counter = None
                continue
            asked = tuple(self._watches)
            try:
                counter, states = await anyio.to_thread.run_sync(self._look, counter, asked)
            except StoreUnavailableError:
                counter = None
                for challenge_id in tuple(self._watches):
                    self.wake(challenge_id)
                continue
            self._compare(states)
            if not self._watches.keys() <= set(asked):
                counter = None  # whoever came meanwhile was not asked about, whatever made the counter move

    def _look(self, counter: int | None, ids: tuple[str, ...]) -> tuple[int, Mapping[str, tuple[State, int]]]:
        """The change counter and, if it moved, the states of what is waited for; blocking."""
        changed = self._store.changed()
        return changed, {} if changed == counter else self._store.challenges.states(ids)

    def _compare(self, states: Mapping[str, tuple[State, int]]) -> None:
        for challenge_id, state in states.items():
            for watch in self._watches.get(challenge_id, ()):
                if watch.seen != state:
                    watch.event.set()
