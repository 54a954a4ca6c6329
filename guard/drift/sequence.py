"""A tool that does not usually follow the one before it."""

from __future__ import annotations

import math
from typing import Final

from guard.drift.observation import Measure
from guard.drift.scene import Scene

K: Final = 4.0


def measure(scene: Scene, likely: float) -> Measure:
    """How surprising the step is, in nats: pairs of the agent, then of its peers, then the tool alone (`likely`)."""
    before, own, peers = scene.activity.before, scene.own, scene.peers
    pair = before, scene.seen.tool
    theirs = (peers.pairs.get(pair, 0.0) + K * likely) / (peers.after.get(before, 0.0) + K)
    count, times = own.pairs.get(pair, 0.0), own.after.get(before, 0.0)
    step = (count + K * theirs) / (times + K)
    return Measure("sequence", -math.log(step), f"{pair[1]} follows {before} in {count:.0f} of {times:.0f} cases")
