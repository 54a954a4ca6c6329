"""The score of one call: a sum of capped, named contributions in nats, weighed by what the call can do.

Because it is a sum, the explanation is the computation. The weights are few, never negative, and come from the data
file `weights.json`, fitted on open recordings only and frozen.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from operator import itemgetter
from typing import Final, NamedTuple

from guard.drift import arguments, provenance, sequence, tools
from guard.drift.observation import Measure
from guard.drift.scene import Scene

FORMAT: Final = 2
LEVELS: Final = ("reads", "changes", "hurts", "destroys")


class Factor(NamedTuple):
    """One contribution to a score, in nats; its evidence is put into words when somebody reads it."""

    name: str
    value: float
    form: str
    known: tuple[object, ...]

    @property
    def evidence(self) -> str:
        """What a reviewer can check."""
        return self.form.format(*self.known)


class Weights(NamedTuple):
    """By measure: what one unit of it adds, and how many units count at most; `version` names the fit.

    `can` is what a call of each level of `guard.drift.effect` weighs.
    """

    version: str
    units: dict[str, tuple[float, float]]
    can: tuple[float, ...]


@cache
def shipped() -> Weights:
    """The weights that come with the guard."""
    data = json.loads(files("guard.drift").joinpath("weights.json").read_text(encoding="utf-8"))
    if data["format"] != FORMAT:
        message = f"weights.json is not of format {FORMAT}"
        raise ValueError(message)
    units = {name: (weight, data["cap"][name]) for name, weight in data["weight"].items()}
    return Weights(data["version"], units, tuple(data["can"][level] for level in LEVELS))


def measures(scene: Scene) -> list[Measure]:
    """What every signal of intent says about the call."""
    likely = tools.probability(scene)
    news = scene.news()
    found = [*tools.measure(scene, likely), sequence.measure(scene, likely)]
    arguments.measure(news, found)
    provenance.measure(scene, news, found)
    return found


def score(scene: Scene, weights: Weights) -> tuple[float, list[Measure]]:
    """The score and what each measure adds to it in nats, in no order; what adds nothing is left out."""
    total, parts = 0.0, []
    can, units = weights.can[scene.seen.can], weights.units
    for name, value, form, known in measures(scene):
        weight, most = units[name]
        nats = weight * (value if value < most else most) * can  # noqa: FURB136 - what is no number is not below
        if nats > 0:
            total += nats
            parts.append((name, nats, form, known))
    return total, parts


def factors(parts: list[Measure]) -> tuple[Factor, ...]:
    """The contributions, the largest first."""
    return tuple(Factor(*one) for one in sorted(parts, key=itemgetter(1), reverse=True))
