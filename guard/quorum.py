"""Counting proofs: who is one voice, which places the voices fill, which proofs are too old. Pure.

A person is one voice however many factors and groups they have, and one voice fills one place: where two groups are
asked for, nobody stands for both. All signed intents of a challenge together are one voice and no person, so that they
never make up a quorum by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from guard.model import SET_BACK, Demand, Proof, ProofClass, Quorum, Requirement

CODE_KINDS: Final = frozenset({"totp"})
"""Kinds of consent that rest on a one-time code alone, which `strict` requirements do not take by itself."""

INTENT: Final = "intent"
"""The kind of consent that a signed intent gives."""

GIVEN: Final = "given"
"""The kind of consent that a person gave while approving an earlier call. It is that person's own voice."""

AHEAD: Final = frozenset({INTENT, GIVEN})
"""The kinds of consent that were there before the call."""

KINDS: Final = {
    ProofClass.CONSENT: ("totp", "webauthn", INTENT),
    ProofClass.POSSESSION: ("signature",),
}
"""The kinds of proof a quorum may name, by class."""

_INTENTS: Final = "\0intents"  # no name of a person


def possessed(proofs: Iterable[Proof]) -> frozenset[str]:
    """The workloads that proved possession with a key no software gives away (attestation 1 or more)."""
    return frozenset(
        proof.subject for proof in proofs if proof.proof_class is ProofClass.POSSESSION and proof.attestation >= 1
    )


def voices(requirement: Requirement, proofs: Sequence[Proof]) -> Mapping[str, tuple[Proof, ...]]:
    """The proofs of consent that count, by voice; a voice is a name without regard to case.

    Whoever also signed as the workload is not someone else, nor is whoever the requirement bars. Where it is strict, a
    one-time code counts only beside possession.
    """
    workloads, barred = possessed(proofs), {name.casefold() for name in requirement.barred}
    acting = {name.casefold() for name in workloads}
    people, intents = dict[str, tuple[Proof, ...]](), dict[str, tuple[Proof, ...]]()
    for proof in proofs:
        name = proof.subject.casefold()
        counts = workloads or not requirement.strict or proof.kind not in CODE_KINDS
        if proof.proof_class is not ProofClass.CONSENT or not name or name in acting or not counts:
            continue
        if name not in barred or proof.solo:
            found = intents if proof.kind == INTENT else people
            found[name] = (*found.get(name, ()), proof)
    others = tuple(proof for name, given in intents.items() if name not in people for proof in given)
    own = {name: (*given, *intents.get(name, ())) for name, given in people.items()}
    return own | ({_INTENTS: others} if others else {})


def unfilled(requirement: Requirement, proofs: Sequence[Proof], now: float | None) -> tuple[Quorum, ...]:
    """The quorums that these proofs do not fill at `now` (Unix seconds; None: whatever their age).

    Those that are met one by one, but only because somebody stands for several groups, are all among them.
    """
    counted = voices(requirement, proofs)
    quorums = sorted(requirement.quorums, key=lambda quorum: quorum.label)
    fitting = {
        quorum: frozenset(name for name, given in counted.items() if any(_fits(quorum, one, now) for one in given))
        for quorum in quorums
        if quorum.proof_class is ProofClass.CONSENT
    }
    alone = [
        quorum
        for quorum in quorums
        if (quorum in fitting and len(fitting[quorum]) < quorum.people)
        or (quorum not in fitting and not any(_fits(quorum, one, now) for one in proofs))
    ]
    if alone or _placed(fitting):
        return tuple(alone)
    return tuple(fitting)


def _placed(fitting: Mapping[Quorum, frozenset[str]]) -> bool:
    """Whether the voices can be shared out so that each stands for one group and every quorum is filled.

    Follows what is still wanted of each quorum, voice by voice; few quorums with few places have few such states.
    """
    states = {tuple(quorum.people for quorum in fitting)}
    for voice in sorted(frozenset[str]().union(*fitting.values())):
        before = tuple(states)
        for group in {quorum.group for quorum, able in fitting.items() if voice in able}:
            states |= {
                tuple(
                    max(0, want - (quorum.group == group and voice in able))
                    for want, (quorum, able) in zip(state, fitting.items(), strict=True)
                )
                for state in before
            }
    return any(not any(state) for state in states)


def _fits(quorum: Quorum, proof: Proof, now: float | None) -> bool:
    """Whether this proof may stand for one place."""
    least = max(quorum.attestation, 1) if quorum.proof_class is ProofClass.POSSESSION else quorum.attestation
    named = not quorum.group or quorum.group in proof.groups or (proof.kind == INTENT and INTENT in quorum.kinds)
    return (
        proof.proof_class is quorum.proof_class
        and (not quorum.kinds or proof.kind in quorum.kinds)
        and proof.attestation >= least
        and named
        and (now is None or _fresh(quorum, proof, now))
    )


def _fresh(quorum: Quorum, proof: Proof, now: float) -> bool:
    return not quorum.max_age or proof.at - SET_BACK <= now <= proof.at + quorum.max_age


def stale(requirement: Requirement, proof: Proof, now: float) -> bool:
    """Whether the proof is too old for a quorum it would stand for, so that it must be given again."""
    return any(_fits(quorum, proof, None) and not _fresh(quorum, proof, now) for quorum in requirement.quorums)


def counts(requirement: Requirement, proof: Proof) -> bool:
    """Whether this proof could stand for anything that is required, whoever else proves what, and however late.

    A voice that no quorum asks for can only be one of those that the demands want beyond the places of all quorums.
    """
    asked = [quorum for quorum in requirement.quorums if quorum.proof_class is proof.proof_class]
    if not asked or any(_fits(quorum, proof, None) for quorum in asked):
        return True
    if proof.proof_class is not ProofClass.CONSENT:
        return False
    places = dict[str, int]()
    for quorum in asked:
        places[quorum.group] = max(places.get(quorum.group, 0), quorum.people)
    wanted = 2 if Demand.TWO_PEOPLE in requirement.demands else 1
    return wanted > sum(places.values())


def takes(requirement: Requirement, kind: str) -> bool:
    """Whether consent of this kind, without attestation, is of use."""
    return welcome(requirement, ProofClass.CONSENT, kind, 0)


def welcome(requirement: Requirement, proof_class: ProofClass, kind: str, attestation: int | None) -> bool:
    """Whether a proof of this kind can be of any use: quorums of its class, if there are any, must take it.

    `attestation` is None as long as it is not known.
    """
    asked = [quorum for quorum in requirement.quorums if quorum.proof_class is proof_class]
    return not asked or any(
        (not quorum.kinds or kind in quorum.kinds) and (attestation is None or attestation >= quorum.attestation)
        for quorum in asked
    )
