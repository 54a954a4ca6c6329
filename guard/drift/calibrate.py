"""From scores of normal calls to the threshold that challenges a stated share of them.

Split-conformal: of n scores of calls that did not yet belong to the profile, the one of rank (n+1)(1-budget) is
exceeded by that share of further calls like them. Too few scores give no threshold at all, rather than a guess. Some
dozen scores say little about the rarest ones, so an agent's threshold leans on that of newcomers to its server: the
less, the more scores it has.

An agent that does the same thing all day scores next to nothing, and next to nothing would be its threshold: thousands
of equal scores say little about the first call that is not like them. So no threshold lies below a floor in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

ALARMING: Final = 4.0
"""How many times rarer than unusual a normal call that counts as alarming may be."""
BEYOND: Final = 1.5
"""How far above the unusual one the alarming threshold lies while there are too few scores to know."""

LEAN: Final = 50.0
"""Scores of an agent that weigh as much as the threshold of newcomers."""
_EXACT: Final = 1e-9

UNUSUAL_FLOOR: Final = 1.0
"""Nats that a call must exceed to be unusual, however regular the agent: more than one that only reads can score."""
ALARMING_FLOOR: Final = 2.0
"""Nats that a call must exceed to be alarming: several doubts at once about a call that can hurt."""


class Thresholds(NamedTuple):
    """Above `unusual` and above `alarming`; `points` scores stand behind them, of which the share `achieved` is above.

    `budget` is the share that was wanted.
    """

    unusual: float
    alarming: float
    points: int
    achieved: float
    budget: float


def quantile(ordered: Sequence[float], budget: float) -> float | None:
    """The conformal quantile of ascending scores, between two of them; None when there are too few for this budget."""
    rank = (len(ordered) + 1) * (1 - budget)
    below, above = math.floor(rank + _EXACT), math.ceil(rank - _EXACT)
    if not 0 < below <= above <= len(ordered):
        return None
    return ordered[below - 1] + (rank - below) * (ordered[above - 1] - ordered[below - 1])


def thresholds(scores: Sequence[float], budget: float, peers: Thresholds | None = None) -> Thresholds | None:
    """The thresholds for a budget (a share, 0 to 1) of normal calls; None when there are too few scores.

    `peers` are the thresholds of newcomers to the same server.
    """
    ordered = sorted(one for one in scores if math.isfinite(one))
    found = quantile(ordered, budget)
    if found is None:
        return None
    rarest = quantile(ordered, budget / ALARMING)
    alarming = found * BEYOND if rarest is None else rarest
    if peers is not None:
        lean = LEAN / (LEAN + len(ordered))
        found += lean * (peers.unusual - found)
        alarming += lean * (peers.alarming - alarming)
    unusual = max(found, UNUSUAL_FLOOR)
    above = sum(one > unusual for one in ordered)
    return Thresholds(unusual, max(unusual, alarming, ALARMING_FLOOR), len(ordered), above / len(ordered), budget)
