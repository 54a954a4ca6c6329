"""Challenges to rows and back: strict, total, and pure.

What queries ask for has a column of its own; the rest is one JSON text, `body`. Nothing is kept twice but the
approver group, and a row that contradicts itself there is refused. Reading believes nothing: a missing or
extra member, a wrong type or an unknown code raises `RowError`, because a challenge that is read wrongly is a
permission given wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from guard.model import (
    Band,
    Challenge,
    Demand,
    Doubt,
    Finding,
    Further,
    Json,
    Principal,
    Proof,
    ProofClass,
    Quorum,
    Requirement,
    Sensitivity,
    State,
)
from guard.reasons import Code, Reason
from guard.store.strict import Members, RowError, anything, each, from_json, integer, number, text, to_json, truth, word

FORMAT: Final = 1
"""Version of the JSON in `body`."""

_STATE: Final = word({state.value: state for state in State})
_SENSITIVITY: Final = word({sensitivity.label: sensitivity for sensitivity in Sensitivity})
_BAND: Final = word({band.name.lower(): band for band in Band})
_CAUSE: Final = word({doubt.value: doubt for doubt in Doubt})
_CLASS: Final = word({proof_class.value: proof_class for proof_class in ProofClass})
_DEMANDS: Final = each(word({demand.value: demand for demand in Demand}))
_CODE: Final = word({code.value: code for code in Code})
_PAIR: Final = 2
_TEXTS: Final = each(text)

_ROWS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One challenge as the table holds it, without its arguments, which are sealed apart."""

    id: str
    digest: str
    state: str
    version: int
    principal: str
    server: str
    name: str
    opened: float
    expires: float
    approvers: str
    body: str


def encode(challenge: Challenge) -> Row:
    """Make the row of a challenge; its `arguments` are not in it.

    Raises:
        ValueError: a number is not finite.
    """
    return Row(
        id=challenge.id,
        digest=challenge.digest,
        state=challenge.state.value,
        version=challenge.version,
        principal=challenge.principal.subject,
        server=challenge.server,
        name=challenge.name,
        opened=challenge.opened,
        expires=challenge.expires,
        approvers=challenge.requirement.approvers,
        body=to_json(_body(challenge)),
    )


@lru_cache(maxsize=_ROWS)
def decode(row: Row, arguments: str) -> Challenge:
    """Read the challenge a row holds, given its unsealed arguments ("" once it is closed).

    The same row, which is asked for again and again on the way of one call, is read once.

    Raises:
        RowError: the row is not one this version writes.
    """
    body = Members(from_json(row.body), "challenge")
    if body.take("format", integer) != FORMAT:
        raise RowError("the challenge has an unknown format")
    who = Members(body.take("principal", anything), "principal")
    challenge = Challenge(
        id=row.id,
        nonce=body.take("nonce", text),
        principal=Principal(
            subject=row.principal,
            credential=who.take("credential", text),
            owner=who.take("owner", text),
            on_behalf_of=who.take("on_behalf_of", text),
        ),
        server=row.server,
        method=body.take("method", text),
        kind=body.take("kind", text),
        name=row.name,
        arguments=arguments,
        definition=body.take("definition", text),
        digest=row.digest,
        policy_revision=body.take("policy_revision", text),
        rule=body.take("rule", text),
        sensitivity=body.take("sensitivity", _SENSITIVITY),
        effects=frozenset(body.take("effects", _TEXTS)),
        requirement=body.take("requirement", _requirement),
        reasons=body.take("reasons", each(_reason)),
        findings=body.take("findings", each(_finding)),
        opened=row.opened,
        expires=row.expires,
        further=body.may("further", _further) or Further(),
        state=_STATE(row.state),
        version=row.version,
        proofs=body.take("proofs", each(_proof)),
        decided=body.take("decided", number),
        ended_by=body.take("ended_by", text),
        ended_because=body.take("ended_because", text),
    )
    who.done()
    body.done()
    if row.approvers != challenge.requirement.approvers:
        raise RowError("the column and the requirement name different groups")
    return challenge


# ------------------------------------------------------------------ writing


