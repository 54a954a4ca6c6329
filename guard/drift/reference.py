"""The slow memory of a profile: what an agent did over the year, to hold against what it does lately.

Whoever is patient can teach a profile anything in steps too small to notice. The slow memory fades by half in a year
where the profile does in 30, so after such a lesson the two differ. It is filled when what was learnt is stored, off
the path of calls, and is made of sums, so what several processes learnt adds up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from guard.drift.calibrate import UNUSUAL_FLOOR, Thresholds
from guard.model import Json

HALF_LIFE: Final = 365 * 86400.0
GROWN: Final = 60 * 86400.0
"""Seconds that a slow memory must reach back before it says anything."""
MASS: Final = 200.0
"""Calls (decayed) it must hold."""
APART: Final = 0.015
"""Nats (Jensen-Shannon, at most 0.69) between the tools used lately and over the year that are too many."""
STEP: Final = 0.25
BINS: Final = 32
"""Scores are counted in steps of this many nats, the last for all above."""
HIGHER: Final = 1.5
"""How many times higher than that of the year a threshold may become."""
TOOLS: Final = 160
AGAIN: Final = 30
"""Days until the same divergence is told again."""
_FADED: Final = 0.01


class Reference:
    """Calls by tool and by score, since `begun`, as they are worth at `at` (0: never); `told` is a day number."""

    __slots__ = ("at", "begun", "scores", "told", "tools")

    def __init__(self) -> None:
        self.at, self.begun, self.told = 0.0, 0.0, 0
        self.tools: dict[str, float] = {}
        self.scores = [0.0] * BINS

    def fold(self, tools: Mapping[str, float], scores: Iterable[float], now: float) -> None:
        """Count what was learnt until `now`."""
        self._decay(now)
        for tool, count in tools.items():
            self.tools[tool] = self.tools.get(tool, 0.0) + count
        for score in scores:
            self.scores[min(int(max(score, 0.0) / STEP), BINS - 1) if math.isfinite(score) else BINS - 1] += 1.0
        if len(self.tools) > TOOLS:
            keep = sorted(self.tools, key=self.tools.__getitem__)[-TOOLS * 3 // 4 :]
            self.tools = {tool: self.tools[tool] for tool in keep}

    def add(self, other: Reference) -> None:
        """Join what another process kept."""
        late = max(self.at, other.at)
        self._decay(late)
        other._decay(late)
        begun = [one.begun for one in (self, other) if one.begun]
        self.begun, self.told = min(begun, default=0.0), max(self.told, other.told)
        for tool, count in other.tools.items():
            self.tools[tool] = self.tools.get(tool, 0.0) + count
        self.scores = [mine + theirs for mine, theirs in zip(self.scores, other.scores, strict=True)]

    def _decay(self, now: float) -> None:
        """Fade to `now`; a time that is not finite or lies before the last one fades nothing."""
        if not math.isfinite(now) or now <= self.at:
            return
        factor = 0.5 ** ((now - self.at) / HALF_LIFE) if self.at else 1.0
        self.at, self.begun = now, self.begun or now
        self.tools = {tool: kept for tool, count in self.tools.items() if (kept := count * factor) > _FADED}
        self.scores = [count * factor for count in self.scores]

    # ------------------------------------------------------------------ what differs

    def differs(self, tools: Mapping[str, float], limits: Thresholds | None) -> str:
        """How what was done lately differs from the year, in words; "" for not so much."""
        if self.at - self.begun < GROWN or sum(self.tools.values()) < MASS:
            return ""
        said = []
        nats, most = self.apart(tools)
        if nats > APART:
            said.append(f"tools {nats:.2f} nats apart (at most {APART:g}): {most}")
        usual = self.threshold(limits.budget) if limits is not None else 0.0
        if limits is not None and limits.unusual > HIGHER * usual:
            said.append(f"threshold {limits.unusual:.2f}, over the year {usual:.2f}")
        return "; ".join(said)

    def apart(self, tools: Mapping[str, float]) -> tuple[float, str]:
        """Jensen-Shannon divergence in nats between these counts and the slow ones, and the tool that grew most."""
        lately, ever = sum(tools.values()), sum(self.tools.values())
        if not lately > 0 or not ever > 0:
            return 0.0, ""
        total, most, grown = 0.0, "", 0.0
        for tool in tools.keys() | self.tools.keys():
            now, before = tools.get(tool, 0.0) / lately, self.tools.get(tool, 0.0) / ever
            middle = (now + before) / 2
            total += sum(share * math.log(share / middle) / 2 for share in (now, before) if share > 0)
            if now - before > grown:
                grown, most = now - before, f"{tool} {before:.0%} over the year, {now:.0%} lately"
        return total, most

    def threshold(self, budget: float) -> float:
        """The score that the share `budget` of the year's calls exceeded, from above, or the floor."""
        left = budget * sum(self.scores)
        for at in range(BINS - 1, -1, -1):
            left -= self.scores[at]
            if left < 0:
                return max(UNUSUAL_FLOOR, (at + 1) * STEP)
        return UNUSUAL_FLOOR

    # ------------------------------------------------------------------ as it is stored

    def rows(self) -> list[Json]:
        """What a snapshot keeps."""
        tools: list[Json] = [[tool, round(count, 2)] for tool, count in self.tools.items()]
        return [self.at, self.begun, self.told, tools, [round(count, 2) for count in self.scores]]
