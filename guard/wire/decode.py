"""Bytes to one JSON-RPC message of the Model Context Protocol, or a refusal.

`guard.wire.strict` makes sure that the text has one reading; this module, that the message has one meaning.
Measured against three SDK parsers, a `tools/call` with `"id": null` is a notification to one reader and
with an `error` member an answer to another; the TypeScript stdio server executes ids spelled `1.0`. So the
envelope is closed, the id is a string or an integer literal, exactly one of `method`, `result` and `error`
is there, and every method takes only the parameters the protocol gives it.

A refusal carries the request's id where that could be read beyond doubt, so that nobody waits in vain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from guard.errors import WireError
from guard.model import Json
from guard.reasons import Code
from guard.wire.message import Message, Notification, Request, Response
from guard.wire.methods import INVALID_PARAMS, TOOL_NAME, Method, method, target
from guard.wire.strict import MAX_SAFE_INTEGER, read, spelled

__all__ = ["Message", "Notification", "Request", "Response", "decode", "single_line"]

VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
MODERN_VERSIONS: Final = ("2026-07-28",)

_MAX_ID: Final = 128
_MAX_NAME: Final = 256
_SAFE_DIGITS: Final = len(str(-MAX_SAFE_INTEGER))
UNSUPPORTED_VERSION: Final = -32022
MAX_VERSION: Final = 64
"""Characters of an unknown version that are repeated to whoever asked for it."""
_REQUEST: Final = frozenset({"jsonrpc", "id", "method", "params"})
_ANSWERS: Final = (frozenset({"jsonrpc", "id", "result"}), frozenset({"jsonrpc", "id", "error"}))
_OBJECTS: Final = frozenset({"arguments", "task", "inputResponses", "_meta"})
_ERROR: Final = frozenset({"code", "message", "data"})
_READABLE: Final = frozenset({Code.NUMBER, Code.AMBIGUOUS, Code.ENCODING})
_SPELLED_AS_FRACTION: Final = re.compile(r":[ \t\n\r]*+-?[0-9]++[.eE]")
_LINE_BREAKS: Final = {"\u0085": rb"\u0085", "\u2028": rb"\u2028", "\u2029": rb"\u2029"}


def decode(raw: bytes, *, exact_integers: bool = False) -> Message:
    """The one message that `raw` denotes, as an agent sends it to a tool server.

    Args:
        raw: one JSON text, as it will be forwarded.
        exact_integers: see `guard.wire.strict.read`.

    Raises:
        WireError: see `guard.wire.strict.read`; or not a JSON-RPC 2.0 message (MALFORMED), a member that the
            protocol does not name (UNKNOWN_MEMBER), a method not on the list (UNKNOWN_METHOD), or a URI with
            two readings (AMBIGUOUS). `rpc_code` is -32700, -32600, -32601, -32602 or -32022.
    """
    value, plain = spelled(raw), True
    if value is None:
        plain = False
        try:
            value = read(raw, exact_integers=exact_integers)
        except WireError as error:
            if error.reason in _READABLE:
                error.request_id = _readable_id(raw)
            raise
    if not isinstance(value, dict):
        raise WireError("a message is one JSON object; batches are not accepted")
    if value.get("jsonrpc") != "2.0":
        raise WireError('jsonrpc must be "2.0"')
    message_id = _message_id(value, raw, plain=plain)
    try:
        if "method" in value:
            return _question(value, message_id, raw)
        return _answer(value, message_id, raw)
    except WireError as error:
        error.request_id = message_id
        raise


def _message_id(value: Mapping[str, Json], raw: bytes, *, plain: bool) -> str | int | None:
    """The id, or None when there is no such member. In a `plain` text an integer is written as one."""
    if "id" not in value:
        return None
    message_id = value["id"]
    if isinstance(message_id, str) and len(message_id) <= _MAX_ID:
        return message_id
    if type(message_id) is int and abs(message_id) <= MAX_SAFE_INTEGER and (plain or _is_literal_integer(raw)):
        return message_id
    raise WireError(f"id must be a string of at most {_MAX_ID} characters or an integer without fraction or exponent")


def _is_literal_integer(raw: bytes) -> bool:
    """Whether the id, known to be an integer, was also written as one: the strict reader turns `1.0` into 1."""
    text = raw.decode("utf-8")
    return not _SPELLED_AS_FRACTION.search(text) or type(json.loads(text)["id"]) is int


def _readable_id(raw: bytes) -> str | int | None:
    """The id of a text that is JSON and not too deep but has two readings elsewhere; None unless it is plain.

    Only an answer is addressed with it: an honest agent that sent, say, a 20-digit number learns why at once.
    """
    try:  # fractions become bytes, which are no id
        text = raw.decode("utf-8")
        pairs = json.loads(text, object_pairs_hook=tuple, parse_int=_short_integer, parse_float=str.encode)
    except ValueError:
        return None
    ids = [value for name, value in pairs if name == "id"] if isinstance(pairs, tuple) else []
    if len(ids) != 1:
        return None
    found = ids[0]
    if isinstance(found, str) and len(found) <= _MAX_ID and found.isprintable():
        return found
    return found if type(found) is int else None


def _short_integer(digits: str) -> int | None:
    """The integer if every reader holds it exactly."""
    return value if len(digits) <= _SAFE_DIGITS and abs(value := int(digits)) <= MAX_SAFE_INTEGER else None


# ------------------------------------------------------------------ requests and notifications


def _question(value: Mapping[str, Json], message_id: str | int | None, raw: bytes) -> Request | Notification:
    _closed(value, _REQUEST, "the message")
    name, params = value["method"], value.get("params", {})
    if not isinstance(name, str):
        raise WireError("method must be a string")
    if not isinstance(params, dict):
        raise WireError("params must be an object", rpc_code=INVALID_PARAMS)
    meta = params.get("_meta")
    known = method(name, modern=isinstance(meta, dict) and VERSION_KEY in meta)
    if known.request is (message_id is None):
        kind = "request and needs an id" if known.request else "notification and has no id"
        raise WireError(f"{name} is a {kind}")
    _check_params(name, known, params)
    if message_id is None:
        return Notification(name, params, raw)
    message = Request(message_id, name, params, raw)
    if known.kind not in {"tool", "protocol"}:
        target(message)
    return message


def _check_params(name: str, known: Method, params: Mapping[str, Json]) -> None:
    if known.members is not None:
        _closed(params, known.members, f"params of {name}")
    if known.named_by:
        named = params.get(known.named_by)
        if not isinstance(named, str) or not named:
            message = f"params.{known.named_by} must be a string that is not empty"
            raise WireError(message, rpc_code=INVALID_PARAMS)
        if name == "tools/call" and not TOOL_NAME.fullmatch(named):
            raise WireError("a tool name is 1 to 128 of the characters A-Z a-z 0-9 _ . -", rpc_code=INVALID_PARAMS)
        if known.kind == "prompt" and (len(named) > _MAX_NAME or not named.isprintable()):
            raise WireError(f"a prompt name is at most {_MAX_NAME} printable characters", rpc_code=INVALID_PARAMS)
    for member in _OBJECTS & params.keys():
        if not isinstance(params[member], dict):
            raise WireError(f"params.{member} must be an object", rpc_code=INVALID_PARAMS)
    if isinstance(meta := params.get("_meta"), dict):
        _check_envelope(meta)


def _check_envelope(meta: Mapping[str, Json]) -> None:
    """The pair of the modern era is there whole and well-formed, or not at all (2026-07-28, basic, `_meta`)."""
    if VERSION_KEY not in meta and CAPABILITIES_KEY not in meta:
        return
    version, capabilities = meta.get(VERSION_KEY), meta.get(CAPABILITIES_KEY)
    if not isinstance(version, str) or not isinstance(capabilities, dict):
        message = f"params._meta must hold {VERSION_KEY} (a string) and {CAPABILITIES_KEY} (an object), or neither"
        raise WireError(message, rpc_code=INVALID_PARAMS)
    if version not in MODERN_VERSIONS:
        message = "Unsupported protocol version"
        data = {"supported": MODERN_VERSIONS, "requested": version[:MAX_VERSION]}
        raise WireError(message, rpc_code=UNSUPPORTED_VERSION, data=data)


def _closed(holder: Mapping[str, Json], members: frozenset[str], where: str) -> None:
    if not holder.keys() <= members:
        raise WireError(f"{where} has a member the protocol does not name", reason=Code.UNKNOWN_MEMBER)


# ------------------------------------------------------------------ answers to a server's questions


def _answer(value: Mapping[str, Json], message_id: str | int | None, raw: bytes) -> Response:
    if value.keys() not in _ANSWERS or message_id is None:
        raise WireError("a message has an id or a method, and exactly one of method, result and error")
    if "result" in value:
        if not isinstance(result := value["result"], dict):
            raise WireError("result must be an object")
        return Response(message_id, result, None, raw)
    error = value["error"]
    if not isinstance(error, dict) or not isinstance(error.get("message"), str) or type(error.get("code")) is not int:
        raise WireError("error must be an object with an integer code and a message")
    _closed(error, _ERROR, "error")
    return Response(message_id, None, error, raw)


# ------------------------------------------------------------------ lines


def single_line(raw: bytes) -> bytes:
    r"""The same message as one line for every line reader.

    Node's `readline` and Python's `str.splitlines` also break lines at U+0085, U+2028 and U+2029, which JSON
    allows inside strings: they would read what follows as a message of its own. These characters
    become their `\uXXXX` escapes; nothing else changes. One line ending at the end is removed.

    Raises:
        WireError: a carriage return or line feed inside the line (AMBIGUOUS), or, when something had to be
            escaped, whatever `guard.wire.strict.read` finds.
    """
    line = raw.removesuffix(b"\n").removesuffix(b"\r")
    if b"\r" in line or b"\n" in line:
        raise WireError("a line holds a raw line break", reason=Code.AMBIGUOUS, rpc_code=-32700)
    escaped = line
    for character, escape in _LINE_BREAKS.items():
        escaped = escaped.replace(character.encode(), escape)
    if escaped != line and read(escaped, exact_integers=True) != read(line, exact_integers=True):
        raise WireError("a line break cannot be escaped without a change of meaning", reason=Code.AMBIGUOUS)
    return escaped
