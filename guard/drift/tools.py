"""A tool the agent never or rarely uses, judged by its own history first and by its peers' next."""

from __future__ import annotations

import math
from typing import Final

from guard.drift.observation import Measure
from guard.drift.scene import Scene, foreign

K: Final = 20.0
"""Calls of history that weigh as much as all the peers'."""
FLOOR: Final = 0.002
"""The probability of a tool nobody uses."""
ONCE: Final = 0.7
"""What a tool counts that the agent used, but not yet long enough to be trusted."""


def probability(scene: Scene) -> float:
    """How likely a call of this agent is one of this tool."""
    own, peers, tool = scene.own, scene.peers, scene.seen.tool
    theirs, mine = peers.tools.get(tool), own.tools.get(tool)
    base = ((theirs.count if theirs else 0.0) + K * FLOOR) / (peers.calls + K)
    return ((mine.count if mine else 0.0) + K * base) / (own.calls + K)


def measure(scene: Scene, likely: float) -> tuple[Measure, ...]:
    """`tool_new` when the agent never used it (less when its peers did); `tool_rare` in nats."""
    tool, own = scene.seen.tool, scene.own
    mine, theirs = own.tools.get(tool), scene.peers.tools.get(tool)
    times = mine.count if mine else 0.0
    rare = "tool_rare", -math.log(likely), "{}: {:.0f} of {:.0f} calls", (tool, times, own.calls)
    if mine is not None and mine.trusted:
        return (rare,)
    new = foreign(own) if theirs is not None and theirs.trusted else 1.0
    said = "{}: {:.0f} of {:.0f} calls, {:.0f} of {:.0f} on this server"
    known = tool, times, own.calls, theirs.count if theirs else 0.0, scene.peers.calls
    return ("tool_new", new * (ONCE if mine else 1.0), said, known), rare
