"""What somebody gave before the call came: looked for when a challenge opens, spent together with its grant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from guard.errors import ProofError, ProofWrongApproverError
from guard.intents import Beforehand, Intent
from guard.model import Challenge, Grant, Json, Proof, ProofClass
from guard.ports import Clock, FactorVerifier
from guard.quorum import welcome
from guard.reasons import Code
from guard.requirement import wants_consent
from guard.stepup.intent import Manifest

PERSON: Final = "approval"
"""The kind of evidence by which people vote."""

_TOLD: Final = 4096


class Giver(Protocol):
    """Keeps what a person allows beyond the call they approve (`guard.factors.given`)."""

    def prepare(self, challenge: Challenge, evidence: Mapping[str, Json]) -> Manifest | None:
        """What a vote with this evidence would allow further; None: nothing.

        Raises:
            ProofError: it may not be allowed; nothing was spent.
        """

    def give(self, wished: Manifest, challenge: Challenge, proof: Proof) -> Intent:
        """Record and keep what was allowed with a vote that counts."""


class Offers:
    """The sources of proofs that may lie ready, by kind; every method blocks."""

    def __init__(
        self,
        sources: Mapping[str, Beforehand],
        verifiers: Mapping[str, FactorVerifier],
        clock: Clock,
        giver: Giver | None = None,
    ) -> None:
        """Look into `sources`, and believe only what the verifier of the same kind does."""
        self._sources, self._clock = dict(sources), clock
        self._verifiers, self._every = {kind: verifiers[kind] for kind in sources}, tuple(verifiers.values())
        self._giver = giver
        self._told = set[tuple[str, str]]()

    def look(self, challenge: Challenge) -> tuple[tuple[str, Proof | ProofError], ...]:
        """The kind of what lies ready for a challenge that wants consent: at most one proof, and why others are none.

        Why something is none is told once for a challenge, however often its call comes again.
        """
        if not wants_consent(challenge.requirement, challenge.proofs, self._clock.now()):
            return ()
        return tuple(self._found(challenge))

    def _found(self, challenge: Challenge) -> Iterator[tuple[str, Proof | ProofError]]:
        for kind, source in self._sources.items():
            for evidence in source.evidence(challenge):
                try:
                    proof = self._verified(challenge, kind, evidence)
                except ProofError as error:
                    if self._news(challenge, error):
                        yield kind, error
                else:
                    yield kind, proof
                    return

    def _verified(self, challenge: Challenge, kind: str, evidence: Mapping[str, Json]) -> Proof:
        proof = self._verifiers[kind].verify(challenge, evidence, self._clock.now())
        if not welcome(challenge.requirement, proof.proof_class, kind, proof.attestation):
            raise ProofError(f"{proof.factor}: {Code.NOT_TAKEN.meaning}", reason=Code.NOT_TAKEN)
        if not all(one.stands(challenge, proof) for one in self._every):
            raise ProofWrongApproverError(f"{proof.factor}: {proof.subject} may not decide about this call any more")
        return proof

    def _news(self, challenge: Challenge, error: ProofError) -> bool:
        told = (challenge.id, error.public)
        if told in self._told:
            return False
        if len(self._told) >= _TOLD:
            self._told.clear()
        self._told.add(told)
        return True

    def prepare(self, challenge: Challenge, kind: str, evidence: Mapping[str, Json]) -> Manifest | None:
        """What a person's vote would allow beyond its call; None: nothing.

        Raises:
            ProofError: it may not be allowed; nothing was spent.
        """
        return self._giver.prepare(challenge, evidence) if self._giver is not None and kind == PERSON else None

    def give(self, wished: Manifest, challenge: Challenge, proof: Proof) -> None:
        """Keep what was allowed with a vote that counts."""
        if self._giver is not None:
            self._giver.give(wished, challenge, proof)

    def spends(self, grant: Grant) -> dict[str, int]:
        """What is spent with this grant, and on how many calls it may be.

        Raises:
            ProofError: on none any more.
        """
        return {
            proof.factor: self._sources[proof.kind].uses(proof)
            for proof in grant.proofs
            if proof.proof_class is ProofClass.CONSENT and proof.kind in self._sources
        }
