"""Consent given in advance: a manifest that another enrolled principal signed with its own key.

A key that may sign intents is enrolled for that and nothing else, and for the agents and servers its owner names; it
never proves possession, and a key that speaks for a workload never signs an intent. The signature is checked when the
intent is published and again whenever it is used, so that the store is believed only where the signed bytes agree.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from guard.errors import (
    ProofError,
    ProofExpiredError,
    ProofInvalidError,
    ProofReplayedError,
    ProofWrongApproverError,
    ProofWrongCallError,
)
from guard.factors.ecdsa import ALGORITHM, check, decode, enrolled, public_key, spki, thumbprint
from guard.factors.register import revoke
from guard.intents import Intent, Intents, Tickets
from guard.model import Challenge, Json, Proof, ProofClass
from guard.ports import Agents, Clock, Factor, Factors, Ledger
from guard.quorum import INTENT
from guard.reasons import Code
from guard.stepup.intent import (
    CONTENT_TYPE,
    Manifest,
    parse,
    require_covers,
    require_issued,
    require_time,
    signed_bytes,
)
from guard.stepup.visible import visible
from guard.wire.canonical import digest

KIND: Final = INTENT
PUBLISH_WITHIN: Final = 3600.0
"""Seconds from the signing of a manifest within which it must be published."""
LOOKED_AT: Final = 64
"""How many intents for one agent, server and tool are looked at for one call, the newest first."""
OFFERED: Final = 8
"""How many live ones of them are tried."""


def intent_factor(
    *,
    identifier: str,
    signer: str,
    key: bytes,
    agents: Sequence[str],
    servers: Sequence[str],
    attestation: int,
    now: float,
) -> Factor:
    """A key that may sign intents for agents and on servers of these globs; `key` is its DER public key.

    Raises:
        ProofError: the key is not P-256 (`factor_unsuitable`).
    """
    encoded = public_key(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Factor(
        id=identifier,
        kind=KIND,
        subject=signer,
        created=now,
        attestation=attestation,
        public={
            "algorithm": ALGORITHM,
            "spki": base64.b64encode(encoded).decode(),
            "agents": list(agents),
            "servers": list(servers),
        },
    )


class IntentFactor:
    """Publishes signed intents, and turns them into proofs of consent.

    A `guard.ports.FactorVerifier`, `Beforehand` and `Publisher`. Evidence: `intent` (its id). `audience` names this
    installation; with `ticketed`, an intent without a ticket is not taken. Tickets are checked by `tickets` where there
    is a change system, and only recorded where there is none.
    """

    __slots__ = ("_agents", "_audience", "_clock", "_factors", "_intents", "_ledger", "_ticketed", "_tickets")

    def __init__(
        self,
        intents: Intents,
        factors: Factors,
        agents: Agents,
        ledger: Ledger,
        clock: Clock,
        *,
        audience: str,
        tickets: Tickets | None = None,
        ticketed: bool = False,
    ) -> None:
        self._intents, self._factors, self._agents = intents, factors, agents
        self._ledger, self._clock, self._audience = ledger, clock, audience
        self._tickets, self._ticketed = tickets, ticketed

    def enroll(
        self, signer: str, key: bytes, *, agents: Sequence[str], servers: Sequence[str], attestation: int
    ) -> Factor:
        """Let a principal sign intents with this key (DER); an earlier one of theirs stops working.

        Raises:
            ProofError: the key is not P-256, or another factor has it (`factor_unsuitable`).
        """
        now = self._clock.now()
        made = intent_factor(
            identifier=self._clock.token("f"),
            signer=signer,
            key=key,
            agents=agents,
            servers=servers,
            attestation=attestation,
            now=now,
        )
        everyone = self._factors.of("")
        same_key = (one for one in everyone if one.public.get("spki") == made.public["spki"])
        if any((one.kind, one.subject) != (KIND, signer) for one in same_key):
            raise ProofError("this key is enrolled for something else", reason=Code.FACTOR_UNSUITABLE)
        earlier = [one for one in everyone if (one.kind, one.subject) == (KIND, signer) and not one.revoked]
        self._factors.add(made)
        for one in earlier:
            revoke(self._factors, one, now)
        said: dict[str, Json] = {"agents": list(agents), "servers": list(servers)}
        who: dict[str, Json] = {"factor": made.id, "kind": KIND, "subject": signer, "attestation": attestation}
        self._ledger.append("factor.enrolled", who | said)
        return made

    # ------------------------------------------------------------------ publishing

    def publish(self, envelope: Mapping[str, Json]) -> Intent:
        """Check and keep the intent in a DSSE envelope; the same one again changes nothing.

        Raises:
            ProofInvalidError: it is malformed, or not signed by an enrolled key.
            ProofExpiredError: it was signed too long ago, in the future, before its key was enrolled, or is over.
            ProofWrongCallError: it is meant for another installation, or for agents and servers beyond the key's.
            ProofWrongApproverError: the agent it is for could have signed it.
            ProofReplayedError: its id was used for something else.
        """
        payload, signature = _opened(envelope)
        manifest = parse(payload)
        factor = self._signed_by(manifest, payload, signature)
        try:
            self._require_independent(manifest, factor)
            now = self._clock.now()
            known = self._intents.get(manifest.id)
            if known is not None:
                return _same(known, payload)
            require_issued(manifest, enrolled=factor.created, now=now, within=PUBLISH_WITHIN)
            if self._ticketed and not manifest.ticket:
                raise ProofInvalidError("an intent needs a ticket here")
        except ProofError as error:
            self._reject(manifest, error)
            raise
        intent = Intent(
            id=manifest.id,
            agent=manifest.agent,
            server=manifest.server,
            tool=manifest.tool,
            ends=manifest.ends,
            published=now,
            payload=payload,
            signature=signature,
        )
        self._ledger.append("intent.published", _record(manifest, factor, payload))
        if not self._intents.add(intent):
            found = self._intents.get(manifest.id)
            if found is None:
                raise ProofReplayedError("an intent of this id was there a moment ago")
            return _same(found, payload)
        return intent

    def _reject(self, manifest: Manifest, error: ProofError) -> None:
        """Record what an enrolled key signed and what does not count all the same."""
        said: list[Json] = [{"code": error.reason.value, "by": "", "evidence": error.public}]
        who: dict[str, Json] = {"intent": manifest.id, "signer": manifest.signer, "agent": manifest.agent}
        self._ledger.append("intent.rejected", who | {"reasons": said})

    def _signed_by(self, manifest: Manifest, payload: bytes, signature: bytes) -> Factor:
        """The live key that signed this payload for this installation."""
        if manifest.audience != self._audience:
            raise ProofWrongCallError("the intent is meant for another installation")
        for factor in self._factors.of(manifest.signer, KIND):
            if not factor.revoked and not factor.locked and thumbprint(spki(factor)) == manifest.key:
                check(enrolled(factor), signature, signed_bytes(payload))
                return factor
        raise ProofInvalidError("no enrolled key signed this intent")

    def _require_independent(self, manifest: Manifest, factor: Factor) -> None:
        """Return if the key may sign for this agent and server, and is nothing that the agent could use itself."""
        allowed = {"agents": manifest.agent, "servers": manifest.server}
        for name, value in allowed.items():
            globs = factor.public.get(name)
            if not isinstance(globs, list) or not any(isinstance(g, str) and fnmatchcase(value, g) for g in globs):
                raise ProofWrongCallError(f"the key of {manifest.signer} may not sign for this {name.rstrip('s')}")
        agent = self._agents.get(manifest.agent)
        parties = {manifest.agent.casefold(), agent.owner.casefold() if agent else ""}
        if manifest.signer.casefold() in parties:
            raise ProofWrongApproverError("the agent and its owner cannot sign intents for it")
        own = [one for one in self._factors.of(manifest.agent) if one.public.get("spki") == factor.public.get("spki")]
        if own:
            raise ProofWrongApproverError("this key is enrolled for the agent, too")

    # ------------------------------------------------------------------ proving

    def evidence(self, challenge: Challenge) -> Sequence[Mapping[str, Json]]:
        """The live intents for this agent, server and tool; and the last one, for the record to say why it is none."""
        if challenge.kind != "tool":
            return ()
        found = self._intents.find(
            agent=challenge.principal.subject, server=challenge.server, tool=challenge.name, limit=LOOKED_AT
        )
        found = [one for one in found if one.signature]
        live = [one for one in found if self._live(one)]
        last = [one for one in found[:1] if one not in live]
        return tuple({"intent": one.id} for one in (*live[:OFFERED], *last))

    def _live(self, intent: Intent) -> bool:
        try:
            self._require_left(intent, parse(intent.payload))
        except ProofError:
            return False
        return self._clock.now() < intent.ends

    def verify(self, challenge: Challenge, evidence: Mapping[str, Json], now: float) -> Proof:
        """The consent of an intent's signer to this challenge, at `now` (Unix seconds).

        Raises:
            ProofInvalidError: there is no such intent, or no enrolled key signed it.
            ProofWrongCallError: it does not want this call.
            ProofExpiredError: its window is not open, or it was revoked.
            ProofReplayedError: it has no use left.
            ProofWrongApproverError: the agent could have signed it.
            ProofError: its ticket does not count.
        """
        identifier = evidence.get("intent")
        if not isinstance(identifier, str) or evidence.get("decision", "approve") != "approve":
            raise ProofInvalidError("an intent consents, by its id, and does nothing else")
        intent, manifest, factor = self._open(identifier)
        try:
            require_covers(manifest, challenge, now)
            self._require_left(intent, manifest)
            self._require_ticket(manifest, now)
        except ProofError as error:
            error.public = f"{manifest.id}: {error.public}"
            raise
        return Proof(
            proof_class=ProofClass.CONSENT,
            kind=KIND,
            factor=manifest.id,
            subject=manifest.signer,
            at=now,
            attestation=factor.attestation,
            note=visible(manifest.note),
        )

    def stands(self, challenge: Challenge, proof: Proof) -> bool:
        """Whether the intent still wants this call, and has a use left for it."""
        if proof.kind != KIND or proof.proof_class is not ProofClass.CONSENT:
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
        intent, manifest, _ = self._open(proof.factor)
        require_time(manifest, self._clock.now())
        self._require_left(intent, manifest)
        return manifest.uses

    def _open(self, identifier: str) -> tuple[Intent, Manifest, Factor]:
        """A published intent as its signed bytes have it."""
        intent = self._intents.get(identifier)
        if intent is None:
            raise ProofInvalidError("there is no such intent")
        manifest = parse(intent.payload)
        if manifest.id != intent.id:
            raise ProofInvalidError("the intent is not the one it is kept as")
        factor = self._signed_by(manifest, intent.payload, intent.signature)
        self._require_independent(manifest, factor)
        return intent, manifest, factor

    @staticmethod
    def _require_left(intent: Intent, manifest: Manifest) -> None:
        if intent.revoked:
            raise ProofExpiredError("the intent was revoked")
        if intent.used >= manifest.uses:
            raise ProofReplayedError("the intent has no use left")

    def _require_ticket(self, manifest: Manifest, now: float) -> None:
        if self._ticketed and not manifest.ticket:
            raise ProofInvalidError("an intent needs a ticket here")
        if manifest.ticket and self._tickets is not None:
            self._tickets.check(manifest.ticket, now)


# ------------------------------------------------------------------ the envelope


def envelope(payload: bytes, signature: bytes, key: str) -> dict[str, Json]:
    """A signed payload in the JSON form of DSSE; `key` is the thumbprint of the key."""
    signed = {"keyid": key, "sig": base64.b64encode(signature).decode()}
    return {
        "payloadType": CONTENT_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [signed],
    }


def _opened(value: Mapping[str, Json]) -> tuple[bytes, bytes]:
    """Payload and signature of an envelope with one signature."""
    signatures, payload = value.get("signatures"), value.get("payload")
    if value.keys() != {"payloadType", "payload", "signatures"} or value["payloadType"] != CONTENT_TYPE:
        raise ProofInvalidError("not an envelope of an intent")
    if not isinstance(payload, str) or not isinstance(signatures, list) or len(signatures) != 1:
        raise ProofInvalidError("an envelope of an intent has a payload and one signature")
    [signed] = signatures
    signature = signed.get("sig") if isinstance(signed, Mapping) else None
    if not isinstance(signature, str):
        raise ProofInvalidError("the envelope has no signature")
    return decode(payload), decode(signature)


def _same(known: Intent, payload: bytes) -> Intent:
    """The intent that is kept already, if it is this one."""
    if known.payload != payload:
        raise ProofReplayedError("an intent of this id was published already, and says something else")
    return known


def _record(manifest: Manifest, factor: Factor, payload: bytes) -> dict[str, Json]:
    """What the ledger holds of an intent: everything but the arguments it names."""
    return {
        "intent": manifest.id,
        "signer": manifest.signer,
        "factor": factor.id,
        "attestation": factor.attestation,
        "agent": manifest.agent,
        "server": manifest.server,
        "tool": manifest.tool,
        "manifest_digest": digest(payload),
        "issued": manifest.issued,
        "begins": manifest.begins,
        "ends": manifest.ends,
        "uses": manifest.uses,
        "ticket": manifest.ticket,
        "note": visible(manifest.reason),
    }
