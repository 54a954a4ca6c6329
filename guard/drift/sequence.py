"""A tool that does not usually follow the one before it."""

from __future__ import annotations

import math
from typing import Final

from guard.drift.observation import Measure
from guard.drift.scene import Scene

K: Final = 4.0


def measure(scene: Scene, before: str, likely: float) -> Measure:
    """How surprising the step is, in nats: pairs of the agent, then of its peers, then the tool alone (`likely`)."""
    own, peers = scene.own, scene.peers
    pair = before, scene.seen.tool
    theirs = (peers.pairs.get(pair, 0.0) + K * likely) / (peers.after.get(before, 0.0) + K)
    count, times = own.pairs.get(pair, 0.0), own.after.get(before, 0.0)
    step = (count + K * theirs) / (times + K)
    return "sequence", -math.log(step), "{1} follows {0} in {2:.0f} of {3:.0f} cases", (*pair, count, times)
