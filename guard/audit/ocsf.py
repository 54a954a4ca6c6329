"""One record as an event of the Open Cybersecurity Schema Framework, version 1.6. Pure.

Calls are API Activity (6003), proofs Authentication (3002), challenges and grants Authorize Session (3003), and what
should alarm somebody a Detection Finding (2004). What has no place there stands under `unmapped.guard`, unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypeAlias

from guard import __version__
from guard.audit.record import EVENTS, Entry
from guard.model import Json

VERSION: Final = "1.6.0"

_Event: TypeAlias = dict[str, Json]
_FINDING, _AUTHENTICATION, _AUTHORIZATION, _API = 2004, 3002, 3003, 6003
_CATEGORY: Final = {_FINDING: 2, _AUTHENTICATION: 3, _AUTHORIZATION: 3, _API: 6}
_NOUNS: Final = {
    "proof": _AUTHENTICATION,
    "list": _AUTHENTICATION,
    "challenge": _AUTHORIZATION,
    "grant": _AUTHORIZATION,
}
"""Classes by the noun of an event; the others are API Activity."""
_OTHER: Final = 99
_CREATE: Final = 1
_INFORMATIONAL, _MEDIUM, _HIGH = 1, 3, 4
_SUCCESS, _FAILURE = 1, 2

ALARMING: Final[Mapping[str, int]] = {
    "call.unknown": _HIGH,
    "challenge.flooded": _MEDIUM,
    "clock.stepped": _MEDIUM,
    "factor.locked": _HIGH,
    "glass.broken": _HIGH,
    "ledger.recovered": _HIGH,
    "notice.failed": _MEDIUM,
    "policy.rejected": _MEDIUM,
    "proof.hurried": _MEDIUM,
    "tool.changed": _HIGH,
}
"""Events somebody should look at, with their OCSF severity."""

FAILED: Final = frozenset(
    {
        "call.rejected",
        "call.unknown",
        "challenge.cancelled",
        "challenge.denied",
        "challenge.expired",
        "challenge.staled",
        "grant.revoked",
        "intent.rejected",
        "notice.failed",
        "policy.rejected",
        "proof.rejected",
    }
)
"""Events that say that something did not come about."""

_BAD_ENDS: Final = frozenset({"refused", "upstream_error", "unknown", "denied", "expired", "cancelled", "stale"})


def succeeded(entry: Entry) -> bool:
    """Whether what the record tells of came about."""
    return not (
        entry.event in FAILED
        or entry.decision == "deny"
        or (entry.event == "call.concluded" and entry.text("outcome") in _BAD_ENDS)
    )


def ocsf(entry: Entry) -> _Event:
    """The event of one record."""
    kind = _class(entry.event)
    activity = _CREATE if kind in {_FINDING, _AUTHORIZATION} and entry.event != "grant.revoked" else _OTHER
    if kind == _AUTHORIZATION and not entry.event.startswith("grant."):
        activity = _OTHER
    event: _Event = {
        "class_uid": kind,
        "category_uid": _CATEGORY[kind],
        "activity_id": activity,
        "type_uid": kind * 100 + activity,
        "severity_id": ALARMING.get(entry.event, _INFORMATIONAL),
        "time": round(datetime.fromisoformat(entry.time).timestamp() * 1000),
        "message": EVENTS[entry.event],
        "status_id": _SUCCESS if succeeded(entry) else _FAILURE,
        "metadata": _metadata(entry),
        "unmapped": {"guard": dict(entry.fields)},
    }
    if activity == _OTHER:
        event["activity_name"] = entry.event
    if detail := why(entry):
        event["status_detail"] = detail
    return event | _of_class(kind, entry)


def why(entry: Entry) -> str:
    """The reason a record gives, in words; "" for none."""
    reasons = entry.fields.get("reasons")
    first = reasons[0] if isinstance(reasons, list) and reasons else None
    code = first.get("code") if isinstance(first, Mapping) else ""
    return entry.text("because") or (code if isinstance(code, str) else "")


def _class(event: str) -> int:
    if event in ALARMING:
        return _FINDING
    return _NOUNS.get(event.partition(".")[0], _API)


def _metadata(entry: Entry) -> _Event:
    metadata: _Event = {
        "version": VERSION,
        "product": {"name": "guard", "vendor_name": "mcp-step-up-guard", "version": __version__},
        "uid": f"{entry.lane}/{entry.seq}",
        "sequence": entry.seq,
        "log_name": entry.lane,
        "event_code": entry.event,
    }
    correlation = entry.text("challenge_id") or entry.text("call_id")
    return metadata | {"correlation_uid": correlation} if correlation else metadata


def _of_class(kind: int, entry: Entry) -> _Event:
    """What the class of the event asks for."""
    principal, server = entry.text("principal") or "guard", entry.text("server") or "guard"
    tool = entry.text("tool") or entry.text("method") or entry.event
    actor: _Event = {"user": {"uid": principal, "name": principal}}
    if kind == _FINDING:
        finding: _Event = {"uid": f"{entry.lane}/{entry.seq}", "title": EVENTS[entry.event], "types": [entry.event]}
        return {"finding_info": finding, "is_alert": True, "resources": [{"name": tool, "type": "MCP tool"}]}
    if kind == _AUTHENTICATION:
        who, factors = _prover(entry)
        return {
            "user": {"uid": who, "name": who},
            "actor": actor,
            "service": {"name": server},
            "is_mfa": True,
            "auth_factors": factors,
        }
    if kind == _AUTHORIZATION:
        return {"user": {"uid": principal, "name": principal}, "actor": actor, "privileges": [f"{server}/{tool}"]}
    source = entry.text("src")
    return {
        "actor": actor if entry.text("principal") else {"app_name": "guard"},
        "api": {"operation": tool, "service": {"name": server}},
        "src_endpoint": {"ip": source} if source else {"name": entry.text("transport") or "guard"},
        "resources": [{"name": tool, "type": "MCP tool"}],
    }


def _prover(entry: Entry) -> tuple[str, list[Json]]:
    """Who proved something, and with what."""
    proof = entry.fields.get("proof")
    given = proof if isinstance(proof, Mapping) else {}
    who, kind = given.get("subject") or entry.text("subject"), given.get("kind")
    factor = kind if isinstance(kind, str) and kind else "code"
    return str(who or "unknown"), [{"factor_type_id": _OTHER, "factor_type": factor, "is_totp": factor == "totp"}]
