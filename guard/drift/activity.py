"""What happened so far in one activity: the call before, what results showed, what was touched.

An activity lives in memory only. Results are kept as they came, and read only when a later call brings a new value, for
most calls bring none. What is too large to keep makes every new value suspect, so padding hides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from guard.drift.observation import Observation
from guard.drift.profile import START

IDLE: Final = 900.0
"""Seconds without a call after which an activity is over."""
KEPT: Final = 128 * 1024
"""Bytes of results an activity keeps; once there was more, every new value counts as seen."""
USED: Final = 20_000
"""Values of calls an activity remembers."""
SHORTEST: Final = 4
"""Characters of a value that counts as seen in a result nobody could read to the end."""
LONGEST: Final = 512
"""Characters of a value that is looked for; a longer one counts as seen."""
_DIFFERENT: Final = 1024
"""Results that are told apart from a repetition."""
_TRIED: Final = 64
"""Places in one result where a value is looked at; one that stands at more counts as seen."""
_SKIPPED: Final = 8
"""Quotes or points in a row that are looked past; more of them hide nothing."""

_PART: Final = re.compile(r"[\w@.+/:#-]{3,200}")
_JOINTS: Final = "_@+"
_EDGES: Final = ".:-#/"
_QUOTES: Final = " '\""
_BOUNDS: Final = ",:\n[]{}()"
"""Nothing at all is such a bound, too: "" is in every text."""


class Activity:
    """One conversation of one principal, as far as the calls show it."""

    __slots__ = (
        "_known",
        "_read",
        "_seen",
        "_unread",
        "before",
        "brought",
        "calls",
        "full",
        "held",
        "last",
        "reads",
        "used",
    )

    def __init__(self, read: Callable[[bytes], str]) -> None:
        """Begin one; `read` gives the text that a result showed the agent."""
        self._read = read
        self._unread: list[bytes] = []
        self._seen: list[str] = []
        self._known: set[int] = set()
        self.before = START
        self.calls = self.reads = self.held = 0
        self.last = 0.0
        self.full = False
        self.used: set[int] = set()
        self.brought: dict[int, float] = {}
        """By the hash of a value that was new: how doubtful the calls were that had it, and that nobody vouched for."""

    def called(self, seen: Observation, brought: Sequence[int] = (), doubt: float = 0.0) -> None:
        """Note a call that was executed; `brought` are the hashes of its new values, if nobody vouched for them."""
        self.before = seen.tool
        for digest in brought:
            if doubt > self.brought.get(digest, 0.0) and len(self.brought) < USED:
                self.brought[digest] = doubt
        self.calls += 1
        if len(self.used) < USED:
            self.used.update(seen.touched)

    def showed(self, result: bytes, *, cut: bool = False) -> None:
        """Note what an untrusted result showed; `cut` when it was longer than what is at hand."""
        if not result:
            return
        self.reads += 1
        if self.full:
            return
        if cut or self.held + len(result) > KEPT:
            self.forget()
            return
        said = hash(result[max(0, result.find(b'"result"')) :])  # without the number of the message
        if said not in self._known:
            if len(self._known) < _DIFFERENT:
                self._known.add(said)
            self._unread.append(result)
            self.held += len(result)

    def forget(self) -> None:
        """Keep no results any more: every new value counts as seen in one."""
        self.full, self.held = True, 0
        self._unread, self._seen, self._known = [], [], set()

    def origin(self, text: str) -> str:
        """Where in earlier results a value stood: "field" of a structure, "prose", or "" for nowhere."""
        if self.full or len(text) > LONGEST:
            return "prose" if len(text) >= SHORTEST else ""
        if self._unread:
            self._seen += [self._read(one).lower() for one in self._unread]
            self._unread = []
        found = ""
        for shown in self._seen:
            if text in shown:
                if (where := _stands(text, shown)) == "field":
                    return where
                found = found or where
        if found or not self._seen:
            return found
        parts = _PART.findall(text)
        return "prose" if len(parts) > 1 and all(map(self._told, parts)) else ""

    def _told(self, word: str) -> bool:
        """Whether a word of a value stood in a result."""
        for shown in self._seen:  # noqa: SIM110 - twice as fast as any()
            if word in shown and _stands(word, shown, "prose"):
                return True
        return False


def _stands(text: str, shown: str, enough: str = "field") -> str:
    """Whether a value stands in a text as a "field", as a word of its "prose", or not at all ("").

    With "prose" as `enough` a word of the prose may be a field at another place.
    """
    found, at, size = "", -1, len(text)
    for _ in range(_TRIED):
        if (at := shown.find(text, at + 1)) < 0:
            return found
        left, right = shown[max(0, at - _SKIPPED) : at], shown[at + size : at + size + _SKIPPED]
        if left[-1:].isalnum() or right[:1].isalnum():
            continue
        before, after = left.rstrip(_QUOTES)[-1:], right.lstrip(_QUOTES)[:1]
        if before in _BOUNDS and after in _BOUNDS:
            return "field"
        if not found and _apart(left.rstrip(_EDGES)[-1:]) and _apart(right.lstrip(_EDGES)[:1]):
            found = "prose"
            if enough == found:
                return found
    return found or "prose"


def _apart(sign: str) -> bool:
    """Whether a sign ("": there is none) belongs to no word."""
    return not sign or not (sign.isalnum() or sign in _JOINTS)
