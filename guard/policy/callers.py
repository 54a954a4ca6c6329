"""Who may call at all: the least-privilege list of a file or an entry."""

from __future__ import annotations

from dataclasses import dataclass

from guard.model import Principal
from guard.policy.patterns import Glob


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Agents by name or glob, and groups of agents; `reason` tells the others why not."""

    agents: frozenset[str] = frozenset()
    globs: tuple[Glob, ...] = ()
    groups: frozenset[str] = frozenset()
    reason: str = ""

    def admit(self, principal: Principal) -> bool:
        """Whether this agent is one of them."""
        return (
            principal.subject in self.agents
            or not self.groups.isdisjoint(principal.groups)
            or any(one.matches(principal.subject) for one in self.globs)
        )
