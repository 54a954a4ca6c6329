"""One policy file as typed values: what the owner of a tool server says about its tools.

`guard.policy.reading` makes these from a file; nothing here can hold a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from guard.model import Demand, Further, Quorum, Sensitivity
from guard.policy.conditions import Condition
from guard.policy.patterns import Glob
from guard.policy.tree import Place
from guard.policy.windows import Window

KINDS = {"tools": "tool", "resources": "resource", "prompts": "prompt"}
"""The sections of a file and the kind of call (`guard.model.Call.kind`) each is about."""


class Match(StrEnum):
    """Which of several matching rules says the sensitivity. Requirements and effects of all of them join."""

    FIRST = "first"
    STRICTEST = "strictest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of an entry; without `when` it always applies. `sensitivity` None leaves it as it is."""

    name: str
    place: Place
    when: Condition | None = None
    sensitivity: Sensitivity | None = None
    demands: frozenset[Demand] = frozenset()
    quorums: frozenset[Quorum] = frozenset()
    effects: frozenset[str] = frozenset()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tag: a name or glob, and what the owner says about what it matches.

    `name` is the entry's own name in records (`git.yaml#tools.git_reset`); `glob` is None for an exact
    name. The file's default is an entry too, with an empty `pattern`.
    """

    pattern: str
    name: str
    place: Place
    sensitivity: Sensitivity
    glob: Glob | None = None
    effects: frozenset[str] = frozenset()
    demands: frozenset[Demand] = frozenset()
    quorums: frozenset[Quorum] = frozenset()
    approvers: str = "approvers"
    further: Further = Further()  # noqa: RUF009 - frozen
    log: frozenset[str] = frozenset()
    reason: str = ""
    review: bool = False
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One file. `entries` are by kind of call, in the order of the file; `authors` may not consent under it."""

    file: str
    place: Place
    server: str
    owner: str
    default: Entry
    entries: Mapping[str, tuple[Entry, ...]]
    match: Match = Match.FIRST
    windows: Mapping[str, Window]
    authors: frozenset[str] = frozenset()
