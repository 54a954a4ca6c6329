"""Conditions over recorded calls: true, false, or unknown, because a record holds digests where values were.

Three things are still known of a digested argument: that it was there, and, with the deployment's own digest key,
whether it equals a value that the condition writes out. Everything else that rests on it is unknown, and
so is what no record holds (who owns the agent, for example), and the country of an address without a database to
ask. `&&` and `||` are decided by one side where one side decides, as in CEL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from types import NoneType
from typing import Final, TypeAlias

from guard.lab.recorded import Recorded
from guard.lab.trail import written
from guard.model import Json
from guard.policy.classify import PolicySet, applies
from guard.policy.conditions import Condition, Failure, compile_condition, evaluate
from guard.policy.document import Rule
from guard.policy.environments import Origin
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
from guard.policy.facts import Asked
from guard.policy.scope import Known, kind

Digest: TypeAlias = Callable[[Json], str]
"""The keyed digest of a value, as records of this deployment have it."""

_KINDS: Final[Mapping[str, type]] = {
    "string": str, "number": float, "boolean": bool, "null": NoneType, "array": list, "object": dict,
}  # fmt: skip
"""The types that records name, as conditions tell them apart."""
_RECORDED: Final = frozenset({"server", "tool", "now", "windows", "networks", "source", "args"})
_LOCATED: Final = (("country",), ("asn",))
"""Members of `source` that only a database can tell: where there is none, who recorded the call may have had one."""


class Unknown:
    """A condition of which a record does not say enough; `needs` are the arguments that would have to be logged."""

    __slots__ = ("needs",)

    def __init__(self, needs: frozenset[str]) -> None:
        self.needs = needs


Verdict: TypeAlias = bool | Failure | Unknown


class Knowledge:
    """What one record tells a condition."""

    def __init__(self, recorded: Recorded, policies: PolicySet, digest: Digest | None) -> None:
        """`digest` is None where the key of the ledger's deployment is not at hand."""
        self._recorded, self._digest = recorded, digest
        self._declared = policies.policies[recorded.call.server].declared
        self._asked = Asked(call=recorded.call, now=recorded.at, settings=policies.settings, locate=policies.locate)

    def verdict(self, rule: Rule, origin: Origin | None) -> Verdict:
        """Whether a rule held for the recorded call; `origin` is where its entry reads the environment from."""
        held = True if rule.when is None else self._judge(tree_of(rule.when.text))
        return _both(held, self._there(rule, origin), decides=False) if rule.environments else held

    def _there(self, rule: Rule, origin: Origin | None) -> Verdict:
        """Whether the call was about one of the rule's environments."""
        declared = self._declared.environments
        path = (origin or declared.origin).path if declared else ()
        if path and (path[0] in self._recorded.digests or self._left_out(path[0])):
            return Unknown(frozenset({f"args.{path[0]}"}))
        return applies(replace(rule, when=None), replace(self._asked, origin=origin), self._declared)

    def _judge(self, tree: Expression) -> Verdict:
        match tree:
            case Operation("&&", (left, right)):
                return _both(self._judge(left), self._judge(right), decides=False)
            case Operation("||", (left, right)):
                return _both(self._judge(left), self._judge(right), decides=True)
            case Operation("!", (operand,)):
                found = self._judge(operand)
                return not found if isinstance(found, bool) else found
            case _:
                return self._leaf(tree)

    def _leaf(self, tree: Expression) -> Verdict:
        missing = frozenset(self._missing(tree))
        if not missing:
            return self._engine(tree)
        match tree:
            case Member(Name("args"), field, tested=True) if field in self._recorded.digests:
                return True
            case Operation("==" | "!=" as sign, (Member(Name("args"), field), Literal(value))):
                return self._equal(field, (value,), missing, negated=sign == "!=")
            case Operation("==" | "!=" as sign, (Literal(value), Member(Name("args"), field))):
                return self._equal(field, (value,), missing, negated=sign == "!=")
            case Operation("in", (Member(Name("args"), field), Operation("[]", items))) if _literal(items):
                return self._equal(field, tuple(one.value for one in items if isinstance(one, Literal)), missing)
            case _:
                return Unknown(missing)

    def _equal(
        self, field: str, values: tuple[Json, ...], missing: frozenset[str], *, negated: bool = False
    ) -> Verdict:
        """Compare digests: equal values have equal ones. A value of another type fails, as it does in the guard."""
        kinds, told = {kind(value) for value in values}, _KINDS.get(self._recorded.types.get(field, ""))
        if values and told is not None and NoneType not in kinds and told not in kinds:
            return Failure("an argument is not of the type that it is compared with")
        known = self._recorded.digests.get(field, "")
        if self._digest is None or not known:
            return Unknown(missing)
        return any(known == self._digest(spelt) for value in values for spelt in _spellings(value)) is not negated

    def _engine(self, tree: Expression) -> Verdict:
        """Ask the engine; everything the expression names is in the record."""
        condition = _compiled(written(tree), self._declared.known)
        return Unknown(frozenset()) if condition is None else evaluate(condition, self._asked, self._declared)

    def _missing(self, tree: Expression) -> Iterator[str]:
        """What the expression names and the record does not hold."""
        for name, fields in _named(tree, frozenset()):
            if name == "args":
                if fields and (fields[0] in self._recorded.digests or self._left_out(fields[0])):
                    yield f"args.{fields[0]}"
            elif name == "principal":
                if fields[:1] != ("subject",):
                    yield ".".join((name, *fields))
            elif name not in _RECORDED or (name == "source" and fields[:1] in _LOCATED and self._asked.locate is None):
                yield ".".join((name, *fields))

    def _left_out(self, field: str) -> bool:
        return self._recorded.partial and field not in self._recorded.call.arguments


