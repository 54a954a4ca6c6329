"""Bytes to one JSON value that every parser reads alike, or a refusal (RFC 8259 within RFC 7493, I-JSON).

JSON readers disagree about duplicate members, letter case, numbers, encodings and depth; whoever forwards
bytes that two readers take differently lets the caller choose what the guard sees. So this reader accepts
only texts with one reading:

- plain UTF-8 without a byte-order mark, no unpaired surrogate; at most 4 MiB, 131,072 values and 64 levels
- objects of at most 2,048 members, whose names stay distinct after NFKC and case folding, at every depth
  and inside tool arguments too: Go's decoder matches names without regard to case (CVE-2026-27896). An
  honest map such as `{"a": 1, "A": 2}` is refused as the price of that
- finite numbers that do not underflow; integers within ±(2^53-1), unless the server is known to read them
  exactly; a fraction or exponent never hides a larger integer that a double rounds
- `1.0` and `1e0` become the integer 1, so that rules, digests and views cannot tell the spellings apart

Most clients write JSON in one way only: no white space, nothing escaped that need not be. `spelled` knows that
spelling by writing what a fast parser read once more: a text that comes back byte for byte had one reading, and
costs three fifths of what `read` takes (measured, CPython 3.11, a `tools/call` of 295 bytes: 8 µs against 13 µs).

Everything else goes through `read`: the C scanner of the standard library calls back for each object and
number; depth and values are counted without a parse, and precisely only in a text with many brackets or
commas. The bound on values is what bounds time and memory: 4 MiB of nothing but `{},` would otherwise become
a million objects. No pattern backtracks, so time is linear in the size.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Collection, Mapping
from decimal import Decimal
from itertools import accumulate
from math import isinf
from typing import Final, Never

import orjson

from guard.errors import WireError
from guard.model import Json
from guard.reasons import Code

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 2**17
MAX_MEMBERS: Final = 2048
MAX_DIGITS: Final = 1024
MAX_SAFE_INTEGER: Final = 2**53 - 1

_PARSE_ERROR: Final = -32700
_SAFE_LENGTH: Final = len(str(-MAX_SAFE_INTEGER))
_EXACT_LENGTH: Final = sys.float_info.dig  # decimals of so few digits survive the way through a double

# An unterminated string runs to the end, so the pattern always matches where a string starts and the
# possessive body never gives anything back: the scan is linear whatever the text.
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b"[]{},"))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_NONZERO_MANTISSA: Final = re.compile(r"-?[0.]*[1-9]")


def read(raw: bytes, *, exact_integers: bool = False) -> Json:
    """The one value that `raw` denotes.

    Args:
        raw: the whole text; JSON white space around the value is allowed.
        exact_integers: let integers beyond ±(2^53-1) pass (up to 1,024 digits), for a server that reads
            them exactly.

    Raises:
        WireError: not JSON (MALFORMED), not plain UTF-8 (ENCODING), a member name given twice (AMBIGUOUS),
            a number that not every reader holds exactly (NUMBER), or a bound exceeded (TOO_LARGE).
    """
    text = _text(raw)
    _check_structure(raw)
    try:
        value: Json = (_EXACT if exact_integers else _SAFE).decode(text)
    except json.JSONDecodeError as error:
        raise WireError(f"not valid JSON at character {error.pos}", rpc_code=_PARSE_ERROR, detail=error.msg) from None
    if "\\u" in text and _SURROGATE_ESCAPE.search(text):
        _check_surrogates(value)
    return value


def spelled(raw: bytes) -> Json:
    """The value of a text in its plainest spelling, the same that `read` gives; None when it has to be read.

    orjson keeps the last of two members and reads more than is allowed, so it is believed only where it
    writes the very same bytes again: then there was no second member, no other spelling of a number, no
    escape, no broken encoding. Numbers are integers within ±(2^53-1) only.
    """
    opened = raw.count(b"{") + raw.count(b"[")
    if opened > MAX_DEPTH or opened + raw.count(b",") > MAX_MEMBERS or len(raw) > MAX_BYTES:
        return None
    try:
        value: Json = orjson.loads(raw)
        same = orjson.dumps(value) == raw
    except ValueError:
        return None
    return value if same and _unequivocal(value) else None


def _unequivocal(whole: Json) -> bool:
    """Whether all member names stay distinct when folded, and all numbers are integers that everybody holds."""
    values = [whole]
    for value in values:  # which grows on the way
        kind = type(value)
        if kind is str:
            continue
        if type(value) is dict:
            if not _distinct(value):
                return False
            values += value.values()
        elif type(value) is list:
            values += value
        elif type(value) is int:
            if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
                return False
        elif kind is float:
            return False
    return True


def _text(raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise WireError("the message is larger than 4 MiB", reason=Code.TOO_LARGE)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise WireError("the message is not UTF-8", reason=Code.ENCODING, rpc_code=_PARSE_ERROR) from None
    if text.startswith("\ufeff") or "\0" in text:
        message = "the message has a byte-order mark or NUL bytes; send plain UTF-8"
        raise WireError(message, reason=Code.ENCODING, rpc_code=_PARSE_ERROR)
    return text


def _check_structure(raw: bytes) -> None:
    """Refuse deep nesting and floods of values before the scanner sees them; what strings hold does not count."""
    if (opened := raw.count(b"[") + raw.count(b"{")) <= MAX_DEPTH and opened + raw.count(b",") <= MAX_VALUES:
        return
    structure = _STRING.sub(b"", raw).translate(None, _NOT_STRUCTURE)
    if structure.count(b",") + structure.count(b"[") + structure.count(b"{") > MAX_VALUES:
        raise WireError(f"the message has more than {MAX_VALUES} values", reason=Code.TOO_LARGE)
    steps = map(_STEP.__getitem__, structure.translate(None, b","))
    if max(accumulate(steps), default=0) > MAX_DEPTH:
        raise WireError(f"the message is nested deeper than {MAX_DEPTH} levels", reason=Code.TOO_LARGE)


def _check_surrogates(value: Json) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        message = "a string holds half of a surrogate pair"
        raise WireError(message, reason=Code.ENCODING, rpc_code=_PARSE_ERROR) from None


def _object(pairs: list[tuple[str, Json]]) -> Mapping[str, Json]:
    value = dict(pairs)
    count = len(pairs)
    if count > MAX_MEMBERS:
        raise WireError(f"an object has more than {MAX_MEMBERS} members", reason=Code.TOO_LARGE)
    if len(value) != count:
        raise WireError("an object names a member twice", reason=Code.AMBIGUOUS)
    if not _distinct(value):
        message = "an object has two member names that differ only in letter case or Unicode form"
        raise WireError(message, reason=Code.AMBIGUOUS)
    return value


def _distinct(names: Collection[str]) -> bool:
    """Whether no two member names differ only in letter case or Unicode form."""
    joined = "".join(names)
    if (joined.islower() and joined.isascii()) or len(names) < 2:  # noqa: PLR2004 - one name has no double
        return True
    return len({_folded(name) for name in names}) == len(names)


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFKC", name).casefold()


def _integer(digits: str) -> int:
    if len(digits) <= _SAFE_LENGTH and -MAX_SAFE_INTEGER <= (value := int(digits)) <= MAX_SAFE_INTEGER:
        return value
    raise _number("an integer is beyond ±(2^53-1), where JSON readers round; send it as a string")


def _exact_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _number(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _fraction(digits: str) -> int | float:
    if len(digits) > MAX_DIGITS:
        raise _number(f"a number has more than {MAX_DIGITS} digits")
    value = float(digits)
    if not value and _NONZERO_MANTISSA.match(digits):
        raise _number("a number is too small for a double")
    if abs(value) <= MAX_SAFE_INTEGER:
        return int(value) if value.is_integer() else value
    if isinf(value) or (len(digits) > _EXACT_LENGTH and Decimal(digits) != Decimal(repr(value))):
        raise _number("a number is too large, or too precise, for a double")
    return value


def _constant(name: str) -> Never:
    raise _number(f"{name} is not a JSON number")


def _number(message: str) -> WireError:
    return WireError(message, reason=Code.NUMBER, rpc_code=_PARSE_ERROR)


_SAFE: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)
_EXACT: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_exact_integer, parse_float=_fraction, parse_constant=_constant
)
