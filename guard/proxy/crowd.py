"""How many connections a listener keeps, and whose ends when there are too many.

A connection without a whole request costs its peer nothing, so the one that has been like that for longest
makes room for a new one: whoever sends a request at once is served, however many others only hold on. When
every connection is at work, a new one is refused. A listener never takes the descriptors that the ledger,
the store and the tool servers need.
"""

from __future__ import annotations

import resource
from typing import Final, Protocol

ENOUGH: Final = 65_536
"""Descriptors beyond which the system's own limit is not raised."""
_SHARES: Final = 3
"""The agents' listener, the console's, and everything else."""


class Member(Protocol):
    """One connection."""

    def make_room(self) -> None:
        """End at once; no request is under way."""


class Crowd:
    """The connections of one listener, at most `most`."""

    def __init__(self, most: int) -> None:
        """Begin without any."""
        self.most = most
        self._waiting: dict[Member, None] = {}
        self._working: set[Member] = set()

    def enter(self, one: Member) -> bool:
        """Take a new connection in, at the cost of the one that has been idle for longest; False when none is."""
        if len(self._waiting) + len(self._working) >= self.most:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            del self._waiting[oldest]
            oldest.make_room()
        self._waiting[one] = None
        return True

    def work(self, one: Member) -> None:
        """The head of a request of this connection is whole."""
        if one in self._waiting:
            del self._waiting[one]
            self._working.add(one)

    def rest(self, one: Member) -> None:
        """It has its answer, and may send another request."""
        if one in self._working:
            self._working.remove(one)
            self._waiting[one] = None

    def leave(self, one: Member) -> None:
        """It has ended."""
        self._waiting.pop(one, None)
        self._working.discard(one)


def room(wanted: int) -> int:
    """How many connections one listener may keep: as many as wanted, or its share of this process's descriptors.

    Raises the soft limit on descriptors first, as far as the system allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < raised:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // _SHARES))
