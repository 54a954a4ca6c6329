"""Consent given in advance: what is kept of a signed intent, and every protocol that deals with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from guard.model import Challenge, Json, Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A published intent: the signed bytes, what finds them (`agent`, `server`, `tool`, `ends`), and what became of it.

    `payload` is that of `guard.stepup.intent`; the signature is checked again whenever it is used, and what finds it is
    believed only where the payload says the same. `used` counts the calls it was spent on.
    """

    id: str
    agent: str
    server: str
    tool: str
    ends: float
    published: float
    payload: bytes
    signature: bytes
    used: int = 0
    revoked: float = 0.0


class Intents(Protocol):
    """Published intents. Their uses are counted by `Challenges.swap`, together with the grant they are spent on."""

    def add(self, intent: Intent) -> bool:
        """Insert durably; False when the id was used before."""

    def get(self, intent_id: str) -> Intent | None:
        """One intent."""

    def find(self, *, agent: str = "", server: str = "", tool: str = "", limit: int) -> Sequence[Intent]:
        """At most `limit` intents by what finds them (empty: any), newest first."""

    def revoke(self, intent_id: str, at: float) -> bool:
        """Revoke durably; False when there is no such intent, or it was revoked before."""

    def purge(self, before: float) -> int:
        """Erase the intents whose window ended before that moment; how many there were."""


class Beforehand(Protocol):
    """A factor whose evidence may lie ready before the call comes (`guard.factors.intent`)."""

    def evidence(self, challenge: Challenge) -> Sequence[Mapping[str, Json]]:
        """What might answer this challenge, to be verified one by one."""

    def uses(self, proof: Proof) -> int:
        """On how many calls what is behind this proof may be spent.

        Raises:
            ProofError: on none any more.
        """


class Publisher(Protocol):
    """Takes signed intents, wherever they come from."""

    def publish(self, envelope: Mapping[str, Json]) -> Intent:
        """Check and keep the intent in a DSSE envelope; the same one again changes nothing.

        Raises:
            ProofError: it is not one, or its signature does not count.
        """


class Tickets(Protocol):
    """The change system that an intent's ticket is in."""

    def check(self, ticket: str, now: float) -> None:
        """Return if the change of this number is approved and its window is open at `now`; blocking, bounded in time.

        Raises:
            ProofError: it is not, or nobody can tell.
        """
