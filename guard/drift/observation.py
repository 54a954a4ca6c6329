"""One call as the signals see it: its tool, its values, and what it can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from guard.drift.values import Value


@dataclass(frozen=True, slots=True)
class Observation:
    """One call before it runs. `weight` is what it can do, from 0 (reads what is public) to 1 (hurts)."""

    tool: str
    values: tuple[Value, ...]
    weight: float
    size: int = 0


class Measure(NamedTuple):
    """What one signal saw: a value that is 0 for nothing unusual, and evidence for people."""

    name: str
    value: float
    evidence: str
