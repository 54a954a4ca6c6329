"""How much is asked of people, computed from the ledger. Pure: entries in, figures out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from guard.audit.record import Entry
from guard.model import Json

HURRIED: Final = 2.0
"""An approval sooner than this after the opening (seconds) was not read."""

_PERSON: Final = frozenset({"consent", "emergency"})


@dataclass(slots=True)
class Stats:
    """Counts, and for each person's decision the seconds since the challenge opened."""

    calls: int = 0
    prompts: int = 0
    joined: int = 0
    denied: int = 0
    expired: int = 0
    emergencies: int = 0
    approvals: list[float] = field(default_factory=list)
    denials: list[float] = field(default_factory=list)

    def json(self) -> dict[str, Json]:
        """The figures; None where there is nothing to divide by. Times are in seconds."""
        decisions = sorted(self.approvals + self.denials)
        hurried = sum(1 for seconds in self.approvals if seconds < HURRIED)
        return {
            "calls": self.calls,
            "prompts": self.prompts,
            "prompts_per_1000_calls": _ratio(self.prompts * 1000, self.calls),
            "joined": self.joined,
            "approvals": len(self.approvals),
            "denied": self.denied,
            "expired": self.expired,
            "emergencies": self.emergencies,
            "decide_seconds_p50": quantile(decisions, 0.5),
            "decide_seconds_p95": quantile(decisions, 0.95),
            "approvals_under_2s": hurried,
            "share_of_approvals_under_2s": _ratio(hurried, len(self.approvals)),
        }


def measure(entries: Iterable[Entry], *, principal: str = "") -> Stats:
    """Count what the entries say, in the order of time; with `principal`, of one agent only."""
    stats, opened = Stats(), dict[str, float]()
    for entry in entries:
        if principal and entry.text("principal") != principal:
            continue
        _count(stats, opened, entry)
    return stats


def _count(stats: Stats, opened: dict[str, float], entry: Entry) -> None:
    challenge, at = entry.text("challenge_id"), _seconds(entry.time)
    match entry.event:
        case "decision.made" if entry.text("kind"):
            stats.calls += 1
        case "challenge.opened":
            stats.prompts += 1
            opened[challenge] = at
        case "challenge.joined":
            stats.joined += 1
        case "proof.accepted" if _class(entry) in _PERSON:
            stats.approvals.append(at - opened.get(challenge, at))
            stats.emergencies += _class(entry) == "emergency"
        case "challenge.denied":
            stats.denied += 1
            stats.denials.append(at - opened.get(challenge, at))
        case "challenge.expired":
            stats.expired += 1
        case _:
            pass


def _class(entry: Entry) -> str:
    proof = entry.fields.get("proof")
    found = proof.get("class") if isinstance(proof, dict) else None
    return found if isinstance(found, str) and isinstance(proof, dict) and proof.get("view_digest") else ""


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest-rank quantile of ascending values, rounded to milliseconds; None of nothing."""
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _seconds(rfc3339: str) -> float:
    return datetime.fromisoformat(rfc3339).timestamp()
