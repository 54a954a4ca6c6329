"""One text for one value, and the digests made of it.

`canonical` is RFC 8785 (JCS). `canonical_uri` is the comparison form of RFC 3986 §6.2.2, stricter: what two
readers may resolve differently is refused instead of guessed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Final

import orjson
import rfc8785

from guard.errors import WireError
from guard.model import Json
from guard.reasons import Code

_MAX_SAFE_INTEGER: Final = 2**53 - 1
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)

# ------------------------------------------------------------------ values


def canonical(value: Json) -> str:
    """The RFC 8785 text of a JSON value.

    Equal values give equal texts whatever their key order, escapes or spelling of numbers. Integers beyond
    ±(2^53-1), which only a server configured for exact integers gets, keep all their digits; RFC 8785 has no
    form for them.

    Raises:
        WireError: the value holds a number that is not finite (NUMBER), half a surrogate pair (ENCODING), or
            is nested too deeply (TOO_LARGE). Nothing that `guard.wire.decode` accepted does.
    """
    try:
        text = _encoded(value) if _plain(value) else _spelled(value)
    except rfc8785.CanonicalizationError:
        raise WireError("a number is not finite", reason=Code.NUMBER) from None
    except RecursionError:
        raise WireError("the value is nested too deeply", reason=Code.TOO_LARGE) from None
    if not text.isascii():
        _bytes(text)
    return text


def _encoded(value: Json) -> str:
    """The text of a value that is `_plain`; orjson refuses what is no Unicode and integers beyond 64 bits."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:
        return _ENCODER.encode(value)


def _plain(value: Json) -> bool:
    """Whether an encoder with sorted keys already writes JCS: no floats, ASCII keys, dict and list only."""
    kind = type(value)
    if kind is str or value is None or kind is bool or kind is int:
        return True
    if isinstance(value, dict) and kind is dict:
        return "".join(value).isascii() and all(map(_plain, value.values()))
    return isinstance(value, list) and all(map(_plain, value))


def _spelled(value: Json) -> str:
    """JCS by hand, for what `_plain` refuses. Keys sort by UTF-16 code units (RFC 8785 §3.2.3)."""
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)
    if isinstance(value, Mapping):
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{encode_basestring(name)}:{_spelled(value[name])}" for name in names) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(_spelled, value)) + "]"
    return rfc8785.dumps(value).decode()


# ------------------------------------------------------------------ digests


def digest(text: str | bytes) -> str:
    """Lower-case hex SHA-256 of the bytes, or of the UTF-8 of the text.

    Raises:
        WireError: the text holds half a surrogate pair (ENCODING).
    """
    return hashlib.sha256(_bytes(text) if isinstance(text, str) else text).hexdigest()


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise WireError("a string holds half of a surrogate pair", reason=Code.ENCODING) from None


def call_digest(*, principal: str, server: str, kind: str, name: str, definition: str, canonical_arguments: str) -> str:
    """What an approval binds: who calls what, as it is defined now, with which arguments.

    Args:
        principal: subject of the calling agent.
        server: configured name of the tool server.
        kind: "tool", "resource" or "prompt".
        name: tool name, canonical URI or prompt name.
        definition: `definition_digest` of the tool, "" where there is none.
        canonical_arguments: `canonical` text of the arguments; neither `_meta` nor the state of earlier
            rounds belongs to them, so that a retry of the same call has the same digest.
    """
    rest = _rest(principal, server, kind, name, definition)
    return digest(f'{{"arguments":"{digest(canonical_arguments)}",{rest}')


@lru_cache(maxsize=1024)
def _rest(principal: str, server: str, kind: str, name: str, definition: str) -> str:
    """What follows the arguments: RFC 8785, spelled out, texts only and the names in their order."""
    quoted = encode_basestring
    return (
        f'"definition":{quoted(definition)},"kind":{quoted(kind)},"name":{quoted(name)},'
        f'"principal":{quoted(principal)},"server":{quoted(server)},"type":"guard.call/1"}}'
    )


