"""One policy file as typed values: what the owner of a tool server says about its tools.

`guard.policy.reading` makes these from a file; nothing here can hold a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from guard.model import Demand, Further, Limit, Quorum, Sensitivity
from guard.policy.callers import Callers
from guard.policy.conditions import Condition
from guard.policy.environments import Origin
from guard.policy.facts import Declared
from guard.policy.patterns import Glob
from guard.policy.tree import Place

KINDS = {"tools": "tool", "resources": "resource", "prompts": "prompt"}
"""The sections of a file and the kind of call (`guard.model.Call.kind`) each is about."""


class Match(StrEnum):
    """Which of several matching rules says the sensitivity. Requirements and effects of all of them join."""

    FIRST = "first"
    STRICTEST = "strictest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of an entry; without `when` and `environments` it always applies.

    With both, both must hold. `sensitivity` None leaves it as it is.
    """

    name: str
    place: Place
    when: Condition | None = None
    environments: frozenset[str] = frozenset()
    sensitivity: Sensitivity | None = None
    demands: frozenset[Demand] = frozenset()
    quorums: frozenset[Quorum] = frozenset()
    effects: frozenset[str] = frozenset()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Where a tool that runs other tools is told which: paths into its arguments.

    `tool` holds the inner tool's name, `arguments` its arguments (an object, or its JSON text), `server` its server
    (empty: this one). With `each`, that path holds a list, and the others lead from each of its members.
    """

    tool: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    server: tuple[str, ...] = ()
    each: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tag: a name or glob, and what the owner says about what it matches.

    `name` is the entry's own name in records (`git.yaml#tools.git_reset`); `glob` is None for an exact
    name. The file's default is an entry too, with an empty `pattern`. `definition` pins the tool's definition by its
    digest; "" leaves that to the state. `origin` is where this one's environment is read from, when it is another than
    the file's; `runs` says where a tool that runs others is told which.
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
    definition: str = ""
    rules: tuple[Rule, ...] = ()
    callers: Callers | None = None
    origin: Origin | None = None
    runs: Runs | None = None
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One file. `entries` are by kind of call, in the order of the file; `authors` may not consent under it.

    `pins` are the digests of the definitions of tools that the file pins, by tool.
    `match_stated`: the file itself says which of several rules counts.
    """

    file: str
    place: Place
    server: str
    owner: str
    default: Entry
    entries: Mapping[str, tuple[Entry, ...]]
    match: Match = Match.FIRST
    match_stated: bool = True
    declared: Declared = field(default_factory=Declared)
    authors: frozenset[str] = frozenset()
    pins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    callers: Callers | None = None
    limits: tuple[Limit, ...] = ()
