"""Emergency: a person lets one exact call run without the proofs it needs, and answers for it afterwards.

It takes a code generator of a kind of its own, enrolled beforehand and kept apart from the everyday one, a reason
and a ticket. Only so many are allowed within a window, and none while an earlier one waits for its review by
another person. Whether glass may be broken is checked first, and only then is a code spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from guard.errors import BreakGlassError, NotFoundError, ProofInvalidError, ProofWrongApproverError, ProofWrongCallError
from guard.model import Challenge, Json, Proof, ProofClass
from guard.ports import Agents, Approver, Approvers, CodeAuthenticator, Emergencies, Emergency, Ledger
from guard.stepup.view import shows
from guard.stepup.visible import visible

KIND: Final = "break_glass"
WORDS: Final = 500
"""Characters of a reason or a verdict; a ticket may have a fifth of them."""


class BreakGlassFactor:
    """Turns a person's word into a proof of emergency (a `guard.ports.FactorVerifier`), and takes its review.

    Evidence: `as` (the person), `code` (of their break-glass generator), `view_digest` (of the view they were
    shown), `note` (why) and `ticket`.
    """

    __slots__ = ("_agents", "_approvers", "_codes", "_emergencies", "_quota", "_window")

    def __init__(
        self,
        approvers: Approvers,
        agents: Agents,
        emergencies: Emergencies,
        codes: CodeAuthenticator,
        *,
        quota: int,
        window: float,
    ) -> None:
        """`codes` checks break-glass generators only; `quota` emergencies within `window` seconds, 0 for none ever."""
        self._approvers, self._agents, self._emergencies = approvers, agents, emergencies
        self._codes, self._quota, self._window = codes, quota, window

    def verify(self, challenge: Challenge, evidence: Mapping[str, Json], now: float) -> Proof:
        """The emergency of a person for this challenge, at `now` (Unix seconds); it counts against the quota.

        Raises:
            ProofInvalidError: evidence is missing, the person is unknown, or the code is wrong.
            ProofWrongApproverError: the person may not do this for this call.
            ProofWrongCallError: the person was shown something else.
            BreakGlassError: the quota is used up, or an emergency waits for its review.
            ProofReplayedError, ProofLockedError: the code was used before, or the generator is locked.
        """
        name, shown = _text(evidence, "as"), _text(evidence, "view_digest")
        reason, ticket = _words(evidence, "note", WORDS), _words(evidence, "ticket", WORDS // 5)
        person = self._person(challenge, name)
        if not shows(challenge, shown):
            raise ProofWrongCallError("what was shown is not this call; look at it again")
        self._require_room(now)
        factor = self._codes.authenticate(person.name, _text(evidence, "code"), now)
        emergency = Emergency(challenge=challenge.id, subject=person.name, at=now, reason=reason, ticket=ticket)
        if not self._emergencies.add(emergency):
            raise BreakGlassError("another emergency waits for its review: guard challenge review")
        return Proof(
            proof_class=ProofClass.EMERGENCY,
            kind=KIND,
            factor=factor,
            subject=person.name,
            at=now,
            view_digest=shown,
            note=f"{ticket}: {reason}",
        )

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        """Whether the person may still do this, with a generator that was not revoked since."""
        if proof.proof_class is not ProofClass.EMERGENCY:
            return True
        try:
            self._person(challenge, proof.subject)
        except (ProofInvalidError, ProofWrongApproverError):
            return False
        return self._codes.works(proof.factor)

    def _person(self, challenge: Challenge, name: str) -> Approver:
        """The person: known, no agent, not the one the agent acts for, and nobody the requirement bars."""
        person = _live(self._approvers, self._agents, name)
        principal, agent = challenge.principal, self._agents.get(challenge.principal.subject)
        doubted = {principal.subject, principal.owner, principal.on_behalf_of, agent.owner if agent else ""}
        if name.casefold() in {one.casefold() for one in doubted if one}:
            raise ProofWrongApproverError(f"{name} owns the agent; somebody else has to break the glass")
        if name.casefold() in {one.casefold() for one in challenge.requirement.barred}:
            raise ProofWrongApproverError(f"{name} changed the policy last; somebody else has to break the glass")
        return person

    def _require_room(self, now: float) -> None:
        found = self._emergencies.since(now - self._window)
        if any(not one.reviewed for one in found):
            raise BreakGlassError("another emergency waits for its review: guard challenge review")
        if len(found) >= self._quota:
            raise BreakGlassError(f"glass was broken {len(found)} times within the window; the quota is {self._quota}")


def review(
    *,
    approvers: Approvers,
    agents: Agents,
    emergencies: Emergencies,
    codes: CodeAuthenticator,
    ledger: Ledger,
    challenge: str,
    by: str,
    code: str,
    verdict: str,
    now: float,
) -> Emergency:
    """Take the review of an emergency by another person, on their everyday code; the emergency it was about.

    Raises:
        NotFoundError: no emergency of this challenge waits for a review.
        ProofError: the person may not review it, or their code is not right.
    """
    found = next((one for one in emergencies.since(now) if one.challenge == challenge and not one.reviewed), None)
    if found is None:
        raise NotFoundError("no emergency of this challenge waits for a review")
    person = _live(approvers, agents, by)
    if person.name.casefold() == found.subject.casefold():
        raise ProofWrongApproverError(f"{by} broke the glass; another person has to review it")
    words = visible(verdict.strip())[:WORDS]
    if not words:
        raise ProofInvalidError("a review says in words what was found")
    codes.authenticate(person.name, code, now)
    fields: dict[str, Json] = {"challenge_id": challenge, "by": by, "broken_by": found.subject, "because": words}
    ledger.append("glass.reviewed", fields | {"ticket": found.ticket})
    if not emergencies.review(challenge, by=by, verdict=words, at=now):
        raise NotFoundError("somebody else has reviewed it already")
    return found


def _live(approvers: Approvers, agents: Agents, name: str) -> Approver:
    person = approvers.get(name)
    if person is None or person.removed:
        raise ProofInvalidError(detail=f"there is no approver {name!r}")
    if agents.get(name) is not None:
        raise ProofWrongApproverError("an agent cannot do this")
    return person


def _text(evidence: Mapping[str, Json], key: str) -> str:
    value = evidence.get(key)
    if not isinstance(value, str):
        raise ProofInvalidError(detail=f"evidence lacks the text {key!r}")
    return value


def _words(evidence: Mapping[str, Json], key: str, most: int) -> str:
    """What the person wrote, shown safely; an emergency without it is none."""
    words = visible(_text(evidence, key).strip())[:most]
    if not words:
        raise ProofInvalidError("breaking glass takes a reason and a ticket")
    return words
