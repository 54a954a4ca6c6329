"""Environments: which one a call is about, told by an argument, the server or the deployment.

What no name claims, or more than one, is of no known environment; conditions that ask for it cannot be told then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from guard.model import Call, Json
from guard.policy.expression import Expression, Member, Name, SyntaxMistake, parse
from guard.policy.patterns import Glob

SETTINGS: Final = ("server", "deployment")
"""Where an environment can be read from beside an argument: the settings `environment` of guard.toml."""

_LONGEST: Final = 256


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the environment is read from: an argument's `path`, or with an empty one the `setting`."""

    path: tuple[str, ...] = ()
    setting: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environments:
    """What a file declares: where from, and the values by which each name is known (plain, or globs)."""

    origin: Origin
    plain: Mapping[str, frozenset[str]]
    globs: Mapping[str, tuple[Glob, ...]]

    @property
    def names(self) -> frozenset[str]:
        """The declared names."""
        return frozenset(self.plain)

    def named(self, value: str) -> str | None:
        """The one name that claims this value; None when none does, or several."""
        if len(value) > _LONGEST:
            return None
        found = [name for name, values in self.plain.items() if value in values]
        found = found or [name for name, globs in self.globs.items() if any(one.matches(value) for one in globs)]
        return found[0] if len(found) == 1 else None

    def of(self, call: Call, settings: Mapping[str, str], origin: Origin | None = None) -> str | None:
        """The environment of a call; `settings` holds that of each server, and under "" that of the deployment."""
        where = origin or self.origin
        if not where.path:
            value: Json = settings.get(call.server if where.setting == "server" else "", "")
        else:
            value = call.arguments
            for field in where.path:
                value = value.get(field) if isinstance(value, Mapping) else None
        return self.named(value) if isinstance(value, str) and value else None


def origin(text: str) -> Origin:
    """Read `args.cluster.name`, `server` or `deployment`.

    Raises:
        ValueError: what to write instead.
    """
    if text in SETTINGS:
        return Origin(setting=text)
    if path := argument_path(text):
        return Origin(path=path)
    raise ValueError('write the argument, for example "args.cluster", or one of server, deployment')


def argument_path(text: str) -> tuple[str, ...]:
    """The path in `args.a.b` or `args["a"].b`; empty when it is none."""
    try:
        tree: Expression = parse(text)
    except SyntaxMistake:
        return ()
    path: list[str] = []
    while isinstance(tree, Member):
        path.append(tree.field)
        tree = tree.operand
    return tuple(reversed(path)) if tree == Name("args", 0) else ()
