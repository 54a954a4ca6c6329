"""The exact bytes a possession proof signs, and how a signer checks the document behind them.

The bytes are the DSSE v1 pre-authentication encoding (secure-systems-lab/dsse, protocol.md) of the
RFC 8785 form of one flat JSON document. There is no algorithm field to confuse, and the payload type
separates these signatures from every other use of the same key. The document carries digests, never an
argument. Guard and signer build the bytes with the same function from the same document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from guard.errors import ProofExpiredError, ProofInvalidError, ProofWrongCallError
from guard.model import Challenge, Json, Sensitivity, State
from guard.stepup.shape import Check, boolean, exactly, members, text, texts, whole
from guard.stepup.view import render
from guard.wire.canonical import canonical, digest

CONTENT_TYPE: Final = "application/vnd.guard.stepup-challenge.v1+json"
TYPE: Final = "guard.stepup-challenge"
VERSION: Final = 1
SKEW: Final = 60
"""Seconds a signer's clock may be behind or ahead of the guard's."""
_VIEWS: Final = 256
"""Digests of views kept at hand."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding: unambiguous because every part carries its length in bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def document(challenge: Challenge, *, audience: str) -> Mapping[str, Json]:
    """What is signed about a PENDING challenge, as JSON members; `audience` names the installation.

    Times are whole Unix seconds. `view_digest` is that of the view as it was when the challenge opened.

    Raises:
        ProofExpiredError: the challenge has ended, and nothing is signed for it any more.
    """
    if not challenge.state.open:
        raise ProofExpiredError
    return {
        "v": VERSION,
        "typ": TYPE,
        "aud": audience,
        "challenge_id": challenge.id,
        "nonce": challenge.nonce,
        "iat": int(challenge.opened),
        "exp": int(challenge.expires),
        "principal": {"id": challenge.principal.subject, "cred_thumbprint": challenge.principal.credential},
        "on_behalf_of": challenge.principal.on_behalf_of,
        "upstream": challenge.server,
        "method": challenge.method,
        "kind": challenge.kind,
        "tool": challenge.name,
        "tool_schema_digest": challenge.definition,
        "args_digest": digest(challenge.arguments),
        "call_digest": challenge.digest,
        "view_digest": _view_digest(replace(challenge, proofs=(), state=State.PENDING, version=0)),
        "policy": {"revision": challenge.policy_revision, "rule": challenge.rule},
        "tier": challenge.sensitivity.label,
        "effects": sorted(challenge.effects),
        "reasons": [reason.code.value for reason in challenge.reasons],
        "requirement": {
            "demands": sorted(demand.value for demand in challenge.requirement.demands),
            "approvers": challenge.requirement.approvers,
            "strict": challenge.requirement.strict,
            "quorums": list(challenge.requirement.terms),
            "barred": sorted(challenge.requirement.barred),
        },
    }


@lru_cache(maxsize=_VIEWS)
def _view_digest(unanswered: Challenge) -> str:
    """Of the view when the challenge opened: signer and guard ask for it again and again."""
    return render(unanswered).digest


def document_bytes(checked: Mapping[str, Json]) -> bytes:
    """The bytes to sign for a document; equal documents give equal bytes."""
    return pae(CONTENT_TYPE, canonical(checked).encode())


def challenge_bytes(challenge: Challenge, *, audience: str) -> bytes:
    """The bytes a signature over this challenge must cover.

    Raises:
        ProofExpiredError: the challenge has ended.
    """
    return document_bytes(document(challenge, audience=audience))


# ------------------------------------------------------------------ a proof that comes with its call

CALL_CONTENT_TYPE: Final = "application/vnd.guard.call-proof.v1+json"
CALL_TYPE: Final = "guard.call-proof"


def call_proof_bytes(challenge: Challenge, *, audience: str, at: int) -> bytes:
    """The bytes a workload signs to prove a call together with the call, before any challenge exists.

    `at` is when it signs, in microseconds since the epoch; every proof of one key is later than the one before.
    """
    checked: Mapping[str, Json] = {
        "v": VERSION,
        "typ": CALL_TYPE,
        "aud": audience,
        "principal": challenge.principal.subject,
        "upstream": challenge.server,
        "method": challenge.method,
        "tool": challenge.name,
        "args_digest": digest(challenge.arguments),
        "at": at,
    }
    return pae(CALL_CONTENT_TYPE, canonical(checked).encode())


# ------------------------------------------------------------------ the signer's side

_ANY = r".{0,4096}"
_SOME = r".{1,4096}"
_HEX = r"[0-9a-f]{64}"
_WORD = r"[a-z_]{1,64}"

_SHAPE: Final[Mapping[str, Check]] = {
    "v": exactly(VERSION),
    "typ": exactly(TYPE),
    "aud": text(_SOME),
    "challenge_id": text(r"c_[0-9A-Za-z]{22,64}"),
    "nonce": text(r"[0-9A-Za-z]{22,64}"),
    "iat": whole,
    "exp": whole,
    "principal": members({"id": text(_SOME), "cred_thumbprint": text(_ANY)}),
    "on_behalf_of": text(_ANY),
    "upstream": text(_SOME),
    "method": text(_ANY),
    "kind": text(r"tool|resource|prompt|protocol|result"),
    "tool": text(_SOME),
    "tool_schema_digest": text(_ANY),
    "args_digest": text(_HEX),
    "call_digest": text(_HEX),
    "view_digest": text(_HEX),
    "policy": members({"revision": text(_ANY), "rule": text(_ANY)}),
    "tier": text("|".join(sensitivity.label for sensitivity in Sensitivity)),
    "effects": texts(_ANY),
    "reasons": texts(_WORD),
    "requirement": members(
        {
            "demands": texts(_WORD),
            "approvers": text(_ANY),
            "strict": boolean,
            "quorums": texts(_SOME),
            "barred": texts(_SOME),
        }
    ),
}


def parse_document(value: object, *, audience: str, principal: str, now: float) -> Mapping[str, Json]:
    """Check a document that came from outside, strictly, before anything is signed.

    `value` is decoded JSON. It must have exactly the members of version 1, each of its type, be meant for
    this `audience` and this `principal`, and be fresh at `now` (Unix seconds, `SKEW` allowed).

    Raises:
        ProofInvalidError: a member is missing, unknown or not of its form.
        ProofWrongCallError: it is meant for another installation or another principal.
        ProofExpiredError: it is too old, or from the future.
    """
    if not isinstance(value, dict) or value.keys() != _SHAPE.keys():
        raise ProofInvalidError("not a challenge document of version 1")
    wrong = sorted(name for name, check in _SHAPE.items() if not check(value[name]))
    if wrong:
        raise ProofInvalidError(f"challenge document: {', '.join(wrong)} not of the expected form")
    if value["challenge_id"] != f"c_{value['nonce']}":
        raise ProofInvalidError("challenge document: id and nonce do not belong together")
    if value["aud"] != audience:
        raise ProofWrongCallError("the challenge is meant for another installation")
    if value["principal"]["id"] != principal:
        raise ProofWrongCallError("the challenge is meant for another principal")
    if not value["iat"] - SKEW <= now < value["exp"] + SKEW:
        raise ProofExpiredError
    return value


def list_digest(items: Sequence[tuple[str, str, str]]) -> str:
    """The digest of a list of calls that one person approves together: (challenge id, call digest, view digest) each.

    Order counts, and nothing can be added, taken away or exchanged afterwards.
    """
    return digest(canonical({"typ": "guard.approval-list", "v": VERSION, "items": [list(item) for item in items]}))
