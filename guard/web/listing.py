"""Challenges as JSON: digests, reasons and proofs, never an argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from guard.model import Challenge, Json, State
from guard.requirement import missing
from guard.stepup.binding import document


def describe(challenge: Challenge, *, now: float, audience: str = "") -> dict[str, Json]:
    """One challenge; with an `audience` and while it is open, also the document a signer signs."""
    state = challenge.state
    if state.open and not challenge.timely(now):
        state = State.EXPIRED
    described: dict[str, Json] = {
        "id": challenge.id,
        "state": state.value,
        "version": challenge.version,
        "principal": challenge.principal.subject,
        "server": challenge.server,
        "kind": challenge.kind,
        "tool": challenge.name,
        "digest": challenge.digest,
        "short_digest": challenge.short_digest,
        "sensitivity": challenge.sensitivity.label,
        "requirement": challenge.requirement.label,
        "missing": missing(challenge.requirement, challenge.proofs) if state is State.PENDING else "",
        "reasons": [reason.code.value for reason in challenge.reasons],
        "proofs": [
            {"class": proof.proof_class.value, "kind": proof.kind, "subject": proof.subject, "at": proof.at}
            for proof in challenge.proofs
        ],
        "opened": challenge.opened,
        "expires": challenge.expires,
        "ended_by": challenge.ended_by,
        "ended_because": challenge.ended_because,
    }
    if audience and state.open:
        described["document"] = document(challenge, audience=audience)
    return described


def current(challenges: Iterable[Challenge], *, now: float, limit: int) -> Sequence[Challenge]:
    """The first `limit` challenges that are not merely waiting to be swept away."""
    living = (one for one in challenges if not one.state.open or one.timely(now))
    return [one for _, one in zip(range(limit), living, strict=False)]


def cursor(challenges: Iterable[Challenge]) -> str:
    """A mark that differs whenever the listing does."""
    seen = ";".join(f"{one.id}:{one.state}:{one.version}" for one in challenges)
    return sha256(seen.encode()).hexdigest()[:32]


def wanted(value: str) -> frozenset[State]:
    """The states a comma-separated query names; all when it is empty.

    Raises:
        ValueError: there is no such state.
    """
    return frozenset(State(name) for name in value.split(",") if name)


def page(challenge: Mapping[str, Json]) -> Mapping[str, str]:
    """What the public page of a challenge may show: where it stands, and nothing about the call."""
    return {name: str(challenge[name]) for name in ("id", "state", "short_digest")}
