"""What one call is measured against, and which of its values are news there."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from guard.drift.activity import Activity
from guard.drift.effect import destination
from guard.drift.observation import Observation
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
LOOKED: Final = 16
"""New values of one call that are looked for in results; what comes after them counts as found, if there were any."""
SHORTEST: Final = 4
"""Characters of a value whose origin is looked for; shorter ones stand in every text."""


class News:
    """What is new among the values of one call; each part names the path of its strongest value."""

    __slots__ = (
        "apart",
        "destination",
        "destination_at",
        "looked",
        "new",
        "origins",
        "slot",
        "surprise",
        "surprise_at",
        "values",
    )

    def __init__(self) -> None:
        self.values, self.looked, self.new = 0, 0, 0.0
        self.surprise = self.destination = 0.0
        self.surprise_at = self.destination_at = ""
        self.slot: Slot | None = None
        self.origins: dict[str, tuple[float, str]] = {}
        self.apart = False


class Scene(NamedTuple):
    """A call, the agent's profile, the profile of all agents of its server, and the activity so far."""

    seen: Observation
    own: Profile
    peers: Profile
    activity: Activity

    def news(self) -> News:
        """Look at every value once."""
        found, used = News(), self.activity.used
        related = False
        for value in self.seen.values:
            if len(value.text) >= SHORTEST - 1:
                found.values += 1
                related = related or value.digest in used or (value.parent != 0 and value.parent in used)
            self._look(value, found)
        found.apart = bool(found.values and self.activity.calls and not related)
        return found

    def _look(self, value: Value, found: News) -> None:
        key = self.seen.tool + value.path
        slot, shared = self.own.slots.get(key), self.peers.slots.get(key)
        if slot is not None and (seen := slot.values.get(value.digest)) is not None and seen.trusted:
            return
        theirs = shared.values.get(value.digest) if shared is not None else None
        novelty = self._novelty(value)
        close = foreign(self.own) if theirs is not None and theirs.trusted else 1.0
        if len(value.text) >= SHORTEST - 1:
            found.new += close
        surprise = -math.log(max(_rate(slot, shared), LEAST)) * novelty * close
        if surprise > found.surprise:
            found.surprise, found.surprise_at, found.slot = surprise, value.path, slot
        if novelty < RELATED or len(value.text) < SHORTEST:
            return
        novelty *= close
        if novelty > found.destination and destination(value.path):
            found.destination, found.destination_at = novelty, value.path
        found.looked += 1
        origin = self.activity.origin(value.text) if found.looked <= LOOKED or not self.activity.reads else "prose"
        if origin and novelty > found.origins.get(origin, (0.0, ""))[0]:
            found.origins[origin] = novelty, value.path

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
