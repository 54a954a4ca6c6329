"""What of a call's arguments is compared with the past: short values whole, long text by what it names.

A value is normalised, and kept only as a keyed 8-byte hash, so a stolen profile reveals nothing. Beside it stands
what it belongs to (the domain of an address, the host of a URL, the folder of a path): a new page of a known
host is less news than a new host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from guard.model import Json

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

ENTITY: Final = re.compile(
    r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,32})+"  # address
    r"|(?:https?://|www\.)[^\s'\",)>\]]{1,200}"  # URL
    r"|\b[A-Z]{2}\d{6,}\w*"  # account
    r"|(?<![\w/])(?:/[\w.-]{1,64}){2,8}"  # path
)


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
        self.digests = lru_cache(maxsize=8192)(self._digests)
        """The hash of a normalised text, and of what it belongs to (0: nothing)."""

    def _digests(self, text: str) -> tuple[int, int]:
        above = parent(text)
        return self._digest(text), self._digest(above) if above else 0

    def _digest(self, text: str) -> int:
        state = self._base.copy()
        state.update(text.encode("utf-8", "surrogatepass"))
        return int.from_bytes(state.digest(), "big")


def parent(text: str) -> str:
    """What a value belongs to: the domain, the host, or the folder; "" when it is nothing of the kind."""
    if "://" in text or text.startswith("www."):
        host = text.partition("://")[2] or text
        return "@" + host.partition("/")[0].rpartition("@")[2].partition(":")[0].removeprefix("www.")
    if "@" in text:
        domain = "@" + text.rpartition("@")[2]
        return "" if domain in EVERYBODY else domain
    if "/" in text:
        head = text.rpartition("/")[0]
        return (head or "/") + "/"
    return ""


def leaves(arguments: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """(path, text) of every leaf in order; lists share the path of their members. No recursion, no bound."""
    todo: list[tuple[str, Json]] = [("." + key[:NAME], value) for key, value in arguments.items()]
    todo.reverse()
    while todo:
        path, value = todo.pop()
        if isinstance(value, str):
            if value:
                yield path, value
        elif isinstance(value, Mapping):
            todo += [(f"{path[:NAME]}.{key[:NAME]}", member) for key, member in [*value.items()][::-1]]
        elif isinstance(value, list | tuple):
            todo += [(path, member) for member in reversed(value)]
        elif value is not None:
            yield path, str(value)


def values(arguments: Mapping[str, Json], hasher: Hasher) -> tuple[Value, ...]:
    """The values of a call that are compared, at most `LEAVES`."""
    found: list[Value] = []
    for path, text in leaves(arguments):
        if len(found) >= LEAVES:
            break
        plain = text[: SHORT * 2].strip().lower()
        if len(text) > SHORT or plain.count(" ") >= WORDS:
            found += [Value(path + "#", entity, *hasher.digests(entity)) for entity in entities(text)]
        elif plain:
            found.append(Value(path, plain, *hasher.digests(plain)))
    return tuple(found)


def entities(text: str) -> list[str]:
    """Addresses, URLs, accounts and paths in the first `READ` characters of a text, in lower case, each once."""
    matches = dict.fromkeys(one.lower().rstrip(".") for one in ENTITY.findall(text[:READ]))
    return list(matches)[:ENTITIES]
