"""Conditions of rules: CEL, checked when the file is read, evaluated with as little as they need.

A condition sees `args`, `principal.{subject,owner,on_behalf_of}`, `source.{address,transport}`, `server`,
`tool`, `now` (a timestamp) and `windows.NAME`. Of the arguments only the paths it names are handed to the
engine, so a long argument that no rule mentions costs nothing; `args` as a whole may not be used.

JSON numbers that RFC 8785 writes alike are one value here: `10001.0` is the integer `10001`. Strings are
compared as they are: no case folding, no path or percent decoding. A missing path is an error in CEL, not
false, unless `has(...)` guards it or another operand of `&&`, `||` decides; an error is a `Failure`, and
the caller takes the stricter branch. `matches` runs on an automaton (RE2 syntax) in linear time and wants
a constant pattern. What is handed over is bounded by `MAX_VALUES` and `MAX_TEXT`; beyond, `Failure`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from guard.model import Call, Json
from guard.policy.expression import SyntaxMistake, parse
from guard.policy.scope import PRINCIPAL, SOURCE, Path, Scope, scope
from guard.policy.windows import Window

if TYPE_CHECKING:
    import cel

MAX_VALUES: Final = 1024
MAX_TEXT: Final = 64 * 1024

_SAFE: Final = 2**53
_LARGEST: Final = 2**63

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | datetime | None"


@dataclass(frozen=True, slots=True)
class Failure:
    """A condition that could not be evaluated; `why` never quotes an argument's value."""

    why: str


@dataclass(frozen=True, slots=True)
class Condition:
    """One checked and compiled condition and the names it uses."""

    text: str
    names: Scope
    program: cel.Program

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"


def compile_condition(text: str, windows: frozenset[str] = frozenset()) -> Condition:
    """Check and compile one condition; `windows` are the names declared in the file.

    Raises:
        SyntaxMistake: what is wrong and what to write instead, with the offset into the text.
    """
    import cel  # noqa: PLC0415 - it brings its command line along, 0.3 s that a policy without rules need not wait

    names = scope(parse(text), windows)
    try:
        program = cel.compile(text)
    except ValueError as error:
        raise SyntaxMistake(f"the expression engine refuses this: {str(error).splitlines()[0][:120]}", 0) from error
    return Condition(text, names, program)


class _TooMuchError(ValueError):
    """The arguments a condition names are too large to look at."""


class _Budget:
    """Counts what is handed over and makes equal JSON equal."""

    def __init__(self) -> None:
        self.values = MAX_VALUES
        self.text = MAX_TEXT

    def give(self, value: Json) -> Value:
        """The value as the engine sees it."""
        self.values -= 1
        if self.values < 0:
            raise _TooMuchError
        if isinstance(value, str):
            self.text -= len(value)
            if self.text < 0:
                raise _TooMuchError
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
        _TooMuchError: not finite, or an integer that neither 64 bits nor a float hold.
    """
    if -_SAFE <= value <= _SAFE:
        return int(value) if value == int(value) else value
    if not abs(value) <= sys.float_info.max:
        raise _TooMuchError
    if value == int(float(value)):
        return float(value)
    if not -_LARGEST <= value < _LARGEST:
        raise _TooMuchError
    return value


def _pick(arguments: Mapping[str, Json], paths: Sequence[Path]) -> dict[str, Value]:
    """The named paths of the arguments in the shape of the arguments, and nothing else."""
    budget = _Budget()
    picked: dict[str, Value] = {}
    for path in paths:
        source: Json = arguments
        target = picked
        for field in path[:-1]:
            if not isinstance(source, Mapping) or field not in source:
                break
            source = source[field]
            if not isinstance(source, Mapping):
                target[field] = budget.give(source)
                break
            inner = target.setdefault(field, {})
            assert isinstance(inner, dict)
            target = inner
        else:
            if isinstance(source, Mapping) and path[-1] in source:
                target[path[-1]] = budget.give(source[path[-1]])
    return picked


def _context(
    condition: Condition, call: Call, now: float, windows: Mapping[str, Window]
) -> Iterator[tuple[str, Value]]:
    """What the condition names, and nothing else."""
    for name in condition.names.variables:
        match name:
            case "args":
                yield name, _pick(call.arguments, condition.names.paths)
            case "principal":
                yield name, {field: str(getattr(call.principal, field)) for field in PRINCIPAL}
            case "source":
                yield name, {field: str(getattr(call.source, field)) for field in SOURCE}
            case "server":
                yield name, call.server
            case "tool":
                yield name, call.name
            case "now":
                yield name, datetime.fromtimestamp(now, UTC)
            case _:
                yield name, {window: windows[window].open(now) for window in condition.names.windows}


def _run(program: cel.Program, context: dict[str, Value]) -> bool | Failure:
    """The engine's verdict; its error texts may quote values, so they are not repeated."""
    try:
        verdict: object = program.execute(context)
    except LookupError:
        return Failure("an argument it names is missing")
    except TypeError:
        return Failure("an argument has another type than the condition expects")
    except (ValueError, ArithmeticError, RuntimeError):
        return Failure("it cannot be computed from these arguments")
    return verdict if isinstance(verdict, bool) else Failure("its value is neither true nor false")


def evaluate(condition: Condition, call: Call, *, now: float, windows: Mapping[str, Window]) -> bool | Failure:
    """Whether the condition holds for this call at `now` (Unix seconds), or why nobody can tell."""
    try:
        context = dict(_context(condition, call, now, windows))
    except (_TooMuchError, OverflowError, OSError):
        return Failure("the values it names are too large to look at")
    return _run(condition.program, context)
