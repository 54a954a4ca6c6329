"""What must be proven for a call, whether it was, and what would have changed that.

The requirement is a join (`Requirement.__or__`) of one demand per row that applies: the floor of the
sensitivity, what the policy requires, and what each finding adds. A join can only rise, so one more
tag, rule or finding never lowers what is required. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, assert_never

from guard.model import (
    Band,
    Classification,
    Demand,
    Doubt,
    Finding,
    Proof,
    ProofClass,
    Quorum,
    Requirement,
    Sensitivity,
)
from guard.quorum import possessed, unfilled, voices
from guard.reasons import Code, Reason

_TAG: Final[Mapping[Sensitivity, Code]] = {
    Sensitivity.PUBLIC: Code.TAG_PUBLIC,
    Sensitivity.INTERNAL: Code.TAG_INTERNAL,
    Sensitivity.SENSITIVE: Code.TAG_SENSITIVE,
    Sensitivity.CRITICAL: Code.TAG_CRITICAL,
}

_IDENTITY_FROM: Final[Mapping[Sensitivity, Band]] = {
    Sensitivity.PUBLIC: Band.ALARMING,
    Sensitivity.INTERNAL: Band.UNUSUAL,
    Sensitivity.SENSITIVE: Band.UNUSUAL,
    Sensitivity.CRITICAL: Band.UNUSUAL,
}
"""From which band on a doubt about identity asks for possession."""

_INTENT_FROM: Final[Mapping[Sensitivity, Band]] = {
    Sensitivity.PUBLIC: Band.ALARMING,
    Sensitivity.INTERNAL: Band.ALARMING,
    Sensitivity.SENSITIVE: Band.UNUSUAL,
    Sensitivity.CRITICAL: Band.UNUSUAL,
}
"""From which band on a doubt about intent asks for consent."""

_NAMED: Final[Mapping[str, frozenset[Demand]]] = {
    "step_up": frozenset({Demand.STEP_UP}),
    "possession": frozenset({Demand.POSSESSION}),
    "consent": frozenset({Demand.CONSENT}),
    "both": frozenset({Demand.POSSESSION, Demand.CONSENT}),
    "two_people": frozenset({Demand.TWO_PEOPLE}),
}

QUORUM: Final = 2
"""How many distinct people `two_people` asks for."""


def parse(text: str) -> frozenset[Demand]:
    """The demands behind a name in a policy: step_up, possession, consent, both or two_people.

    Raises:
        ValueError: there is no requirement of this name.
    """
    try:
        return _NAMED[text]
    except KeyError:
        message = f"{text!r} is not a requirement; say {', '.join(_NAMED)}"
        raise ValueError(message) from None


# ------------------------------------------------------------------ what is required


def required(
    classification: Classification, findings: Sequence[Finding], *, irreversible: frozenset[str]
) -> tuple[Requirement, tuple[Reason, ...]]:
    """What a call of this classification must prove, and why.

    `irreversible` are the effects that cannot be undone. The reasons are never empty, so a permit has one too:
    first those the classification brings for its tags and rules, then those that only the table knows. A
    finding is a reason only where it adds a demand.
    """
    demands = set(_by_owner(classification))
    reasons = list(classification.reasons) or [_tag(classification)]
    if lasting := _lasting(classification, irreversible):
        demands.add(Demand.CONSENT)
        reasons.append(Reason(Code.IRREVERSIBLE, by=classification.owner, evidence=", ".join(sorted(lasting))))
    for finding in findings:
        if added := asks(finding, classification.sensitivity):
            demands.update(added)
            reasons.append(finding.reason)
    requirement = Requirement(
        frozenset(demands),
        approvers=classification.approvers,
        strict=classification.sensitivity is Sensitivity.CRITICAL,
        quorums=classification.quorums,
        barred=classification.barred,
    )
    return requirement, tuple(dict.fromkeys(reasons)) if len(reasons) > 1 else tuple(reasons)


def _by_owner(classification: Classification) -> Iterator[Demand]:
    """The floor of the sensitivity, what the policy requires, and a step-up for what no entry names."""
    yield from classification.demands
    if classification.sensitivity is Sensitivity.CRITICAL or not classification.tagged:
        yield Demand.STEP_UP


def _lasting(classification: Classification, irreversible: frozenset[str]) -> frozenset[str]:
    """The effects that cannot be undone, where that matters: on critical calls."""
    critical = classification.sensitivity is Sensitivity.CRITICAL
    return classification.effects & irreversible if critical else frozenset()


def _tag(classification: Classification) -> Reason:
    """The reason of a classification that brings none of its own."""
    code = _TAG[classification.sensitivity] if classification.tagged else Code.UNTAGGED
    return Reason(code, by=classification.owner)


def asks(finding: Finding, sensitivity: Sensitivity) -> tuple[Demand, ...]:
    """What one finding adds at this sensitivity."""
    match finding.cause:
        case Doubt.IDENTITY:
            return (Demand.POSSESSION,) if finding.band >= _IDENTITY_FROM[sensitivity] else ()
        case Doubt.INTENT:
            if finding.band < _INTENT_FROM[sensitivity]:
                return ()
            if sensitivity is Sensitivity.CRITICAL and finding.band >= Band.ALARMING:
                return (Demand.CONSENT, Demand.TWO_PEOPLE)
            return (Demand.CONSENT,)
        case _:
            assert_never(finding.cause)


# ------------------------------------------------------------------ whether it was proven


def satisfied(requirement: Requirement, proofs: Sequence[Proof], now: float) -> bool:
    """Whether these proofs meet every demand and fill every quorum at `now` (Unix seconds), or somebody broke glass."""
    return broken(proofs) or not (_unmet(requirement, proofs) or unfilled(requirement, proofs, now))


def broken(proofs: Iterable[Proof]) -> bool:
    """Whether somebody took the call on themselves in an emergency."""
    return any(proof.proof_class is ProofClass.EMERGENCY for proof in proofs)


def asks_people(requirement: Requirement) -> bool:
    """Whether a person could answer this; only a workload can prove possession."""
    consent = any(quorum.proof_class is ProofClass.CONSENT for quorum in requirement.quorums)
    return consent or bool(requirement.demands - {Demand.POSSESSION})


def _unmet(requirement: Requirement, proofs: Sequence[Proof]) -> tuple[Demand, ...]:
    signed, count = bool(possessed(proofs)), len(voices(requirement, proofs))
    return tuple(
        demand for demand in sorted(requirement.irreducible) if not _met(demand, possessed=signed, consenting=count)
    )


def _met(demand: Demand, *, possessed: bool, consenting: int) -> bool:
    match demand:
        case Demand.STEP_UP:
            return possessed or consenting >= 1
        case Demand.POSSESSION:
            return possessed
        case Demand.CONSENT:
            return consenting >= 1
        case Demand.TWO_PEOPLE:
            return consenting >= QUORUM
        case _:
            assert_never(demand)


def missing(requirement: Requirement, proofs: Sequence[Proof]) -> str:
    """What is still to be proven, in words; empty when nothing is. How old proofs are is not looked at."""
    if broken(proofs):
        return ""
    group = f"of group {requirement.approvers}"
    relaxed = replace(requirement, strict=False)
    present = voices(relaxed, proofs)
    quorums = unfilled(requirement, proofs, None)
    said = frozenset[Demand]().union(*(_says(quorum) for quorum in quorums))
    unmet = tuple(demand for demand in _unmet(relaxed, proofs) if demand not in said)
    words = [_words(demand, group, already=len(present)) for demand in unmet]
    waiting = sorted(given[0].subject for name, given in present.items() if name not in voices(requirement, proofs))
    if waiting and Demand.POSSESSION not in {*unmet, *said} and _unmet(requirement, proofs):
        # The people were there; what their codes lack on a critical call is the workload beside them.
        codes = " and ".join(waiting)
        words.append(f"the workload's signature, without which the one-time code of {codes} does not count")
    words += [quorum.label for quorum in quorums]
    return " and ".join(words)


def _says(quorum: Quorum) -> frozenset[Demand]:
    """The demands that need no words of their own beside this quorum."""
    if quorum.proof_class is ProofClass.POSSESSION:
        return frozenset({Demand.POSSESSION, Demand.STEP_UP})
    return frozenset({Demand.CONSENT, Demand.STEP_UP} | ({Demand.TWO_PEOPLE} if quorum.people >= QUORUM else set()))


def wants_consent(requirement: Requirement, proofs: Sequence[Proof], now: float) -> bool:
    """Whether the consent of one more would bring this requirement nearer to being met."""
    if broken(proofs):
        return False
    demands = any(demand is not Demand.POSSESSION for demand in _unmet(requirement, proofs))
    return demands or any(quorum.proof_class is ProofClass.CONSENT for quorum in unfilled(requirement, proofs, now))


def _words(demand: Demand, group: str, *, already: int) -> str:
    match demand:
        case Demand.STEP_UP:
            return f"the workload's signature or a person {group}"
        case Demand.POSSESSION:
            return "the workload's signature"
        case Demand.CONSENT:
            return f"a person {group}"
        case Demand.TWO_PEOPLE:
            return f"a second person {group}" if already else f"two people {group}"
        case _:
            assert_never(demand)


# ------------------------------------------------------------------ what would have changed it


def counterfactual(
    classification: Classification, findings: Sequence[Finding], irreversible: frozenset[str]
) -> tuple[str, ...]:
    """What would have been required had one input been different; one line for each that matters.

    Every line comes from computing the requirement again without that input, never from a guess.
    """
    base, _ = required(classification, findings, irreversible=irreversible)
    if not base:
        return ()
    lines = [
        f"{name}: {_outcome(other)}{condition}"
        for name, condition, tags, seen in _variations(classification, findings, irreversible)
        if _differs(other := required(tags, seen, irreversible=irreversible)[0], base)
    ]
    if classification.sensitivity is Sensitivity.CRITICAL:
        lines.append("tag: critical always steps up")
    return tuple(dict.fromkeys(lines)) or ("no single change of a tag or finding would have lowered it",)


def _differs(one: Requirement, other: Requirement) -> bool:
    return (one.irreducible, one.quorums) != (other.irreducible, other.quorums)


def _outcome(requirement: Requirement) -> str:
    return f"would need {requirement.label}" if requirement else "would be permitted"


def _variations(
    classification: Classification, findings: Sequence[Finding], irreversible: frozenset[str]
) -> Iterator[tuple[str, str, Classification, tuple[Finding, ...]]]:
    """Name, condition in words, and the inputs with exactly one thing changed."""
    seen = tuple(findings)
    if not classification.tagged:
        demands = classification.demands - {Demand.STEP_UP}
        named = replace(classification, tagged=True, demands=demands)
        yield "tag", f" if an entry tagged it {classification.sensitivity.label}", named, seen
    for lower in reversed(Sensitivity):
        if lower < classification.sensitivity:
            yield "tag", f" if it were {lower.label}", replace(classification, sensitivity=lower), seen
    for demand in sorted(classification.demands):
        without = replace(classification, demands=classification.demands - {demand})
        yield "policy", f" without require {demand.value}", without, seen
    if classification.quorums:
        yield "policy", " without its quorums", replace(classification, quorums=frozenset()), seen
    if lasting := _lasting(classification, irreversible):
        harmless = replace(classification, effects=classification.effects - irreversible)
        yield "effects", f" without {', '.join(sorted(lasting))}", harmless, seen
    for index, finding in enumerate(seen):
        yield "drift", f" without {finding.reason.code.value}", classification, (*seen[:index], *seen[index + 1 :])
    if len(seen) > 1:
        yield "drift", " without any finding", classification, ()
