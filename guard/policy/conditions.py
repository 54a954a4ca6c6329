"""Conditions of rules: CEL, checked when the file is read, evaluated with as little as they need.

What a condition may name is in `guard.policy.vocabulary.CONTEXT`, with its type. Of the arguments only the paths it
names are handed to the engine, so a long argument that no rule mentions costs nothing; `args` as a whole may not be
used. Handing over is most of the cost: each thing named is a variable of its own to the engine, not a part of a nested
one, and the conditions of one entry are told their values once, together.

Strings are compared as they are: no case folding, no path or percent decoding. What is missing is an error in CEL,
not false, unless `has(...)` guards it or another operand of `&&`, `||` decides; an error is a `Failure`, and the
caller takes the stricter branch. So is an argument of another type than what it is compared with (`==`, `!=`, `in`):
to CEL `["production"]` is merely not "production", and a tool may take it for just that. `matches` runs on an
automaton (RE2 syntax) in linear time and wants a constant pattern. What is handed over for one condition is bounded by
`MAX_VALUES` and `MAX_TEXT`; beyond, `Failure`. So are the steps that read a whole text, for each value of a quantifier
above all: every condition ends soon.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

from guard.policy.expression import SyntaxMistake
from guard.policy.facts import Asked, Declared, TooMuchError, told
from guard.policy.scope import NOTHING, Known, Scope, scope

if TYPE_CHECKING:
    import cel


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


@lru_cache(maxsize=8192)
def compile_condition(text: str, known: Known = NOTHING) -> Condition:
    """Check and compile one condition; `known` are the names declared in the file.

    Remembered, so that a reload costs what is new.

    Raises:
        SyntaxMistake: what is wrong and what to write instead, with the offset into the text.
    """
    names, flat = scope(text, known)
    try:
        program = _engine().compile(flat)
    except ValueError as error:
        raise SyntaxMistake(f"the expression engine refuses this: {str(error).splitlines()[0][:120]}", 0) from error
    return Condition(text, names, program)


@cache
def _engine() -> ModuleType:
    """The engine; its import is looked up once and not for every call."""
    import cel  # noqa: PLC0415 - it brings its command line along, 0.3 s that a policy without rules need not wait

    found: ModuleType = cel
    return found


def _run(condition: Condition, context: cel.Context, values: Collection[str]) -> bool | Failure:
    """The engine's verdict; its error texts may quote values, so they are not repeated."""
    try:
        verdict: object = condition.program.execute(context)
    except LookupError:
        return Failure("an argument it names is missing")
    except TypeError:
        return Failure("an argument has another type than the condition expects")
    except (ValueError, ArithmeticError, RuntimeError):
        return Failure(_unknown(condition.names, values))
    return verdict if isinstance(verdict, bool) else Failure("its value is neither true nor false")


def _unknown(names: Scope, values: Collection[str]) -> str:
    """Why a condition may have failed, by what it names and was not told."""
    absent = {slot.variable for slot in names.slots if slot.name not in values}
    if "args" in absent:
        compared = any(slot.kinds or slot.each for slot in names.slots if slot.name not in values)
        return "an argument it names is missing" + (" or of another type" if compared else "")
    if "environment" in names.variables and "environment" not in values:
        return "the environment is not known"
    return "what it asks about this caller is not known" if absent else "it cannot be computed from these arguments"


def evaluate(condition: Condition, asked: Asked, declared: Declared) -> bool | Failure:
    """Whether the condition holds for this call, or why nobody can tell."""
    return evaluate_all([condition], condition.names, asked, declared)[0]


def evaluate_all(
    conditions: Sequence[Condition], names: Scope, asked: Asked, declared: Declared
) -> list[bool | Failure]:
    """The same for several conditions that name `names` together."""
    try:
        values = told(names, asked, declared)
        context = _engine().Context(values)
    except (TooMuchError, ValueError, TypeError, OverflowError, OSError):
        if len(conditions) > 1:  # one may name too much; the others are still told what they need
            return [evaluate(one, asked, declared) for one in conditions]
        return [Failure("the values it names are too large to look at")]
    return [_run(condition, context, values) for condition in conditions]
