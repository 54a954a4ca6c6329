"""The profiles in memory, by key; loaded from and dumped to snapshots by the application.

A key is the thumbprint of a credential, or `peers:SERVER` for all agents of a tool server. What was learnt since the
last store is kept apart as well, so that what several processes learnt adds up in the store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from guard.drift.profile import Profile
from guard.drift.snapshot import dump, load

PROFILES: Final = 1024
"""Profiles held in memory; the least recently used clean one makes room."""


@lru_cache(maxsize=1024)
def peers_of(server: str) -> str:
    """The key of the profile that all agents of a tool server share."""
    return f"peers:{server}"


class Profiles:
    """Profiles at hand.

    A profile must be loaded before its credential is assessed: a credential nobody looked up would pass for
    one that was never used, and learn a thief's network as its first.
    """

    def __init__(self) -> None:
        self._profiles: OrderedDict[str, Profile] = OrderedDict()
        self._learnt: dict[str, Profile] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._profiles

    def __getitem__(self, key: str) -> Profile:
        """The profile.

        Raises:
            KeyError: it was not loaded.
        """
        return self._profiles[key]

    def used(self, key: str) -> bool:
        """Whether a profile is loaded; it counts as used now, so others make room first."""
        if key not in self._profiles:
            return False
        self._profiles.move_to_end(key)
        return True

    def load(self, key: str, snapshot: str | None) -> None:
        """Take what the store knows of a key (None: nothing), and add what was learnt here meanwhile.

        Raises:
            ValueError: the snapshot cannot be read.
        """
        self.put(key, Profile() if snapshot is None else load(snapshot))

    def put(self, key: str, profile: Profile) -> None:
        """Take a profile as it is stored, and add what was learnt here meanwhile."""
        if (learnt := self._learnt.get(key)) is not None:
            profile.add(learnt)
        self._profiles[key] = profile
        self._profiles.move_to_end(key)
        if len(self._profiles) > PROFILES:
            clean = next((one for one in self._profiles if one not in self._learnt), None)
            if clean is not None:
                del self._profiles[clean]

    def dump(self, key: str) -> str:
        """The snapshot of a key as it is now.

        Raises:
            KeyError: it was not loaded.
        """
        return dump(self._profiles[key])

    def learn(self, key: str, fold: Callable[[Profile, Profile], bool]) -> bool:
        """Fold something into what is to be stored, then into the loaded profile; True when that says so.

        `fold(into, known)` is called with both, where `known` is the whole profile.

        Raises:
            KeyError: it was not loaded.
        """
        learnt, profile = self.both(key)
        fold(learnt, profile)
        return fold(profile, profile)

    def both(self, key: str) -> tuple[Profile, Profile]:
        """What is to be stored of a key, and the loaded profile.

        Raises:
            KeyError: it was not loaded.
        """
        profile, learnt = self._profiles[key], self._learnt.get(key)
        if learnt is None:
            learnt = self._learnt[key] = profile.blank()
        return learnt, profile

    @property
    def dirty(self) -> tuple[str, ...]:
        """The keys that learnt something since it was last taken."""
        return tuple(sorted(self._learnt))

    def take(self, key: str) -> Profile:
        """What a key learnt since the last time; it must be stored, or given back."""
        return self._learnt.pop(key)

    def give_back(self, key: str, learnt: Profile) -> None:
        """Keep what could not be stored for the next time."""
        if (since := self._learnt.get(key)) is not None:
            learnt.add(since)
        self._learnt[key] = learnt
