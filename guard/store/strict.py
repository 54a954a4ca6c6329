"""JSON in columns: written one way, and read without believing anything.

A reader takes a decoded value and returns it with its type, or raises `RowError`. There is no coercion:
`true` is no number, `1` is no text, and a member nobody asked for is a mistake.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from guard.model import Json

T = TypeVar("T")


class RowError(ValueError):
    """A stored value is not what this version writes."""


def to_json(value: Json) -> str:
    """Write compact JSON that any reader understands: ASCII, no NaN or infinity.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True)


def from_json(source: str) -> Json:
    """Read what `to_json` wrote.

    Raises:
        RowError: it is not strict JSON.
    """
    try:
        value: Json = json.loads(source, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RowError(f"not JSON: {error}") from error
    return value


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


class Members:
    """The members of one JSON object, each taken exactly once."""

    __slots__ = ("_left", "_what")

    def __init__(self, value: Json, what: str) -> None:
        """Take the object; `what` names it in messages."""
        self._left = dict(mapping(value))
        self._what = what

    def take(self, name: str, read: Callable[[Json], T]) -> T:
        """Remove one member and read it.

        Raises:
            RowError: it is missing, or not what `read` expects.
        """
        if name not in self._left:
            raise RowError(f"{self._what}: {name} is missing")
        try:
            return read(self._left.pop(name))
        except RowError as error:
            raise RowError(f"{self._what}.{name}: {error}") from error

    def may(self, name: str, read: Callable[[Json], T]) -> T | None:
        """Remove and read a member, or None where it is absent.

        Raises:
            RowError: it is not what `read` expects.
        """
        return self.take(name, read) if name in self._left else None

    def done(self) -> None:
        """Refuse members nobody took.

        Raises:
            RowError: there are some.
        """
        if self._left:
            raise RowError(f"{self._what}: unknown {sorted(self._left)}")


def anything(value: Json) -> Json:
    """Leave the value to the caller."""
    return value


def mapping(value: Json) -> Mapping[str, Json]:
    """Read an object."""
    if not isinstance(value, Mapping):
        raise RowError("expected an object")
    return value


def text(value: Json) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise RowError("expected text")
    return value


def truth(value: Json) -> bool:
    """Read a boolean."""
    if not isinstance(value, bool):
        raise RowError("expected true or false")
    return value


def integer(value: Json) -> int:
    """Read an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowError("expected an integer")
    return value


def number(value: Json) -> float:
    """Read a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError("expected a number")
    try:
        result = float(value)
    except OverflowError as error:
        raise RowError("expected a finite number") from error
    if not math.isfinite(result):  # 1e999 is JSON and reads as infinity
        raise RowError("expected a finite number")
    return result


def each(read: Callable[[Json], T]) -> Callable[[Json], tuple[T, ...]]:
    """Make the reader of an array from the reader of its items."""

    def items(value: Json) -> tuple[T, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise RowError("expected an array")
        return tuple(read(item) for item in value)

    return items


def word(known: Mapping[str, T]) -> Callable[[Json], T]:
    """Make the reader of a closed vocabulary."""

    def known_word(value: Json) -> T:
        found = text(value)
        if found not in known:
            raise RowError(f"unknown word {found!r}")
        return known[found]

    return known_word
