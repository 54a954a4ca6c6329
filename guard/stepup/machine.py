"""The life of a challenge: (challenge, event, now) -> (challenge, effects). Pure.

::

    PENDING ── proven ──> SATISFIED ── consumed ──> CONSUMED ──> COMPLETED | FAILED | UNKNOWN
       │                      │
       ├> DENIED              ├> REVOKED
       ├> CANCELLED           │
       └> EXPIRED | STALE <───┘

Every end is terminal. Time only ever closes: past `expires` no proof, denial or consumption counts, and
no path leads from a timeout to SATISFIED.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, assert_never

from guard.errors import (
    ChallengeClosedError,
    IllegalTransitionError,
    ProofError,
    ProofReplayedError,
    ProofWrongApproverError,
    ProofWrongCallError,
)
from guard.model import Challenge, Json, Proof, ProofClass, State
from guard.quorum import counts, stale, welcome
from guard.reasons import Code
from guard.requirement import broken, missing, satisfied
from guard.stepup import records

# ------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True)
class Proven:
    """A factor verified this proof for this challenge."""

    proof: Proof


@dataclass(frozen=True, slots=True)
class Denied:
    """A person refused the call, in words the agent may see."""

    by: str
    because: str


@dataclass(frozen=True, slots=True)
class Expired:
    """The time is up."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody closed it undecided: nobody wants the answer any more."""

    by: str
    because: str


@dataclass(frozen=True, slots=True)
class Staled:
    """What the challenge rests on changed: policy, tool definition, credential or requirement."""

    because: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """A person withdrew the unspent grant."""

    by: str


@dataclass(frozen=True, slots=True)
class Consumed:
    """The grant is spent on one forward."""


@dataclass(frozen=True, slots=True)
class Concluded:
    """The forward ended: COMPLETED, FAILED or UNKNOWN."""

    outcome: State


Event: TypeAlias = Proven | Denied | Expired | Cancelled | Staled | Revoked | Consumed | Concluded

EMERGENCY_SECONDS: Final = 900.0
"""For how long an emergency lets its call run, at most."""

HURRIED_SECONDS: Final = 2.0
"""Sooner than this after its opening nobody has read a challenge."""

OUTCOMES: Final = frozenset({State.COMPLETED, State.FAILED, State.UNKNOWN})

# ------------------------------------------------------------------ effects


@dataclass(frozen=True, slots=True)
class Record:
    """Write this to the ledger."""

    event: str
    fields: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Wake:
    """Whoever waits for this challenge has an answer."""

    challenge: str


Effect: TypeAlias = Record | Wake

CLOSED: Final[Mapping[State, Code]] = {
    State.CONSUMED: Code.SPENT,
    State.COMPLETED: Code.SPENT,
    State.FAILED: Code.SPENT,
    State.UNKNOWN: Code.SPENT,
    State.DENIED: Code.DENIED,
    State.EXPIRED: Code.EXPIRED,
    State.CANCELLED: Code.CANCELLED,
    State.STALE: Code.STALE,
    State.REVOKED: Code.REVOKED,
}
"""Why nothing more can happen to a challenge in each state that is not open."""


def step(challenge: Challenge, event: Event, now: float) -> tuple[Challenge, tuple[Effect, ...]]:
    """The challenge after this event, and what the shell must do about it. `now` is in Unix seconds.

    Raises:
        ChallengeClosedError: the challenge ended, or its time is up; `reason` says how.
        IllegalTransitionError: no such transition exists; a defect of the caller.
        ProofError: the proof cannot count for this challenge: from a factor that was used on it before,
            of another workload, or of somebody who may not decide about it.
    """
    match event:
        case Proven():
            return _prove(challenge, event.proof, now)
        case Consumed():
            return _consume(challenge, event, now)
        case Denied() | Cancelled() | Staled() | Revoked():
            return _close(challenge, event, now)
        case Expired():
            return _expire(challenge, now)
        case Concluded():
            return _conclude(challenge, event)
        case _:
            assert_never(event)


def _require_open(challenge: Challenge, now: float) -> None:
    """Nothing happens to a challenge that ended, or whose time is up (NaN is late, too)."""
    if not challenge.state.open:
        raise ChallengeClosedError(reason=CLOSED[challenge.state])
    if not challenge.timely(now):
        raise ChallengeClosedError(reason=Code.EXPIRED)


def _illegal(challenge: Challenge, event: Event) -> IllegalTransitionError:
    return IllegalTransitionError(detail=f"{type(event).__name__} in {challenge.state} ({challenge.id})")


def _prove(challenge: Challenge, proof: Proof, now: float) -> tuple[Challenge, tuple[Effect, ...]]:
    _require_open(challenge, now)
    if challenge.state is State.SATISFIED:
        raise ChallengeClosedError("everything required was proven already")
    _require_entitled(challenge, proof)
    kept = tuple(one for one in challenge.proofs if not stale(challenge.requirement, one, now))
    if any(earlier.factor == proof.factor for earlier in kept):
        raise ProofReplayedError("this factor was used for this challenge already")
    proofs = (*kept, proof)
    fields = records.identity(challenge) | {
        "requirement": challenge.requirement.label,
        "proof": records.proof(proof),
        "missing": missing(challenge.requirement, proofs),
    }
    written = [Record("proof.accepted", fields)]
    after = replace(challenge, proofs=proofs, version=challenge.version + 1)
    if (
        proof.proof_class is not ProofClass.POSSESSION
        and proof.view_digest
        and now - challenge.opened < HURRIED_SECONDS
    ):
        hurried: dict[str, Json] = {"subject": proof.subject, "decide_ms": round((now - challenge.opened) * 1000)}
        written.append(Record("proof.hurried", records.identity(challenge) | hurried))
    if broken([proof]):
        after = replace(after, expires=min(challenge.expires, now + EMERGENCY_SECONDS))
        because = proof.note
        written.append(Record("glass.broken", records.identity(challenge) | {"by": proof.subject, "because": because}))
    if not satisfied(challenge.requirement, proofs, now):
        return after, tuple(written)
    return replace(after, state=State.SATISFIED, decided=now), (*written, Wake(challenge.id))


