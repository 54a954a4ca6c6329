"""What differs between two calls of one tool, field by field. Pure, and linear in the size of the arguments.

A field is a place in the arguments where a plain value or an empty array or object stands, named by its path:
`order.items[2].price`. Values are their canonical text, so 1 and "1" differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from guard.model import Json
from guard.wire.canonical import canonical

FIELDS: Final = 200
"""Differing fields that are told one by one; the rest is counted."""

_PLAIN: Final = re.compile(r"[\w-]+", re.ASCII)

Change = Literal["changed", "added", "left out"]


@dataclass(frozen=True, slots=True)
class Field:
    """One differing field: its path, and its canonical value before and now ("" where there is none)."""

    path: str
    change: Change
    before: str
    now: str


@dataclass(frozen=True, slots=True)
class Difference:
    """The differing fields in the order of their paths, how many more there are, and how many are the same."""

    fields: tuple[Field, ...]
    more: int
    same: int


def difference(before: str, now: str) -> Difference:
    """How the canonical arguments `now` differ from those `before`."""
    old, new = dict(_fields("", _value(before))), dict(_fields("", _value(now)))
    found: list[Field] = []
    for path in sorted(old.keys() | new.keys()):
        was, is_ = old.get(path), new.get(path)
        if was != is_:
            change: Change = "added" if was is None else "left out" if is_ is None else "changed"
            found.append(Field(path, change, was or "", is_ or ""))
    same = len(new) - sum(field.change != "left out" for field in found)
    return Difference(tuple(found[:FIELDS]), max(0, len(found) - FIELDS), same)


def _value(text: str) -> Json:
    value: Json = json.loads(text)
    return value


def _fields(path: str, value: Json) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, member in value.items():
            yield from _fields(_below(path, name), member)
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for place, member in enumerate(value):
            yield from _fields(f"{path}[{place}]", member)
    else:
        yield path or "(all)", canonical(value)


def _below(path: str, name: str) -> str:
    """A member's path; a name that is no plain word is quoted, so that no two places have one path."""
    word = name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False)
    return f"{path}.{word}" if path else word
