"""Tools that run other tools: the calls inside a call, as its arguments name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from guard.errors import WireError
from guard.model import Call, Json
from guard.policy.document import Runs
from guard.policy.patterns import is_glob, mistake
from guard.wire.strict import read

MAX_CALLS: Final = 64
"""Inner calls that are looked at, at all depths together; a call with more of them cannot be told."""
MAX_TEXT: Final = 64 * 1024
"""Characters of arguments given as JSON text that are read, all together."""


@dataclass(slots=True)
class Budget:
    """What may still be looked at for one call: lists within lists would else be a tree of millions."""

    calls: int = MAX_CALLS
    text: int = MAX_TEXT


def inner_calls(runs: Runs, call: Call, budget: Budget) -> tuple[Call, ...] | None:
    """The calls this one makes, or None when that cannot be told: a path leads nowhere, or to something else.

    Digest and canonical text of an inner call are those of the whole, because that is what is approved.
    """
    several = _at(call.arguments, runs.each) if runs.each else [call.arguments]
    if not isinstance(several, Sequence) or isinstance(several, str) or len(several) > budget.calls:
        return None
    budget.calls -= len(several)
    found = [_inner(runs, call, one, budget) for one in several]
    told = tuple(one for one in found if one is not None)
    return told if len(told) == len(found) else None


def _inner(runs: Runs, call: Call, told: Json, budget: Budget) -> Call | None:
    name = _at(told, runs.tool)
    server = _at(told, runs.server) if runs.server else call.server
    there = _there(told, runs.arguments) if runs.arguments else False
    arguments = _arguments(_at(told, runs.arguments), budget, there=there) if runs.arguments else {}
    if not isinstance(name, str) or not isinstance(server, str) or arguments is None:
        return None
    if any(is_glob(one, "tool") or mistake(one, "tool") for one in (name, server)):
        return None  # no file can name it, and whoever looks past a blank or a sign may run one that is named
    return replace(call, server=server, kind="tool", name=name, arguments=arguments)


def _arguments(value: Json, budget: Budget, *, there: bool) -> Mapping[str, Json] | None:
    """An object, the JSON text of one, or none at all."""
    if isinstance(value, str):
        budget.text -= len(value)
        if budget.text < 0:
            return None
        try:
            value = read(value.encode())
        except (WireError, UnicodeEncodeError):
            return None
    if isinstance(value, Mapping):
        return value
    return None if there else {}


def _at(value: Json, path: Sequence[str]) -> Json:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _there(value: Json, path: Sequence[str]) -> bool:
    parent = _at(value, path[:-1])
    return isinstance(parent, Mapping) and path[-1] in parent
