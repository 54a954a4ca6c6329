"""Challenges as JSON: digests, reasons and proofs, never an argument."""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import sha256

from guard.errors import WireError
from guard.model import Challenge, Json, State
from guard.requirement import missing
from guard.stepup.binding import document


def describe(challenge: Challenge, *, now: float, audience: str = "") -> dict[str, Json]:
    """One challenge; with an `audience` and while it is open, also the document a signer signs."""
    state = standing(challenge, now)
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


def standing(challenge: Challenge, now: float) -> State:
    """The state, EXPIRED for an open challenge whose time is up although nobody has looked yet."""
    late = challenge.state.open and not challenge.timely(now)
    return State.EXPIRED if late else challenge.state


def cursor(challenges: Iterable[Challenge]) -> str:
    """A mark that differs whenever the listing does."""
    seen = ";".join(f"{one.id}:{one.state}:{one.version}" for one in challenges)
    return sha256(seen.encode()).hexdigest()[:32]


def wanted(value: str) -> frozenset[State]:
    """The states a comma-separated query names; all when it is empty.

    Raises:
        WireError: there is no such state.
    """
    try:
        return frozenset(State(name) for name in value.split(",") if name)
    except ValueError as error:
        raise WireError("there is no such state") from error


def number(value: str, name: str, *, least: float = 0, most: float = math.inf) -> float:
    """A number in a query.

    Raises:
        WireError: it is none, or out of bounds.
    """
    try:
        found = float(value)
    except ValueError as error:
        raise WireError(f"{name} is not a number") from error
    if not least <= found <= most or not value.isascii() or (most < math.inf and not found.is_integer()):
        raise WireError(f"{name} is out of bounds")
    return found
