"""What of a call's arguments is compared with the past: short values whole, long text by what it names.

What says where something goes is compared whole however long it is, and to the last value: an address behind a page of
blanks or behind sixty known ones is one all the same.

A value is normalised, and kept only as a keyed 8-byte hash, so a stolen profile reveals nothing. Beside it stands
what it belongs to (the domain of an address, the host of a URL, the folder of a path): a new page of a known
host is less news than a new host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from string import ascii_uppercase, digits
from typing import Final, NamedTuple

from guard.drift.effect import destination
from guard.errors import WireError
from guard.model import Json
from guard.wire.strict import read

SHORT: Final = 64
"""Characters of a value that is compared whole; of longer text only the entities count."""
WORDS: Final = 5
LEAVES: Final = 64
"""Values of one call that are looked at."""
NAME: Final = 64
"""Characters of an argument's name that count."""
READ: Final = 4096
"""Characters of one long text that are searched for entities."""
ENTITIES: Final = 16
EVERYBODY: Final = frozenset(
    f"@{name}"
    for name in [
        "gmail.com",
        "googlemail.com",
        "outlook.com",
        "hotmail.com",
        "live.com",
        "msn.com",
        "yahoo.com",
        "icloud.com",
        "me.com",
        "aol.com",
        "gmx.com",
        "gmx.de",
        "gmx.net",
        "web.de",
        "proton.me",
        "protonmail.com",
        "mail.com",
        "mail.ru",
        "yandex.ru",
        "qq.com",
        "163.com",
        "example.com",
    ]
)
"""Domains of mailboxes anybody can have: another address there is related to nothing."""

_URL: Final = re.compile(r"https?://[^\s'\",)>\]]{1,200}")
_WWW: Final = re.compile(r"www\.[^\s'\",)>\]]{1,200}")
_ACCOUNT: Final = re.compile(r"[A-Z](?<!\w[A-Z])[A-Z]\d{6,32}\w{0,32}")
_SHAPES: Final = bytes.maketrans((ascii_uppercase + digits).encode(), b"A" * 26 + b"0" * 10)
_SHAPE: Final = b"AA000000"
"""What every account has in it, letters and digits made the same: far cheaper to look for than the pattern."""
_PATH: Final = re.compile(r"/[\w.-]{1,64}(?:/[\w.-]{1,64}){1,7}")
_NAME: Final = re.compile(r"[\w.+-]{1,64}")
_DOMAIN: Final = re.compile(r"[\w-]{1,64}(?:\.[\w-]{1,32})+")
_ADDRESS: Final = re.compile(r"[^\s@,;:/?#\\<>()'\"]+(@[^\s@,;:/?#\\<>()'\"]+)")
"""One address and nothing else: several share no domain, and evil.example/x@corp.example is a page."""
_JSON: Final = re.compile(r"\s*[\[{]")
_HOST_ENDS: Final = re.compile(r"[/?#\\]")
_SIGNS: Final = (("://", _URL), ("www.", _WWW))
_TRIED: Final = 64
"""At signs of one text that are looked at."""


class Value(NamedTuple):
    """One argument value at a path: its text (never stored), its hash, and that of what it belongs to (0: nothing)."""

    path: str
    text: str
    digest: int
    parent: int


class Hasher:
    """Keyed 8-byte hashes; what was hashed lately is remembered, since agents repeat themselves."""

    def __init__(self, key: bytes) -> None:
        """Hash under `key` (at most 64 bytes)."""
        self._base = blake2b(key=key, digest_size=8)
        self.value = lru_cache(maxsize=8192)(self._value)
        """The value of a path and a normalised text."""

    def unkept(self, path: str, text: str) -> Value:
        """The same for a text of any length, which is not remembered."""
        return self._value(path, text)

    def _value(self, path: str, text: str) -> Value:
        above = parent(text)
        return Value(path, text, self._digest(text), self._digest(above) if above else 0)

    def _digest(self, text: str) -> int:
        state = self._base.copy()
        state.update(text.encode("utf-8", "surrogatepass"))
        return int.from_bytes(state.digest(), "big")


