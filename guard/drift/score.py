"""The score of one call: a sum of capped, named contributions in nats, weighed by what the call can do.

Because it is a sum, the explanation is the computation. The weights are few, never negative, and come from the data
file `weights.json`, fitted on open recordings only and frozen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from operator import itemgetter
from typing import Final, NamedTuple

from guard.drift import arguments, provenance, sequence, tools
from guard.drift.activity import Activity
from guard.drift.observation import Measure
from guard.drift.scene import Scene

FORMAT: Final = 2
BROUGHT: Final = "brought_before"
_BROUGHT: Final = "a new value of an earlier call, which would have scored {:.2f} here"
"""A call is no less doubtful than the one that brought its value: what follows from a doubtful step is no step back."""
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


class Base:
    """What a call scores in a scene, in whatever activity it comes: valid until one of the profiles changes.

    It keeps no profile: those are replaced whenever what was learnt is stored.
    """

    __slots__ = ("_likely", "_news", "_parts", "_seen", "_steps", "_total", "_versions", "_weights")

    def __init__(self, scene: Scene, weights: Weights) -> None:
        """Ask the signals that look at profiles alone."""
        found: list[Measure] = []
        self._seen, self._weights = scene.seen, weights
        self._versions = scene.own.version, scene.peers.version
        self._likely = tools.measure(scene, found)
        self._news = scene.news()
        if self._news is not None:
            arguments.measure(scene.seen, self._news, found)
        self._total, self._parts = self._add(found, 0.0, [])
        self._steps: dict[tuple[str, bool], tuple[float, list[Measure]]] = {}

    def holds(self, scene: Scene) -> bool:
        """Whether this is the same call, and nothing was learnt since."""
        seen, own, peers = scene
        return self._seen is seen and self._versions == (own.version, peers.version)

    def score(self, activity: Activity, scene: Scene) -> tuple[float, list[Measure]]:
        """The score and what each measure adds to it in nats, in no order; what adds nothing is left out.

        `scene` is the one it was made of, or one that it `holds` in.
        """
        key = activity.before, activity.reads > 0
        total, parts = self._steps.get(key) or self._step(key, scene)
        seen, news = self._seen, self._news
        apart = seen.telling > 0 and activity.calls > 0 and activity.used.isdisjoint(seen.told)
        found = [arguments.APART] if apart else []
        if news is not None and activity.reads:
            provenance.measure(news, activity, found, apart=apart)
        if found:
            total, parts = self._add(found, total, [*parts])
        if news is None or not activity.brought:
            return total, parts
        before = max([activity.brought.get(one, 0.0) for one in news.brought]) * self._weights.can[seen.can]
        return (before, [*parts, (BROUGHT, before - total, _BROUGHT, (before,))]) if before > total else (total, parts)

    def doubt(self, total: float) -> tuple[Sequence[int], float]:
        """The hashes of the call's new values, and what its score would be if it could hurt."""
        news, can = self._news, self._seen.can
        return ((), 0.0) if news is None or can == 0 else (news.brought, total / self._weights.can[can])

    def _step(self, key: tuple[str, bool], scene: Scene) -> tuple[float, list[Measure]]:
        """The same as it comes after this tool, and (True) after a result was read."""
        before, read = key
        found = [sequence.measure(scene, before, self._likely)]
        if read:
            found.append(provenance.AFTER)
        step = self._steps[key] = self._add(found, self._total, [*self._parts])
        return step

    def _add(self, found: list[Measure], total: float, parts: list[Measure]) -> tuple[float, list[Measure]]:
        """Weigh what was found, and add it to a score."""
        can, units = self._weights.can[self._seen.can], self._weights.units
        for name, value, form, known in found:
            weight, most = units[name]
            nats = weight * (value if value < most else most) * can  # noqa: FURB136 - what is no number is not below
            if nats > 0:
                total += nats
                parts.append((name, nats, form, known))
        return total, parts


def factors(parts: list[Measure]) -> tuple[Factor, ...]:
    """The contributions, the largest first."""
    return tuple(Factor(*one) for one in sorted(parts, key=itemgetter(1), reverse=True))
