"""What one check of `guard doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor: how it stands, what was looked at, and what to do about it."""

    level: Level
    what: str
    remedy: str = ""
