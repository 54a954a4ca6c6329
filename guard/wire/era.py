"""Which protocol era a message belongs to, and whether its HTTP headers say the same.

The legacy era (up to 2025-11-25) shakes hands once; in the modern era (2026-07-28) every request carries its
version and capabilities in `params._meta`. The body decides. Headers exist for routers, and a server that
routes by them can be set against a guard that reads the body, so they must say what the body says and say
it once.

Not checked here: `Mcp-Param-*` headers repeat arguments that the tool's schema names, and a schema is not
at hand before the tool was listed; they pass as they are, and the policy reads the body only.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from guard.errors import WireError
from guard.model import Json
from guard.reasons import Code
from guard.wire.decode import MAX_VERSION, MODERN_VERSIONS, UNSUPPORTED_VERSION, VERSION_KEY
from guard.wire.message import Message, Notification, Request, Response
from guard.wire.methods import INVALID_PARAMS, METHODS

_CLIENT_KEY: Final = "io.modelcontextprotocol/clientInfo"

LEGACY_VERSIONS: Final = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
HEADER_MISMATCH: Final = -32020

VERSION: Final = b"mcp-protocol-version"
_METHOD: Final = b"mcp-method"
_NAME: Final = b"mcp-name"
_ROUTING: Final = frozenset({VERSION, _METHOD, _NAME})
# The specification wants `Mcp-Name` for these; the tasks extension may send it for tasks/* too.
_NAME_REQUIRED: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)
_MAX_CLIENT: Final = 64


class Era(StrEnum):
    """How client and server agree on version and capabilities: once in a handshake, or in every request."""

    LEGACY = "legacy"
    MODERN = "modern"


def era_of(message: Message) -> Era:
    """The era by the body: modern when `params._meta` carries the version of a request (`decode` checked the pair)."""
    return Era.MODERN if VERSION_KEY in _meta(message) else Era.LEGACY


def check_headers(stated: Mapping[bytes, str], message: Message) -> Era:
    """The era of a message posted over HTTP, after its routing headers were found to agree with it.

    Args:
        stated: what `routing` made of the headers.
        message: what `decode` made of the body.

    Raises:
        WireError: `MCP-Protocol-Version`, `Mcp-Method` or `Mcp-Name` is missing where the era demands it, or
            differs from the body (HEADER_MISMATCH; -32020, but -32602 when a header announces the modern era and
            the body lacks its `_meta`).
    """
    era = _agreed_era(stated.get(VERSION), message)
    demanded = era is Era.MODERN and isinstance(message, Request)
    method = stated.get(_METHOD)
    name = None if isinstance(message, Response) else message.method
    if method != name and (method is not None or demanded):
        raise _mismatch("Mcp-Method is not the method of the body")
    named = stated.get(_NAME)
    if named is None:
        if demanded and name in _NAME_REQUIRED:
            raise _mismatch("Mcp-Name is missing")
    elif _unwrapped(named) != _named(message):
        raise _mismatch("Mcp-Name is not the name in the body")
    return era


def versions_apart(headers: Sequence[tuple[bytes, bytes]], unsupported: WireError) -> WireError | None:
    """The error of a body whose version `decode` does not support, when its header states another version.

    Whoever states two versions is told so before being told which of them are known.
    """
    if unsupported.rpc_code != UNSUPPORTED_VERSION or not isinstance(unsupported.data, dict):
        return None
    try:
        if routing(headers).get(VERSION, "")[:MAX_VERSION] == unsupported.data["requested"]:
            return None
        apart = _mismatch("MCP-Protocol-Version is not the version of the body")
    except WireError as twice:
        apart = twice
    apart.request_id = unsupported.request_id
    return apart


def client_name(message: Message) -> str:
    """What the client calls itself on this message, for display only; "" when it does not say.

    At most 64 printable characters; others are left out.
    """
    info = _meta(message).get(_CLIENT_KEY)
    if info is None and isinstance(message, Request) and message.method == "initialize":
        info = message.params.get("clientInfo")
    name = info.get("name") if isinstance(info, dict) else None
    return "".join(filter(str.isprintable, name[: 4 * _MAX_CLIENT]))[:_MAX_CLIENT] if isinstance(name, str) else ""


def _meta(message: Message) -> Mapping[str, Json]:
    if isinstance(message, Response):
        return {}
    meta = message.params.get("_meta")
    return meta if isinstance(meta, dict) else {}


def routing(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, str]:
    """The headers that servers route by (`MCP-Protocol-Version`, `Mcp-Method`, `Mcp-Name`), by lower-case name.

    Raises:
        WireError: one of them is given twice (HEADER_MISMATCH).
    """
    found: dict[bytes, str] = {}
    for raw_name, value in headers:
        name = raw_name.lower()
        if name not in _ROUTING:
            continue
        if name in found:
            raise _mismatch(f"{name.decode()} is given twice")
        found[name] = value.strip(b" \t").decode("latin-1")
    return found


def _agreed_era(version: str | None, message: Message) -> Era:
    """The era of the body, once the version header agrees with it."""
    meta = _meta(message)
    if VERSION_KEY in meta:
        if version != meta[VERSION_KEY]:
            raise _mismatch("MCP-Protocol-Version is not the version of the body")
        return Era.MODERN
    if version is None or version in LEGACY_VERSIONS:
        return Era.LEGACY
    if version not in MODERN_VERSIONS:
        raise _mismatch("MCP-Protocol-Version is not a version this guard knows")
    match message:
        case Notification():
            return Era.MODERN
        case Request():
            why = f"MCP-Protocol-Version announces {version}, but params._meta has no {VERSION_KEY}"
            raise WireError(why, reason=Code.HEADER_MISMATCH, rpc_code=INVALID_PARAMS)
        case Response():
            raise _mismatch("an answer to the server's question belongs to the legacy era")


def _named(message: Message) -> Json:
    """What `Mcp-Name` has to repeat; None when the body names nothing."""
    if isinstance(message, Response):
        return None
    if message.method == "completion/complete":
        reference = message.params.get("ref")
        return reference.get("name", reference.get("uri")) if isinstance(reference, dict) else None
    return message.params.get(METHODS[message.method].named_by)


def _unwrapped(value: str) -> str:
    """A header value without its Base64 sentinel, which must be canonical (2026-07-28, transports)."""
    wrapped = _SENTINEL.fullmatch(value)
    if wrapped is None:
        return value
    try:
        decoded = base64.b64decode(wrapped[1], validate=True)
        text = decoded.decode("utf-8")
    except (binascii.Error, ValueError):
        raise _mismatch("Mcp-Name has a malformed Base64 value") from None
    if base64.b64encode(decoded).decode() != wrapped[1]:
        raise _mismatch("Mcp-Name has a Base64 value that is not canonical")
    return text


def _mismatch(message: str) -> WireError:
    return WireError(message, reason=Code.HEADER_MISMATCH, rpc_code=HEADER_MISMATCH)
