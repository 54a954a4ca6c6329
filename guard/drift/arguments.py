"""Argument values this agent never used there.

A new value surprises where a path always takes the same three values, and does not where it takes new ones every day.
"""

from __future__ import annotations

from typing import Final

from guard.drift.observation import Measure, Observation
from guard.drift.scene import News

APART: Final[Measure] = "apart", 1.0, "none of its values stood in an earlier call of this conversation", ()
"""`apart`: none of the values stood in a call before this one."""


def measure(seen: Observation, news: News, found: list[Measure]) -> None:
    """Find `argument_new` in nats, `destination_new` up to 1, `fresh` as the share of new values."""
    if news.surprise:
        known = news.surprise_at, *news.usual
        found.append(("argument_new", news.surprise, "{}: new; {} values known in {:.0f} uses", known))
    if news.destination:
        found.append(("destination_new", news.destination, "{}: a destination never used", (news.destination_at,)))
    if news.new:
        said = "{:.0f} of {} values are new"
        found.append(("fresh", news.new / seen.telling, said, (news.new, seen.telling)))
