"""Argument values this agent never used there.

A new value surprises where a path always takes the same three values, and does not where it takes new ones every day.
"""

from __future__ import annotations

from collections.abc import Iterator

from guard.drift.observation import Measure
from guard.drift.scene import News


def measure(news: News) -> Iterator[Measure]:
    """`argument_new` in nats, `destination_new` and `apart` up to 1, `fresh` as the share of new values."""
    if news.surprise:
        slot = news.slot
        said = f"{len(slot.values)} values in {slot.total:.0f} uses" if slot else "never used before"
        yield Measure("argument_new", news.surprise, f"{news.surprise_at}: new; {said}")
    if news.destination:
        yield Measure("destination_new", news.destination, f"{news.destination_at}: a destination never used")
    if news.new:
        yield Measure("fresh", news.new / news.values, f"{news.new} of {news.values} values are new")
    if news.apart:
        yield Measure("apart", 1.0, "none of its values stood in an earlier call of this conversation")