def definition_digest(tool: Mapping[str, Json]) -> str:
    """What the server says a tool is: the whole entry of `tools/list`, texts and schemas alike.

    The entry comes from the tool server and need not be strict JSON, so this digest also takes what
    `canonical` refuses (NaN, unpaired surrogates).

    Raises:
        WireError: the definition is nested too deeply (TOO_LARGE).
    """
    try:
        text = json.dumps(dict(tool), sort_keys=True, separators=(",", ":"))
    except RecursionError:
        raise WireError("the tool's definition is nested too deeply", reason=Code.TOO_LARGE) from None
    return digest("guard.definition/1\n" + text)


# ------------------------------------------------------------------ resource identifiers

_MAX_URI: Final = 8192
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?([^?#]*)(.*)", re.DOTALL)
_ESCAPE: Final = re.compile("%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# RFC 3986 reserved and unreserved characters, the escape sign, and the braces of RFC 6570 templates.
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%{}]")
_HIDDEN: Final = re.compile(r"[\x00-\x20\x7f-\x9f\\\s]")


def canonical_uri(uri: str) -> str:
    """The one spelling under which a resource is looked up, tagged and shown. ASCII; idempotent.

    Scheme and host are lower-cased, escapes of unreserved characters are undone and all others get capital
    digits, other characters are escaped as UTF-8, and dot segments are resolved (RFC 3986 §6.2.2, RFC 3987
    §3.1). Works on the URI templates of `completion/complete` too.

    Raises:
        WireError: two readers may disagree about it (AMBIGUOUS): no scheme, white space or control characters,
            a backslash, a malformed escape, an escaped slash, backslash, control character or escape sign,
            or dot segments that climb above the root. Or it is longer than 8,192 characters, escapes included
            (TOO_LARGE).
    """
    if len(uri) > _MAX_URI or len(escaped := _UNSAFE.sub(_escaped, uri)) > _MAX_URI:  # patterns look at no more
        raise WireError(f"a URI is longer than {_MAX_URI} characters", reason=Code.TOO_LARGE, rpc_code=-32602)
    if _HIDDEN.search(uri):
        raise _ambiguous("holds white space, a control character or a backslash")
    found = _URI.fullmatch(escaped)
    if found is None:
        raise _ambiguous("has no scheme")
    scheme, authority, path, rest = found[1], found[2], found[3], found[4]
    path = _without_dots(_ESCAPE.sub(_unescaped, path), rooted=authority is not None or path.startswith("/"))
    if authority is None:
        if path.startswith("//"):
            raise _ambiguous("has a path that would become a host")
        return f"{scheme.lower()}:{path}{_ESCAPE.sub(_unescaped, rest)}"
    user, at, host = _ESCAPE.sub(_unescaped, authority).rpartition("@")
    host = _ESCAPE.sub(lambda match: match[0].upper(), host.lower())
    return f"{scheme.lower()}://{user}{at}{host}{path}{_ESCAPE.sub(_unescaped, rest)}"


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in _bytes(match[0]))


def _unescaped(match: re.Match[str]) -> str:
    if match[1] is None:
        raise _ambiguous("has a malformed escape")
    byte = int(match[1], 16)
    if byte in _UNRESERVED:
        return chr(byte)
    if byte < ord(" ") or byte == 0x7F or byte in b"/\\%":  # noqa: PLR2004 (DEL)
        raise _ambiguous(f"escapes %{byte:02X}, which readers decode at different moments")
    return f"%{byte:02X}"


def _without_dots(path: str, *, rooted: bool) -> str:
    """Resolve `.` and `..` segments as RFC 3986 §5.2.4 does, except that nothing climbs above the root."""
    if "." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for place, segment in enumerate(segments):
        last = place == len(segments) - 1
        if segment == "..":
            if len(kept) <= rooted:
                raise _ambiguous("climbs above its root")
            kept.pop()
        elif segment != ".":
            kept.append(segment)
        if last and segment in {".", ".."}:
            kept.append("")
    return "/".join(kept)


def _ambiguous(why: str) -> WireError:
    return WireError(f"the URI {why}", reason=Code.AMBIGUOUS, rpc_code=-32602)
