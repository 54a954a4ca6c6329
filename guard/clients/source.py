"""A configuration file as text in which every value knows its place, and edits that touch nothing else.

Both readers (`jsonc`, `toml`) return the same tree. Whoever changes a value replaces its characters; comments, order
of keys, indentation, line endings and a byte order mark are never written anew, because nothing is written anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn, Protocol, TypeAlias

from guard.errors import ConfigError

Plain: TypeAlias = "str | int | float | bool | Sequence[Plain] | Mapping[str, Plain] | None"
"""What a value is, without its place. Dates and times of TOML are the text that stands there."""

DEPTH: Final = 64
"""Levels of nesting that are read."""


@dataclass(slots=True)
class Node:
    """One value: characters `start` to `end` of the text. `at` is where its key begins, or the value if it has none.

    A `table` has `members`, a `list` has `items`, a `scalar` has `value`. A key that is added next to this one goes
    on a line of its own and begins with `prefix` if `own_line` (tables of TOML), else behind a comma.
    """

    kind: Literal["table", "list", "scalar"]
    start: int
    end: int
    at: int
    value: str | float | bool | None = None
    members: dict[str, Node] = field(default_factory=dict)
    items: list[Node] = field(default_factory=list)
    own_line: bool = False
    prefix: str = ""

    @property
    def text(self) -> str | None:
        """The string it is; None when it is something else."""
        return self.value if self.kind == "scalar" and isinstance(self.value, str) else None

    def strings(self) -> list[str] | None:
        """The strings of a list; None when it is no list of strings."""
        texts = [item.text for item in self.items]
        return None if self.kind != "list" or None in texts else [text for text in texts if text is not None]

    def plain(self) -> Plain:
        """The value without places, for comparison."""
        if self.kind == "table":
            return {name: member.plain() for name, member in self.members.items()}
        return [item.plain() for item in self.items] if self.kind == "list" else self.value


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters `start` to `end` become `text`."""

    start: int
    end: int
    text: str


class Format(Protocol):
    """A language of configuration files."""

    def read(self, text: str, file: str) -> Node:
        """The tree of a text.

        Raises:
            ConfigError: it is broken, ambiguous or nested too deeply; names file, line and column.
        """
        ...

    def quote(self, text: str) -> str:
        """A string as a literal of the language, on one line."""
        ...

    def pair(self, name: str, literal: str) -> str:
        """A key with its value."""
        ...


def edited(text: str, edits: Iterable[Edit]) -> str:
    """The text with every edit made. Edits do not overlap."""
    parts: list[str] = []
    done = 0
    for edit in sorted(edits, key=lambda one: (one.start, one.end)):
        parts += [text[done : edit.start], edit.text]
        done = edit.end
    return "".join([*parts, text[done:]])


def comparable(value: object) -> str:
    """A text that is equal for equal values; not-a-number equals itself, and the order of keys does not matter."""
    return json.dumps(value, sort_keys=True, default=str)


def place(text: str, at: int) -> tuple[int, int]:
    """Line and column (from 1) of a character. LF, CRLF and a lone CR each end a line."""
    before = text[:at].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def fail(message: str, text: str, at: int, file: str) -> NoReturn:
    """Refuse a file at a place in it.

    Raises:
        ConfigError: always.
    """
    line, column = place(text, min(at, len(text)))
    raise ConfigError(message, file=file, line=line, column=column)
