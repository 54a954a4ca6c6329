"""What a person decides about a challenge, and the exact bytes their passkey signs for it.

A passkey signs a 32-byte challenge of the guard's making. For a vote it is the SHA-256 of the DSSE encoding
(`guard.stepup.binding.pae`) of one JSON document: which call, who votes, how, what they were shown, and a secret
that is used once. So an assertion made for one call, person, decision or view is worthless for every other, and
one made to log in or to enrol is worthless for a vote: their documents have other types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

from guard.model import Challenge, Json
from guard.stepup.binding import pae
from guard.wire.canonical import canonical

CONTENT_TYPE: Final = "application/vnd.guard.passkey.v1+json"
Decision = Literal["approve", "deny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One person's decision about one challenge, with what is to prove that it is theirs.

    `view_digest` is that of the view they were shown; `evidence` belongs to the method (a code, an assertion); `also`
    is what they allow beyond the call, in words, and empty where they allow nothing.
    """

    challenge: Challenge
    approver: str
    decision: Decision
    view_digest: str
    evidence: Mapping[str, Json]
    also: str = ""

    def signed(self, *, once: str, audience: str) -> bytes:
        """The 32 bytes a passkey signs; `once` is the secret of the ticket it was asked with."""
        return passkey_challenge(
            "guard.vote",
            audience=audience,
            once=once,
            challenge_id=self.challenge.id,
            nonce=self.challenge.nonce,
            call_digest=self.challenge.digest,
            approver=self.approver,
            decision=self.decision,
            view_digest=self.view_digest,
            **({"also": self.also} if self.also else {}),
        )


def passkey_challenge(typ: str, *, audience: str, once: str, **about: str) -> bytes:
    """The 32 bytes for a document of this type; equal only for equal members."""
    document: Mapping[str, Json] = {"v": 1, "typ": typ, "aud": audience, "once": once, **about}
    return sha256(pae(CONTENT_TYPE, canonical(document).encode())).digest()
