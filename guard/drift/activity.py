"""What happened so far in one activity: the call before, what results showed, what was touched.

An activity lives in memory only. Values of results are kept as process-keyed hashes in bounded sets; a result too
large to read makes every new value suspect, so padding hides nothing.
"""

from __future__ import annotations

import re
from typing import Final

from guard.drift.observation import Observation
from guard.drift.profile import START
from guard.drift.values import ENTITY

READ: Final = 32 * 1024
"""Characters of one result whose words are kept; of the rest only the addresses, URLs and accounts."""
KEPT: Final = 20_000
"""Hashes an activity keeps of each kind; past that everything counts as seen."""


SHORTEST: Final = 4
"""Characters of a value that counts as seen in a result nobody could read to the end."""

_WORD: Final = re.compile(r"[\w@.+/:#-]{3,200}")
_BOUNDS: Final = re.compile(r"[,:\n\[\]{}()]+")
_LONGEST: Final = 80
_QUOTES: Final = " '\""
_EDGES: Final = ".,:;-#/"


class Activity:
    """One conversation of one principal, as far as the calls show it."""

    __slots__ = ("before", "calls", "fields", "full", "last", "reads", "used", "words")

    def __init__(self) -> None:
        """Begin one."""
        self.before = START
        self.calls = self.reads = 0
        self.last = 0.0
        self.full = False
        self.words: set[int] = set()
        self.fields: set[int] = set()
        self.used: set[int] = set()

    def called(self, seen: Observation) -> None:
        """Note a call that was executed."""
        self.before = seen.tool
        self.calls += 1
        if len(self.used) < KEPT:
            for value in seen.values:
                self.used.add(value.digest)
                if value.parent:
                    self.used.add(value.parent)

    def showed(self, text: str, *, cut: bool = False) -> None:
        """Note what an untrusted result showed; `cut` when it was longer than what is at hand."""
        if not text:
            return
        self.reads += 1
        low = text[:READ].lower()
        if len(self.words) + len(self.fields) > KEPT or cut:
            self.full = True
        else:
            self.words.update(map(hash, [word.strip(_EDGES) for word in _WORD.findall(low)]))
            self.fields.update([hash(one.strip(_QUOTES)) for one in _BOUNDS.split(low) if 1 < len(one) <= _LONGEST])
        if len(text) > READ:
            self.words.update(hash(one.lower()) for one in ENTITY.findall(text[READ:])[:KEPT])

    def origin(self, text: str) -> str:
        """Where in earlier results a value stood: "field" of a structure, "prose", or "" for nowhere."""
        if hash(text) in self.fields:
            return "field"
        if hash(text) in self.words:
            return "prose"
        parts = _WORD.findall(text)
        if parts and all(hash(one.strip(_EDGES)) in self.words for one in parts):
            return "prose"
        return "prose" if self.full and len(text) >= SHORTEST else ""