def _body(challenge: Challenge) -> Json:
    return {
        "format": FORMAT,
        "nonce": challenge.nonce,
        "principal": {
            "credential": challenge.principal.credential,
            "owner": challenge.principal.owner,
            "on_behalf_of": challenge.principal.on_behalf_of,
        },
        "method": challenge.method,
        "kind": challenge.kind,
        "definition": challenge.definition,
        "policy_revision": challenge.policy_revision,
        "rule": challenge.rule,
        "sensitivity": challenge.sensitivity.label,
        "effects": sorted(challenge.effects),
        "requirement": {
            "demands": sorted(challenge.requirement.demands),
            "approvers": challenge.requirement.approvers,
            "strict": challenge.requirement.strict,
            **_long_form(challenge.requirement),
        },
        "reasons": [_reason_json(reason) for reason in challenge.reasons],
        "findings": [_finding_json(finding) for finding in challenge.findings],
        "proofs": [_proof_json(proof) for proof in challenge.proofs],
        "decided": challenge.decided,
        "ended_by": challenge.ended_by,
        "ended_because": challenge.ended_because,
        **({"further": [challenge.further.uses, challenge.further.seconds]} if challenge.further else {}),
    }


def _long_form(requirement: Requirement) -> dict[str, Json]:
    quorums: list[Json] = [
        {
            "class": quorum.proof_class.value,
            "people": quorum.people,
            "group": quorum.group,
            "kinds": sorted(quorum.kinds),
            "attestation": quorum.attestation,
            "max_age": quorum.max_age,
        }
        for quorum in sorted(requirement.quorums, key=lambda quorum: quorum.label)
    ]
    found: dict[str, Json] = {"quorums": quorums} if quorums else {}
    return found | ({"barred": sorted(requirement.barred)} if requirement.barred else {})


def _reason_json(reason: Reason) -> Json:
    return {"code": reason.code.value, "by": reason.by, "evidence": reason.evidence}


def _finding_json(finding: Finding) -> Json:
    return {
        "signal": finding.signal,
        "cause": finding.cause.value,
        "band": finding.band.name.lower(),
        "reason": _reason_json(finding.reason),
        "nats": finding.nats,
    }


def _proof_json(proof: Proof) -> Json:
    return {
        "class": proof.proof_class.value,
        "kind": proof.kind,
        "factor": proof.factor,
        "subject": proof.subject,
        "at": proof.at,
        "attestation": proof.attestation,
        "view_digest": proof.view_digest,
        "note": proof.note,
        "solo": proof.solo,
        **({"groups": sorted(proof.groups)} if proof.groups else {}),
    }


# ------------------------------------------------------------------ reading


def _further(value: Json) -> Further:
    uses, seconds = each(number)(value) if isinstance(value, list) and len(value) == _PAIR else (0.0, 0.0)
    if not (uses >= 1 and uses == int(uses) and seconds > 0):
        raise RowError("what may be allowed further is no number of uses and seconds")
    return Further(int(uses), seconds)


def _requirement(value: Json) -> Requirement:
    given = Members(value, "requirement")
    requirement = Requirement(
        demands=frozenset(given.take("demands", _DEMANDS)),
        approvers=given.take("approvers", text),
        strict=given.take("strict", truth),
        quorums=frozenset(given.may("quorums", each(_quorum)) or ()),
        barred=frozenset(given.may("barred", _TEXTS) or ()),
    )
    given.done()
    return requirement


def _quorum(value: Json) -> Quorum:
    given = Members(value, "quorum")
    quorum = Quorum(
        proof_class=given.take("class", _CLASS),
        people=given.take("people", integer),
        group=given.take("group", text),
        kinds=frozenset(given.take("kinds", _TEXTS)),
        attestation=given.take("attestation", integer),
        max_age=given.take("max_age", number),
    )
    given.done()
    return quorum


def _reason(value: Json) -> Reason:
    given = Members(value, "reason")
    reason = Reason(
        code=given.take("code", _CODE),
        by=given.take("by", text),
        evidence=given.take("evidence", text),
    )
    given.done()
    return reason


def _finding(value: Json) -> Finding:
    given = Members(value, "finding")
    finding = Finding(
        signal=given.take("signal", text),
        cause=given.take("cause", _CAUSE),
        band=given.take("band", _BAND),
        reason=given.take("reason", _reason),
        nats=given.take("nats", number),
    )
    given.done()
    return finding


def _proof(value: Json) -> Proof:
    given = Members(value, "proof")
    proof = Proof(
        proof_class=given.take("class", _CLASS),
        kind=given.take("kind", text),
        factor=given.take("factor", text),
        subject=given.take("subject", text),
        at=given.take("at", number),
        attestation=given.take("attestation", integer),
        view_digest=given.take("view_digest", text),
        note=given.take("note", text),
        solo=given.take("solo", truth),
        groups=frozenset(given.may("groups", _TEXTS) or ()),
    )
    given.done()
    return proof
