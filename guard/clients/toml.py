"""TOML with the place of every value. The standard library judges the text; this finds out where things stand.

What it finds is compared with what the standard library understood. A file in which the two differ is refused, so
a mistake in here can never become a wrong edit.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Final, NoReturn

from guard.clients.source import DEPTH, Node, comparable, fail

_BLANK: Final = re.compile(r"[ \t]*")
_SKIP: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_DOT: Final = re.compile(r"[ \t]*\.[ \t]*")
_STRINGS: Final = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)
_WORD: Final = re.compile(r"[^\s,\]}#]+(?: \d\d:\d\d[^\s,\]}#]*)?")
_SIMPLE: Final = re.compile(r"""'[^']*'|"[^"\\]*\"""")
_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_MARK: Final = "\ufeff"


class _Reader:
    """One pass over a text that is known to be TOML."""

    def __init__(self, text: str, file: str) -> None:
        self._text, self._file = text, file
        self._at = len(_MARK) if text.startswith(_MARK) else 0

    def whole(self) -> Node:
        root = table = Node("table", self._at, len(self._text), self._at, own_line=True)
        self._skip()
        while self._at < len(self._text):
            if self._peek() == "[":
                table = self._header(root)
            else:
                self._pair(table, 0, own_line=True)
            self._skip()
        return root

    def _header(self, root: Node) -> Node:
        """`[a.b]` or `[[a.b]]`: the table that the lines below it are in."""
        at, several = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if several else 1
        self._blank()
        *path, last = (name for name, _ in self._key())
        self._blank()
        self._at += 2 if several else 1
        table = self._below(root, path, at)
        if several:
            parent = table.members.setdefault(last, Node("list", at, self._at, at))
            parent.items.append(Node("table", at, self._at, at))
            return parent.items[-1]
        return self._below(table, [last], at)

    def _below(self, table: Node, path: list[str], at: int) -> Node:
        """The table at a path, made where it is missing; of an array of tables, the last one."""
        for name in path:
            table = table.members.setdefault(name, Node("table", at, at, at))
            if table.kind == "list" and table.items:
                table = table.items[-1]
        return table

    def _pair(self, table: Node, depth: int, *, own_line: bool) -> None:
        at, parts = self._at, self._key()
        *path, (last, last_at) = parts
        self._blank()
        if self._peek() != "=":
            self._fail()
        self._at += 1
        self._blank()
        node = self._value(depth)
        node.at, node.own_line, node.prefix = at, own_line, self._text[at:last_at]
        self._below(table, [name for name, _ in path], at).members[last] = node

    def _key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key, each with its place."""
        parts: list[tuple[str, int]] = []
        while True:
            found = _KEY.match(self._text, self._at)
            if found is None:
                self._fail()
            quoted = found[0][0] in "\"'"
            parts.append((self._decoded(found[0]) if quoted else found[0], found.start()))
            dot = _DOT.match(self._text, found.end())
            self._at = dot.end() if dot else found.end()
            if dot is None:
                return parts

    def _decoded(self, literal: str) -> str:
        if _SIMPLE.fullmatch(literal):
            return literal[1:-1]
        value = tomllib.loads(f"v={literal}")["v"]
        return value if isinstance(value, str) else literal

    def _value(self, depth: int) -> Node:
        if depth > DEPTH:
            self._fail()
        match self._peek():
            case "[":
                return self._array(depth)
            case "{":
                return self._inline(depth)
            case _:
                return self._scalar()

    def _array(self, depth: int) -> Node:
        node = Node("list", self._at, self._at, self._at)
        self._at += 1
        self._skip()
        while self._peek() != "]":
            node.items.append(self._value(depth + 1))
            self._comma()
        self._at += 1
        node.end = self._at
        return node

    def _inline(self, depth: int) -> Node:
        node = Node("table", self._at, self._at, self._at)
        self._at += 1
        self._skip()
        while self._peek() != "}":
            self._pair(node, depth + 1, own_line=False)
            self._comma()
        self._at += 1
        node.end = self._at
        return node

    def _comma(self) -> None:
        self._skip()
        if self._peek() == ",":
            self._at += 1
            self._skip()
        elif self._peek() not in {"]", "}"}:
            self._fail()

    def _scalar(self) -> Node:
        for pattern in _STRINGS:
            if found := pattern.match(self._text, self._at):
                value: str | float | bool = self._decoded(found[0])
                break
        else:
            found = _WORD.match(self._text, self._at)
            if found is None:
                self._fail()
            value = _meant(found[0])
        self._at = found.end()
        return Node("scalar", found.start(), found.end(), found.start(), value)

    def _skip(self) -> None:
        found = _SKIP.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _blank(self) -> None:
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _fail(self) -> NoReturn:
        fail(
            "this is written in a way that cannot be edited safely; write it more plainly",
            self._text,
            self._at,
            self._file,
        )


def _meant(word: str) -> str | float | bool:
    """The value of a word: a boolean, a number, or the text of a time."""
    if _INTEGER.fullmatch(word):
        return int(word)
    value = tomllib.loads(f"v={word}")["v"]
    return value if isinstance(value, bool | int | float) else str(value)


class Toml:
    """TOML (implements `guard.clients.source.Format`)."""

    def read(self, text: str, file: str) -> Node:
        """The tree of a text; see `Format.read`."""
        try:
            understood = tomllib.loads(text.removeprefix(_MARK))
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"line (\d+), column (\d+)", str(error))
            said = re.sub(r" \(at .*\)$", "", str(error))
            fail(said, text, _offset(text, int(at[1]), int(at[2])) if at else len(text), file)
        except RecursionError:
            fail("values are nested too deeply", text, 0, file)
        root = _Reader(text, file).whole()
        if comparable(root.plain()) != comparable(understood):
            fail("this file is written in a way that cannot be edited safely; write it more plainly", text, 0, file)
        return root

    def quote(self, text: str) -> str:
        """A basic string."""
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

    def pair(self, name: str, literal: str) -> str:
        """A key with its value."""
        return f"{name} = {literal}"


def _offset(text: str, line: int, column: int) -> int:
    """The character at a line and column as the standard library counts them (CRLF is one character there)."""
    lines = text.split("\n")
    return sum(len(one) + 1 for one in lines[: line - 1]) + column - 1
