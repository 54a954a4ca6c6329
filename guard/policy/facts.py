"""What conditions are told about a call: the values they name, bounded, and nothing else.

JSON numbers that RFC 8785 writes alike are one value here: `10001.0` is the integer `10001`. What is not known of a
call (the network of one without an address, the age of a key of unknown age, an environment nobody declared) is left
out, so that a condition which rests on it cannot be told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final, TypeAlias

from guard.model import SET_BACK, Call, Json, Principal
from guard.policy.environments import Environments, Origin
from guard.policy.networks import Network
from guard.policy.scope import Known, Path, Scope, Slot, fits
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where an address is: ISO 3166 code of the country, number of the autonomous system; None where not known."""

    country: str | None = None
    asn: int | None = None


@dataclass(slots=True)
class Asked:
    """One call at one moment (Unix seconds), with the environments that guard.toml names and where to look."""

    call: Call
    now: float
    settings: Mapping[str, str] | None = None
    origin: Origin | None = None
    locate: Callable[[str], Location] | None = None

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


def told(names: Scope, asked: Asked, declared: Declared) -> dict[str, Value]:
    """What is named, and nothing else; what is not known is left out.

    Raises:
        TooMuchError: the arguments named are too large.
        OverflowError, OSError: the time is out of range.
    """
    budget, call = _Budget(loops=names.loops), asked.call
    found: dict[str, Value] = {}
    for slot in names.slots:
        if slot.variable == "args":
            _hand(found, slot, call.arguments, budget)
        elif slot.tested:
            found[slot.name] = _about(slot, asked, declared) is not None
        elif (value := _about(slot, asked, declared)) is not None:
            found[slot.name] = value
    for name in names.variables & _PLAIN.keys():
        if (plain := _PLAIN[name](asked, declared)) is not None:
            found[name] = plain
    return found


def _hand(found: dict[str, Value], slot: Slot, arguments: Mapping[str, Json], budget: _Budget) -> None:
    """Put an argument among what was found, or whether it is there.

    Nothing when there is nothing to look into, or it is of another type than all that it is compared with.
    """
    value: Json = arguments
    for name in slot.path[:-1]:
        value = value.get(name) if isinstance(value, Mapping) else None
    last = slot.path[-1]
    if not isinstance(value, Mapping) or not (slot.tested or last in value):
        return
    if slot.tested:
        found[slot.name] = last in value
        return
    given = budget.give(value[last])  # first, for it is bounded
    if fits(value[last], slot):
        found[slot.name] = given


def _about(slot: Slot, asked: Asked, declared: Declared) -> Value:
    """What is known of the caller, the place and the moment; None when it is not."""
    call, name = asked.call, slot.path[0]
    match slot.variable:
        case "principal":
            return _principal(call.principal, slot.path)
        case "source":
            return _source(name, asked)
        case "credential":
            since = call.principal.since
            known = since and asked.now > since - SET_BACK  # a clock that was set back makes no key young
            return timedelta(seconds=max(0.0, asked.now - since)) if known else None
        case "networks":
            return declared.networks[name].holds(call.source.address)
        case _:
            return declared.windows[name].open(asked.now)


def _source(name: str, asked: Asked) -> Value:
    source = asked.call.source
    if name in {"address", "transport"}:
        return source.address if name == "address" else source.transport
    found = Location() if asked.locate is None or not source.address else asked.locate(source.address)
    return found.country if name == "country" else found.asn


def _principal(who: Principal, path: Path) -> Value:
    match path:
        case ("subject",):
            return who.subject
        case ("owner",):
            return who.owner
        case ("on_behalf_of",):
            return who.on_behalf_of
        case ("groups",):
            return [*sorted(who.groups)]
        case _:
            return dict(who.claims).get(path[-1])


_PLAIN: Final[Mapping[str, Callable[[Asked, Declared], Value]]] = {
    "server": lambda asked, _: asked.call.server,
    "tool": lambda asked, _: asked.call.name,
    "environment": lambda asked, declared: asked.environment(declared),
    "now": lambda asked, _: datetime.fromtimestamp(asked.now, UTC),
}
"""The variables without members."""
