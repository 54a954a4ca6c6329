"""What is known about one credential, and how executed calls fold into it.

What two processes learnt apart is joined by `Profile.merged`. Snapshots are versioned JSON
texts; who stores them is the application's affair.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

VERSION: Final = 1
NETWORKS: Final = 16
"""Networks kept for one credential: the first, and the most recently taught ones."""
PROFILES: Final = 4096
"""Profiles held in memory; the least recently used clean one makes room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one credential does. `networks` in the order they were learnt; the first is the baseline."""

    networks: tuple[str, ...] = ()

    def with_network(self, network: str) -> Profile:
        """The profile that knows this network too; the baseline is never pushed out."""
        if network in self.networks:
            return self
        networks = (*self.networks, network)
        if len(networks) > NETWORKS:
            networks = (networks[0], *networks[2:])
        return replace(self, networks=networks)

    def merged(self, other: Profile) -> Profile:
        """Everything this profile knows and everything the other knows."""
        merged = self
        for network in other.networks:
            merged = merged.with_network(network)
        return merged

    def dump(self) -> str:
        """The snapshot: JSON, versioned."""
        return json.dumps({"v": VERSION, "networks": list(self.networks)}, separators=(",", ":"))

    @classmethod
    def load(cls, snapshot: str) -> Profile:
        """The profile behind a snapshot.

        Raises:
            ValueError: it is no snapshot of this version. An unreadable baseline is no empty one.
        """
        data = json.loads(snapshot)
        if not isinstance(data, dict) or data.keys() != {"v", "networks"} or data["v"] != VERSION:
            message = f"not a drift profile of version {VERSION}"
            raise ValueError(message)
        networks = data["networks"]
        if not isinstance(networks, list) or not all(isinstance(one, str) and one for one in networks):
            message = "a drift profile's networks are not a list of names"
            raise ValueError(message)
        return cls().merged(cls(networks=tuple(networks)))


class Profiles:
    """The profiles in memory, by credential thumbprint; loaded from and dumped to snapshots by the application.

    A profile must be loaded before its credential is assessed: a credential nobody looked up would pass for
    one that was never used, and learn a thief's network as its first.
    """

    def __init__(self) -> None:
        self._profiles: OrderedDict[str, Profile] = OrderedDict()
        self._dirty: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._profiles

    def __getitem__(self, key: str) -> Profile:
        """The profile.

        Raises:
            KeyError: it was not loaded.
        """
        profile = self._profiles[key]
        self._profiles.move_to_end(key)
        return profile

    def load(self, key: str, snapshot: str | None) -> None:
        """Take what the store knows of a credential (None: nothing), joined with what was learnt here meanwhile.

        Raises:
            ValueError: the snapshot cannot be read.
        """
        stored = Profile() if snapshot is None else Profile.load(snapshot)
        own = self._profiles.get(key) if key in self._dirty else None
        self._profiles[key] = stored.merged(own) if own else stored
        self._profiles.move_to_end(key)
        self._make_room()

    def dump(self, key: str) -> str:
        """The snapshot to store for a credential.

        Raises:
            KeyError: it was not loaded.
        """
        return self._profiles[key].dump()

    def learn(self, key: str, profile: Profile) -> bool:
        """Replace a loaded profile by what it became; True when that changed anything.

        Raises:
            KeyError: it was not loaded.
        """
        if self._profiles[key] == profile:
            return False
        self._profiles[key] = profile
        self._dirty.add(key)
        return True

    @property
    def dirty(self) -> tuple[str, ...]:
        """The credentials that learnt something since it was last stored."""
        return tuple(sorted(self._dirty))

    def stored(self, key: str, snapshot: str) -> None:
        """Note that this snapshot is stored; the credential stays dirty if it learnt more in the meantime."""
        if key in self._profiles and self._profiles[key].dump() == snapshot:
            self._dirty.discard(key)

    def _make_room(self) -> None:
        if len(self._profiles) > PROFILES:
            clean = next((key for key in self._profiles if key not in self._dirty), None)
            if clean is not None:
                del self._profiles[clean]
