"""Keeps secrets and control characters out of every sink.

Two nets. Arguments appear by allowlist only: a keyed digest, the JSON type and the size of every top-level
field, so that an auditor with the key can search for a value, and nobody else can read one; the owner
opts single fields in. Whatever else is text passes the second net: patterns of well-known secrets, strings
too random to be words, and every character a reader could not see.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from math import log2
from typing import Final

from guard.model import Json
from guard.stepup.visible import visible

MASK: Final = "⟨redacted⟩"
"""What stands where a secret stood."""

TEXT_LIMIT: Final = 512
"""Characters of free text that a record keeps."""

_FIELDS: Final = 48
_DEPTH: Final = 4
_MEMBERS: Final = 16
_WINDOW: Final = 4096
_BLOCK: Final = 64
_NAMES: Final = 1024
_DIGITS: Final = 64

_ENCODE: Final = json.JSONEncoder(sort_keys=True, check_circular=False, separators=(",", ":")).encode

_TYPES: Final[Mapping[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
    dict: "object",
}
"""The JSON type's name; whatever else decoded JSON holds is an array."""

_KNOWN: Final = re.compile(
    r"""
    -----BEGIN\ [A-Z0-9 ]{0,40}PRIVATE\ KEY-----(?:[^-]|-(?!----END))*(?:-----END[A-Z0-9 ]{0,48}-----)?
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?      # JWT
    | \bgrd_[0-9A-Za-z]{8,}                                             # this guard's own keys
    | \b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{12,}                            # AWS key ids
    | (?<![A-Za-z0-9/+])(?=[A-Za-z0-9/+]{0,39}[0-9])(?=[A-Za-z0-9/+]{0,39}[A-Z])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])
    | \b(?:gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|sk-|sk_|rk_|pk_live_|AIza|npm_|pypi-|hf_|dop_v1_|shpat_)
      [A-Za-z0-9_-]{10,}
    | (?<=://)[^\s/@:]{0,128}:[^\s/@]{1,256}(?=@)                       # user:password in a URL
    """,
    re.VERBOSE,
)
_NAMED: Final = re.compile(
    r"""(?ix)
    ( (?:bearer|basic)\s{1,4}
    | (?:pass(?:word|wd|phrase|code)?|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|authorization
        |credentials?|client[_-]?secret|cookie)[A-Za-z_-]{0,16}["']?\s{0,4}[=:]\s{0,4}["']?(?:(?:bearer|basic)\s{1,4})?
    )
    (?!⟨) [^\s"',;&]{3,}
    """
)
_RUN: Final = re.compile(r"[A-Za-z0-9_+-]{20,}={0,2}")
_PIECES: Final = re.compile(r"[_+-]+")
_SPELLED: Final = re.compile(rf"({MASK}|⟨U\+[0-9A-F]{{4,6}} [A-Za-z0-9 -]{{1,96}}⟩)")
_MIXED_BITS: Final = 3.7
_LONG_PIECE: Final = 20
_LONG_BITS: Final = 3.0


class Redactor:
    """`guard.ports.Redactor` with a deployment's digest key."""

    def __init__(self, digest_key: bytes) -> None:
        """Prepare HMAC-SHA256 with a key of at most 64 bytes (RFC 2104)."""
        if not 16 <= len(digest_key) <= _BLOCK:  # noqa: PLR2004 - 128 bits at least
            raise ValueError("the digest key has 16 to 64 bytes")
        key = digest_key.ljust(_BLOCK, b"\x00")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in key))
        self._names: dict[str, str] = {}

    def arguments(self, args: Mapping[str, Json], log: frozenset[str]) -> Json:
        """Arguments by top-level field: `{"hmac": 16 hex digits, "type": JSON type, "size": bytes of JSON}`.

        The fields in `log` appear with their value, bounded and through the second net. The digest is over the
        JSON of the value with sorted members, so equal values have equal digests in every field and call.
        """
        names, fields = self._names, dict[str, Json]()
        for name, value in args.items():
            if len(fields) == _FIELDS:
                fields["..."] = {"type": "omitted", "size": len(args) - _FIELDS}
                break
            label = names.get(name) or self._name(name)
            fields[label] = self._value(value, _DEPTH) if name in log else self._digest(value)
        return fields

    def _digest(self, value: Json) -> Json:
        text = _ENCODE(value).encode() if type(value) is str else _text_of(value)
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return {"hmac": outer.hexdigest()[:16], "type": _TYPES.get(type(value), "array"), "size": len(text)}

    def _name(self, name: str) -> str:
        """A field name as it may appear; names are chosen by agents, too."""
        label = self.text(name)[:_BLOCK]
        if len(self._names) < _NAMES:
            self._names[name] = label
        return label

    def _value(self, value: Json, depth: int) -> Json:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            members = list(value.items())[:_MEMBERS] if depth else []
            return {self.text(name)[:_BLOCK]: self._named(name, member, depth) for name, member in members}
        if isinstance(value, list | tuple):
            return [self._value(member, depth - 1) for member in value[:_MEMBERS]] if depth else []
        if isinstance(value, int) and value.bit_length() > _DIGITS:
            return {"type": "number", "size": len(_text_of(value))}
        return value

    def _named(self, name: str, value: Json, depth: int) -> Json:
        """A member of an opted-in object; one that is called a password is one."""
        if isinstance(value, str) and _NAMED.match(f"{name}=xxx"):
            return MASK
        return self._value(value, depth - 1)

    def text(self, text: str) -> str:
        """Free text with secrets masked, invisible characters spelled out, at most `TEXT_LIMIT` characters long."""
        if len(text) > _WINDOW:
            text = text[:_WINDOW].rpartition(" ")[0] or text[:_BLOCK]
        text = _KNOWN.sub(MASK, text)
        text = _NAMED.sub(rf"\1{MASK}", text)
        text = _RUN.sub(_random, text)
        parts = [visible(part) for part in text.split(MASK)]  # the mask's own brackets stay as they are
        text = MASK.join(parts)
        return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 3] + "..."


def shown(text: str) -> str:
    """Text of a record made safe for a terminal; what was masked or spelled out before stays as it is."""
    return "".join(part if at % 2 else visible(part) for at, part in enumerate(_SPELLED.split(text)))


def _random(found: re.Match[str]) -> str:
    """Mask a run of letters and digits that is too random to be words, a name or a UUID."""
    run = found[0].rstrip("=")
    if not any(char.isdigit() for char in run) or run.isdigit():
        return found[0]
    bits = -sum(n / len(run) * log2(n / len(run)) for n in Counter(run).values())
    mixed = run != run.lower() and run != run.upper() and bits >= _MIXED_BITS
    long = bits >= _LONG_BITS and max(map(len, _PIECES.split(run))) >= _LONG_PIECE
    return MASK if mixed or long else found[0]


def _text_of(value: Json) -> bytes:
    """The JSON of a value as digested: sorted members, ASCII; huge integers in hexadecimal."""
    try:
        return _ENCODE(value).encode()
    except ValueError:  # an integer with more digits than Python writes in decimal (sys.set_int_max_str_digits)
        return repr(_hexed(value)).encode()


def _hexed(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {name: _hexed(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_hexed(member) for member in value]
    return hex(value) if isinstance(value, int) and value.bit_length() > _DIGITS else value
