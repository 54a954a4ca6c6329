"""What one call is measured against, and which of its values are news there."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from guard.drift.effect import destination
from guard.drift.observation import TELLING, Observation
from guard.drift.profile import Profile, Slot
from guard.drift.values import Value

PRIOR: Final = 0.3
"""How often a path nobody knows takes a new value."""
K: Final = 6.0
"""Uses of a path that weigh as much as the prior."""
LEAST: Final = 0.01
ELSEWHERE: Final = 0.5
"""What a value counts that the agent uses at other places, against 1 for one it never used."""
RELATED: Final = 0.6
"""What a value counts whose host, domain or folder the agent uses."""
PEERS: Final = 0.5
"""What a value counts that only its peers use there, for an agent with a long history of its own."""
GROWN: Final = 60.0
"""Calls of history with which that counts half as much: what is normal for a newcomer is what its peers do."""
SHORTEST: Final = 4
"""Characters of a value whose origin is looked for; shorter ones stand in every text."""


class News:
    """What is new among the values of one call; each part names the path of its strongest value."""

    __slots__ = (
        "brought",
        "destination",
        "destination_at",
        "new",
        "sought",
        "surprise",
        "surprise_at",
        "usual",
    )

    def __init__(self) -> None:
        self.new = self.surprise = self.destination = 0.0
        self.surprise_at = self.destination_at = ""
        self.usual = 0, 0.0
        """The values known where the most surprising one stands, and the uses of that place."""
        self.brought: list[int] = []
        """The hashes of the new values."""
        self.sought: list[tuple[str, float, str]] = []
        """What may have stood in a result: its text, how new it is, and its path."""


class Scene(NamedTuple):
    """A call, the agent's profile, and the profile of all agents of its server."""

    seen: Observation
    own: Profile
    peers: Profile

    def news(self) -> News | None:
        """Look at every value once; None when each is known at its place."""
        found, slots = None, self.own.slots
        for key, digest, value in self.seen.places:
            slot = slots.get(key)
            if slot is None or (known := slot.values.get(digest)) is None or not known.trusted:
                found = found or News()
                self._look(value, slot, self.peers.slots.get(key), found)
        return found

    def _look(self, value: Value, slot: Slot | None, shared: Slot | None, found: News) -> None:
        """A value the agent is not known to use here: how new it is, and where it came from."""
        found.brought.append(value.digest)
        theirs = shared.values.get(value.digest) if shared is not None else None
        novelty = self._novelty(value)
        close = foreign(self.own) if theirs is not None and theirs.trusted else 1.0
        if len(value.text) >= TELLING:
            found.new += close
        surprise = -math.log(max(_rate(slot, shared), LEAST)) * novelty * close
        if surprise > found.surprise:
            found.surprise, found.surprise_at = surprise, value.path
            found.usual = (len(slot.values), slot.total) if slot is not None else (0, 0.0)
        if novelty < RELATED or len(value.text) < SHORTEST:
            return
        novelty *= close
        if novelty > found.destination and destination(value.path):
            found.destination, found.destination_at = novelty, value.path
        found.sought.append((value.text, novelty, value.path))

    def _novelty(self, value: Value) -> float:
        """1 for a value the agent never used anywhere; less when it, or what it belongs to, is known."""
        known = self.own.everywhere
        if (seen := known.get(value.digest)) is not None and seen.trusted:
            return ELSEWHERE
        if value.parent and (above := known.get(value.parent)) is not None and above.trusted:
            return RELATED
        return 1.0


def foreign(own: Profile) -> float:
    """What something counts that is new for the agent but not for its peers, against 1 for what is new for all."""
    return PEERS * own.calls / (own.calls + GROWN)


def _rate(slot: Slot | None, shared: Slot | None) -> float:
    """How often this path takes a new value: by the agent, then by its peers, then by the prior."""
    rate = PRIOR if shared is None else (shared.fresh + K * PRIOR) / (shared.total + K)
    return rate if slot is None else (slot.fresh + K * rate) / (slot.total + K)
