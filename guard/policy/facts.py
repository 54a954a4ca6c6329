"""What conditions are told about a call: the values they name, bounded, and nothing else.

JSON numbers that RFC 8785 writes alike are one value here: `10001.0` is the integer `10001`. What is not known of a
call (the network of one without an address, the age of a key of unknown age, an environment nobody declared) is left
out, so that a condition which rests on it cannot be told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, TypeAlias

from guard.model import Call, Json, Principal
from guard.policy.environments import Environments, Origin
from guard.policy.networks import Network
from guard.policy.scope import Known, Path, Scope
from guard.policy.windows import Window

MAX_VALUES: Final = 1024
MAX_TEXT: Final = 64 * 1024
MAX_TEXT_EACH: Final = 16 * 1024
"""Characters of what a condition with a quantifier is told, which may look at all of it for each value."""

_SAFE: Final = 2**53
_LARGEST: Final = 2**63

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | datetime | timedelta | None"


class TooMuchError(ValueError):
    """The arguments a condition names are too large to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a file declares for its conditions."""

    windows: Mapping[str, Window] = field(default_factory=lambda: MappingProxyType({}))
    networks: Mapping[str, Network] = field(default_factory=lambda: MappingProxyType({}))
    environments: Environments | None = None

    @property
    def known(self) -> Known:
        """The declared names."""
        named = self.environments.names if self.environments else frozenset[str]()
        return Known(windows=frozenset(self.windows), networks=frozenset(self.networks), environments=named)


@dataclass(slots=True)
class Asked:
    """One call at one moment (Unix seconds), with the environments that guard.toml names and where to look."""

    call: Call
    now: float
    settings: Mapping[str, str] | None = None
    origin: Origin | None = None

    def environment(self, declared: Declared) -> str | None:
        """Which environment the call is about; None when that is not known."""
        known = declared.environments
        return None if known is None else known.of(self.call, self.settings or {}, self.origin)


class _Budget:
    """Counts what is handed over and makes equal JSON equal."""

    def __init__(self, *, loops: bool) -> None:
        self.values = MAX_VALUES
        self.text = MAX_TEXT_EACH if loops else MAX_TEXT

    def give(self, value: Json) -> Value:
        """The value as the engine sees it."""
        self.values -= 1
        if self.values < 0:
            raise TooMuchError
        if isinstance(value, str):
            self.text -= len(value)
            if self.text < 0:
                raise TooMuchError
            return value
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return _number(value)
        if isinstance(value, Mapping):
            return {self.key(key): self.give(item) for key, item in value.items()}
        return [self.give(item) for item in value]

    def key(self, key: str) -> str:
        """A member's name, counted like a text."""
        self.text -= len(key)
        return key


def _number(value: float) -> int | float:
    """One form for numbers that are equal: integers up to 2^53, beyond that a float where it is exact.

    Raises:
        TooMuchError: not finite, or an integer that neither 64 bits nor a float hold.
    """
    if -_SAFE <= value <= _SAFE:
        return int(value) if value == int(value) else value
    if not abs(value) <= sys.float_info.max:
        raise TooMuchError
    if value == int(float(value)):
        return float(value)
    if not -_LARGEST <= value < _LARGEST:
        raise TooMuchError
    return value


def _pick(arguments: Mapping[str, Json], paths: Sequence[Path], *, loops: bool) -> dict[str, Value]:
    """The named paths of the arguments in the shape of the arguments, and nothing else."""
    budget = _Budget(loops=loops)
    picked: dict[str, Value] = {}
    for path in paths:
        if len(path) == 1:
            if path[0] in arguments:
                picked[path[0]] = budget.give(arguments[path[0]])
            continue
        source: Json = arguments
        target = picked
        for name in path[:-1]:
            if not isinstance(source, Mapping) or name not in source:
                break
            source = source[name]
            if not isinstance(source, Mapping):
                target[name] = budget.give(source)
                break
            inner = target.setdefault(name, {})
            assert isinstance(inner, dict)
            target = inner
        else:
            if isinstance(source, Mapping) and path[-1] in source:
                target[path[-1]] = budget.give(source[path[-1]])
    return picked


def told(names: Scope, asked: Asked, declared: Declared) -> dict[str, Value]:
    """What is named, and nothing else.

    Raises:
        TooMuchError: the arguments named are too large.
        OverflowError, OSError: the time is out of range.
    """
    found = {name: _VARIABLES[name](names, asked, declared) for name in names.variables}
    if found.get("environment", "") is None:
        del found["environment"]
    return found


def _principal(who: Principal) -> Value:
    return {
        "subject": who.subject,
        "owner": who.owner,
        "on_behalf_of": who.on_behalf_of,
        "groups": [*sorted(who.groups)],
        "claims": dict(who.claims),
    }


def _credential(who: Principal, now: float) -> Value:
    return {"age": timedelta(seconds=max(0.0, now - who.since))} if who.since else {}


def _networks(names: Scope, address: str, declared: Declared) -> Value:
    within = {name: declared.networks[name].holds(address) for name in names.networks}
    return {name: inside for name, inside in within.items() if inside is not None}


_VARIABLES: Final[Mapping[str, Callable[[Scope, Asked, Declared], Value]]] = {
    "args": lambda names, asked, _: _pick(asked.call.arguments, names.paths, loops=names.loops),
    "principal": lambda _, asked, __: _principal(asked.call.principal),
    "source": lambda _, asked, __: {
        "address": asked.call.source.address,
        "transport": asked.call.source.transport,
    },
    "credential": lambda _, asked, __: _credential(asked.call.principal, asked.now),
    "server": lambda _, asked, __: asked.call.server,
    "tool": lambda _, asked, __: asked.call.name,
    "environment": lambda _, asked, declared: asked.environment(declared),
    "now": lambda _, asked, __: datetime.fromtimestamp(asked.now, UTC),
    "windows": lambda names, asked, declared: {name: declared.windows[name].open(asked.now) for name in names.windows},
    "networks": lambda names, asked, declared: _networks(names, asked.call.source.address, declared),
}
"""How each variable of a condition is found (`guard.policy.scope.VARIABLES`)."""
