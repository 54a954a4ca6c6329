"""What an agent is for, as its owner declared it: its tools, and where it sends things.

What is declared is no news, however new it is to the profile. What is not declared casts doubt on intent, however often
it was done. An agent without a declaration is judged by its history alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from guard.drift.effect import destination
from guard.drift.values import LEAVES, leaves
from guard.model import Band, Call, Doubt, Finding
from guard.reasons import Code, Reason

SIGNAL: Final = "job"
NO_NEWS: Final[Mapping[str, frozenset[str]]] = {
    "tool": frozenset({"tool_new", "tool_rare"}),
    "destinations": frozenset({"destination_new", "destination_from_result"}),
}
"""Measures that say nothing about what is declared."""
_BETWEEN: Final = re.compile(r"[,;\s]+")
_PLAIN: Final = re.compile(r"[^\\\"'<>\x00-\x20\x7f-\x9f]+")
"""Text that every reader of addresses and URLs takes for the same."""

_MAILBOX: Final = re.compile(r"[\w.+=-]+", re.ASCII)
"""What stands before the @ of an address; of evil.example/x@corp.example a browser takes the beginning."""


class Job(NamedTuple):
    """Globs over `server/tool`, and destinations in lower case; empty: not declared."""

    tools: tuple[str, ...]
    destinations: frozenset[str]


class _Look(NamedTuple):
    """What one call has to do with a job: tool and destinations as declared (None: nothing to say), and what is not."""

    call: str
    tool: bool | None
    destinations: bool | None
    paths: tuple[str, ...]


class JobSignal:
    """Finds calls outside of what an agent is declared to do."""

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        """Judge agents by `jobs`, by name."""
        self._jobs = dict(jobs)
        self._last = _Look("", None, None, ())

    def assess(self, call: Call) -> tuple[Finding, ...]:
        """Findings of doubt about intent: at most one for the tool and one for where it goes."""
        if call.kind != "tool" or (job := self._jobs.get(call.principal.subject)) is None:
            return ()
        look = self._last = _look(call, job)
        found = []
        if look.tool is False:
            found.append(Reason(Code.UNDECLARED_TOOL, by=SIGNAL, evidence=f"{call.server}/{call.name}"))
        if look.destinations is False:
            found.append(Reason(Code.UNDECLARED_DESTINATION, by=SIGNAL, evidence=", ".join(look.paths)))
        return tuple(Finding(signal=SIGNAL, cause=Doubt.INTENT, band=Band.UNUSUAL, reason=one) for one in found)

    def no_news(self, call: Call) -> frozenset[str]:
        """The measures that say nothing about the call that was assessed last."""
        look = self._last
        if look.call != call.id:
            return frozenset()
        tool = NO_NEWS["tool"] if look.tool else frozenset[str]()
        return tool | (NO_NEWS["destinations"] if look.destinations else frozenset[str]())


def _look(call: Call, job: Job) -> _Look:
    name = f"{call.server}/{call.name}"
    tool = any(fnmatchcase(name, one) for one in job.tools) if job.tools else None
    if not job.destinations:
        return _Look(call.id, tool, None, ())
    outside, number = [], 0
    for path, text in leaves(call.arguments):
        if destination(path):
            number += 1
            if number > LEAVES or not declared(text, job.destinations):
                outside.append(path)
                if number > LEAVES:
                    break
    return _Look(call.id, tool, not outside if number else None, tuple(dict.fromkeys(outside))[:4])


def declared(text: str, destinations: frozenset[str]) -> bool:
    """Whether every part of a value (several recipients may share one) is a declared destination.

    A domain stands for its addresses and its URLs, `.domain` for those below it, and what ends with a slash for all in
    that folder or below that URL; everything else for itself. What two readers could take for different places is none.
    """
    parts = [one for one in _BETWEEN.split(text.lower()) if one]
    return bool(parts) and all(_PLAIN.fullmatch(one) and _matches(one, destinations) for one in parts)


def _matches(part: str, destinations: frozenset[str]) -> bool:
    if part in destinations:
        return True
    if "://" in part or part.startswith("/"):
        straight = "%" not in part and ".." not in part.split("/")
        if straight and any(one.endswith("/") and "/" in one[:-1] and part.startswith(one) for one in destinations):
            return True
    if "://" in part:
        try:
            found = urlsplit(part)
            return "@" not in found.netloc and _domain(found.hostname or "", destinations)
        except ValueError:
            return False
    name, at, domain = part.partition("@")
    return bool(at and _MAILBOX.fullmatch(name)) and "@" not in domain and _domain(domain, destinations)


def _domain(host: str, destinations: frozenset[str]) -> bool:
    labels = host.split(".")
    return bool(host) and (
        host in destinations or any("." + ".".join(labels[at:]) in destinations for at in range(1, len(labels)))
    )
