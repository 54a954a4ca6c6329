"""Consent: a person who is not the agent, nor its owner, wants exactly this call.

Whether the person may decide at all is checked first, and only then is their code or assertion spent, so that a
refused vote costs nobody anything. To the outside an unknown person and a wrong code look the same.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Protocol

from guard.errors import ProofError, ProofInvalidError, ProofReplayedError, ProofWrongApproverError, ProofWrongCallError
from guard.model import Challenge, Json, Proof, ProofClass
from guard.ports import Agents, Approver, Approvers, CodeAuthenticator
from guard.quorum import CODE_KINDS, GIVEN, INTENT, counts, stale, welcome
from guard.reasons import Code
from guard.stepup.binding import list_digest
from guard.stepup.escalation import asked
from guard.stepup.given import wanted
from guard.stepup.view import shows
from guard.stepup.visible import visible
from guard.stepup.vote import Decision, Vote

NOTE_CHARACTERS: Final = 500


class Authenticator(Protocol):
    """Checks by raising that a vote is the person's own, and spends what showed it."""

    def vouch(self, vote: Vote, now: float) -> str:
        """The id of the factor that vouches for exactly this vote.

        Raises:
            ProofError: the evidence does not count; the subclass says why.
        """

    def works(self, factor: str) -> bool:
        """Whether the factor of this id exists and was not revoked; a locked one was good when it was used."""


