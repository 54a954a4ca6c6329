"""Profiles learnt anew from the ledger, for keys whose profile was lost.

The ledger keeps no argument in clear, so what comes back is who calls from where, when, how much and how fast, which
tools in which order. Values of arguments, and with them the scores that set a threshold, are learnt anew by later
calls: until then the key is held against the agents of its server, like a new one, but not a thief's network for its
own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from guard.audit.record import Entry
from guard.drift.assess import Assessor
from guard.drift.behaviour import Behaviour
from guard.drift.client import ClientSignal
from guard.drift.hours import HourSignal
from guard.drift.network import NetworkSignal
from guard.drift.profile import Profile
from guard.drift.profiles import Profiles, peers_of
from guard.drift.rate import RateSignal
from guard.drift.volume import VolumeSignal
from guard.model import Call, Classification, Principal, ProofClass, Sensitivity, Source

EVENTS: Final = frozenset({b'"decision.made"', b'"call.concluded"'})
"""What the lines that are read contain."""
_RAN: Final = frozenset({"ok", "tool_error"})
_NOTHING: Final = frozenset[ProofClass]()
_UNKNOWN: Final = Classification(sensitivity=Sensitivity.SENSITIVE, tagged=False)
_OPEN: Final = 4096
"""Calls without an outcome that are remembered; the oldest is given up."""


def rebuilt(entries: Iterable[Entry], keys: Collection[str]) -> dict[str, tuple[Profile, int]]:
    """The profile of each key, and from how many calls: those that were let through calm, ran, and were not challenged.

    `entries` come by time; `keys` are thumbprints of credentials.
    """
    profiles, taught = Profiles(), dict.fromkeys(keys, 0)
    assessor = Assessor(
        [NetworkSignal(profiles), HourSignal(profiles), ClientSignal(profiles)],
        Behaviour(profiles, b""),
        VolumeSignal(profiles),
        rate=RateSignal(profiles),
    )
    for key in keys:
        profiles.load(key, None)
    waiting: dict[str, Call] = {}
    for entry in entries:
        if entry.event == "decision.made":
            if entry.text("cred_thumbprint") in taught and _calm(entry):
                waiting[entry.text("call_id")] = _call(entry)
                if len(waiting) > _OPEN:
                    del waiting[next(iter(waiting))]
        elif (call := waiting.pop(entry.text("call_id"), None)) is not None and entry.text("outcome") in _RAN:
            if (peers := peers_of(call.server)) not in profiles:
                profiles.load(peers, None)
            if entry.fields.get("withheld") is True:  # the agent may never have got it
                continue
            size = entry.fields.get("result_bytes")
            assessor.assess(call, _UNKNOWN)
            assessor.learn(call, _NOTHING, size=size if isinstance(size, int) else 0)
            taught[call.principal.credential] += 1
    for key in keys:
        profiles[key].scores.clear()
    return {key: (profiles[key], number) for key, number in taught.items()}


def _calm(entry: Entry) -> bool:
    return entry.text("decision") == "permit" and "findings" not in entry.fields and entry.text("kind") == "tool"


def _call(entry: Entry) -> Call:
    """The call of a decision, as far as the ledger knows it."""
    return Call(
        id=entry.text("call_id"),
        principal=Principal(subject=entry.text("principal"), credential=entry.text("cred_thumbprint")),
        source=Source(transport=entry.text("transport"), address=entry.text("src"), client=entry.text("client_info")),
        server=entry.text("server"),
        method=entry.text("method"),
        kind="tool",
        name=entry.text("tool"),
        arguments={},
        canonical="",
        definition="",
        digest=entry.text("call_id"),
        received=datetime.fromisoformat(entry.time).timestamp(),
    )
