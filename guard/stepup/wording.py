"""What differs between two definitions of a tool, word by word: what a server changed in what agents read. Pure.

A definition is the JSON text of one entry of `tools/list`. Each member is compared under its path, such as
`inputSchema.properties.path.description`. Removed words stand in `[-...-]`, added ones in `{+...+}`. What is
long is only said to differ: the work is bounded by `WORDS` squared for each member, and by `MEMBERS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Final

from guard.model import Json
from guard.stepup.visible import visible

MEMBERS: Final = 40
"""Differing members that are told one by one."""
WORDS: Final = 400
"""Words of one member that are compared word by word."""

_AROUND: Final = 4
_DEPTH: Final = 24
_LONG: Final = 2_000
_SPLIT: Final = re.compile(r"\s+")
_PLAIN: Final = re.compile(r"[\w$-]+")


def wording(before: str, now: str) -> tuple[str, ...]:
    """One line for each member that differs between two definitions; () where either text is not known."""
    if not before or not now or before == now:
        return ()
    old, new = dict(_members("", _value(before), 0)), dict(_members("", _value(now), 0))
    lines: list[str] = []
    for path in sorted(old.keys() | new.keys()):
        was, is_ = old.get(path), new.get(path)
        if was != is_:
            same = was is not None and is_ is not None and was[1] == is_[1]  # the text "1" became the number 1
            words = "of another type" if same else _words(was and was[1], is_ and is_[1])
            lines.append(visible(f"{path}: {words}"))
    if len(lines) > MEMBERS:
        lines = [*lines[:MEMBERS], f"and {len(lines) - MEMBERS} more members"]
    return tuple(lines)


def _value(text: str) -> Json:
    value: Json = json.loads(text)
    return value


def _members(path: str, value: Json, depth: int) -> Iterator[tuple[str, tuple[bool, str]]]:
    """Every plain value of a definition, by path: whether it is a text, and as text."""
    if isinstance(value, Mapping) and value and depth < _DEPTH:
        for name, member in value.items():
            word = name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False)
            yield from _members(f"{path}.{word}" if path else word, member, depth + 1)
    elif isinstance(value, str):
        yield path or "(all)", (True, value)
    else:
        yield path or "(all)", (False, json.dumps(value, ensure_ascii=False, sort_keys=True))


def _words(was: str | None, is_: str | None) -> str:
    """The change of one member."""
    if was is None:
        return f"{{+{_cut(is_ or '')}+}}"
    if is_ is None:
        return f"[-{_cut(was)}-]"
    old, new = _SPLIT.split(was.strip()), _SPLIT.split(is_.strip())
    if old == new:
        return "only blanks differ"
    if len(old) > WORDS or len(new) > WORDS:
        return f"[-{_cut(was)}-] {{+{_cut(is_)}+}}"
    parts: list[str] = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(_shortened(old[i:j], first=not parts, last=j == len(old)))
            continue
        if j > i:
            parts.append(f"[-{' '.join(old[i:j])}-]")
        if m > k:
            parts.append(f"{{+{' '.join(new[k:m])}+}}")
    return _cut(" ".join(parts))


def _shortened(words: list[str], *, first: bool, last: bool) -> str:
    """Words that are the same, without the middle of a long run."""
    if len(words) <= 2 * _AROUND:
        return " ".join(words)
    head = [] if first else words[:_AROUND]
    tail = [] if last else words[-_AROUND:]
    return " ".join([*head, "...", *tail])


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else text[:_LONG] + "..."
