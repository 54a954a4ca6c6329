"""A new value that an untrusted result brought, and a call after such a result.

Results are where strangers can speak to an agent. That a value stood in one is no crime; that it is new, goes
somewhere, and has to do with nothing before it adds up.
"""

from __future__ import annotations

from typing import Final

from guard.drift.observation import Measure
from guard.drift.scene import News, Scene

_WHERE: Final = {"prose": "in the text of a result", "field": "in a field of a result"}


def measure(scene: Scene, news: News, found: list[Measure]) -> None:
    """Find `after_read`, `from_prose`, `from_field`, and what the news weighs once a result brought it."""
    if scene.activity.reads:
        found.append(("after_read", 1.0, "after {} untrusted results", (scene.activity.reads,)))
    strongest, at = 0.0, ""
    for origin, (novelty, path) in news.origins.items():
        found.append(("from_" + origin, novelty, "{}: new, and first seen {}", (path, _WHERE[origin])))
        if novelty > strongest:
            strongest, at = novelty, path
    if not strongest:
        return
    found.append(("argument_from_result", news.surprise, "{}: brought by a result", (at,)))
    if news.destination:
        where = (news.destination_at,)
        found.append(("destination_from_result", news.destination, "{}: beside what a result brought", where))
    if news.apart:
        found.append(("apart_from_result", 1.0, "{}: brought by a result, and unlike the calls before", (at,)))
