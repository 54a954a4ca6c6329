"""Keeps drift profiles at hand: loaded before a credential's first call is judged, stored when they learnt.

A profile that is not loaded looks like one that was never used, so `recall` comes before judging.
"""

from __future__ import annotations

from typing import Final

import anyio
import structlog

from guard.drift.profile import Profile
from guard.drift.profiles import Profiles, peers_of
from guard.drift.snapshot import dump, load
from guard.errors import StoreUnavailableError
from guard.model import Principal
from guard.ports import Baselines

log = structlog.get_logger()

_PAUSE: Final = 5.0
"""Seconds between two times of storing; a guard that is killed forgets at most what it learnt since."""


class Memory:
    """Moves profiles between memory and the store."""

    def __init__(self, profiles: Profiles, baselines: Baselines) -> None:
        """Serve `profiles` from `baselines`."""
        self._profiles, self._baselines = profiles, baselines
        self._learnt = anyio.Event()

    async def recall(self, principal: Principal, server: str) -> None:
        """Have the profiles of this principal's credential and of the server's agents in memory.

        Raises:
            StoreUnavailableError: they cannot be read, so the call cannot be judged.
        """
        for key in (principal.credential, peers_of(server)):
            if self._profiles.used(key):
                continue
            snapshot = await anyio.to_thread.run_sync(self._baselines.get, key)
            if key not in self._profiles:
                self._profiles.load(key, snapshot)

    def learnt(self) -> None:
        """Say that a profile changed; `run` stores it."""
        self._learnt.set()

    async def run(self) -> None:
        """Store what was learnt, at once and then every few seconds; tries again while the store is away."""
        while True:
            await self._learnt.wait()
            self._learnt = anyio.Event()
            for key in self._profiles.dirty:
                learnt = self._profiles.take(key)
                try:
                    whole = await anyio.to_thread.run_sync(self._store, key, learnt)
                except StoreUnavailableError as error:
                    log.warning("baseline.unsaved", detail=error.detail)
                    self._profiles.give_back(key, learnt)
                    self.learnt()
                else:
                    self._profiles.put(key, whole)
            await anyio.sleep(_PAUSE)

    def save(self) -> None:
        """Store every profile that learnt something. Blocks.

        Raises:
            StoreUnavailableError: not everything is stored; call again.
        """
        for key in self._profiles.dirty:
            learnt = self._profiles.take(key)
            try:
                whole = self._store(key, learnt)
            except StoreUnavailableError:
                self._profiles.give_back(key, learnt)
                raise
            self._profiles.put(key, whole)

    def _store(self, key: str, learnt: Profile) -> Profile:
        """Add what was learnt to what is stored; what it is now."""
        stored = self._baselines.get(key)
        whole = Profile() if stored is None else load(stored)
        whole.add(learnt)
        self._baselines.put(key, dump(whole))
        return whole
