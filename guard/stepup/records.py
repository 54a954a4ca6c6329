"""The fields of the records that step-ups leave in the ledger. Pure; digests only, never an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guard.model import Challenge, Finding, Json, Proof
from guard.reasons import Reason
from guard.stepup.binding import list_digest


def identity(challenge: Challenge) -> dict[str, Json]:
    """Which challenge, of whom, about which call: on every record of a step-up."""
    return {
        "challenge_id": challenge.id,
        "principal": challenge.principal.subject,
        "on_behalf_of": challenge.principal.on_behalf_of,
        "cred_thumbprint": challenge.principal.credential,
        "server": challenge.server,
        "method": challenge.method,
        "kind": challenge.kind,
        "tool": challenge.name,
        "args_digest": challenge.digest,
    }


def opened(challenge: Challenge, counterfactual: Sequence[str]) -> dict[str, Json]:
    """The why-record: what was asked, which inputs decided, what would have avoided it."""
    return identity(challenge) | {
        "tool_def_hash": challenge.definition,
        "policy_revision": challenge.policy_revision,
        "rule_id": challenge.rule,
        "sensitivity": challenge.sensitivity.label,
        "effects": sorted(challenge.effects),
        "reasons": [reason(one) for one in challenge.reasons],
        "findings": [finding(one) for one in challenge.findings],
        "requirement": challenge.requirement.label,
        "approver_group": challenge.requirement.approvers,
        **terms(challenge),
        "expires": int(challenge.expires),
        "counterfactual": list(counterfactual),
    }


def terms(challenge: Challenge) -> dict[str, Json]:
    """The long form of the requirement, where there is one."""
    requirement = challenge.requirement
    told: dict[str, Json] = {"quorums": list(requirement.terms)} if requirement.quorums else {}
    return told | ({"barred": sorted(requirement.barred)} if requirement.barred else {})


def reason(one: Reason) -> Mapping[str, Json]:
    """One reason: its code, who stated it, the evidence."""
    return {"code": one.code.value, "by": one.by, "evidence": one.evidence}


def finding(one: Finding) -> Mapping[str, Json]:
    """One finding: the signal, the doubt it casts, how far from normal, and why."""
    return {
        "signal": one.signal,
        "cause": one.cause.value,
        "band": one.band.name.lower(),
        "code": one.reason.code.value,
        "evidence": one.reason.evidence,
        "nats": one.nats,
    }


def proof(one: Proof) -> Mapping[str, Json]:
    """One proof; always with its class, for an approval without one says too little."""
    return {
        "class": one.proof_class.value,
        "kind": one.kind,
        "factor": one.factor,
        "subject": one.subject,
        "attestation": one.attestation,
        "view_digest": one.view_digest,
        "note": one.note,
        "solo": one.solo,
    }


def listed(challenges: Sequence[Challenge], proofs: Sequence[Proof]) -> dict[str, Json]:
    """A list that one person approved with one code: every item by id, digest and what was shown."""
    items = [(one.id, one.digest, given.view_digest) for one, given in zip(challenges, proofs, strict=True)]
    return {
        "subject": proofs[0].subject,
        "factor": proofs[0].factor,
        "list_digest": list_digest(items),
        "items": [{"challenge_id": one, "args_digest": call, "view_digest": view} for one, call, view in items],
    }
