"""The form of JSON that came from outside: small checks that add up to one for a whole document. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

Check: TypeAlias = Callable[[object], bool]
"""Whether a decoded value is of one form."""


def text(pattern: str) -> Check:
    """A string that matches as a whole."""
    compiled = re.compile(pattern, re.DOTALL)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def texts(pattern: str) -> Check:
    """A list of at most 64 such strings."""
    one = text(pattern)
    return lambda value: isinstance(value, list) and len(value) <= 64 and all(map(one, value))  # noqa: PLR2004


def members(checks: Mapping[str, Check]) -> Check:
    """An object with exactly these members, each of its form."""
    return lambda value: (
        isinstance(value, dict)
        and value.keys() == checks.keys()
        and all(check(value[name]) for name, check in checks.items())
    )


def whole(value: object) -> bool:
    """A number that is whole, not negative, and exact in every reader."""
    return type(value) is int and 0 <= value < 2**53


def boolean(value: object) -> bool:
    """True or false."""
    return isinstance(value, bool)


def exactly(expected: int | str) -> Check:
    """This value and no other."""
    return lambda value: type(value) is type(expected) and value == expected
