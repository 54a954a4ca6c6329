"""Strict YAML as a tree in which every node knows its line and column.

Only what every YAML reader reads alike is taken: mappings, sequences, strings, `true`/`false` and plain
decimal numbers, in one document. Anchors, aliases, tags, merge keys and duplicate keys are mistakes, and
so is a plain scalar that YAML 1.1 and 1.2 readers disagree on (`no`, `017`, `12:30:45`, `~`). The tree is
built from parser events, so an alias is met where it is written and never expanded; size, depth and
number of nodes are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 12
MAX_NODES: Final = 50_000
MAX_MISTAKES: Final = 100

_LOADER: Final = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

_DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?")
_DISPUTED: Final = re.compile(
    r"""~ | null | yes | no | on | off | y | n | true | false | [-+]?\.(inf|nan) | \.nan | <<  # words
    | [-+]?[0-9][0-9_,.]*([eE][-+]?[0-9]+)? | [-+]?\.[0-9][0-9_]*([eE][-+]?[0-9]+)?         # numbers with a twist
    | [-+]?0[xob][0-9a-f_]+                                                                 # 0x1F, 0o17, 0b1
    | [-+]?[0-9][0-9_]*(:[0-9]{1,2})+(\.[0-9_]*)?                                           # 12:30:45 in base 60
    | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt\s].*)?                                             # dates
    | =""",
    re.VERBOSE | re.IGNORECASE,
)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands: the file's name, line and column from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake or warning: its place and a sentence that says what to write instead."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place.file}:{self.place.line}:{self.place.column}: {self.message}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A string, truth value or decimal number."""

    place: Place
    value: str | bool | int | float


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    place: Place
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping. Keys are strings and differ; the order is the file's."""

    place: Place
    entries: tuple[tuple[Scalar, Node], ...]


Node: TypeAlias = Scalar | Items | Table


class _StopError(Exception):
    """The file is beyond reading on; the mistake is already noted."""


