"""Explain what a policy says about one call, and what the call would have to prove in every case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from guard.errors import ConfigError, WireError
from guard.lab.trail import Named, named_values, one_rule_otherwise, trail
from guard.model import Band, Call, Classification, Doubt, Finding, Json, Principal, Requirement, Source
from guard.policy.classify import PolicySet, classify, pinned
from guard.policy.conditions import Failure
from guard.policy.document import Rule
from guard.reasons import Code, Reason
from guard.requirement import counterfactual, required
from guard.stepup.visible import visible
from guard.wire.canonical import call_digest, canonical, canonical_uri
from guard.wire.strict import read

_Text = Annotated[str, Field(max_length=8192)]

_VALUE: Final = 80
CASES: Final[tuple[tuple[str, tuple[tuple[Doubt, Band], ...]], ...]] = (
    ("nothing unusual", ()),
    ("doubt about identity, unusual", ((Doubt.IDENTITY, Band.UNUSUAL),)),
    ("doubt about identity, alarming", ((Doubt.IDENTITY, Band.ALARMING),)),
    ("doubt about intent, unusual", ((Doubt.INTENT, Band.UNUSUAL),)),
    ("doubt about intent, alarming", ((Doubt.INTENT, Band.ALARMING),)),
)
"""The columns of the requirement table: what drift may have found, from nothing to the worst."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Who(_Strict):
    """The principal of a question."""

    subject: _Text
    owner: _Text = ""
    on_behalf_of: _Text = ""
    groups: list[_Text] = Field(default_factory=list)
    claims: dict[_Text, _Text] = Field(default_factory=dict)
    key_age: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Whence(_Strict):
    """Where the call of a question comes from."""

    transport: _Text = "http"
    address: _Text = ""


