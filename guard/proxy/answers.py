"""What the guard reads of a line that a tool server wrote: whose answer it is, or that it asks something.

The line itself goes on byte for byte, but for line breaks that are none in JSON. A reader that would see another
id than the guard saw could be fed a false answer to a call that is still held, so members that two readers may
disagree on make a line void.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from guard.model import Json
from guard.proxy.exchange import Ending

MAX_ID: Final = 128
"""Characters of an id; no agent can answer under a longer one (`guard.wire.decode`)."""

_DECODER: Final = json.JSONDecoder()
_BREAKS: Final = (
    (b"\r", b" "),
    ("\u0085".encode(), rb"\u0085"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)
_BEGIN: Final = re.compile(r"[ \t\r\n]*\{")
_NAME: Final = re.compile(r'[ \t\r\n]*"(jsonrpc|id|method|params|result|error)"[ \t\r\n]*:[ \t\r\n]*')
_NEXT: Final = re.compile(r"[ \t\r\n]*(?:(,)|\}[ \t\r\n]*\Z)")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to the request with this id, and how it says the request ended."""

    id: str | int
    ending: Ending
    result: bool
    state: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A request of the tool server to the agent (sampling, elicitation, roots, ping)."""

    id: str | int


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification of the tool server."""


def read(line: bytes) -> Answer | Question | Notice:
    """Say what a line of a tool server is.

    Raises:
        ValueError: it is not exactly one JSON-RPC message, or two readers may see different ones.
    """
    try:
        members = _members(line.decode())
    except RecursionError as error:
        message = "nested too deeply"
        raise ValueError(message) from error
    if ("method" in members) + ("result" in members) + ("error" in members) != 1:
        message = "not exactly one of method, result and error"
        raise ValueError(message)
    if "method" in members:
        return Question(_id(members)) if "id" in members else Notice()
    return Answer(_id(members), _ending(members), "result" in members, state_of(members.get("result")))


def unbroken(line: bytes) -> bytes:
    r"""A line that `read` took, as one line for every line reader.

    Node's `readline` and Python's `str.splitlines` also break lines at a carriage return, U+0085, U+2028 and U+2029,
    and would read what follows as a message of its own: the answer to a call that is held, or a list of tools. The
    first can only stand between tokens and becomes a space, the others only in strings and become `\uXXXX` escapes.
    """
    for character, escape in _BREAKS:
        if character in line:
            line = line.replace(character, escape)
    return line


def state_of(result: Json) -> str:
    """The `requestState` of a result that wants more input; "" for every other."""
    if not isinstance(result, Mapping) or result.get("resultType") != "input_required":
        return ""
    state = result.get("requestState")
    return state if isinstance(state, str) else ""


def _members(text: str) -> dict[str, Json]:
    """The top-level members of one JSON object: those of JSON-RPC, spelled plainly, none of them twice."""
    members: dict[str, Json] = {}
    follows = _BEGIN.match(text)
    while follows is not None:
        name = _NAME.match(text, follows.end())
        if name is None or name[1] in members:
            message = "a member is not one of JSON-RPC, or comes twice"
            raise ValueError(message)
        members[name[1]], at = _DECODER.raw_decode(text, name.end())
        follows = _NEXT.match(text, at)
        if follows is not None and not follows[1]:
            return members
    message = "not one JSON object"
    raise ValueError(message)


def _id(members: Mapping[str, Json]) -> str | int:
    """The id, which is a string or an integer and nothing that merely equals one."""
    found = members.get("id")
    if isinstance(found, str) and len(found) > MAX_ID:
        message = f"the id has more than {MAX_ID} characters"
        raise ValueError(message)
    if isinstance(found, bool) or not isinstance(found, str | int):
        message = "the id is neither a string nor an integer"
        raise ValueError(message)  # noqa: TRY004  # the one error of a void line
    return found


def _ending(members: Mapping[str, Json]) -> Ending:
    """How an answer says its request ended."""
    if "error" in members:
        return Ending.UPSTREAM_ERROR
    result = members["result"]
    failed = isinstance(result, Mapping) and result.get("isError") is True
    return Ending.TOOL_ERROR if failed else Ending.OK
