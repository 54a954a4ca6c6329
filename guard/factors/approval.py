"""Consent: a person who is not the agent, nor its owner, wants exactly this call.

Whether the person may decide at all is checked first, and only then is their code spent, so that a
refused vote costs nobody a code. To the outside an unknown person and a wrong code look the same.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

from guard.errors import ProofError, ProofInvalidError, ProofReplayedError, ProofWrongApproverError, ProofWrongCallError
from guard.model import Challenge, Json, Proof, ProofClass, State
from guard.ports import Agents, Approver, Approvers
from guard.quorum import CODE_KINDS, INTENT, stale, welcome
from guard.reasons import Code
from guard.stepup.view import render
from guard.stepup.visible import visible

NOTE_CHARACTERS: Final = 500


class CodeAuthenticator(Protocol):
    """Checks one code of one person by raising, and spends it."""

    def authenticate(self, subject: str, code: str, now: float) -> str:
        """The id of the factor that made this code.

        Raises:
            ProofError: the code does not count; the subclass says why.
        """

    def works(self, factor: str) -> bool:
        """Whether the factor of this id exists and was not revoked; a locked one was good when it was used."""


class ApprovalFactor:
    """Turns a person's decision into a proof of consent (a `guard.ports.FactorVerifier`).

    Evidence: `as` (the person), `code`, `view_digest` (of the view they were shown), and optionally `note`
    (their words), `method` (the authenticator; "totp" unless told) and `decision`, which is "deny"
    when the person refuses: refusing is open to somebody who approved before.
    """

    __slots__ = ("_agents", "_approvers", "_authenticators", "_solo")

    def __init__(
        self, approvers: Approvers, agents: Agents, authenticators: Mapping[str, CodeAuthenticator], *, solo: bool
    ) -> None:
        """With `solo`, the agent's owner may approve, and every such proof says so."""
        self._approvers = approvers
        self._agents = agents
        self._authenticators = authenticators
        self._solo = solo

    def verify(self, challenge: Challenge, evidence: Mapping[str, Json], now: float) -> Proof:
        """The consent of a person to this challenge, at `now` (Unix seconds).

        Raises:
            ProofInvalidError: evidence is missing, the person is unknown, or the code is wrong.
            ProofWrongApproverError: the person may not decide about this call.
            ProofWrongCallError: the person was shown something else.
            ProofReplayedError: the person approved before, or the code was used before.
            ProofLockedError: the person's factor is locked.
        """
        name, code = _text(evidence, "as"), _text(evidence, "code")
        method = _text(evidence, "method", "totp")
        person = self._entitled(challenge, name)
        solo = self._is_party(challenge, name)
        if solo and not self._solo:
            raise ProofWrongApproverError(f"{name} {solo} and may not approve its calls")
        if _text(evidence, "decision", "approve") != "deny":
            self._require_use(challenge, name, method, now)
        shown = _text(evidence, "view_digest")
        if not _shows(challenge, shown):
            raise ProofWrongCallError("what was shown is not this call; look at it again")
        authenticator = self._authenticators.get(method)
        if authenticator is None:
            raise ProofInvalidError(detail=f"no authenticator {method!r}")
        factor = authenticator.authenticate(person.name, code, now)
        return Proof(
            proof_class=ProofClass.CONSENT,
            kind=method,
            factor=factor,
            subject=person.name,
            at=now,
            view_digest=shown,
            note=_plain(_text(evidence, "note", "")),
            solo=bool(solo),
            groups=person.groups & challenge.requirement.groups,
        )

    def _entitled(self, challenge: Challenge, name: str) -> Approver:
        """The person, if their place in the group lets them decide about this call."""
        person = self._approvers.get(name)
        if person is None or person.removed:
            raise ProofInvalidError(detail=f"there is no approver {name!r}")
        if _same(name, challenge.principal.subject) or self._agents.get(name) is not None:
            raise ProofWrongApproverError("an agent cannot consent")
        if not challenge.requirement.groups & person.groups:
            groups = " or ".join(sorted(challenge.requirement.groups))
            raise ProofWrongApproverError(f"{name} is not in the group {groups}")
        return person

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        """Whether the person may still decide about this call, with a factor that was not revoked since."""
        if proof.proof_class is not ProofClass.CONSENT:
            return True
        authenticator = self._authenticators.get(proof.kind)
        if proof.kind == INTENT:
            return True
        try:
            person = self._entitled(challenge, proof.subject)
        except ProofError:
            return False
        if not proof.groups <= person.groups:
            return False
        return authenticator is not None and authenticator.works(proof.factor)

    def _is_party(self, challenge: Challenge, name: str) -> str:
        """What makes the person a party to the call, in words; empty when nothing does."""
        agent = self._agents.get(challenge.principal.subject)
        owners = (challenge.principal.owner, challenge.principal.on_behalf_of, agent.owner if agent else "")
        if any(_same(name, owner) for owner in owners):
            return "owns the agent"
        return "changed the policy last" if any(_same(name, one) for one in challenge.requirement.barred) else ""

    @staticmethod
    def _require_use(challenge: Challenge, name: str, method: str, now: float) -> None:
        """Refuse a vote that could not count, before a code is spent on it."""
        requirement = challenge.requirement
        if not welcome(requirement, ProofClass.CONSENT, method, 0 if method in CODE_KINDS else None):
            raise ProofError(f"a proof by {method} is not taken here", reason=Code.NOT_TAKEN)
        given = [one for one in challenge.proofs if one.proof_class is ProofClass.CONSENT and one.kind != INTENT]
        if any(_same(one.subject, name) and not stale(requirement, one, now) for one in given):
            raise ProofReplayedError(f"{name} has approved this already; one person is one voice")


def _shows(challenge: Challenge, shown: str) -> bool:
    """Whether this is the digest of the view as it is now, or as it was before anybody answered."""
    unanswered = replace(challenge, proofs=(), state=State.PENDING)
    return any(hmac.compare_digest(shown.encode(), render(view).digest.encode()) for view in (challenge, unanswered))


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def _text(evidence: Mapping[str, Json], key: str, default: str | None = None) -> str:
    value = evidence.get(key, default)
    if not isinstance(value, str):
        raise ProofInvalidError(detail=f"evidence lacks the text {key!r}")
    return value


def _plain(note: str) -> str:
    """The person's words, without anything that could steer a terminal or reorder text."""
    return visible(note)[:NOTE_CHARACTERS]
