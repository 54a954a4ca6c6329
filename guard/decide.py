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
    Permit,
    ProofClass,
    Requirement,
    Sensitivity,
)
from guard.reasons import Code, Reason
from guard.requirement import required, satisfied

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
    return Challenge(
        id=f"c_{random[1]}",
        nonce=random[1],
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
        further=_further(classification, requirement, settings.irreversible),
        opened=now,
        expires=now + settings.expires,
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
