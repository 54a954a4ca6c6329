"""Where a value stands in a JSON text, so that it can be exchanged while every other byte stays as it is.

Only for texts that were parsed before and have one reading: with two members of one name the first is found.
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str, ...]

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def span(text: str, path: Path) -> tuple[int, int] | None:
    """First and last index of the value that the member names of `path` lead to; None when there is none.

    Raises:
        ValueError: the text is not JSON.
    """
    at = _skip(text, 0)
    for name in path:
        found = _member(text, at, name)
        if found is None:
            return None
        at = found
    return at, _DECODER.raw_decode(text, at)[1]


def taken(raw: bytes, *path: str) -> bytes:
    """The bytes of a value as they are spelled; empty when there is none."""
    text = raw.decode()
    place = span(text, path)
    return text[place[0] : place[1]].encode() if place else b""


def exchanged(raw: bytes, *changes: tuple[Path, bytes]) -> bytes:
    """The same text with other values in these places; places that do not exist stay absent."""
    text = raw.decode()
    places = [(place, value) for path, value in changes if (place := span(text, path)) is not None]
    for (begin, end), value in sorted(places, reverse=True):
        text = f"{text[:begin]}{value.decode()}{text[end:]}"
    return text.encode()


def _member(text: str, at: int, name: str) -> int | None:
    """Where the value of a member begins; None when `at` is no object or has no such member."""
    if text[at : at + 1] != "{":
        return None
    at = _skip(text, at + 1)
    while text[at : at + 1] == '"':
        found, at = _DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        if found == name:
            return at
        at = _skip(text, _DECODER.raw_decode(text, at)[1])
        at = _skip(text, at + 1)
    return None


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at
