"""The score of one call: a sum of capped, named contributions in nats, weighed by what the call can do.

Because it is a sum, the explanation is the computation. The weights are few, never negative, and come from the data
file `weights.json` (fitted by `tools/drift_fit.py` on the open data only, and frozen).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

from guard.drift import arguments, provenance, sequence, tools
from guard.drift.observation import Measure
from guard.drift.scene import Scene

FORMAT: Final = 1
MOST: Final = 50.0
"""What a measure counts that is no finite number: as much as its cap allows."""


class Factor(NamedTuple):
    """One contribution to a score, in nats, with its evidence."""

    name: str
    value: float
    evidence: str


class Weights(NamedTuple):
    """What one unit of a measure adds, and how many units count at most; `version` names the fit."""

    version: str
    weight: dict[str, float]
    cap: dict[str, float]


@cache
def shipped() -> Weights:
    """The weights that come with the guard."""
    data = json.loads(files("guard.drift").joinpath("weights.json").read_text(encoding="utf-8"))
    if data["format"] != FORMAT:
        message = f"weights.json is not of format {FORMAT}"
        raise ValueError(message)
    return Weights(data["version"], data["weight"], data["cap"])


def measures(scene: Scene) -> Iterator[Measure]:
    """What every signal of intent says about the call."""
    likely = tools.probability(scene)
    news = scene.news()
    yield from tools.measure(scene, likely)
    yield sequence.measure(scene, likely)
    yield from arguments.measure(news)
    yield from provenance.measure(scene, news)


def score(scene: Scene, weights: Weights) -> tuple[float, tuple[Factor, ...]]:
    """The score and its contributions, the largest first; those that add nothing are left out."""
    factors = []
    can = scene.seen.weight
    for name, value, evidence in measures(scene):
        units = min(value, weights.cap[name]) if math.isfinite(value) else weights.cap[name]
        nats = weights.weight[name] * units * can
        if nats > 0:
            factors.append(Factor(name, round(nats, 4), evidence))
    factors.sort(key=_size)
    return round(sum(one.value for one in factors), 4), tuple(factors)


def _size(factor: Factor) -> float:
    return -factor.value