def _require_entitled(challenge: Challenge, proof: Proof) -> None:
    """The doubted party cannot answer its own doubt, whatever the factor let pass."""
    principal = challenge.principal
    if not welcome(challenge.requirement, proof.proof_class, proof.kind, proof.attestation):
        raise ProofError(f"a proof by {proof.kind} of this attestation is not taken here", reason=Code.NOT_TAKEN)
    if not counts(challenge.requirement, proof):
        raise ProofError("nothing that is required asks for this proof", reason=Code.NOT_TAKEN)
    if proof.proof_class is ProofClass.POSSESSION:
        if proof.subject != principal.subject:
            raise ProofWrongCallError("this is the key of another workload")
        return
    parties = {principal.owner, principal.on_behalf_of, *challenge.requirement.barred} - {""}
    name, barred = proof.subject.casefold(), {one.casefold() for one in parties}
    if not name or name == principal.subject.casefold() or (name in barred and not proof.solo):
        raise ProofWrongApproverError


def _consume(challenge: Challenge, event: Consumed, now: float) -> tuple[Challenge, tuple[Effect, ...]]:
    _require_open(challenge, now)
    grant = challenge.grant
    if grant is None or not satisfied(challenge.requirement, challenge.proofs, now):
        raise _illegal(challenge, event)
    fields = records.identity(challenge) | {
        "grant_id": grant.id,
        "policy_revision": challenge.policy_revision,
        "requirement": challenge.requirement.label,
        "factors": [records.proof(proof) for proof in challenge.proofs],
        "approvers": sorted({p.subject for p in challenge.proofs if p.proof_class is ProofClass.CONSENT}),
        "decide_ms": round((challenge.decided - challenge.opened) * 1000),
    }
    spent = replace(challenge, state=State.CONSUMED, arguments="", version=challenge.version + 1)
    return spent, (Record("grant.consumed", fields), Wake(challenge.id))


def _conclude(challenge: Challenge, event: Concluded) -> tuple[Challenge, tuple[Effect, ...]]:
    """The last state after a forward; the outcome itself is the call's record, not the challenge's."""
    if event.outcome not in OUTCOMES or challenge.state is not State.CONSUMED:
        raise _illegal(challenge, event)
    return replace(challenge, state=event.outcome, version=challenge.version + 1), ()


def _expire(challenge: Challenge, now: float) -> tuple[Challenge, tuple[Effect, ...]]:
    if not challenge.state.open:
        raise ChallengeClosedError(reason=CLOSED[challenge.state])
    if challenge.timely(now):
        raise _illegal(challenge, Expired())
    return _end(challenge, State.EXPIRED, "challenge.expired", now, because=Code.EXPIRED.meaning)


def _close(
    challenge: Challenge, event: Denied | Cancelled | Staled | Revoked, now: float
) -> tuple[Challenge, tuple[Effect, ...]]:
    """What people or changed circumstances end before it was used."""
    _require_open(challenge, now)
    if challenge.state is State.SATISFIED and isinstance(event, Denied | Cancelled):
        raise ChallengeClosedError("everything required was proven already; revoke the grant instead")
    match event:
        case Denied():
            return _end(challenge, State.DENIED, "challenge.denied", now, by=event.by, because=event.because)
        case Cancelled():
            return _end(challenge, State.CANCELLED, "challenge.cancelled", now, by=event.by, because=event.because)
        case Staled():
            return _end(challenge, State.STALE, "challenge.staled", now, because=event.because)
        case Revoked():
            if challenge.state is not State.SATISFIED:
                raise _illegal(challenge, event)
            return _end(challenge, State.REVOKED, "grant.revoked", now, by=event.by, because=Code.REVOKED.meaning)
        case _:
            assert_never(event)


def _end(
    challenge: Challenge, state: State, event: str, now: float, *, because: str, by: str = ""
) -> tuple[Challenge, tuple[Effect, ...]]:
    """Close an open challenge; its arguments go, and `decided` stays when it had been satisfied before."""
    ended = replace(
        challenge,
        state=state,
        arguments="",
        version=challenge.version + 1,
        decided=challenge.decided or now,
        ended_by=by,
        ended_because=because,
    )
    fields: dict[str, Json] = records.identity(challenge) | {"outcome": state.value, "by": by, "because": because}
    if grant := challenge.grant:
        fields["grant_id"] = grant.id
    return ended, (Record(event, fields), Wake(challenge.id))


def changed_terms(existing: Challenge, wanted: Challenge) -> str:
    """What an open challenge no longer agrees with, in words; empty when it can be joined."""
    pairs = {
        "the credential": (existing.principal.credential, wanted.principal.credential),
        "the policy": (existing.policy_revision, wanted.policy_revision),
        "the tool's definition": (existing.definition, wanted.definition),
        "the requirement": (_terms(existing), _terms(wanted)),
    }
    return " and ".join(name for name, (was, now) in pairs.items() if was != now)


def _terms(challenge: Challenge) -> object:
    requirement = challenge.requirement
    return replace(requirement, demands=requirement.irreducible)
