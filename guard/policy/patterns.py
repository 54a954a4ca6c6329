"""Names and globs of tools, prompts and resources.

====================  =========================================================================
in tools and prompts  `*` is any run of characters, `?` any one
in resources          `*` is any run within one segment (no `/`), `**` any run; `?` is itself
====================  =========================================================================

A glob matches the whole name, exactly as it is written: no case folding, no normalisation. Tool names have
the alphabet of the protocol (`A-Z a-z 0-9 _ . - /`), in patterns and in names, so a name with anything
else in it (a line break, a look-alike letter) is matched by nothing and stays untagged. Matching costs one
step a character, whatever the pattern: an automaton in the bits of an integer, no backtracking.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from guard.errors import WireError
from guard.wire.canonical import canonical_uri

MAX_PATTERN: Final = 256
MAX_NAME: Final = 8192

_TOOL: Final = re.compile(r"[A-Za-z0-9_./-]*", re.ASCII)
_PLAIN: Final = re.compile(r"[ -~]*", re.ASCII)
_ALPHABET: Final = {"tool": _TOOL, "prompt": _PLAIN, "resource": _PLAIN}
_PIECE: Final = re.compile(r"\*\*+|.")
_WILD: Final = {
    "tool": frozenset({"*", "**", "?"}),
    "prompt": frozenset({"*", "**", "?"}),
    "resource": frozenset({"*", "**"}),
}


@dataclass(frozen=True, slots=True)
class Glob:
    """One compiled pattern.

    Bit `i` of the automaton's state says that the first `i` pieces may have matched what was read so far.
    `moves[c]` holds the pieces that consume the character `c`, `others` those that consume any character
    not listed, `runs` the pieces that may be passed over and stay.
    """

    text: str
    kind: str
    literals: int
    stars: int
    pieces: int
    moves: dict[str, int]
    others: int
    runs: int

    @property
    def specificity(self) -> tuple[int, int]:
        """More literal characters first, then fewer stars; greater is more specific."""
        return self.literals, -self.stars

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        if len(name) > MAX_NAME or not _ALPHABET[self.kind].fullmatch(name):
            return False
        state = _skip(1, self.runs)
        for char in name:
            taken = state & self.moves.get(char, self.others)
            state = _skip(((taken & ~self.runs) << 1) | (taken & self.runs), self.runs)
            if not state:
                return False
        return bool(state >> self.pieces & 1)


def _skip(state: int, runs: int) -> int:
    """Pass over runs: a state before a run is also a state behind it."""
    while (further := state | ((state & runs) << 1)) != state:
        state = further
    return state


def is_glob(text: str, kind: str) -> bool:
    """Whether the key of an entry is a pattern rather than a name."""
    return not _WILD[kind].isdisjoint(text)


def mistake(text: str, kind: str) -> str:
    """What is wrong with an entry's key, or the empty text."""
    if not text:
        return "the name is empty"
    if len(text) > MAX_PATTERN:
        return f"the name has more than {MAX_PATTERN} characters"
    if text.startswith("re:") and kind == "tool":
        return 'regular expressions are not read; write a name or a glob such as "vault.*"'
    allowed = re.compile(_ALPHABET[kind].pattern.replace("[", "[*?", 1), re.ASCII)
    at = 0 if (start := allowed.match(text)) is None else start.end()
    if at == len(text):
        return _misspelled(text) if kind == "resource" and not text.startswith("*") else ""
    char = text[at]
    said = f"{char!r} (U+{ord(char):04X})" if char.isprintable() else f"U+{ord(char):04X}"
    return f"{said} cannot stand in the name of a {kind}"


def _misspelled(uri: str) -> str:
    """Why a URI or its pattern could never match: calls are looked up under the canonical spelling."""
    try:
        canonical = canonical_uri(uri)
    except WireError as error:
        return f"{error.public}; write the whole URI"
    return "" if canonical == uri else f'URIs are compared in canonical form; write "{canonical}"'


def glob(text: str, kind: str) -> Glob:
    """Compile a pattern that has no `mistake`; `kind` is "tool", "prompt" or "resource"."""
    pieces = [match[0][:2] for match in _PIECE.finditer(text)]
    wild = _WILD[kind]
    segmented = kind == "resource"
    moves = {piece: 0 for piece in pieces if piece not in wild} | ({"/": 0} if segmented else {})
    others = runs = 0
    for index, piece in enumerate(pieces):
        bit = 1 << index
        if piece not in wild:
            moves[piece] |= bit
            continue
        others |= bit
        runs |= bit if piece != "?" else 0
        for char in moves:
            if char != "/" or not segmented or piece == "**":
                moves[char] |= bit
    stars = sum(piece in {"*", "**"} for piece in pieces) + sum(piece == "**" for piece in pieces) * segmented
    return Glob(
        text=text,
        kind=kind,
        literals=sum(piece not in wild for piece in pieces),
        stars=stars,
        pieces=len(pieces),
        moves=moves,
        others=others,
        runs=runs,
    )
