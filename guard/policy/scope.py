"""What a condition names: variables, argument paths, functions, windows and networks, each of them known.

Walks the tree of `guard.policy.expression` once, when the file is read. A name that means nothing is a
mistake with the nearest name that does, and what would cost more than linear time is refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import NoneType
from typing import Final, TypeAlias

from guard.model import Json
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
    parse,
)
from guard.policy.vocabulary import listing, nearest

PRINCIPAL: Final = ("subject", "owner", "on_behalf_of", "groups", "claims")
SOURCE: Final = ("address", "transport", "country", "asn")
CREDENTIAL: Final = ("age",)
VARIABLES: Final = (
    *("args", "principal", "source", "credential", "server", "tool"),
    *("environment", "now", "windows", "networks"),
)
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
_EQUAL: Final = frozenset({"==", "!=", "in"})
Path: TypeAlias = tuple[str, ...]

_DIGITS: Final = 16
MAX_QUANTIFIERS: Final = 3
MAX_TEXT_STEPS: Final = 16
MAX_TEXT_STEPS_EACH: Final = 2
"""Steps that read a whole text (`matches`, `contains`, `+`) in a condition, and for each value of a quantifier."""
_READING: Final = frozenset({"matches", "contains", "+"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The names a file declares."""

    windows: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    environments: frozenset[str] = frozenset()


NOTHING: Final = Known()


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing a condition names, `variable` and `path` below it, under the `name` the engine knows it by.

    Nested values cost the engine ten times what it takes to look at them; so each thing named is a variable of its own.
    `tested`: only whether it is there. `kinds`: the types of what an argument is compared with, where that is written
    out; `each`: those of what its members are.
    """

    name: str
    variable: str
    path: Path
    tested: bool
    kinds: frozenset[type] = frozenset()
    each: frozenset[type] = frozenset()


@dataclass(frozen=True, slots=True)
class Scope:
    """What one condition names, or several. Of the argument `paths`, none is a prefix of another."""

    paths: tuple[Path, ...] = ()
    variables: frozenset[str] = frozenset()
    slots: frozenset[Slot] = frozenset()
    loops: bool = False


def joined(scopes: Iterable[Scope]) -> Scope:
    """What several conditions name together."""
    every = tuple(scopes)
    return Scope(
        _shortest({path for one in every for path in one.paths}),
        frozenset[str]().union(*(one.variables for one in every)),
        frozenset[Slot]().union(*(one.slots for one in every)),
        any(one.loops for one in every),
    )


class _Check:
    """One walk over the tree: what it names, and what is wrong with it."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.paths: set[Path] = set()
        self.variables: set[str] = set()
        self.slots: dict[tuple[int, int], Slot] = {}
        self.ranges: dict[str, Expression] = {}
        self.quantifiers = self.steps = 0

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
                self.step(tree.name, tree.at)
                self.function(tree)
                self.each(tree.arguments, bound, loops)
            case Quantifier():
                self.quantifier(tree, bound, loops)
            case Operation(operator, _, at):
                self.step(operator, at)
                self.environments(tree)
                self.each(tree.operands, bound, loops)
                self.compared(tree)

    def environments(self, tree: Operation) -> None:
        """A text that the environment is compared with must be one of its names."""
        named = any(isinstance(one, Name) and one.name == "environment" for one in tree.operands)
        if not named or not self.known.environments:
            return
        texts = [one for side in tree.operands for one in (side.operands if isinstance(side, Operation) else (side,))]
        for text in texts:
            if isinstance(text, Literal) and text.value not in self.known.environments:
                names = sorted(self.known.environments)
                rest = nearest(str(text.value), names) or f"; there are {listing(names)}"
                raise SyntaxMistake(f"there is no environment {text.value!r}{rest}", text.at)

    def compared(self, tree: Operation) -> None:
        """What an argument is compared with says of which type it must be: to the engine "1" is merely not 1."""
        if tree.operator not in _EQUAL:
            return
        left, right = tree.operands
        among = tree.operator == "in"
        self.expect(left, _kinds(right, among=among))
        self.expect(right, _kinds(left, among=False), members=among)

    def expect(self, tree: Expression, kinds: frozenset[type], *, members: bool = False) -> None:
        """An argument is to be of one of these types, or its members are."""
        if isinstance(tree, Name) and tree.name in self.ranges:
            self.expect(self.ranges[tree.name], kinds, members=True)
        slot = self.slots.get(tree.span) if isinstance(tree, Member) else None
        if isinstance(tree, Member) and kinds and slot is not None and slot.variable == "args" and not slot.tested:
            own, each = (slot.kinds, slot.each | kinds) if members else (kinds, slot.each)
            self.slots[tree.span] = _slot("args", slot.path, tested=False, kinds=own, each=each)

    def each(self, trees: tuple[Expression, ...], bound: frozenset[str], loops: int) -> None:
        """Check several subtrees."""
        for tree in trees:
            self.visit(tree, bound, loops)

    def quantifier(self, tree: Quantifier, bound: frozenset[str], loops: int) -> None:
        """One at a time: a quantifier within another makes the cost a product."""
        if loops:
            raise SyntaxMistake(f"{tree.name} inside another quantifier costs too much; use one", tree.at)
        self.quantifiers += 1
        if self.quantifiers > MAX_QUANTIFIERS:
            raise SyntaxMistake(f"a condition has at most {MAX_QUANTIFIERS} quantifiers; write two rules", tree.at)
        if tree.variable in VARIABLES:
            raise SyntaxMistake(f"{tree.variable} already means something; choose another name", tree.at)
        self.visit(tree.over, bound, loops)
        before = self.steps
        self.ranges = {tree.variable: tree.over}
        self.visit(tree.body, bound | {tree.variable}, loops + 1)
        self.ranges = {}
        if self.steps - before > MAX_TEXT_STEPS_EACH:
            said = f"at most {MAX_TEXT_STEPS_EACH} of matches, contains and + for each value of {tree.name}"
            raise SyntaxMistake(said, tree.at)

    def step(self, name: str, at: int) -> None:
        """Count what reads a whole text: many of them, for many values, would never end."""
        self.steps += name in _READING
        if self.steps > MAX_TEXT_STEPS:
            raise SyntaxMistake(f"a condition has at most {MAX_TEXT_STEPS} of matches, contains and +", at)

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
        path = tuple(reversed(parts))
        self.variable(root.name, path, root.at)
        if isinstance(tree, Member):
            self.slots[tree.span] = _slot(root.name, path, tested=tree.tested)

    def variable(self, name: str, path: Path, at: int) -> None:
        """One use of a variable from outside."""
        if name not in VARIABLES:
            raise SyntaxMistake(f"there is no {name} here{_instead(name)}", at)
        self.variables.add(name)
        match name:
            case "args":
                if not path:
                    said = "name the argument, for example args.amount; args as a whole is not available"
                    raise SyntaxMistake(said, at)
                self.paths.add(path)
            case "server" | "tool" | "now" | "environment":
                if path:
                    raise SyntaxMistake(f"{name} has no members", at)
                if name == "environment" and not self.known.environments:
                    raise SyntaxMistake("the file declares no environment; see the key `environment`", at)
            case "principal" if len(path) == 2 and path[0] == "claims":  # noqa: PLR2004 - claims.NAME
                return
            case _:
                self.member(name, path, at)

    def member(self, name: str, path: Path, at: int) -> None:
        """The one member of a variable that has some."""
        known = self.known
        fields: tuple[str, ...] = {
            "principal": PRINCIPAL,
            "source": SOURCE,
            "credential": CREDENTIAL,
            "windows": tuple(sorted(known.windows)),
            "networks": tuple(sorted(known.networks)),
        }[name]
        if path == ("claims",):
            raise SyntaxMistake("name the claim, for example principal.claims.posture", at)
        if len(path) != 1 or path[0] not in fields:
            wrong = path[0] if path else ""
            rest = nearest(wrong, fields) or (f"; there are {listing(fields)}" if fields else "; none is declared")
            raise SyntaxMistake(f"{name} has no member {wrong!r}{rest}", at)


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


