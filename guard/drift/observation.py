"""One call as the signals see it: its tool, its values, and what it can do."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from guard.drift.values import Value


class Observation(NamedTuple):
    """One call before it runs. `can` is what it can do: a level of `guard.drift.effect`."""

    tool: str
    values: tuple[Value, ...]
    can: int
    touched: tuple[int, ...]
    """The hashes of the values and of what they belong to."""


Measure: TypeAlias = tuple[str, float, str, tuple[object, ...]]
"""What one signal saw: its name, a value that is 0 for nothing unusual, and the evidence as a format and what goes
into it, for most calls are calm and nobody reads theirs."""
