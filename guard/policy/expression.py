"""The part of CEL that conditions may use, as a syntax tree.

The engine that evaluates CEL gives no tree away, and three things must be known before a condition runs:
which argument paths it names (only those are handed over), that it names nothing unknown, and that its
cost is linear in what it is given. So the text is parsed here first, by the grammar of the CEL language
definition (cel-spec, "Syntax"), without messages, bytes, unsigned numbers, `map` and `filter`, and with at
most one quantifier inside another's range. Meaning is left to the engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

MAX_LENGTH: Final = 1000
MAX_DEPTH: Final = 40


class SyntaxMistake(ValueError):  # noqa: N818 - it is a mistake of the author, reported beside the others
    """What is wrong with an expression; `at` is the offset into its text."""

    def __init__(self, message: str, at: int) -> None:
        self.at = at
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number, truth value or null."""

    value: str | int | float | bool | None
    at: int


@dataclass(frozen=True, slots=True)
class Name:
    """A variable."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Member:
    """`operand.field`, or `operand["field"]` with a constant key; `tested` inside `has(...)`.

    `span` is where the whole of it stands in the text, from the name it starts with or from `has`.
    """

    operand: Expression
    field: str
    at: int
    tested: bool = False
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Index:
    """`operand[key]` with anything but a constant text."""

    operand: Expression
    key: Expression
    at: int


@dataclass(frozen=True, slots=True)
class Function:
    """`name(arguments)` or `target.name(arguments)`; the target is then the first argument."""

    name: str
    arguments: tuple[Expression, ...]
    method: bool
    at: int


@dataclass(frozen=True, slots=True)
class Quantifier:
    """`range.all(variable, body)`, `exists` or `exists_one`."""

    name: str
    over: Expression
    variable: str
    body: Expression
    at: int


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator and its operands: `&& || ! == != < <= > >= in + - * / %`, `neg`, `?:`, and `[]` for a list."""

    operator: str
    operands: tuple[Expression, ...]
    at: int


Expression: TypeAlias = Literal | Name | Member | Index | Function | Quantifier | Operation

