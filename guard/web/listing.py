"""Challenges as JSON: digests, reasons and proofs, never an argument."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

from starlette.requests import Request

from guard.errors import WireError
from guard.model import Challenge, Json, State
from guard.requirement import missing
from guard.stepup.binding import document

_WHOLE: Final = re.compile(r"[0-9]{1,16}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", re.ASCII)


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


def query(request: Request, *known: str) -> Mapping[str, str]:
    """The query of a request: these names, each at most once.

    Raises:
        WireError: another name, or one twice.
    """
    pairs = request.query_params.multi_items()
    found = dict(pairs)
    if len(found) != len(pairs) or not found.keys() <= set(known):
        raise WireError(f"the query takes {', '.join(known)}, each once" if known else "there is no query here")
    return found


def wanted(value: str | None) -> frozenset[State]:
    """The states a comma-separated query names; all when there is none.

    Raises:
        WireError: there is no such state.
    """
    try:
        return frozenset(State(name) for name in value.split(",")) if value is not None else frozenset()
    except ValueError as error:
        raise WireError("there is no such state") from error


def whole(value: str, name: str, *, least: int = 0, most: int = 2**53) -> int:
    """A whole number in a query.

    Raises:
        WireError: it is none, or out of bounds.
    """
    if not _WHOLE.fullmatch(value) or not least <= int(value) <= most:
        raise WireError(f"{name} is not a whole number from {least} to {most}")
    return int(value)


def seconds(value: str, name: str, *, most: float) -> float:
    """A number of seconds in a query.

    Raises:
        WireError: it is none, or out of bounds.
    """
    if not _NUMBER.fullmatch(value) or not 0 <= float(value) <= most:
        raise WireError(f"{name} is not a number from 0 to {most:g}")
    return float(value)
