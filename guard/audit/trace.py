"""The ledger as a trace of AgentAck (schema 2, agentack 0.6), which judges approvals by rules of its own. Pure.

A challenge is AgentAck's approval and its call the action: proposed when the challenge opened, decided when everything
required was proven or when it ended, executed when a call was forwarded on its grant. What the owner's policy lets
through without a challenge is an action of the tool `ungated`, which AgentAck asks no approval for; everything
else is an action of `mcp`, so a call that ran without its challenge shows. The identity of an action is its
digest, which covers agent, server, tool, tool definition and arguments; the arguments themselves are not in it.

Nothing is repaired on the way: the trace of a ledger that tells of a wrong has that wrong in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from guard.audit.record import Entry, rfc3339
from guard.model import Json

SCHEMA: Final = 2
SESSION: Final = "guard"

_Line: TypeAlias = dict[str, Json]
_ENDED: Final = {
    "challenge.denied": "a person refused it",
    "challenge.expired": "nobody answered in time",
    "challenge.cancelled": "it was withdrawn",
    "challenge.staled": "what it rested on changed",
    "grant.revoked": "the approval was taken back",
}
_RAN: Final = frozenset({"ok", "tool_error", "unknown", "upstream_error"})


@dataclass(slots=True)
class _Approval:
    """What became of one challenge."""

    lines: list[tuple[int, _Line]] = field(default_factory=list)
    decided: bool = False
    finished: bool = False


@dataclass(slots=True)
class _Intent:
    """A forward that was announced and whose outcome is to come."""

    at: int
    line: _Line


class _Trace:
    """Builds the trace in one pass; every line keeps its place in the order of the records."""

    def __init__(self) -> None:
        self._approvals: dict[str, _Approval] = {}
        self._intents: dict[str, _Intent] = {}
        self._permits: dict[str, tuple[str, _Line]] = {}
        self._gated: set[str] = set()
        self._spent: set[str] = set()
        self._lines: list[tuple[int, _Line]] = []
        self._last = ""

    def add(self, at: int, entry: Entry) -> None:
        """Take the record with this place."""
        self._last = entry.time
        match entry.event:
            case "decision.made":
                self._decide(at, entry)
            case "challenge.opened":
                self._open(at, entry)
            case "proof.accepted" if not entry.text("missing"):
                self._settle(at, entry, "allow")
            case "call.forwarded" if not entry.text("continues"):
                line = _line("action_executed", entry, entry.text("challenge_id"), action=_action(entry))
                self._intents[entry.text("call_id")] = _Intent(at, line)
            case "grant.consumed":
                self._spent.add(entry.text("call_id"))
            case "call.concluded" | "call.unknown":
                self._conclude(at, entry)
            case event if event in _ENDED:
                self._settle(at, entry, "deny")
                self._block(at, entry, _ENDED[event])
            case _:
                pass

    def end(self) -> tuple[list[_Line], int]:
        """The whole trace, and how many challenges are left out because nothing has become of them yet."""
        for call, intent in self._intents.items():  # announced, and no outcome: it may have run if the grant was spent
            if call in self._spent:
                self._execute(intent)
        finished = [one for one in self._approvals.values() if one.finished]
        lines = self._lines + [line for one in finished for line in one.lines]
        lines.sort(key=lambda pair: pair[0])
        end: _Line = {"schema_version": SCHEMA, "type": "session_end", "timestamp": self._last, "session_id": SESSION}
        whole = [line for _, line in lines]
        return [*whole, {**end, "reason": "end of export"}] if whole else [], len(self._approvals) - len(finished)

    # ------------------------------------------------------------------ one step each

    def _decide(self, at: int, entry: Entry) -> None:
        call, decision = entry.text("call_id"), entry.decision
        if not entry.text("args_digest"):
            return  # protocol calls carry no power of a tool
        if decision == "permit":
            self._permits[call] = entry.time, _action(entry, gated=False)
        elif decision == "deny":
            action = _action(entry, gated=False)
            self._lines.append((at, _line("action_proposed", entry, call, approval=False, action=action)))
            self._lines.append((at, _line("action_blocked", entry, call, approval=False, reason="the guard refused")))
        else:
            self._gated.add(call)

    def _open(self, at: int, entry: Entry) -> None:
        challenge, expires = entry.text("challenge_id"), entry.fields.get("expires")
        approval = self._approvals.setdefault(challenge, _Approval())
        action = _action(entry)
        approval.lines.append((at, _line("action_proposed", entry, challenge, approval=False, action=action)))
        until = rfc3339(expires) if isinstance(expires, int) else entry.time
        approval.lines.append((at, _line("approval_requested", entry, challenge, action=action) | {"_until": until}))

    def _settle(self, at: int, entry: Entry, decision: str) -> None:
        """The one decision about a challenge: the first."""
        approval = self._approvals.get(entry.text("challenge_id"))
        if approval is None or approval.decided:
            return
        approval.decided = True
        until = approval.lines[-1][1].pop("_until", entry.time)
        line = _line("approval_decision", entry, entry.text("challenge_id"), decision=decision)
        approval.lines.append((at, line | {"expires_at": until}))

    def _block(self, at: int, entry: Entry, reason: str) -> None:
        approval = self._approvals.get(entry.text("challenge_id"))
        if approval is not None and not approval.finished:
            approval.finished = True
            approval.lines.append((at, _line("action_blocked", entry, entry.text("challenge_id"), reason=reason)))

    def _conclude(self, at: int, entry: Entry) -> None:
        call, outcome = entry.text("call_id"), entry.text("outcome")
        intent, permit = self._intents.pop(call, None), self._permits.pop(call, None)
        if intent is not None:
            # Refused: another process spent the grant, and this call never left. Unknown: after a crash every call that
            # had announced itself is called so, although one grant let one of them run at most.
            guessed = entry.event == "call.unknown" and self._ran(intent)
            if outcome != "refused" and not guessed:
                self._execute(intent)
            return
        if outcome not in _RAN:
            return
        if permit is not None:
            time, action = permit
            for kind in ("action_proposed", "action_executed"):
                line = _line(kind, entry, call, approval=False, action=action)
                self._lines.append((at, line | {"timestamp": time if kind == "action_proposed" else entry.time}))
        elif call in self._gated and not entry.text("continues") and not entry.text("grant_id"):
            action = {**_action(entry), "parameters": {"call_id": call}}
            for kind in ("action_proposed", "action_executed"):
                self._lines.append((at, _line(kind, entry, call, approval=False, action=action)))

    def _ran(self, intent: _Intent) -> bool:
        approval = self._approvals.get(str(intent.line["action_id"]))
        return approval is not None and any(line["type"] == "action_executed" for _, line in approval.lines)

    def _execute(self, intent: _Intent) -> None:
        challenge = str(intent.line["action_id"])
        approval = self._approvals.setdefault(challenge, _Approval())
        approval.finished = True
        for _, line in approval.lines:
            line.pop("_until", None)
        approval.lines.append((intent.at, intent.line))


def trace(entries: Iterable[Entry]) -> tuple[list[_Line], int]:
    """The trace of these records (in the order of time), and how many undecided calls it leaves out."""
    building = _Trace()
    for at, entry in enumerate(entries):
        building.add(at, entry)
    return building.end()


def _action(entry: Entry, *, gated: bool = True) -> _Line:
    return {
        "tool": "mcp" if gated else "ungated",
        "operation": entry.text("tool") or entry.text("method") or "unknown",
        "resource": entry.text("server"),
        "parameters": {"digest": entry.text("args_digest"), "agent": entry.text("principal")},
    }


def _line(kind: str, entry: Entry, action_id: str, *, approval: bool = True, **more: Json) -> _Line:
    """One event; the challenge is action and approval at once."""
    line: _Line = {
        "schema_version": SCHEMA,
        "type": kind,
        "timestamp": entry.time,
        "session_id": SESSION,
        "action_id": action_id,
        **more,
    }
    return line | {"approval_id": action_id} if approval else line
