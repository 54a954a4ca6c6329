"""The decision point: one call, its tags, its findings and its grants become Permit, Challenge or Deny.

Pure: no clock, no randomness, no I/O. The time and every unpredictable bit come in with the call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from guard.model import (
    Call,
    Challenge,
    Classification,
    Decision,
    Demand,
    Deny,
    Finding,
    Further,
    Grant,
    Limit,
    Permit,
    ProofClass,
    Quorum,
    Requirement,
    Sensitivity,
)
from guard.reasons import Code, Reason
from guard.requirement import asks, required, satisfied

KINDS: Final = frozenset({"tool", "resource", "prompt", "protocol"})

_CALL_ID: Final = re.compile(r"k_([0-9A-Za-z]{22,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the owner of this installation set: effects that cannot be undone, and a challenge's life in seconds."""

    irreversible: frozenset[str]
    expires: float


def decide(
    call: Call,
    classification: Classification,
    findings: Sequence[Finding],
    grants: Sequence[Grant],
    now: float,
    *,
    settings: Settings,
) -> Decision:
    """Decide about one call.

    Nothing required: Permit. A grant that covers this very call now: Permit with it, to be consumed before anything
    is forwarded. Otherwise a PENDING Challenge, whose id and nonce are the random part of the call's id. What is not
    understood is denied, and what the owner refuses this agent. `now` is in Unix seconds.
    """
    random = _CALL_ID.fullmatch(call.id)
    if not random or not math.isfinite(now) or not 0 < settings.expires < math.inf:
        return Deny(reasons=(Reason(Code.INTERNAL, by="decide", evidence="unusable call id, time or settings"),))
    if call.kind not in KINDS:
        return Deny(reasons=(Reason(Code.UNKNOWN_METHOD, by="decide", evidence="unknown kind of call"),))
    if classification.refusal is not None:
        return Deny(reasons=(classification.refusal, *classification.reasons))
    requirement, reasons = required(classification, findings, irreversible=settings.irreversible)
    if not requirement:
        return Permit(reasons=reasons)
    for grant in grants:
        if covers(grant, call, revision=classification.revision, requirement=requirement, now=now):
            return Permit(reasons=(Reason(Code.GRANTED, by=grant.id), *reasons), grant=grant)
    further = _further(classification, requirement, settings.irreversible)
    return _challenge(
        call, classification, requirement, reasons, findings, further=further, opened=now, life=settings.expires
    )


def decide_result(
    call: Call,
    classification: Classification,
    findings: Sequence[Finding],
    grants: Sequence[Grant],
    now: float,
    *,
    over: Sequence[Limit],
    reasons: Sequence[Reason],
    settings: Settings,
) -> Decision:
    """Decide whether what a call brought back may be delivered; the call itself has run, with all that it needed.

    `call` stands for the result: its kind, digest and id are the result's own. What is required is what the limits that
    it is `over` ask for and what the `findings` about it add. Where that is nothing (the policy has changed since),
    it is consent: a result was withheld, and nobody has looked at it yet.
    """
    random = _CALL_ID.fullmatch(call.id)
    if not random or not math.isfinite(now) or not 0 < settings.expires < math.inf or not call.digest:
        return Deny(reasons=(Reason(Code.INTERNAL, by="decide", evidence="unusable result id, time or settings"),))
    if classification.refusal is not None:
        return Deny(reasons=(classification.refusal, *classification.reasons))
    demands = frozenset[Demand]().union(
        *(limit.demands for limit in over), *(asks(finding, classification.sensitivity) for finding in findings)
    )
    quorums = frozenset[Quorum]().union(*(limit.quorums for limit in over))
    requirement = Requirement(
        demands if demands or quorums else frozenset({Demand.CONSENT}),
        approvers=classification.approvers,
        strict=classification.sensitivity is Sensitivity.CRITICAL,
        quorums=quorums,
        barred=classification.barred,
    )
    for grant in grants:
        if covers(grant, call, revision=classification.revision, requirement=requirement, now=now):
            return Permit(reasons=(Reason(Code.GRANTED, by=grant.id), *reasons), grant=grant)
    return _challenge(call, classification, requirement, tuple(reasons), findings, opened=now, life=settings.expires)


def _challenge(
    call: Call,
    classification: Classification,
    requirement: Requirement,
    reasons: tuple[Reason, ...],
    findings: Sequence[Finding],
    *,
    further: Further = Further(),  # noqa: B008 - frozen
    opened: float,
    life: float,
) -> Challenge:
    """A challenge whose id and nonce are the random part of the call's id, and that lasts `life` seconds."""
    return Challenge(
        id=f"c_{call.id[2:]}",
        nonce=call.id[2:],
        principal=call.principal,
        server=call.server,
        method=call.method,
        kind=call.kind,
        name=call.name,
        arguments=call.canonical,
        definition=call.definition,
        digest=call.digest,
        policy_revision=classification.revision,
        rule=classification.rule,
        sensitivity=classification.sensitivity,
        effects=classification.effects,
        requirement=requirement,
        reasons=reasons,
        findings=tuple(findings),
        further=further,
        opened=opened,
        expires=opened + life,
    )


def _further(classification: Classification, requirement: Requirement, irreversible: frozenset[str]) -> Further:
    """What one person may allow beyond this call: nothing that is critical, cannot be undone or takes two people."""
    places = sum(one.people for one in requirement.quorums if one.proof_class is ProofClass.CONSENT)
    alone = Demand.TWO_PEOPLE not in requirement.demands and places <= 1
    grave = classification.sensitivity is Sensitivity.CRITICAL or classification.effects & irreversible
    return classification.further if alone and not grave and classification.tagged else Further()


def covers(grant: Grant, call: Call, *, revision: str, requirement: Requirement, now: float) -> bool:
    """Whether this grant still permits exactly this call, judged by what is required at present.

    What was proven then must meet what is demanded now: a finding that came up after the approval raises
    the bar for the approval, too. `revision` is that of the policies that classified the call.
    """
    return (
        bool(call.digest)
        and grant.digest == call.digest
        and grant.credential == call.principal.credential
        and grant.policy_revision == revision
        and grant.definition == call.definition
        and grant.requirement.approvers == requirement.approvers
        and now < grant.expires
        and satisfied(requirement, grant.proofs, now)
    )