def parent(text: str) -> str:
    """What a value belongs to: the domain, the host, or the folder; "" when it is nothing of the kind."""
    if "://" in text or text.startswith("www."):
        host = _HOST_ENDS.split(text.partition("://")[2] or text, 1)[0]
        return "@" + host.rpartition("@")[2].partition(":")[0].removeprefix("www.")
    if (address := _ADDRESS.fullmatch(text)) is not None:
        return "" if address[1] in EVERYBODY else address[1]
    if "/" in text:
        head = text.rpartition("/")[0]
        return (head or "/") + "/"
    return ""


def leaves(arguments: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """(path, text) of every leaf in order; lists share the path of their members. No recursion, no bound.

    The JSON text of an object or a list is taken for what it says, as tools that are given one take it.
    """
    todo: list[tuple[str, Json]] = [("." + key[:NAME], value) for key, value in arguments.items()]
    todo.reverse()
    while todo:
        path, value = todo.pop()
        if isinstance(value, str) and _JSON.match(value):
            value = _told(value)
        if isinstance(value, str):
            if value:
                yield path, value
        elif isinstance(value, Mapping):
            todo += [(f"{path[:NAME]}.{key[:NAME]}", member) for key, member in [*value.items()][::-1]]
        elif isinstance(value, list | tuple):
            todo += [(path, member) for member in reversed(value)]
        elif value is not None:
            yield path, str(value)


def _told(text: str) -> Json:
    """What a JSON text says; the text itself where it is none, or could be read in two ways."""
    try:
        return read(text.encode())
    except (WireError, UnicodeEncodeError):
        return text


def values(arguments: Mapping[str, Json], hasher: Hasher) -> tuple[Value, ...]:
    """The values of a call that are compared: at most `LEAVES`, and destinations beyond them as one."""
    found: list[Value] = []
    beyond: list[tuple[str, str]] = []
    for path, text in leaves(arguments):
        if len(found) >= LEAVES:
            if destination(path):
                beyond.append((path, text))
            continue
        plain = text.strip().lower()
        if len(text) <= SHORT and plain.count(" ") < WORDS:
            if plain:
                found.append(hasher.value(path, plain))
            continue
        named = entities(text)
        found += [hasher.value(path + "#", entity) for entity in named]
        if plain and destination(path) and named != [plain]:
            found.append(hasher.unkept(path, plain))
    if beyond:
        found.append(hasher.unkept(beyond[0][0], " ".join(text.strip().lower() for _, text in beyond)))
    return tuple(found)


def entities(text: str) -> list[str]:
    """Addresses, URLs, accounts and paths in the first `READ` characters of a text, in lower case, each once."""
    text, found = text[:READ], list[tuple[int, str]]()
    if not text.isascii() or _SHAPE in text.encode().translate(_SHAPES):
        found += [(one.start(), one[0]) for one in _ACCOUNT.finditer(text)]
    for sign, pattern in _SIGNS:
        if sign in text:  # far cheaper than to try a pattern at every place
            found += [(one.start(), one[0]) for one in pattern.finditer(text)]
    if "@" in text:
        found += _addresses(text)
    if "/" in text:
        found += [(one.start(), one[0]) for one in _PATH.finditer(text) if not _joined(text, one.start())]
    found.sort()
    return list(dict.fromkeys([one.lower().rstrip(".") for _, one in found]))[:ENTITIES]


def _addresses(text: str) -> Iterator[tuple[int, str]]:
    """Where a mail address begins, and the address."""
    at = -1
    for _ in range(_TRIED):
        if (at := text.find("@", at + 1)) < 0:
            return
        name = _NAME.match(text[max(0, at - SHORT) : at][::-1])
        if name and (domain := _DOMAIN.match(text, at + 1)):
            yield at - name.end(), f"{name[0][::-1]}@{domain[0]}"


def _joined(text: str, at: int) -> bool:
    """Whether what begins there is the rest of something longer."""
    return at > 0 and (text[at - 1].isalnum() or text[at - 1] in "_/")