def fits(value: Json, slot: Slot) -> bool:
    """Whether an argument and its members are of the types that they are compared with."""
    if slot.kinds and kind(value) not in slot.kinds:
        return False
    if not slot.each or isinstance(value, str) or not isinstance(value, Sequence | Mapping):
        return True
    return all(kind(one) in slot.each for one in value)


def kind(value: Json) -> type:
    """The type of a value, for a comparison: numbers are one, and so are lists."""
    return float if type(value) is int else list if isinstance(value, tuple) else type(value)


def _kinds(tree: Expression, *, among: bool) -> frozenset[type]:
    """The types of what is written out, or `among` a list of it; none where something is not, or is null."""
    match tree:
        case Operation("[]", items):
            kinds = [kind(one.value) if isinstance(one, Literal) else NoneType for one in items] if among else [list]
        case Literal(value):
            kinds = [kind(value)]
        case _:
            kinds = []
    return frozenset[type]() if NoneType in kinds else frozenset(kinds)


def _slot(
    variable: str,
    path: Path,
    *,
    tested: bool,
    kinds: frozenset[type] = frozenset(),
    each: frozenset[type] = frozenset(),
) -> Slot:
    said = (variable, path, tested, *(sorted(one.__name__ for one in types) for types in (kinds, each)))
    name = sha256(repr(said).encode()).hexdigest()[:_DIGITS]
    return Slot(f"v{name}", variable, path, tested, kinds, each)


def scope(text: str, known: Known) -> tuple[Scope, str]:
    """Check a condition against the names its file declares; what it names, and its text over the names of slots.

    Raises:
        SyntaxMistake: what is wrong, what to write instead, and the offset into the text.
    """
    tree = parse(text)
    check = _Check(known)
    check.visit(tree, frozenset())
    if not _boolean(tree):
        raise SyntaxMistake('a condition must be true or false; compare with "==", "<" or in', 0)
    for (start, end), slot in sorted(check.slots.items(), reverse=True):
        text = f"{text[:start]}{slot.name}{text[end:]}"
    found = Scope(
        _shortest(check.paths),
        frozenset(check.variables),
        frozenset(check.slots.values()),
        loops=check.quantifiers > 0,
    )
    return found, text