def _both(left: Verdict, right: Verdict, *, decides: bool) -> Verdict:
    """`&&` (decided by false) and `||` (decided by true) over what is known."""
    if left is decides or right is decides:
        return decides
    unknown = [one for one in (left, right) if isinstance(one, Unknown)]
    if unknown:
        return Unknown(frozenset().union(*(one.needs for one in unknown)))
    failed = [one for one in (left, right) if isinstance(one, Failure)]
    return failed[0] if failed else not decides


def _literal(items: tuple[Expression, ...]) -> bool:
    return all(isinstance(item, Literal) for item in items)


def _spellings(value: Json) -> Iterator[Json]:
    """The value as JSON may have spelt it: 5 and 5.0 are equal to a condition."""
    yield value
    if isinstance(value, int) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, float) and value.is_integer():
        yield int(value)


@lru_cache(maxsize=4096)
def tree_of(text: str) -> Expression:
    """The tree of a condition that was read before."""
    return parse(text)


@lru_cache(maxsize=4096)
def _compiled(text: str, known: Known) -> Condition | None:
    try:
        return compile_condition(text, known)
    except SyntaxMistake:  # a part that is no condition by itself
        return None


def _named(tree: Expression, bound: frozenset[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every variable with its constant members."""
    match tree:
        case Literal():
            return
        case Name() | Member():
            fields: list[str] = []
            root: Expression = tree
            while isinstance(root, Member):
                fields.append(root.field)
                root = root.operand
            if not isinstance(root, Name):
                yield from _named(root, bound)
            elif root.name not in bound:
                yield root.name, tuple(reversed(fields))
        case Index(operand, key):
            yield from _named(operand, bound)
            yield from _named(key, bound)
        case Quantifier(_, over, variable, body):
            yield from _named(over, bound)
            yield from _named(body, bound | {variable})
        case Function(_, operands) | Operation(_, operands):
            for operand in operands:
                yield from _named(operand, bound)


def names(condition: Condition) -> Mapping[str, None]:
    """Every variable with its members that a condition names, dotted, in order."""
    return {".".join((name, *fields)): None for name, fields in _named(tree_of(condition.text), frozenset())}
