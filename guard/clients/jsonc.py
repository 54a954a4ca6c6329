"""JSON as agents' configuration files are written: with comments, trailing commas and a byte order mark, or without.

VS Code and its relatives read their files as JSON with comments. A file of plain JSON is read the same way. What two
readers could take differently (a key that comes twice, a number like 01) is refused: it has to be clear which server
is wrapped.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from guard.clients.source import DEPTH, Node, fail

_SKIP: Final = re.compile(r"(?:[ \t\r\n\ufeff]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}))*"')
_WORD: Final = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_AFTER: Final = re.compile(r"[A-Za-z0-9_.+-]")


class _Reader:
    """One pass over a text."""

    def __init__(self, text: str, file: str) -> None:
        self._text, self._file, self._at = text, file, 0

    def whole(self) -> Node:
        self._skip()
        node = self._value(0)
        self._skip()
        if self._at < len(self._text):
            self._fail("there is something after the end of the JSON value")
        return node

    def _value(self, depth: int) -> Node:
        if depth > DEPTH:
            self._fail(f"values are nested more than {DEPTH} levels deep")
        match self._text[self._at : self._at + 1]:
            case "{":
                return self._object(depth)
            case "[":
                return self._array(depth)
            case '"':
                return self._string()
            case _:
                return self._word()

    def _object(self, depth: int) -> Node:
        node = Node("table", self._at, self._at, self._at)
        self._at += 1
        while not self._closes("}"):
            at = self._at
            if self._peek() != '"':
                self._fail('expected a key in double quotes, or "}"')
            name = self._string().text or ""
            if name in node.members:
                fail(f'the key "{name}" comes twice here; remove one', self._text, at, self._file)
            self._skip()
            if self._peek() != ":":
                self._fail('expected ":" after the key')
            self._at += 1
            self._skip()
            member = self._value(depth + 1)
            member.at = at
            node.members[name] = member
            self._comma("}")
        node.end = self._at
        return node

    def _array(self, depth: int) -> Node:
        node = Node("list", self._at, self._at, self._at)
        self._at += 1
        while not self._closes("]"):
            node.items.append(self._value(depth + 1))
            self._comma("]")
        node.end = self._at
        return node

    def _closes(self, bracket: str) -> bool:
        self._skip()
        if self._peek() != bracket:
            return False
        self._at += 1
        return True

    def _comma(self, bracket: str) -> None:
        self._skip()
        if self._peek() == ",":
            self._at += 1
        elif self._peek() != bracket:
            self._fail(f'expected "," or "{bracket}"')

    def _string(self) -> Node:
        found = _STRING.match(self._text, self._at)
        if found is None:
            self._fail("this string does not end, or has a character that must be escaped")
        value: str = json.loads(found[0])
        if not (value.isprintable() or _sound(value)):
            self._fail("this string holds half of a character")
        node = Node("scalar", found.start(), found.end(), found.start(), value)
        self._at = found.end()
        return node

    def _word(self) -> Node:
        found = _WORD.match(self._text, self._at)
        if found is None or _AFTER.match(self._text, found.end()):
            self._fail("expected a JSON value" if self._at < len(self._text) else "the file ends too early")
        node = Node("scalar", found.start(), found.end(), found.start(), _meant(found[0]))
        self._at = found.end()
        return node

    def _skip(self) -> None:
        found = _SKIP.match(self._text, self._at)
        self._at = found.end() if found else self._at
        if self._text.startswith("/*", self._at):
            self._fail("this comment does not end")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _fail(self, message: str) -> NoReturn:
        fail(message, self._text, self._at, self._file)


def _meant(word: str) -> float | bool | None:
    """The value of a word; numbers are only ever compared."""
    return {"true": True, "false": False, "null": None}[word] if word[0] in "tfn" else float(word)


def _sound(text: str) -> bool:
    """Whether the text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Jsonc:
    """JSON with comments (implements `guard.clients.source.Format`)."""

    def read(self, text: str, file: str) -> Node:
        """The tree of a text; see `Format.read`."""
        return _Reader(text, file).whole()

    def quote(self, text: str) -> str:
        """A string literal."""
        return json.dumps(text, ensure_ascii=False)

    def pair(self, name: str, literal: str) -> str:
        """A key with its value."""
        return f"{self.quote(name)}: {literal}"
