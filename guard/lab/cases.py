"""Tests that owners keep beside their policies: `tests/*.yaml` in the folder of policies.

A case names a call and what is expected of it; everything else a case says is a question as `guard policy
explain` takes it. Each case is judged by the guard's own functions, and is then used to look for a tag or a
finding that would lower what is required, which must not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from guard.errors import WireError
from guard.lab.explain import CASES, Question, call_of, supposed
from guard.lab.trail import Named, trail
from guard.model import Band, Classification, Doubt, Json, Requirement, Sensitivity
from guard.policy.classify import PolicySet, classify, pinned
from guard.policy.directory import TESTS
from guard.policy.tree import Items, Mistake, Node, Place, Scalar, Table, grow
from guard.requirement import required
from guard.wire.strict import read as read_json

MAX_FILES: Final = 1000

_OWN: Final = frozenset({"name", "time", "findings", "expect"})
_DOUBTS: Final[Mapping[str, tuple[Doubt, Band]]] = {
    f"{band.name.lower()} {doubt.value}": (doubt, band) for doubt in Doubt for band in (Band.UNUSUAL, Band.ALARMING)
}


class Expected(BaseModel):
    """What a case expects; at least one of these."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    decision: Literal["permit", "challenge", "deny"] | None = None
    sensitivity: Literal["public", "internal", "sensitive", "critical"] | None = None
    requirement: str | None = Field(None, description="such as none, step_up, both")
    rule: str | None = Field(None, description="the deciding entry or rule, whole or its end: refund.rules[0]")
    effects: list[str] | None = None
    approvers: str | None = None
    tagged: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case as read: where it stands, the call it asks about, and what it expects."""

    place: Place
    name: str
    asked: Question
    arguments: Mapping[str, Json]
    at: float | None
    findings: tuple[tuple[Doubt, Band], ...]
    expect: Expected


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case as run: what differs from what it expects, in words; empty when it passes."""

    case: Case
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """Entries and rules of the policies: all of them, those a case's call was named by or that held, and the rest."""

    total: int
    met: int
    missed: tuple[tuple[Place, str], ...]

    @property
    def share(self) -> float:
        """Met of total, 1.0 where there is nothing to meet."""
        return self.met / self.total if self.total else 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """All cases of a folder. `mistakes` are about files that could not be read as cases."""

    outcomes: tuple[Outcome, ...]
    mistakes: tuple[Mistake, ...]
    coverage: Coverage

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The cases that did not pass."""
        return tuple(one for one in self.outcomes if one.wrong)


# ------------------------------------------------------------------ reading


def load(folder: Path, files: Sequence[Path] = ()) -> tuple[tuple[Case, ...], tuple[Mistake, ...]]:
    """The cases in these files, else in `folder`/tests/*.yaml, and every mistake in them."""
    cases: list[Case] = []
    mistakes: list[Mistake] = []
    for path in files or sorted((folder / TESTS).glob("*.yaml"))[:MAX_FILES]:
        try:
            raw = path.read_bytes()
        except OSError as error:
            mistakes.append(Mistake(Place(str(path), 1, 1), f"cannot be read: {error.strerror}"))
            continue
        found, wrong = read(raw, str(path))
        cases += found
        mistakes += wrong
    return tuple(cases), tuple(mistakes)


def read(raw: bytes, file: str) -> tuple[tuple[Case, ...], tuple[Mistake, ...]]:
    """The cases in the bytes of one file, and every mistake in it. Never raises for any bytes."""
    root, mistakes = grow(raw, file)
    if root is None or mistakes:
        return (), mistakes
    members = _members(root)
    listed = members.get("cases")
    if not isinstance(listed, Items) or members.keys() - {"server", "cases"}:
        return (), (Mistake(root.place, "a file of tests has `cases`, a list, and may have `server`"),)
    server = _value(members["server"]) if "server" in members else None
    cases: list[Case] = []
    wrong: list[Mistake] = []
    for node in listed.nodes:
        found = _case(node, server)
        if isinstance(found, Case):
            cases.append(found)
        else:
            wrong.append(found)
    return tuple(cases), tuple(wrong)


def _members(node: Node) -> dict[str, Node]:
    return {str(key.value): value for key, value in node.entries} if isinstance(node, Table) else {}


def _value(node: Node) -> JsonValue:
    """A node as the JSON value it spells."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return [_value(one) for one in node.nodes]
        case _:
            return {name: _value(value) for name, value in _members(node).items()}


def _case(node: Node, server: JsonValue) -> Case | Mistake:
    """One case."""
    members = _members(node)
    if not members:
        return Mistake(node.place, "a case is a mapping: tool, arguments, expect")
    values = {name: _value(value) for name, value in members.items()}
    if server is not None:
        values.setdefault("server", server)
    try:
        arguments = _arguments(values.get("arguments", {}))
        question = {name: value for name, value in values.items() if name not in _OWN} | {"arguments": arguments}
        asked = Question.model_validate(question)
        expect = Expected.model_validate(values.get("expect", {}))
        if not expect.model_fields_set:
            return Mistake(node.place, "the case expects nothing; give expect: {sensitivity: ...}")
        return Case(
            place=node.place,
            name=str(values.get("name") or f"{asked.tool or asked.resource or asked.prompt}"),
            asked=asked,
            arguments=arguments,
            at=_moment(values.get("time")),
            findings=_findings(values.get("findings", [])),
            expect=expect,
        )
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the case'}: {e['msg']}" for e in error.errors())
        return Mistake(node.place, said)
    except ValueError as error:
        return Mistake(node.place, str(error))
    except WireError as error:
        return Mistake(node.place, error.public)


def _arguments(value: JsonValue) -> dict[str, JsonValue]:
    """A mapping, or a text that holds one as JSON (for null and what YAML readers disagree on).

    Raises:
        ValueError, WireError: it is neither.
    """
    found = read_json(value.encode()) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise ValueError("arguments is a mapping, or a text with a JSON object in it")  # noqa: TRY004 - a mistake
    return found


def _moment(value: JsonValue) -> float | None:
    """Unix seconds of an RFC 3339 time with its offset; None where the case gives none.

    Raises:
        ValueError: it is none.
    """
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError('time is written like "2026-11-25T10:00:00+01:00"')
    return moment.timestamp()


def _findings(value: JsonValue) -> tuple[tuple[Doubt, Band], ...]:
    """What drift is supposed to have found.

    Raises:
        ValueError: there is no such doubt.
    """
    words = value if isinstance(value, list) else [value]
    if wrong := [word for word in words if not isinstance(word, str) or word not in _DOUBTS]:
        raise ValueError(f"{wrong[0]!r} is no finding; write some of: {', '.join(_DOUBTS)}")
    return tuple(_DOUBTS[str(word)] for word in words)


# ------------------------------------------------------------------ running


def run(
    policies: PolicySet,
    cases: Sequence[Case],
    mistakes: Sequence[Mistake] = (),
    *,
    irreversible: frozenset[str],
    now: float,
) -> Run:
    """Judge every case; one without a time is asked at `now` (Unix seconds)."""
    outcomes: list[Outcome] = []
    met: set[str] = set()
    for case in cases:
        at = now if case.at is None else case.at
        try:
            definition = pinned(policies, case.asked.server, case.asked.tool)
            call = call_of(case.asked, case.arguments, now=at, definition=definition)
        except WireError as error:
            outcomes.append(Outcome(case, (error.public,)))
            continue
        tags = classify(policies, call, now=at, definition_changed=case.asked.definition_changed)
        needs, _ = required(tags, supposed(case.findings), irreversible=irreversible)
        wrong = (*_differences(case.expect, tags, needs), *_lowering(tags, irreversible))
        outcomes.append(Outcome(case, wrong))
        met |= _met(trail(policies, call, now=at))
    return Run(tuple(outcomes), tuple(mistakes), _coverage(policies, met))


def _differences(expect: Expected, tags: Classification, needs: Requirement) -> Iterator[str]:
    """What is not as expected."""
    got: dict[str, object] = {
        "decision": "deny" if tags.refusal else "challenge" if needs else "permit",
        "sensitivity": tags.sensitivity.label,
        "requirement": needs.label,
        "effects": sorted(tags.effects),
        "approvers": tags.approvers,
        "tagged": tags.tagged,
    }
    for name in sorted(expect.model_fields_set - {"rule"}):
        wanted = getattr(expect, name)
        wanted = sorted(wanted) if isinstance(wanted, list) else wanted
        if wanted != got[name]:
            yield f"{name} is {_said(got[name])}, expected {_said(wanted)} ({tags.rule} at {tags.where})"
    if expect.rule is not None and not f".{tags.rule}".endswith((f".{expect.rule}", f"#{expect.rule}")):
        yield f"rule is {tags.rule or 'none'} at {tags.where}, expected {expect.rule}"


def _said(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value).lower()


def at_least(one: Requirement, other: Requirement) -> bool:
    """Whether whoever meets `one` meets `other`."""
    joined = one | other
    return (joined.irreducible, joined.quorums, joined.barred, joined.strict) == (
        one.irreducible,
        one.quorums,
        one.barred,
        one.strict,
    )


def _lowering(tags: Classification, irreversible: frozenset[str]) -> Iterator[str]:
    """A finding or a stricter tag with which less would be required than without: there must be none."""
    calm, _ = required(tags, (), irreversible=irreversible)
    for name, doubts in CASES:
        more, _ = required(tags, supposed(doubts), irreversible=irreversible)
        if not at_least(more, calm):
            yield f"{name} lowers what is required from {calm.label} to {more.label}"
    for level in Sensitivity:
        stricter = replace(tags, sensitivity=max(level, tags.sensitivity))
        more, _ = required(stricter, (), irreversible=irreversible)
        if not at_least(more, calm):
            yield f"the tag {level.label} lowers what is required from {calm.label} to {more.label}"


def _met(steps: Sequence[Named]) -> set[str]:
    """The names of the entries that name the call, and of their rules that hold."""
    entries = {named.entry.name for named in steps}
    return entries | {step.rule.name for named in steps for step in named.steps if step.holds is True}


def _coverage(policies: PolicySet, met: set[str]) -> Coverage:
    """How many entries and rules the cases met."""
    all_: list[tuple[Place, str]] = []
    for policy in policies.policies.values():
        for entry in (one for found in policy.entries.values() for one in found):
            all_.append((entry.place, entry.name))
            all_ += [(rule.place, rule.name) for rule in entry.rules]
    missed = tuple((place, name) for place, name in sorted(all_) if name not in met)
    return Coverage(len(all_), len(all_) - len(missed), missed)
