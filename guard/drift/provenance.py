"""A new value that an untrusted result brought, and a call after such a result.

Results are where strangers can speak to an agent. That a value stood in one is no crime; that it is new, goes
somewhere, and has to do with nothing before it adds up.
"""

from __future__ import annotations

from typing import Final

from guard.drift.activity import Activity
from guard.drift.observation import Measure
from guard.drift.scene import News

LOOKED: Final = 16
"""New values of one call that are looked for in results; what comes after them counts as found, if there were any."""
AFTER: Final[Measure] = "after_read", 1.0, "after untrusted results", ()
"""`after_read`: results were read before."""
_WHERE: Final = {"prose": "in the text of a result", "field": "in a field of a result"}


def measure(news: News, activity: Activity, found: list[Measure], *, apart: bool) -> None:
    """Find `from_prose`, `from_field`, and what the news weighs once a result brought it."""
    strongest, at = 0.0, ""
    for origin, (novelty, path) in _origins(news, activity).items():
        found.append(("from_" + origin, novelty, "{}: new, and first seen {}", (path, _WHERE[origin])))
        if novelty > strongest:
            strongest, at = novelty, path
    if not strongest:
        return
    found.append(("argument_from_result", news.surprise, "{}: brought by a result", (at,)))
    if news.destination:
        where = (news.destination_at,)
        found.append(("destination_from_result", news.destination, "{}: beside what a result brought", where))
    if apart:
        found.append(("apart_from_result", 1.0, "{}: brought by a result, and unlike the calls before", (at,)))


def _origins(news: News, activity: Activity) -> dict[str, tuple[float, str]]:
    """By where in results new values stood: how new the newest of them is, and its path."""
    found: dict[str, tuple[float, str]] = {}
    for number, (text, novelty, path) in enumerate(news.sought):
        origin = activity.origin(text) if number < LOOKED else "prose"
        if origin and (origin not in found or novelty > found[origin][0]):
            found[origin] = novelty, path
    return found
