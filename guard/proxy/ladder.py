"""The pause ladder: how a call that waits for proofs is held and answered. Pure.

::

    0  a grant or a proof that is already there      no extra round trip
    1  a short hold                                  every call
    2  LINK (modern) or ASK (legacy)                 the client declared that it opens URLs for people
    3  LEG                                           the client repeats a call by itself when told so
    4  FLOOR                                         everybody, always: a text that says what to do

What the client declared and the profile of the authenticated agent choose; the name a client gives itself does
not. A rung that was taken once is never taken twice for one call, so that every call reaches the floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from guard.config import AgentProfile
from guard.model import Json
from guard.wire.decode import CAPABILITIES_KEY
from guard.wire.era import Era
from guard.wire.message import Request, Response

LEG_SECONDS: Final = 20.0
"""How long one leg is held; every client measured waits longer than that."""
ASK_SECONDS: Final = 20.0
"""How long a person has to answer a question asked within the call."""
ROUNDS: Final = 9
"""Answers `input_required` to one call; clients give up at the tenth."""
HOLD_LIMIT: Final = 50.0
"""The longest hold that is learnt: clients of TypeScript give up after 60 seconds."""
DROPPED: Final = 2
"""Questions in a row that a client left unanswered before it is no longer asked."""

QUESTION: Final = "guard"
"""The key of the guard's own question in `inputRequests`."""

_RESUMABLE: Final = frozenset({"tools/call", "prompts/get", "resources/read"})


class Rung(StrEnum):
    """How a call is answered that is still not proven after its hold."""

    LINK = "link"
    ASK = "ask"
    LEG = "leg"
    FLOOR = "floor"


class Said(Enum):
    """What a client said to the question whether it opens the challenge's page."""

    OPENED = "accept"
    REFUSED = "decline"
    NOBODY = "cancel"
    NOTHING = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """The round of a call that came back with the guard's own `requestState`; `said` answers what it asked."""

    challenge: str
    round: int
    asked: bool = False
    said: Said = Said.NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How one agent is paused: its profile, and what was learnt from watching it (see `guard.proxy.habits`)."""

    hold: float
    legs: bool | None = None
    elicitation: bool | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """Hold the call for so many seconds, then answer it so."""

    hold: float
    rung: Rung


def manner(profile: AgentProfile, *, default: float, waited: float = 0.0, dropped: int = 0) -> Manner:
    """How an agent is paused.

    Args:
        profile: what the configuration says about it.
        default: seconds agents without a hold of their own are held; a hold of 0 stays 0 whatever was learnt.
        waited: the longest its client was seen to wait.
        dropped: questions in a row it left unanswered.
    """
    hold = default if profile.hold is None else profile.hold
    if profile.learn and hold:
        hold = max(hold, min(waited, HOLD_LIMIT))
    return Manner(hold=hold, legs=profile.legs, elicitation=profile.elicitation, dropped=dropped)


def choose(request: Request, era: Era, capabilities: Mapping[str, Json], how: Manner, leg: Leg | None = None) -> Step:
    """The next step for a call that waits.

    Args:
        request: the call.
        era: its era.
        capabilities: what the client declared for this call (`declared`).
        how: the manner of its agent.
        leg: the round it comes back from; None when it comes for the first time.
    """
    if leg is None:
        return Step(how.hold, _first(request, era, capabilities, how))
    if leg.said is Said.NOBODY:
        return Step(0.0, Rung.FLOOR)
    again = era is Era.MODERN and leg.round < ROUNDS and _legs(request, capabilities, how)
    return Step(LEG_SECONDS, Rung.LEG if again else Rung.FLOOR)


def _first(request: Request, era: Era, capabilities: Mapping[str, Json], how: Manner) -> Rung:
    if request.method not in _RESUMABLE or "task" in request.params:
        return Rung.FLOOR
    if _links(capabilities, how):
        return Rung.LINK if era is Era.MODERN else Rung.ASK
    return Rung.LEG if era is Era.MODERN and _legs(request, capabilities, how) else Rung.FLOOR


def _links(capabilities: Mapping[str, Json], how: Manner) -> bool:
    """Whether to ask the client to open a page: only one that says it can, and that is not known to forget it."""
    elicitation = capabilities.get("elicitation")
    if not isinstance(elicitation, Mapping) or not isinstance(elicitation.get("url"), Mapping):
        return False
    return how.dropped < DROPPED if how.elicitation is None else how.elicitation


def _legs(request: Request, capabilities: Mapping[str, Json], how: Manner) -> bool:
    """Whether the client repeats the call by itself when it gets nothing but a state."""
    if request.method not in _RESUMABLE or "task" in request.params:
        return False
    if how.legs is not None:
        return how.legs
    return how.elicitation is not False and isinstance(capabilities.get("elicitation"), Mapping)


def declared(request: Request, era: Era, handshake: Mapping[str, Json]) -> Mapping[str, Json]:
    """What the client declared for this very call: by itself in the modern era, in its handshake before."""
    if era is Era.LEGACY:
        return handshake
    meta = request.params.get("_meta")
    own = meta.get(CAPABILITIES_KEY) if isinstance(meta, Mapping) else None
    return own if isinstance(own, Mapping) else {}


def said(response: Response | Mapping[str, Json] | None) -> Said:
    """What a client said; an error or anything unknown means that nobody is there to open a page."""
    if response is None:
        return Said.NOTHING
    result = response.result if isinstance(response, Response) else response
    action = result.get("action") if isinstance(result, Mapping) else None
    return Said.OPENED if action == "accept" else Said.REFUSED if action == "decline" else Said.NOBODY
