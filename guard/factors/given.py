"""Consent to further calls, given by a person while approving one: kept as an intent, spent call by call.

What lets it be given is checked before the person's code is spent. Whether the person may still decide is for
`guard.factors.approval`, which is asked for every proof; here it is whether what they said covers the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from guard.errors import ProofError, ProofExpiredError, ProofInvalidError, ProofReplayedError, ProofWrongCallError
from guard.intents import Intent, Intents
from guard.model import Challenge, Json, Proof, ProofClass, State
from guard.ports import Challenges, Clock, Factors, Ledger
from guard.quorum import GIVEN
from guard.stepup import given
from guard.stepup.given import Given
from guard.stepup.intent import Manifest, require_time
from guard.wire.canonical import digest

LOOKED_AT: Final = 64
"""How many intents for one agent, server and tool are looked at for one call, the newest first."""
_TAKEN_BACK: Final = frozenset({State.DENIED, State.REVOKED})


class GivenFactor:
    """Keeps what people allow while approving, and turns it into proofs of their consent.

    A `guard.ports.FactorVerifier`, `Beforehand` and `Giver`. Evidence: `intent` (its id).
    """

    __slots__ = ("_audience", "_challenges", "_clock", "_factors", "_intents", "_ledger")

    def __init__(
        self, intents: Intents, challenges: Challenges, factors: Factors, ledger: Ledger, clock: Clock, *, audience: str
    ) -> None:
        self._intents, self._challenges, self._factors, self._audience = intents, challenges, factors, audience
        self._ledger, self._clock = ledger, clock

    # ------------------------------------------------------------------ giving

    def prepare(self, challenge: Challenge, evidence: Mapping[str, Json]) -> Manifest | None:
        """What a vote with this evidence would allow further; None: nothing.

        Raises:
            ProofError: it may not be allowed; nothing was spent.
        """
        also = given.wanted(evidence)
        if also is None:
            return None
        person = evidence.get("as")
        if not isinstance(person, str):
            raise ProofInvalidError("only a person allows further calls")
        return given.manifest(
            also,
            challenge,
            identifier=self._clock.token("i"),
            person=person,
            audience=self._audience,
            now=self._clock.now(),
        )

    def give(self, wished: Manifest, challenge: Challenge, proof: Proof) -> Intent:
        """Record and keep what was allowed with a vote that counts."""
        kept = given.given(wished, challenge, proof)
        raw = given.payload(kept)
        intent = Intent(
            id=wished.id,
            agent=wished.agent,
            server=wished.server,
            tool=wished.tool,
            ends=wished.ends,
            published=self._clock.now(),
            payload=raw,
            signature=b"",
        )
        said: dict[str, Json] = {
            "intent": wished.id,
            "signer": proof.subject,
            "factor": proof.factor,
            "challenge_id": challenge.id,
            "agent": wished.agent,
            "server": wished.server,
            "tool": wished.tool,
            "manifest_digest": digest(raw),
            "begins": wished.begins,
            "ends": wished.ends,
            "uses": wished.uses,
        }
        self._ledger.append("intent.given", said)
        if not self._intents.add(intent):
            raise ProofReplayedError("an intent of this id exists")
        return intent

    # ------------------------------------------------------------------ proving

    def evidence(self, challenge: Challenge) -> Sequence[Mapping[str, Json]]:
        """What was given for this agent, server and tool and is neither over, used up nor revoked."""
        if challenge.kind != "tool" or not challenge.further:
            return ()
        found = self._intents.find(
            agent=challenge.principal.subject, server=challenge.server, tool=challenge.name, limit=LOOKED_AT
        )
        now = self._clock.now()
        return tuple({"intent": one.id} for one in found if not one.signature and not one.revoked and now < one.ends)

    def verify(self, challenge: Challenge, evidence: Mapping[str, Json], now: float) -> Proof:
        """The consent of whoever allowed this call while approving another, at `now` (Unix seconds).

        Raises:
            ProofInvalidError: there is no such intent, or the factor it was given with is gone.
            ProofWrongCallError: it does not cover this call.
            ProofExpiredError: its time is over, it or the approval it came with was taken back, or the policy no longer
                lets it be.
            ProofReplayedError: it has no use left.
        """
        identifier = evidence.get("intent")
        if not isinstance(identifier, str) or evidence.get("decision", "approve") != "approve":
            raise ProofInvalidError("what was given consents, by its id, and does nothing else")
        intent, kept = self._open(identifier)
        try:
            given.require_given(kept, challenge, now)
            self._require_left(intent, kept)
            self._require_upheld(kept)
        except ProofError as error:
            error.public = f"{identifier}: {error.public}"
            raise
        return Proof(
            proof_class=ProofClass.CONSENT,
            kind=GIVEN,
            factor=identifier,
            subject=kept.manifest.signer,
            at=kept.manifest.begins,
            note=kept.manifest.reason,
            solo=kept.solo,
            groups=kept.groups & challenge.requirement.groups,
        )

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        """Whether what was given still covers this call, and has a use left for it."""
        if proof.kind != GIVEN:
            return True
        try:
            self.verify(challenge, {"intent": proof.factor}, self._clock.now())
        except ProofError:
            return False
        return True

    def uses(self, proof: Proof) -> int:
        """On how many calls the intent behind a proof may be spent.

        Raises:
            ProofError: on none any more.
        """
        intent, kept = self._open(proof.factor)
        require_time(kept.manifest, self._clock.now())
        self._require_left(intent, kept)
        return kept.manifest.uses

    def _open(self, identifier: str) -> tuple[Intent, Given]:
        intent = self._intents.get(identifier)
        if intent is None:
            raise ProofInvalidError("there is no such intent")
        kept = given.parse(intent.payload)
        if kept.manifest.id != intent.id:
            raise ProofInvalidError("the intent is not the one it is kept as")
        if kept.manifest.audience != self._audience:
            raise ProofWrongCallError("the intent is meant for another installation")
        factor = self._factors.get(kept.factor)
        if factor is None or factor.revoked or factor.locked:
            raise ProofInvalidError(f"{identifier}: what {kept.manifest.signer} allowed it with no longer counts")
        return intent, kept

    def _require_upheld(self, kept: Given) -> None:
        """What was allowed on a call goes no further than the approval it came with."""
        first = self._challenges.get(kept.challenge)
        if first is None or first.state in _TAKEN_BACK:
            raise ProofExpiredError("the call it was allowed on was refused, or its approval taken back")

    @staticmethod
    def _require_left(intent: Intent, kept: Given) -> None:
        if intent.revoked:
            raise ProofExpiredError("the intent was revoked")
        if intent.used >= kept.manifest.uses:
            raise ProofReplayedError("the intent has no use left")
