"""One record as a document of the Elastic Common Schema, version 8.17. Pure."""

from __future__ import annotations

from typing import Final, TypeAlias

from guard.audit.ocsf import ALARMING, succeeded, why
from guard.audit.record import EVENTS, Entry
from guard.model import Json

VERSION: Final = "8.17.0"

_Document: TypeAlias = dict[str, Json]
_CATEGORY: Final = {
    "call": "api",
    "decision": "api",
    "session": "session",
    "proof": "authentication",
    "list": "authentication",
    "challenge": "authentication",
    "grant": "iam",
    "glass": "iam",
    "agent": "iam",
    "approver": "iam",
    "factor": "iam",
    "policy": "configuration",
    "tool": "configuration",
    "notice": "network",
    "guard": "process",
    "child": "process",
    "ledger": "database",
    "clock": "host",
}
"""`event.category` by the noun of the event."""

_TYPE: Final = {
    "call.received": "start",
    "call.forwarded": "access",
    "call.concluded": "end",
    "call.unknown": "error",
    "call.rejected": "denied",
    "challenge.opened": "start",
    "challenge.denied": "denied",
    "proof.accepted": "allowed",
    "proof.rejected": "denied",
    "grant.consumed": "allowed",
    "grant.revoked": "deletion",
    "agent.added": "creation",
    "agent.revoked": "deletion",
    "approver.added": "creation",
    "approver.removed": "deletion",
    "factor.enrolled": "creation",
    "factor.revoked": "deletion",
    "tool.changed": "change",
    "guard.started": "start",
    "guard.stopped": "end",
}
"""`event.type` where it says more than `info`."""


def ecs(entry: Entry) -> _Document:
    """The document of one record; everything the schema has no field for stands under `guard`."""
    noun = entry.event.partition(".")[0]
    kind = "allowed" if entry.decision == "permit" else _TYPE.get(entry.event, "info")
    event: _Document = {
        "kind": "alert" if entry.event in ALARMING else "event",
        "category": [_CATEGORY.get(noun, "api")],
        "type": [kind],
        "action": entry.event,
        "outcome": "unknown" if entry.event == "call.unknown" else "success" if succeeded(entry) else "failure",
        "id": f"{entry.lane}/{entry.seq}",
        "sequence": entry.seq,
        "provider": "guard",
        "module": "guard",
        "dataset": "guard.ledger",
    }
    if reason := why(entry):
        event["reason"] = reason
    document: _Document = {
        "@timestamp": entry.time,
        "ecs": {"version": VERSION},
        "message": EVENTS[entry.event],
        "event": event,
        "guard": dict(entry.fields),
    }
    places = {
        "user": ("principal", ("id", "name")),
        "source": ("src", ("ip", "address")),
        "service": ("server", ("name",)),
        "rule": ("rule_id", ("id", "name")),
    }
    for place, (name, members) in places.items():
        if value := entry.text(name):
            document[place] = dict.fromkeys(members, value)
    return document
