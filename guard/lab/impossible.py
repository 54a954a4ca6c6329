"""Conditions that cannot be true, or cannot be false, whatever a call brings. Pure.

Finds what people write by mistake, not every contradiction: constants, one value equal to two, a number outside
its own bounds, a part beside its own negation. Silence proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from guard.lab.trail import written
from guard.policy.expression import Expression, Literal, Name, Operation, Quantifier, SyntaxMistake, parse

_FLIPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def never(text: str) -> str:
    """Why the condition can never be true; "" where that is not known."""
    return _never(_tree(text))


def always(text: str) -> str:
    """Why the condition is always true; "" where that is not known."""
    return _never(Operation("!", (_tree(text),), 0))


def _tree(text: str) -> Expression:
    try:
        return parse(text)
    except SyntaxMistake:  # of a language that is wider than this one: nothing is known
        return Name("unknown", 0)


def _never(tree: Expression) -> str:
    match _pushed(tree, negated=False):
        case Literal(False):
            return "it is false"
        case Operation("||", (left, right)):
            first, second = _never(left), _never(right)
            return first and second and f"{first}, and {second}"
        case whole:
            return _contradiction(list(_conjuncts(whole)))


def _pushed(tree: Expression, *, negated: bool) -> Expression:
    """The tree with negations moved to its leaves."""
    match tree:
        case Operation("!", (operand,)):
            return _pushed(operand, negated=not negated)
        case Operation("&&" | "||" as sign, (left, right), at):
            turned = {"&&": "||", "||": "&&"}[sign] if negated else sign
            return Operation(turned, (_pushed(left, negated=negated), _pushed(right, negated=negated)), at)
        case Operation("==" | "!=" as sign, operands, at) if negated:
            return Operation("!=" if sign == "==" else "==", operands, at)
        case Literal(bool() as value, at):
            return Literal(value is not negated, at)
        case _:
            return Operation("!", (tree,), 0) if negated else tree


def _conjuncts(tree: Expression) -> Iterator[Expression]:
    match tree:
        case Operation("&&", (left, right)):
            yield from _conjuncts(left)
            yield from _conjuncts(right)
        case _:
            yield tree


def _contradiction(parts: list[Expression]) -> str:
    """Why these parts cannot all be true."""
    texts = {written(part) for part in parts}
    equal: dict[str, Literal] = {}
    for part in parts:
        if why := _alone(part):
            return why
        if written(Operation("!", (part,), 0)) in texts:
            return f"{written(part)} stands beside its own negation"
        subject, sign, value = _compared(part)
        if value is None or sign != "==":
            continue
        known = equal.setdefault(subject, value)
        if known.value != value.value or isinstance(known.value, bool) is not isinstance(value.value, bool):
            return f"{subject} cannot be both {written(known)} and {written(value)}"
    return next(filter(None, (_outside(part, equal) for part in parts)), "") or _bounds(parts)


def _alone(part: Expression) -> str:
    """Why one part can never be true."""
    match part:
        case Literal(False):
            return "a part of it is false"
        case Operation("in", (_, Operation("[]", ()))):
            return "nothing is in an empty list"
        case Operation("||"):
            return _never(part)
        case Operation("==", (Literal(one), Literal(other))) if one != other:
            return f"{written(part)} is false"
        case Operation("!=", (one, other)) if written(one) == written(other) and not isinstance(one, Quantifier):
            return f"{written(part)} is false"
        case _:
            return ""


def _compared(part: Expression) -> tuple[str, str, Literal | None]:
    """What is compared, how, and with which literal; None where it is no such comparison."""
    match part:
        case Operation(sign, (Literal() as value, other)) if sign in _FLIPPED and not isinstance(other, Literal):
            return written(other), _FLIPPED[sign], value
        case Operation(sign, (other, Literal() as value)) if sign in _FLIPPED and not isinstance(other, Literal):
            return written(other), sign, value
        case _:
            return "", "", None


def _outside(part: Expression, equal: dict[str, Literal]) -> str:
    """Why a part contradicts what something is said to be equal to."""
    match part:
        case Operation("in", (subject, Operation("[]", items))) if all(isinstance(item, Literal) for item in items):
            name, values = written(subject), [item.value for item in items if isinstance(item, Literal)]
            known = equal.get(name)
            inside = known is None or known.value in values
            return "" if inside or known is None else f"{name} is {written(known)}, which is not in the list"
        case _:
            name, sign, value = _compared(part)
            known = equal.get(name)
            if known is None or value is None:
                return ""
            if sign == "!=" and known.value == value.value:
                return f"{name} cannot be and not be {written(value)}"
            exact = [Operation(sign, (Name(name, 0), known), 0) for sign in ("<=", ">=")]
            return _bounds([Operation(sign, (Name(name, 0), value), 0), *exact])


def _bounds(parts: list[Expression]) -> str:
    """Why numbers cannot be within all the bounds that are said of them."""
    low: dict[str, tuple[float, bool]] = {}
    high: dict[str, tuple[float, bool]] = {}
    for part in parts:
        subject, sign, value = _compared(part)
        if value is None or isinstance(value.value, bool) or not isinstance(value.value, int | float):
            continue
        number = float(value.value)
        if sign in {">", ">="}:
            low[subject] = max(low.get(subject, (number, False)), (number, sign == ">"))
        elif sign in {"<", "<="}:
            high[subject] = min(high.get(subject, (number, True)), (number, sign == "<="))
    for subject, (least, open_) in low.items():
        most, closed = high.get(subject, (float("inf"), True))
        if least > most or (least == most and (open_ or not closed)):
            return f"no number {subject} is within the bounds {least:g} and {most:g}"
    return ""