class ApprovalFactor:
    """Turns a person's decision into a proof of consent (a `guard.ports.FactorVerifier`).

    Evidence: `as` (the person), `view_digest` (of the view they were shown), what the method wants (a `code`; an
    assertion), and optionally `note` (their words), `method` (the authenticator; "totp" unless told) and
    `decision`, which is "deny" when the person refuses: refusing is open to somebody who approved before.
    """

    __slots__ = ("_agents", "_approvers", "_authenticators", "_escalate", "_solo")

    def __init__(
        self,
        approvers: Approvers,
        agents: Agents,
        authenticators: Mapping[str, Authenticator],
        *,
        solo: bool,
        escalate: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """With `solo`, the agent's owner may approve, and every such proof says so; `escalate` as in the settings."""
        self._escalate = dict(escalate)
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
        decision: Decision = "deny" if _text(evidence, "decision", "approve") == "deny" else "approve"
        shown = _text(evidence, "view_digest")
        judged = self._judged(challenge, evidence, shown, now, denies=decision == "deny")
        also = wanted(evidence)
        vote = Vote(
            challenge=challenge,
            approver=judged.subject,
            decision=decision,
            view_digest=shown,
            evidence=evidence,
            also=also.label if also else "",
        )
        return replace(judged, factor=self._authenticator(judged.kind).vouch(vote, now))

    def verify_list(self, challenges: Sequence[Challenge], evidence: Mapping[str, Json], now: float) -> list[Proof]:
        """The consent of a person to every one of these challenges with one code (a `guard.ports.ListVerifier`).

        Evidence as for `verify`, with `view_digests` (of each view they were shown, in order) and `list_digest`
        (`guard.stepup.binding.list_digest` of what was shown): the code is spent on exactly this list.

        Raises:
            ProofError: as `verify`, for any of them; no code was spent.
        """
        if wanted(evidence):
            raise ProofInvalidError("further calls are allowed while approving one call, not a list")
        views = evidence.get("view_digests")
        if not isinstance(views, list) or len(views) != len(challenges):
            raise ProofInvalidError(detail="evidence lacks a view digest for each challenge")
        judged = [
            self._judged(challenge, evidence, str(view), now, denies=False)
            for challenge, view in zip(challenges, views, strict=True)
        ]
        items = [(one.id, one.digest, proof.view_digest) for one, proof in zip(challenges, judged, strict=True)]
        if not hmac.compare_digest(_text(evidence, "list_digest").encode(), list_digest(items).encode()):
            raise ProofWrongCallError("the list is not the one that was shown; look at it again")
        authenticator = self._authenticator(_text(evidence, "method", "totp"))
        if not isinstance(authenticator, CodeAuthenticator):
            raise ProofInvalidError("a list is approved with a code")
        factor = authenticator.authenticate(judged[0].subject, _text(evidence, "code"), now)
        return [replace(proof, factor=factor) for proof in judged]

    def _judged(
        self, challenge: Challenge, evidence: Mapping[str, Json], shown: str, now: float, *, denies: bool
    ) -> Proof:
        """The proof as it will be once the person's code is found right; everything else is checked here."""
        name = _text(evidence, "as")
        person = self._entitled(challenge, name, now)
        also = wanted(evidence)
        if also and (denies or person.groups.isdisjoint(challenge.requirement.groups)):
            raise ProofInvalidError("only who approves, and is asked from the beginning, may allow further calls")
        solo = self._is_party(challenge, name)
        if solo and not self._solo:
            raise ProofWrongApproverError(f"{name} {solo} and may not approve its calls")
        judged = Proof(
            proof_class=ProofClass.CONSENT,
            kind=_text(evidence, "method", "totp"),
            factor="",
            subject=person.name,
            at=now,
            view_digest=shown,
            note=_plain(_text(evidence, "note", ""), also.label if also else ""),
            solo=bool(solo),
            groups=person.groups & challenge.requirement.groups,
        )
        if not denies:
            self._require_use(challenge, judged, now)
        if not shows(challenge, shown):
            raise ProofWrongCallError("what was shown is not this call; look at it again")
        return judged

    def _authenticator(self, method: str) -> Authenticator:
        authenticator = self._authenticators.get(method)
        if authenticator is None:
            raise ProofInvalidError(detail=f"no authenticator {method!r}")
        return authenticator

    def _entitled(self, challenge: Challenge, name: str, at: float) -> Approver:
        """The person, if a group of theirs is asked about this call at this moment."""
        person = self._approvers.get(name)
        if person is None or person.removed:
            raise ProofInvalidError(detail=f"there is no approver {name!r}")
        if _same(name, challenge.principal.subject) or self._agents.get(name) is not None:
            raise ProofWrongApproverError("an agent cannot consent")
        groups = asked(challenge, self._escalate, at)
        if person.groups.isdisjoint(groups):
            raise ProofWrongApproverError(f"{name} is not in the group {' or '.join(sorted(groups))}")
        return person

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        """Whether the person may still decide about this call and is no party to it, with a factor that counts."""
        if proof.proof_class is not ProofClass.CONSENT:
            return True
        if proof.kind == INTENT:
            return True
        try:
            person = self._entitled(challenge, proof.subject, proof.at)
        except ProofError:
            return False
        if not proof.groups <= person.groups:
            return False
        if self._is_party(challenge, proof.subject) and not (self._solo and proof.solo):
            return False
        authenticator = self._authenticators.get(proof.kind)
        return proof.kind == GIVEN or (authenticator is not None and authenticator.works(proof.factor))

    def _is_party(self, challenge: Challenge, name: str) -> str:
        """What makes the person a party to the call, in words; empty when nothing does."""
        agent = self._agents.get(challenge.principal.subject)
        owners = (challenge.principal.owner, challenge.principal.on_behalf_of, agent.owner if agent else "")
        if any(_same(name, owner) for owner in owners):
            return "owns the agent"
        return "changed the policy last" if any(_same(name, one) for one in challenge.requirement.barred) else ""

    @staticmethod
    def _require_use(challenge: Challenge, judged: Proof, now: float) -> None:
        """Refuse a vote that could not count, before a code is spent on it."""
        requirement, name, method = challenge.requirement, judged.subject, judged.kind
        if not welcome(requirement, ProofClass.CONSENT, method, 0 if method in CODE_KINDS else None):
            raise ProofError(f"a proof by {method} is not taken here", reason=Code.NOT_TAKEN)
        if not counts(requirement, judged):
            groups = " or ".join(sorted({quorum.group for quorum in requirement.quorums if quorum.group}))
            raise ProofError(
                f"every place is for a member of group {groups}, and {name} is in none of them", reason=Code.NOT_TAKEN
            )
        given = [one for one in challenge.proofs if one.proof_class is ProofClass.CONSENT and one.kind != INTENT]
        if any(_same(one.subject, name) and not stale(requirement, one, now) for one in given):
            raise ProofReplayedError(f"{name} has approved this already; one person is one voice")


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def _text(evidence: Mapping[str, Json], key: str, default: str | None = None) -> str:
    value = evidence.get(key, default)
    if not isinstance(value, str):
        raise ProofInvalidError(detail=f"evidence lacks the text {key!r}")
    return value


def _plain(note: str, also: str) -> str:
    """The person's words and what they allow, without anything that could steer a terminal or reorder text."""
    words = visible(note)[:NOTE_CHARACTERS]
    return f"{words} ({visible(also)})" if also and words else words or visible(also)