class Question(_Strict):
    """One call to explain: `{server, tool, arguments, principal}`, or `resource` or `prompt` for `tool`."""

    server: _Text
    tool: _Text = ""
    resource: _Text = ""
    prompt: _Text = ""
    arguments: dict[str, object] = Field(default_factory=dict)
    principal: _Text | Who = "somebody"
    source: Whence = Whence()
    definition_changed: bool = False

    @model_validator(mode="after")
    def _one(self) -> Question:
        if sum(map(bool, (self.tool, self.resource, self.prompt))) != 1:
            raise ValueError('name exactly one of "tool", "resource" and "prompt"')
        return self

    @property
    def kind(self) -> str:
        """The kind of call."""
        return "tool" if self.tool else "resource" if self.resource else "prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What the tags say about a call, and what it must prove in each of `CASES`."""

    call: Call
    classification: Classification
    cases: tuple[tuple[str, Requirement], ...]
    reasons: tuple[Reason, ...]
    steps: tuple[Named, ...] = ()
    otherwise: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The explanation for people."""
        found = self.classification
        rows = [
            ("call", f"{self.call.server} {self.call.kind} {self.call.name} by {self.call.principal.subject}"),
            ("rule", f"{found.rule} at {found.where}" if found.rule else "none"),
            ("sensitivity", found.sensitivity.label),
            ("effects", ", ".join(sorted(found.effects)) or "none stated"),
            ("approvers", found.approvers),
            ("revision", found.revision[:12]),
            *([("refused", str(found.refusal))] if found.refusal else []),
        ]
        width = max(len(case) for case, _ in self.cases)
        return [
            *(f"{name:<12} {value}" for name, value in rows),
            "because",
            *(f"  {reason.code.value}: {reason}" for reason in self.reasons),
            "required",
            *(f"  {case:<{width}}  {requirement.label}" for case, requirement in self.cases),
            *(f"  always  {term}" for term in self.cases[0][1].terms),
            *(f"  never by  {name}" for name in sorted(found.barred)),
            *(["tags"] if self.steps else []),
            *(line for named in self.steps for line in _branch(named, self.call)),
            *(["otherwise"] if self.otherwise else []),
            *(f"  {line}" for line in self.otherwise),
        ]

    def data(self) -> dict[str, Json]:
        """The explanation for machines."""
        found = self.classification
        return {
            "server": self.call.server,
            "kind": self.call.kind,
            "name": self.call.name,
            "principal": self.call.principal.subject,
            "tagged": found.tagged,
            "sensitivity": found.sensitivity.label,
            "effects": sorted(found.effects),
            "approvers": found.approvers,
            "rule_id": found.rule,
            "where": found.where,
            "refused": str(found.refusal) if found.refusal else "",
            "policy_revision": found.revision,
            "requirement": self.cases[0][1].label,
            "reasons": [{"code": r.code.value, "by": r.by, "evidence": r.evidence} for r in self.reasons],
            "quorums": list(self.cases[0][1].terms),
            "barred": sorted(found.barred),
            "required": {case: requirement.label for case, requirement in self.cases},
            "tree": [_branch_json(named, self.call) for named in self.steps],
            "otherwise": list(self.otherwise),
        }


def question(raw: bytes, file: str) -> Question:
    """Read a CALL.json.

    Raises:
        ConfigError: it is not strict JSON or not a question; it says what was expected.
    """
    try:
        value = read(raw)
    except WireError as error:
        raise ConfigError(error.public, file=file) from error
    if not isinstance(value, Mapping):
        raise ConfigError("expected an object {server, tool, arguments, principal}", file=file)
    try:
        return Question.model_validate(value)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise ConfigError(f"expected {{server, tool, arguments, principal}}: {said}", file=file) from error


def call_of(asked: Question, arguments: Mapping[str, Json], *, now: float, definition: str = "") -> Call:
    """The call that the question is about, as the pipeline would see it; `definition` is that of the tool.

    Raises:
        WireError: the resource has no canonical URI.
    """
    who = Who(subject=asked.principal) if isinstance(asked.principal, str) else asked.principal
    name = asked.tool or asked.prompt or canonical_uri(asked.resource)
    text = canonical(arguments)
    return Call(
        id="k_explained",
        principal=Principal(
            subject=who.subject,
            credential="",
            owner=who.owner,
            on_behalf_of=who.on_behalf_of,
            groups=frozenset(who.groups),
            claims=tuple(sorted(who.claims.items())),
            since=0.0 if who.key_age is None else now - who.key_age,
        ),
        source=Source(transport=asked.source.transport, address=asked.source.address),
        server=asked.server,
        method={"tool": "tools/call", "resource": "resources/read", "prompt": "prompts/get"}[asked.kind],
        kind=asked.kind,
        name=name,
        arguments=arguments,
        canonical=text,
        definition=definition,
        digest=call_digest(
            principal=who.subject,
            server=asked.server,
            kind=asked.kind,
            name=name,
            definition=definition,
            canonical_arguments=text,
        ),
        received=now,
    )


def explain(policies: PolicySet, raw: bytes, *, file: str, irreversible: frozenset[str], now: float) -> Explanation:
    """Explain the call in a CALL.json at `now` (Unix seconds).

    Raises:
        ConfigError: the file is not a question.
    """
    asked = question(raw, file)
    value = read(raw)
    arguments = value.get("arguments", {}) if isinstance(value, Mapping) else {}
    assert isinstance(arguments, Mapping), "the question was validated"
    try:
        definition = pinned(policies, asked.server, asked.tool)
        call = call_of(asked, arguments, now=now, definition=definition)
    except WireError as error:
        raise ConfigError(error.public, file=file) from error
    found = classify(policies, call, now=now, definition_changed=asked.definition_changed)
    cases = tuple((case, required(found, supposed(doubts), irreversible=irreversible)[0]) for case, doubts in CASES)
    _, reasons = required(found, (), irreversible=irreversible)
    steps = trail(policies, call, now=now)
    otherwise = _otherwise(policies, call, steps, found=found, irreversible=irreversible)
    return Explanation(call=call, classification=found, cases=cases, reasons=reasons, steps=steps, otherwise=otherwise)


def _otherwise(
    policies: PolicySet, call: Call, steps: tuple[Named, ...], *, found: Classification, irreversible: frozenset[str]
) -> tuple[str, ...]:
    """What would be required if one rule or one tag were otherwise, the rules first; computed, never guessed."""
    lines: list[str] = []
    needs = required(found, (), irreversible=irreversible)[0]
    for said, other in one_rule_otherwise(policies, call, steps):
        tags = classify(other, call, now=call.received)
        instead = required(tags, (), irreversible=irreversible)[0]
        if (instead.irreducible, instead.quorums) != (needs.irreducible, needs.quorums):
            lines.append(f"{said}: {f'would need {instead.label}' if instead else 'would be permitted'}")
    return (*lines, *counterfactual(found, (), irreversible))


def _branch(named: Named, call: Call) -> Iterator[str]:
    """One entry and its rules as lines of a tree."""
    entry = named.entry
    effects = f", {', '.join(sorted(entry.effects))}" if entry.effects else ""
    yield f"  {entry.name} at {entry.place}: {entry.sensitivity.label}{effects}"
    for step in named.steps:
        short, rule = step.rule.name.rpartition(".")[2], step.rule
        text = rule.when.text if rule.when is not None else "always"
        yield f"    {short} at {rule.place}: {_verdict(step.holds)}, {_says(rule)}"
        yield f"      when {text}"
        yield from (f"        {_verdict(holds)}: {part}" for part, holds in step.parts)
        yield from (f"        with {name} = {_shown(value)}" for name, value in named_values(call, rule))


def _branch_json(named: Named, call: Call) -> dict[str, Json]:
    """The same for machines."""
    entry = named.entry
    return {
        "entry": entry.name,
        "where": str(entry.place),
        "sensitivity": entry.sensitivity.label,
        "effects": sorted(entry.effects),
        "rules": [
            {
                "rule": step.rule.name,
                "where": str(step.rule.place),
                "when": step.rule.when.text if step.rule.when is not None else None,
                "holds": _verdict(step.holds),
                "parts": [{"when": part, "holds": _verdict(holds)} for part, holds in step.parts],
                "values": dict(named_values(call, step.rule)),
                "says": _says(step.rule),
            }
            for step in named.steps
        ],
    }


def _verdict(holds: bool | Failure) -> str:
    return f"fails, {holds.why}" if isinstance(holds, Failure) else "holds" if holds else "does not hold"


def _says(rule: Rule) -> str:
    """What a rule says when it holds."""
    said = [rule.sensitivity.label] if rule.sensitivity is not None else []
    said += [f"require {demand.value}" for demand in sorted(rule.demands)]
    said += [f"require {quorum.label}" for quorum in sorted(rule.quorums, key=lambda one: one.label)]
    said += [f"effect {effect}" for effect in sorted(rule.effects)]
    return ", ".join(said)


def _shown(value: Json) -> str:
    text = visible(canonical(value))
    return text if len(text) <= _VALUE else text[: _VALUE - 3] + "..."


def supposed(doubts: tuple[tuple[Doubt, Band], ...]) -> tuple[Finding, ...]:
    """Findings such as drift would make; only their cause and band count for a requirement."""
    return tuple(
        Finding(signal="supposed", cause=cause, band=band, reason=Reason(Code.NEW_NETWORK)) for cause, band in doubts
    )
