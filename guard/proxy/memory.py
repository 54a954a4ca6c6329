"""Keeps drift profiles at hand: loaded before a credential's first call is judged, stored when they learnt.

A profile that is not loaded looks like one that was never used, so `recall` comes before judging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import anyio
import structlog

from guard.drift.calibrate import thresholds
from guard.drift.profile import DAY, Profile
from guard.drift.profiles import PROFILES, Profiles, peers_of
from guard.drift.reference import AGAIN
from guard.drift.snapshot import dump, load
from guard.errors import StoreUnavailableError
from guard.model import Json, Principal
from guard.ports import Baselines

log = structlog.get_logger()

_PAUSE: Final = 5.0
"""Seconds between two times of storing; a guard that is killed forgets at most what it learnt since."""
_AGENTS: Final = 8 * PROFILES
"""Keys whose agents are remembered, so that records can name them."""


class Memory:
    """Moves profiles between memory and the store, and tells of those that were led astray slowly."""

    def __init__(
        self,
        profiles: Profiles,
        baselines: Baselines,
        *,
        budget: float = 0.02,
        report: Callable[[str, Mapping[str, Json]], None] | None = None,
    ) -> None:
        """Serve `profiles` from `baselines`; `report` writes a record, and `budget` is that of the thresholds."""
        self._profiles, self._baselines = profiles, baselines
        self._budget, self._report = budget, report
        self._agents: dict[str, str] = {}
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
            if key == principal.credential:
                self._agents[key] = principal.subject
                if len(self._agents) > _AGENTS:
                    del self._agents[next(iter(self._agents))]

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
                    whole, said = await anyio.to_thread.run_sync(self._store, key, learnt)
                except StoreUnavailableError as error:
                    log.warning("baseline.unsaved", detail=error.detail)
                    self._profiles.give_back(key, learnt)
                    self.learnt()
                else:
                    self._profiles.put(key, whole)
                    self._tell(key, said)
            await anyio.sleep(_PAUSE)

    def save(self) -> None:
        """Store every profile that learnt something. Blocks.

        Raises:
            StoreUnavailableError: not everything is stored; call again.
        """
        for key in self._profiles.dirty:
            learnt = self._profiles.take(key)
            try:
                whole, said = self._store(key, learnt)
            except StoreUnavailableError:
                self._profiles.give_back(key, learnt)
                raise
            self._profiles.put(key, whole)
            self._tell(key, said)

    def _tell(self, key: str, said: str) -> None:
        """Record that what a key does lately is no more what it did over the year."""
        if said and self._report is not None:
            self._report("profile.diverged", {"agent": self._agents.get(key, ""), "credential": key, "evidence": said})

    def _store(self, key: str, learnt: Profile) -> tuple[Profile, str]:
        """Add what was learnt to what is stored; what it is now, and in which way it diverged, if that is news."""
        stored = self._baselines.get(key)
        whole = Profile() if stored is None else load(stored)
        whole.add(learnt)
        said, day = "", int(whole.at // DAY)
        if key in self._agents and not 0 <= day - whole.reference.told < AGAIN:
            said = whole.reference.differs(whole.counts, thresholds(whole.scores, self._budget))
            whole.reference.told = day if said else whole.reference.told
        self._baselines.put(key, dump(whole))
        return whole, said
