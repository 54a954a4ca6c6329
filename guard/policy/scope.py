"""What a condition names: variables, argument paths, functions and windows, each of them known.

Walks the tree of `guard.policy.expression` once, when the file is read. A name that means nothing is a
mistake with the nearest name that does, and what would cost more than linear time is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from guard.policy.expression import (
    Expression,
    Function,
    Index,
    Literal,
    Member,
    Name,
    Operation,
    Quantifier,
    SyntaxMistake,
)
from guard.policy.vocabulary import listing, nearest

PRINCIPAL: Final = ("subject", "owner", "on_behalf_of")
SOURCE: Final = ("address", "transport")
VARIABLES: Final = ("args", "principal", "source", "server", "tool", "now", "windows")
FUNCTIONS: Final[Mapping[str, tuple[int, int]]] = {
    "size": (1, 1),
    "startsWith": (2, 2),
    "endsWith": (2, 2),
    "contains": (2, 2),
    "matches": (2, 2),
    "int": (1, 1),
    "double": (1, 1),
    "string": (1, 1),
    "timestamp": (1, 1),
    "duration": (1, 1),
    "getFullYear": (1, 2),
    "getMonth": (1, 2),
    "getDate": (1, 2),
    "getDayOfWeek": (1, 2),
    "getHours": (1, 2),
    "getMinutes": (1, 2),
}
"""The functions a condition may call, with the least and the greatest number of operands."""
_BOOLEAN: Final = frozenset({"&&", "||", "!", "==", "!=", "<", "<=", ">", ">=", "in"})
Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """What one condition names. Of `paths`, none is a prefix of another."""

    paths: tuple[Path, ...]
    variables: frozenset[str]
    windows: frozenset[str]


class _Check:
    """One walk over the tree: what it names, and what is wrong with it."""

    def __init__(self, windows: frozenset[str]) -> None:
        self.known = windows
        self.paths: set[Path] = set()
        self.variables: set[str] = set()
        self.windows: set[str] = set()

    def visit(self, tree: Expression, bound: frozenset[str], loops: int = 0) -> None:
        """Check a subtree in which the names `bound` are quantified."""
        match tree:
            case Literal():
                return
            case Name() | Member():
                self.path(tree, bound, loops)
            case Index(operand, key):
                self.each((operand, key), bound, loops)
            case Function():
                self.function(tree)
                self.each(tree.arguments, bound, loops)
            case Quantifier():
                self.quantifier(tree, bound, loops)
            case Operation():
                self.each(tree.operands, bound, loops)

    def each(self, trees: tuple[Expression, ...], bound: frozenset[str], loops: int) -> None:
        """Check several subtrees."""
        for tree in trees:
            self.visit(tree, bound, loops)

    def quantifier(self, tree: Quantifier, bound: frozenset[str], loops: int) -> None:
        """One at a time: a quantifier within another makes the cost a product."""
        if loops:
            raise SyntaxMistake(f"{tree.name} inside another quantifier costs too much; use one", tree.at)
        if tree.variable in VARIABLES:
            raise SyntaxMistake(f"{tree.variable} already means something; choose another name", tree.at)
        self.visit(tree.over, bound, loops)
        self.visit(tree.body, bound | {tree.variable}, loops + 1)

    def function(self, call: Function) -> None:
        """Known, with the right number of operands; a pattern must be constant and valid."""
        if call.name not in FUNCTIONS:
            hint = nearest(call.name, FUNCTIONS) or f"; there are has, all, exists, exists_one, {listing(FUNCTIONS)}"
            raise SyntaxMistake(f"there is no function {call.name}{hint}", call.at)
        least, most = FUNCTIONS[call.name]
        if not least <= len(call.arguments) <= most:
            raise SyntaxMistake(f"{call.name} takes {least - 1 if call.method else least} operand(s) here", call.at)
        if call.name == "matches":
            match call.arguments[1]:
                case Literal(str() as pattern):
                    _pattern(pattern, call.at)
                case _:
                    raise SyntaxMistake("the pattern of matches must be written out, not computed", call.at)

    def path(self, tree: Name | Member, bound: frozenset[str], loops: int) -> None:
        """A variable with its constant members, or members of something computed."""
        parts: list[str] = []
        root: Expression = tree
        while isinstance(root, Member):
            parts.append(root.field)
            root = root.operand
        if not isinstance(root, Name):
            self.visit(root, bound, loops)
            return
        if root.name in bound:
            return
        self.variable(root.name, tuple(reversed(parts)), root.at)

    def variable(self, name: str, path: Path, at: int) -> None:
        """One use of a variable from outside."""
        if name not in VARIABLES:
            raise SyntaxMistake(f"there is no {name} here{_instead(name)}", at)
        self.variables.add(name)
        if name == "args":
            if not path:
                raise SyntaxMistake("name the argument, for example args.amount; args as a whole is not available", at)
            self.paths.add(path)
        elif name in {"server", "tool", "now"}:
            if path:
                raise SyntaxMistake(f"{name} has no members", at)
        else:
            fields = {"principal": PRINCIPAL, "source": SOURCE, "windows": tuple(sorted(self.known))}[name]
            if len(path) != 1 or path[0] not in fields:
                wrong = path[0] if path else ""
                rest = nearest(wrong, fields) or (f"; there are {listing(fields)}" if fields else "; none is declared")
                raise SyntaxMistake(f"{name} has no member {wrong!r}{rest}", at)
            if name == "windows":
                self.windows.add(path[0])


def _instead(name: str) -> str:
    if name in {"arguments", "arg", "params", "input"}:
        return '; did you mean "args"?'
    return nearest(name, VARIABLES) or f"; if it is an argument, write args.{name}"


def _boolean(tree: Expression) -> bool:
    """Whether the expression can give true or false at all, as far as its outermost form tells."""
    match tree:
        case Literal(value):
            return isinstance(value, bool)
        case Operation("?:", (_, then, otherwise)):
            return _boolean(then) and _boolean(otherwise)
        case Operation(operator):
            return operator in _BOOLEAN
        case Function(name):
            return name in {"startsWith", "endsWith", "contains", "matches"}
        case Name(name):
            return name not in VARIABLES
        case Member() | Index() | Quantifier():
            return True


def _shortest(paths: set[Path]) -> tuple[Path, ...]:
    """The paths without those that another path already contains."""
    return tuple(sorted(path for path in paths if not any(path[:cut] in paths for cut in range(1, len(path)))))


def _pattern(pattern: str, at: int) -> None:
    """Try a pattern once, so that it cannot fail later."""
    import cel  # noqa: PLC0415 - as in `guard.policy.conditions.compile_condition`

    try:
        cel.compile("text.matches(pattern)").execute({"text": "", "pattern": pattern})
    except (RuntimeError, ValueError):
        raise SyntaxMistake("the pattern is not valid RE2 syntax, or too large", at) from None


def scope(tree: Expression, windows: frozenset[str]) -> Scope:
    """Check a condition's tree; `windows` are the names declared in the file.

    Raises:
        SyntaxMistake: what is wrong, what to write instead, and the offset into the text.
    """
    check = _Check(windows)
    check.visit(tree, frozenset())
    if not _boolean(tree):
        raise SyntaxMistake('a condition must be true or false; compare with "==", "<" or in', 0)
    return Scope(_shortest(check.paths), frozenset(check.variables), frozenset(check.windows))
