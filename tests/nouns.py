"""Ready-made nouns and Hypothesis strategies for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st

from guard.model import (
    Band,
    Call,
    Challenge,
    Classification,
    Demand,
    Doubt,
    Finding,
    Json,
    Principal,
    Proof,
    ProofClass,
    Requirement,
    Sensitivity,
    Source,
)
from guard.reasons import Code, Reason
from guard.wire.canonical import call_digest, canonical

NOW = 1_800_000_000.0
IRREVERSIBLE = frozenset({"destroy", "move_money"})
RANDOM = "0123456789ABCDEFGHIJKL"

PRINCIPAL = Principal(subject="deployer", credential="1a2b3c4d5e6f7a8b", owner="olga")


def call(
    name: str = "refund",
    arguments: Mapping[str, Json] | None = None,
    *,
    principal: Principal = PRINCIPAL,
    address: str = "192.0.2.7",
    random: str = RANDOM,
    definition: str = "d" * 64,
) -> Call:
    arguments = {"amount": 12, "to": "ACME"} if arguments is None else arguments
    text = canonical(arguments)
    return Call(
        id=f"k_{random}",
        principal=principal,
        source=Source(transport="http", address=address),
        server="payments",
        method="tools/call",
        kind="tool",
        name=name,
        arguments=arguments,
        canonical=text,
        definition=definition,
        digest=call_digest(
            principal=principal.subject,
            server="payments",
            kind="tool",
            name=name,
            definition=definition,
            canonical_arguments=text,
        ),
        received=NOW,
    )


def challenge(
    *demands: Demand,
    random: str = RANDOM,
    arguments: str = '{"amount":12,"to":"ACME"}',
    strict: bool = False,
    **changes: object,
) -> Challenge:
    made = Challenge(
        id=f"c_{random}",
        nonce=random,
        principal=PRINCIPAL,
        server="payments",
        method="tools/call",
        kind="tool",
        name="refund",
        arguments=arguments,
        definition="d" * 64,
        digest="5" * 64,
        policy_revision="r" * 64,
        rule="payments.yaml#tools.refund",
        sensitivity=Sensitivity.CRITICAL if strict else Sensitivity.SENSITIVE,
        effects=frozenset({"move_money"}),
        requirement=Requirement(frozenset(demands or {Demand.CONSENT}), strict=strict),
        reasons=(Reason(Code.TAG_CRITICAL if strict else Code.TAG_SENSITIVE, by="payments-team"),),
        findings=(),
        opened=NOW,
        expires=NOW + 900,
    )
    return replace(made, **changes)


def consent(subject: str = "ann", kind: str = "totp", factor: str = "") -> Proof:
    return Proof(
        proof_class=ProofClass.CONSENT, kind=kind, factor=factor or f"{kind}-{subject}", subject=subject, at=NOW
    )


def possession(subject: str = "deployer", attestation: int = 1, factor: str = "") -> Proof:
    return Proof(
        proof_class=ProofClass.POSSESSION,
        kind="signature",
        factor=factor or f"signature-{subject}",
        subject=subject,
        at=NOW,
        attestation=attestation,
    )


def finding(cause: Doubt = Doubt.IDENTITY, band: Band = Band.UNUSUAL, evidence: str = "") -> Finding:
    return Finding(signal="s", cause=cause, band=band, reason=Reason(Code.NEW_NETWORK, "s", evidence))


findings = st.builds(
    finding, st.sampled_from(Doubt), st.sampled_from(Band), st.text("xyz", max_size=2)
)  # evidence differs, so that reasons do
effects = st.frozensets(st.sampled_from(["destroy", "move_money", "read", "egress"]))
classifications = st.builds(
    Classification,
    sensitivity=st.sampled_from(Sensitivity),
    effects=effects,
    demands=st.frozensets(st.sampled_from(Demand)),
    tagged=st.booleans(),
)
proofs = st.one_of(
    st.builds(consent, st.sampled_from(["ann", "bob", "cy", ""]), st.sampled_from(["totp", "webauthn"])),
    st.builds(possession, st.sampled_from(["deployer", "ann"]), st.integers(0, 2)),
)
