"""Keeps drift profiles at hand: loaded before a credential's first call is judged, stored when they learnt.

A profile that is not loaded looks like one that was never used, so `recall` comes before judging.
"""

from __future__ import annotations

import anyio
import structlog

from guard.drift.profile import Profiles
from guard.errors import StoreUnavailableError
from guard.model import Principal
from guard.ports import Baselines

log = structlog.get_logger()

_RETRY = 1.0


class Memory:
    """Moves profiles between memory and the store."""

    def __init__(self, profiles: Profiles, baselines: Baselines) -> None:
        """Serve `profiles` from `baselines`."""
        self._profiles, self._baselines = profiles, baselines
        self._learnt = anyio.Event()

    async def recall(self, principal: Principal) -> None:
        """Have the profile of this principal's credential in memory.

        Raises:
            StoreUnavailableError: it cannot be read, so the call cannot be judged.
        """
        key = principal.credential
        if key in self._profiles:
            return
        snapshot = await anyio.to_thread.run_sync(self._baselines.get, key)
        if key not in self._profiles:
            self._profiles.load(key, snapshot)

    def learnt(self) -> None:
        """Say that a profile changed; `run` stores it."""
        self._learnt.set()

    async def run(self) -> None:
        """Store what was learnt, soon after; tries again while the store is away. Runs until cancelled."""
        while True:
            await self._learnt.wait()
            self._learnt = anyio.Event()
            try:
                await anyio.to_thread.run_sync(self.save)
            except StoreUnavailableError as error:
                log.warning("baseline.unsaved", detail=error.detail)
                await anyio.sleep(_RETRY)
                self.learnt()

    def save(self) -> None:
        """Store every profile that learnt something. Blocks.

        Raises:
            StoreUnavailableError: not everything is stored; call again.
        """
        for key in self._profiles.dirty:
            stored = self._baselines.get(key)
            if stored is not None:
                self._profiles.load(key, stored)
            snapshot = self._profiles.dump(key)
            self._baselines.put(key, snapshot)
            self._profiles.stored(key, snapshot)
