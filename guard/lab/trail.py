"""How the tags of one call came about: which entries name it, which of their rules hold, and what one rule changes.

Reads the compiled policy through the functions the guard itself decides with, so there is no second story.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from guard.model import Call, Json
from guard.policy.classify import PolicySet, applies, find
from guard.policy.conditions import Failure, compile_condition, evaluate
from guard.policy.document import Entry, Policy, Rule
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

_PARTS: Final = 16
_BINDING: Final[Mapping[str, int]] = {
    "?:": 0, "||": 1, "&&": 2, "==": 3, "!=": 3, "<": 3, "<=": 3, ">": 3, ">=": 3, "in": 3,
    "+": 4, "-": 4, "*": 5, "/": 5, "%": 5, "!": 6, "neg": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One rule: whether it holds for the call, and the same for each part of a compound condition."""

    rule: Rule
    holds: bool | Failure
    parts: tuple[tuple[str, bool | Failure], ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """One entry that names the call, with its rules in order."""

    entry: Entry
    steps: tuple[Step, ...]


def trail(policies: PolicySet, call: Call, *, now: float) -> tuple[Named, ...]:
    """The entries that decide about a call at `now` (Unix seconds): the default if none names it, () without a file."""
    policy = policies.policies.get(call.server)
    if policy is None:
        return ()
    entries = find(policy.entries.get(call.kind, ()), call.name) or (policy.default,)
    asked = Asked(call=call, now=now, settings=policies.settings, locate=policies.locate)
    return tuple(
        Named(entry, tuple(_step(policy, rule, replace(asked, origin=entry.origin)) for rule in entry.rules))
        for entry in entries
    )


def _step(policy: Policy, rule: Rule, asked: Asked) -> Step:
    holds = applies(rule, asked, policy.declared)
    if rule.when is None:
        return Step(rule, holds)
    texts = [written(part) for part in _operands(parse(rule.when.text))]
    parts: list[tuple[str, bool | Failure]] = []
    for text in texts[:_PARTS] if len(texts) > 1 else ():
        try:
            part = compile_condition(text, policy.declared.known)
        except SyntaxMistake:  # a part that is no condition by itself, such as one of a nested choice
            continue
        parts.append((text, evaluate(part, asked, policy.declared)))
    return Step(rule, holds, tuple(parts))


def _operands(tree: Expression) -> Iterator[Expression]:
    """The parts of a condition that `&&` and `||` join."""
    match tree:
        case Operation("&&" | "||", operands):
            for operand in operands:
                yield from _operands(operand)
        case _:
            yield tree


def named_values(call: Call, rule: Rule) -> Iterator[tuple[str, Json]]:
    """The arguments that a rule's condition names, with their values in this call; absent ones are left out."""
    for path in rule.when.names.paths if rule.when is not None else ():
        value: Json = call.arguments
        for field in path:
            value = value.get(field, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is not _ABSENT:
            yield "args." + ".".join(path), value


_ABSENT: Final[Json] = ("absent",)


def one_rule_otherwise(policies: PolicySet, call: Call, steps: Sequence[Named]) -> Iterator[tuple[str, PolicySet]]:
    """What would be in force if one rule held that does not, or did not that does; in words, nearest first."""
    for named in steps:
        for step in named.steps:
            if step.rule.when is None and not step.rule.environments:
                continue
            short, text = step.rule.name.rpartition(".")[2], condition_of(step.rule)
            gone = tuple(rule for rule in named.entry.rules if rule is not step.rule)
            held = tuple(
                (replace(rule, when=None, environments=frozenset())) if rule is step.rule else rule
                for rule in named.entry.rules
            )
            match step.holds:
                case True:
                    tried = [(f"if {short} did not hold ({text})", gone)]
                case False:
                    tried = [(f"if {short} held ({text})", held)]
                case _:
                    tried = [
                        (f"if {short} did not fail and did not hold ({text})", gone),
                        (f"if {short} did not fail and held ({text})", held),
                    ]
            for said, rules in tried:
                yield said, with_entry(policies, call, named.entry, replace(named.entry, rules=rules))


def condition_of(rule: Rule) -> str:
    """When a rule holds, in the words of its file."""
    within = f"environments {', '.join(sorted(rule.environments))}" if rule.environments else ""
    return ", ".join(filter(None, (rule.when.text if rule.when is not None else "", within)))


def with_entry(policies: PolicySet, call: Call, old: Entry, new: Entry) -> PolicySet:
    """The same policies with one entry of the call's server replaced."""
    policy = policies.policies[call.server]
    entries = {kind: tuple(new if one is old else one for one in found) for kind, found in policy.entries.items()}
    default = new if policy.default is old else policy.default
    changed = replace(policy, entries=entries, default=default)
    every = {**policies.policies, call.server: changed}
    return PolicySet(every, policies.revision, policies.settings, policies.locate)


def written(tree: Expression, above: int = 0) -> str:  # noqa: PLR0911 - one for each form
    """A condition's tree as text again; the same tree when it is parsed."""
    match tree:
        case Literal(value):
            return json.dumps(value, ensure_ascii=False)
        case Name(name):
            return name
        case Member(operand, field, tested=tested):
            path = (
                f"{written(operand, 9)}.{field}"
                if field.isidentifier()
                else f"{written(operand, 9)}[{json.dumps(field)}]"
            )
            return f"has({path})" if tested else path
        case Index(operand, key):
            return f"{written(operand, 9)}[{written(key)}]"
        case Function(name, arguments, method=method):
            target, rest = (written(arguments[0], 9) + ".", arguments[1:]) if method else ("", arguments)
            return f"{target}{name}({', '.join(map(written, rest))})"
        case Quantifier(name, over, variable, body):
            return f"{written(over, 9)}.{name}({variable}, {written(body)})"
        case Operation("[]", operands):
            return f"[{', '.join(map(written, operands))}]"
        case Operation():
            return _operation(tree, above)


def _operation(tree: Operation, above: int) -> str:
    level = _BINDING[tree.operator]
    match tree:
        case Operation("?:", (first, then, otherwise)):
            text = f"{written(first, 1)} ? {written(then, 1)} : {written(otherwise, 0)}"
        case Operation("!" | "neg" as sign, (operand,)):
            text = f"{'!' if sign == '!' else '-'}{written(operand, 7)}"
        case Operation(operator, (left, right)):
            text = f"{written(left, level)} {operator} {written(right, level + 1)}"
        case _:
            message = f"no operation is called {tree.operator}"
            raise ValueError(message)
    return f"({text})" if level < above else text