class _Reader:
    """One pass over the events of one file."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.mistakes: list[Mistake] = []
        self._nodes = 0
        self._events: Iterator[Event] = yaml.parse(text, Loader=_LOADER)

    def note(self, place: Place, message: str) -> None:
        """Add a mistake; stop at a hundred."""
        self.mistakes.append(Mistake(place, message))
        if len(self.mistakes) >= MAX_MISTAKES:
            raise _StopError

    def fail(self, place: Place, message: str) -> _StopError:
        """Add a mistake after which nothing can be read."""
        self.mistakes.append(Mistake(place, message))
        return _StopError()

    def place(self, event: Event) -> Place:
        """Where an event starts."""
        mark = event.start_mark
        assert mark is not None, "events of a text always carry marks"
        return Place(self.file, mark.line + 1, mark.column + 1)

    def document(self) -> Node | None:
        """The only document, or None when there is none."""
        root: Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.fail(self.place(event), "a second document starts here; write one document a file")
                if event.tags or event.version:
                    self.note(self.place(event), "directives (%YAML, %TAG) are not read; remove them")
            elif isinstance(event, NodeEvent):
                root = self.node(event, 1)
        return root

    def node(self, event: Event, depth: int) -> Node:
        """The node that starts with this event."""
        place = self.place(event)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self.fail(place, f"the file holds more than {MAX_NODES} values; split it")
        if depth > MAX_DEPTH:
            raise self.fail(place, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, AliasEvent):
            raise self.fail(place, f"aliases (*{event.anchor}) are not read; write the value out")
        if isinstance(event, NodeEvent) and event.anchor is not None:
            raise self.fail(place, f"anchors (&{event.anchor}) are not read; write the value out where it is used")
        if getattr(event, "tag", None) is not None:
            self.note(place, "tags (!...) are not read; write the plain value")
        if isinstance(event, ScalarEvent):
            return self.scalar(event, place)
        if isinstance(event, SequenceStartEvent):
            return Items(place, tuple(self.children(depth)))
        assert isinstance(event, MappingStartEvent)
        return self.table(place, depth)

    def children(self, depth: int) -> Iterator[Node]:
        """The nodes up to the end of the collection."""
        for event in self._events:
            if isinstance(event, CollectionEndEvent):
                return
            yield self.node(event, depth + 1)

    def table(self, place: Place, depth: int) -> Table:
        """A mapping with distinct string keys."""
        entries: list[tuple[Scalar, Node]] = []
        seen: dict[str, Place] = {}
        nodes = self.children(depth)
        for key in nodes:
            value = next(nodes)
            if not isinstance(key, Scalar) or not isinstance(key.value, str):
                self.note(key.place, "a key is a text; quote it if it looks like a number or a truth value")
            elif key.value in seen:
                self.note(key.place, f'"{shown(key.value)}" is already given in line {seen[key.value].line}; keep one')
            else:
                seen[key.value] = key.place
                entries.append((key, value))
        return Table(place, tuple(entries))

    def scalar(self, event: ScalarEvent, place: Place) -> Scalar:
        """A scalar that every reader takes alike; anything else is noted and kept as text."""
        text = event.value
        if hidden := _UNPRINTABLE.search(text):
            self.note(place, f"the value holds an invisible character (U+{ord(hidden[0]):04X}); remove it")
        if not event.implicit[0]:
            return Scalar(place, text)
        if text in {"true", "false"}:
            return Scalar(place, text == "true")
        if match := _DECIMAL.fullmatch(text):
            return Scalar(place, float(text) if match[2] else int(text))
        if not text:
            self.note(place, 'the value is missing; write one, or "" for an empty text')
        elif _DISPUTED.fullmatch(text):
            self.note(place, f'YAML readers disagree on {shown(text)}; quote it: "{shown(text)}"')
        return Scalar(place, text)


def shown(text: str) -> str:
    """A bounded, printable form for a message."""
    cut = text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - what fits on a line of a terminal
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in cut)


def _at(text: str, index: int, file: str) -> Place:
    before = text[:index]
    return Place(file, before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)


def _decoded(raw: bytes, file: str) -> str | Mistake:
    if len(raw) > MAX_BYTES:
        return Mistake(Place(file, 1, 1), f"the file has {len(raw)} bytes; at most {MAX_BYTES} are read")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        good = raw[: error.start].decode("utf-8")
        return Mistake(_at(good, len(good), file), "this is not UTF-8; save the file as UTF-8")
    if text.startswith("\ufeff"):
        return Mistake(Place(file, 1, 1), "the file starts with a byte order mark; save it as UTF-8 without one")
    return text


def grow(raw: bytes, file: str) -> tuple[Node | None, tuple[Mistake, ...]]:
    """The tree of one file and every mistake found on the way; without mistakes the tree is complete.

    Bounded: `MAX_BYTES`, `MAX_DEPTH`, `MAX_NODES`. Never raises for any bytes.
    """
    text = _decoded(raw, file)
    if isinstance(text, Mistake):
        return None, (text,)
    try:
        reader = _Reader(text, file)
    except yaml.reader.ReaderError as error:
        return None, (Mistake(_at(text, min(error.position, len(text)), file), "a control character; remove it"),)
    root: Node | None = None
    try:
        root = reader.document()
    except _StopError:
        pass
    except yaml.reader.ReaderError as error:
        reader.mistakes.append(
            Mistake(_at(text, min(error.position, len(text)), file), "a control character; remove it")
        )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        said = ", ".join(part for part in (error.context, error.problem) if part)
        reader.mistakes.append(Mistake(place, f"not YAML: {said}"))
    if root is None and not reader.mistakes:
        reader.mistakes.append(Mistake(Place(file, 1, 1), "the file is empty; `guard policy scaffold` prints a start"))
    return root, tuple(sorted(set(reader.mistakes)))
