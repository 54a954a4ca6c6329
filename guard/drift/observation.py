"""One call as the signals see it: its tool, its values, and what it can do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from guard.drift.values import Value

TELLING: Final = 3
"""Characters of a value that tells something; shorter ones stand everywhere."""


class Observation(NamedTuple):
    """One call before it runs. `can` is what it can do: a level of `guard.drift.effect`."""

    tool: str
    values: tuple[Value, ...]
    can: int
    touched: frozenset[int]
    """The hashes of the values and of what they belong to."""
    places: tuple[tuple[str, int, Value], ...]
    """Each value with the key of its path in profiles and its hash."""
    telling: int
    """How many values are long enough to tell something."""
    told: frozenset[int]
    """The hashes of those and of what they belong to."""

    @classmethod
    def of(cls, tool: str, values: tuple[Value, ...], can: int) -> Observation:
        """Take a call's values apart once, for every signal and for the profile."""
        telling = [one for one in values if len(one.text) >= TELLING]
        touched = _touched(values)
        told = touched if len(telling) == len(values) else _touched(telling)
        places = tuple([(tool + one.path, one.digest, one) for one in values])
        return cls(tool, values, can, touched, places, len(telling), told)


def _touched(values: Iterable[Value]) -> frozenset[int]:
    """The hashes of values, and of what they belong to."""
    return frozenset([digest for value in values for digest in (value.digest, value.parent) if digest])


Measure: TypeAlias = tuple[str, float, str, tuple[object, ...]]
"""What one signal saw: its name, a value that is 0 for nothing unusual, and the evidence as a format and what goes
into it, for most calls are calm and nobody reads theirs."""
