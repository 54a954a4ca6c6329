"""How much a day may have at most, by the days before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

DAYS: Final = 7.0
"""Days (decayed) that must be known before one is too much."""
SPREADS: Final = 3.0
SPREAD: Final = 0.35
"""The least spread in nats: a very regular agent may do three times its usual before it is unusual."""


def limit(stats: Sequence[float]) -> float | None:
    """The logarithm of what a day may have at most, from (days, sum, sum of squares) of logarithms; None: too few."""
    days, total, squares = stats
    if not days >= DAYS:
        return None
    mean = total / days
    return mean + SPREADS * max(math.sqrt(max(squares / days - mean * mean, 0.0)), SPREAD)
