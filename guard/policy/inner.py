"""Tools that run other tools: the calls inside a call, as its arguments name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from guard.errors import WireError
from guard.model import Call, Json
from guard.policy.document import Runs
from guard.wire.strict import read

MAX_CALLS: Final = 64
"""Inner calls that are looked at; a call with more of them cannot be told."""


def inner_calls(runs: Runs, call: Call) -> tuple[Call, ...] | None:
    """The calls this one makes, or None when that cannot be told: a path leads nowhere, or to something else.

    Digest and canonical text of an inner call are those of the whole, because that is what is approved.
    """
    if not runs.each:
        one = _inner(runs, call, call.arguments)
        return None if one is None else (one,)
    several = _at(call.arguments, runs.each)
    if not isinstance(several, Sequence) or isinstance(several, str) or len(several) > MAX_CALLS:
        return None
    found = [_inner(runs, call, one) for one in several]
    told = tuple(one for one in found if one is not None)
    return told if len(told) == len(found) else None


def _inner(runs: Runs, call: Call, told: Json) -> Call | None:
    name = _at(told, runs.tool)
    server = _at(told, runs.server) if runs.server else call.server
    arguments = _arguments(_at(told, runs.arguments), there=_there(told, runs.arguments)) if runs.arguments else {}
    if not isinstance(name, str) or not isinstance(server, str) or arguments is None:
        return None
    return replace(call, server=server, kind="tool", name=name, arguments=arguments)


def _arguments(value: Json, *, there: bool) -> Mapping[str, Json] | None:
    """An object, the JSON text of one, or none at all."""
    if isinstance(value, str):
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
