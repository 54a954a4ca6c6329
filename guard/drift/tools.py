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


def measure(scene: Scene, found: list[Measure]) -> float:
    """Find `tool_new` when the agent never used it (less when its peers did), and `tool_rare` in nats.

    Gives how likely a call of this agent is one of this tool.
    """
    own, peers, tool = scene.own, scene.peers, scene.seen.tool
    mine, theirs = own.tools.get(tool), peers.tools.get(tool)
    times, others = mine.count if mine else 0.0, theirs.count if theirs else 0.0
    likely = (times + K * ((others + K * FLOOR) / (peers.calls + K))) / (own.calls + K)
    if mine is None or not mine.trusted:
        new = foreign(own) if theirs is not None and theirs.trusted else 1.0
        said = "{}: {:.0f} of {:.0f} calls, {:.0f} of {:.0f} on this server"
        known = tool, times, own.calls, others, peers.calls
        found.append(("tool_new", new * (ONCE if mine else 1.0), said, known))
    found.append(("tool_rare", -math.log(likely), "{}: {:.0f} of {:.0f} calls", (tool, times, own.calls)))
    return likely