QUANTIFIERS: Final = frozenset({"all", "exists", "exists_one"})
_RESERVED: Final = frozenset(
    [
        *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "in"),
        *("let", "loop", "package", "namespace", "return", "var", "void", "while"),
    ]
)

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    | (?P<number>(?:[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|0x[0-9a-fA-F]+|[0-9]+)(?![A-Za-z0-9_]))
    | (?P<text>[rR]?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%!<>=?:.,()\[\]])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES: Final[Mapping[str, str]] = {
    "\\": "\\", '"': '"', "'": "'", "`": "`", "?": "?", "n": "\n", "r": "\r", "t": "\t",
}  # fmt: skip
_CONSTANTS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None}
_BINARY: Final = (
    frozenset({"||"}),
    frozenset({"&&"}),
    frozenset({"==", "!=", "<", "<=", ">", ">=", "in"}),
    frozenset({"+", "-"}),
    frozenset({"*", "/", "%"}),
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise SyntaxMistake(f"{text[at]!r} is not understood here", at)
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(_Token(kind, match[0], at))
        at = match.end()
    found.append(_Token("end", "", len(text)))
    return found


def _unquoted(token: _Token) -> str:
    if token.text[0] in "rR":
        return token.text[2:-1]

    def character(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) > 1:
            point = int(code[1:], 16)
            if 0xD800 <= point <= 0xDFFF:  # noqa: PLR2004 - the surrogates
                raise SyntaxMistake(f"\\{code} is half a character", token.at)
            return chr(point)
        if code not in _ESCAPES:
            raise SyntaxMistake(f'the escape \\{code} is not known; use r"..." for a pattern', token.at)
        return _ESCAPES[code]

    return _ESCAPE.sub(character, token.text[1:-1])


class _Parser:
    """Recursive descent, one method a level; depth is bounded."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    @property
    def token(self) -> _Token:
        return self._tokens[self._next]

    @property
    def end(self) -> int:
        """The offset behind the token taken last."""
        last = self._tokens[self._next - 1]
        return last.at + len(last.text)

    def take(self) -> _Token:
        token = self.token
        self._next += token.kind != "end"
        return token

    def accept(self, *signs: str) -> _Token | None:
        """Take the next token if it is one of these."""
        return self.take() if self.token.kind != "text" and self.token.text in signs else None

    def expect(self, sign: str) -> None:
        """Take exactly this sign."""
        if not self.accept(sign):
            raise SyntaxMistake(f"expected {sign!r}, found {self.token.text or 'the end'!r}", self.token.at)

    def whole(self) -> Expression:
        """The expression and nothing after it."""
        tree = self.expression()
        if self.token.kind != "end":
            hint = '; write "==" to compare' if self.token.text == "=" else ""
            raise SyntaxMistake(f"{self.token.text!r} was not expected here{hint}", self.token.at)
        return tree

    def expression(self) -> Expression:
        """`condition ? this : that`, or less."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SyntaxMistake("nested too deeply", self.token.at)
        tree = self.binary(0)
        if sign := self.accept("?"):
            then = self.binary(0)
            self.expect(":")
            tree = Operation("?:", (tree, then, self.expression()), sign.at)
        self._depth -= 1
        return tree

    def binary(self, level: int) -> Expression:
        """Left-associative operators, loosest first."""
        if level == len(_BINARY):
            return self.unary()
        tree = self.binary(level + 1)
        while sign := self.accept(*_BINARY[level]):
            tree = Operation(sign.text, (tree, self.binary(level + 1)), sign.at)
        return tree

    def unary(self) -> Expression:
        """`!x`, `-x`, or a primary with its members."""
        sign = self.accept("!", "-")
        if sign is None:
            return self.members(self.primary())
        if self.token.kind == "sign" and self.token.text in {"!", "-"}:
            raise SyntaxMistake(f"{sign.text + self.token.text!r} is hard to read; use parentheses or less", sign.at)
        operand = self.unary()
        if sign.text == "-" and isinstance(operand, Literal) and type(operand.value) in {int, float}:
            assert isinstance(operand.value, int | float)
            return Literal(-operand.value, sign.at)
        return Operation("!" if sign.text == "!" else "neg", (operand,), sign.at)

    def members(self, tree: Expression) -> Expression:
        """Everything that follows with a dot or a bracket."""
        while sign := self.accept(".", "["):
            if sign.text == "[":
                key = self.expression()
                self.expect("]")
                match key:
                    case Literal(str() as field):
                        tree = Member(tree, field, sign.at, span=(_start(tree), self.end))
                    case _:
                        tree = Index(tree, key, sign.at)
                continue
            name = self.take()
            if name.kind != "name" or name.text in _RESERVED:
                raise SyntaxMistake('a name is expected after the dot; write args["..."] for other names', name.at)
            span = _start(tree), self.end
            tree = self.method(tree, name) if self.accept("(") else Member(tree, name.text, name.at, span=span)
        return tree

    def method(self, target: Expression, name: _Token) -> Expression:
        """`target.name(` was read."""
        if name.text not in QUANTIFIERS:
            return Function(name.text, (target, *self.arguments()), method=True, at=name.at)
        variable = self.take()
        if variable.kind != "name" or variable.text in _RESERVED:
            raise SyntaxMistake(f"{name.text} wants a name first: list.{name.text}(x, x == 1)", variable.at)
        self.expect(",")
        body = self.expression()
        self.expect(")")
        return Quantifier(name.text, target, variable.text, body, name.at)

    def arguments(self, end: str = ")") -> tuple[Expression, ...]:
        """Expressions up to the closing bracket."""
        found: list[Expression] = []
        while not self.accept(end):
            if found:
                self.expect(",")
            found.append(self.expression())
        return tuple(found)

    def primary(self) -> Expression:
        """A literal, a name, a call, a list or something in parentheses."""
        token = self.take()
        if token.kind in {"text", "number"}:
            return Literal(_unquoted(token) if token.kind == "text" else _number(token), token.at)
        if token.kind == "sign":
            return self.bracketed(token)
        if token.kind != "name" or token.text in _RESERVED:
            raise SyntaxMistake(f"{token.text or 'the end'!r} was not expected here", token.at)
        if token.text in _CONSTANTS:
            return Literal(_CONSTANTS[token.text], token.at)
        if not self.accept("("):
            return Name(token.text, token.at)
        return self.function(token)

    def bracketed(self, sign: _Token) -> Expression:
        """Something in parentheses, or a list."""
        if sign.text == "[":
            return Operation("[]", self.arguments("]"), sign.at)
        if sign.text != "(":
            raise SyntaxMistake(f"{sign.text!r} was not expected here", sign.at)
        tree = self.expression()
        self.expect(")")
        return tree

    def function(self, name: _Token) -> Expression:
        """`name(` was read."""
        arguments = self.arguments()
        if name.text != "has":
            return Function(name.text, arguments, method=False, at=name.at)
        if len(arguments) != 1 or not isinstance(arguments[0], Member):
            raise SyntaxMistake("has() wants one path, for example has(args.environment)", name.at)
        path = arguments[0]
        return Member(path.operand, path.field, path.at, tested=True, span=(name.at, self.end))


def _start(tree: Expression) -> int:
    return tree.span[0] if isinstance(tree, Member) else tree.at


def _number(token: _Token) -> int | float:
    text = token.text
    if text.startswith("0x"):
        raise SyntaxMistake("write the number in decimal digits", token.at)
    if text.isdigit():
        if len(text) > 18:  # noqa: PLR2004 - what 64 bits always hold
            raise SyntaxMistake("the number is too large", token.at)
        return int(text)
    return float(text)


def parse(text: str) -> Expression:
    """The tree of one condition.

    Raises:
        SyntaxMistake: the text is too long, not in the grammar, or uses what conditions may not use.
    """
    if len(text) > MAX_LENGTH:
        raise SyntaxMistake(f"a condition has at most {MAX_LENGTH} characters", MAX_LENGTH)
    return _Parser(text).whole()
