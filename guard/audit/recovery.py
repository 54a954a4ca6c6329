"""What a crash left behind: granted calls that may have run, and of whose end nothing is on record.

A grant is consumed before the first byte goes upstream. So a challenge that is still CONSUMED while the
process that consumed it is gone may or may not have run: its outcome is unknown, it is never repeated, and
a person should look; unless its end is on record and only the challenge was not told. An intent whose
grant is unspent was provably not forwarded and needs nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog

from guard.audit.export import Reader
from guard.audit.lane import held_by_another
from guard.audit.record import Entry
from guard.model import Challenge, State
from guard.ports import Challenges, Ledger

log = structlog.get_logger()

_EVENTS: Final = frozenset({b'"call.forwarded"', b'"grant.consumed"', b'"call.concluded"'})
_LAST_STATE: Final = {
    "ok": State.COMPLETED,
    "tool_error": State.COMPLETED,
    "upstream_error": State.FAILED,
    "unknown": State.UNKNOWN,
}


@dataclass(slots=True)
class _Trail:
    """What is on record of one spent grant: who meant to spend it, who did, and how their calls ended."""

    intents: dict[str, Entry] = field(default_factory=dict)
    spender: str = ""
    ends: dict[str, str] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        """Follow one record."""
        call = entry.text("call_id")
        match entry.event:
            case "call.forwarded":
                self.intents[call] = entry
            case "grant.consumed":
                self.spender = call
            case _ if entry.text("grant_id"):  # others waited for the same challenge
                self.ends[call] = entry.text("outcome")
            case _:
                pass

    @property
    def end(self) -> State | None:
        """The last state of the challenge, when the end of its call is on record."""
        return next((_LAST_STATE[outcome] for outcome in self.ends.values() if outcome in _LAST_STATE), None)

    @property
    def suspects(self) -> list[Entry]:
        """The intents of which one was carried out: that of the spender, or whichever did not lose the race."""
        if self.spender in self.intents:
            return [self.intents[self.spender]]
        return [intent for call, intent in self.intents.items() if call not in self.ends]


def recover(state: Path, challenges: Challenges, ledger: Ledger, *, own_lane: str) -> int:
    """Give every call that was cut off by a crash the outcome `unknown`; how many there were.

    `own_lane` is this process's lane: whoever wrote to it before is gone.

    Raises:
        StoreUnavailableError, LedgerUnavailableError: the state cannot be read or written.
    """
    stuck = {challenge.id: challenge for challenge in challenges.find(states=frozenset({State.CONSUMED}))}
    if not stuck:
        return 0
    found = 0
    for identifier, trail in _trails(state, stuck.keys()).items():
        challenge, suspects = stuck[identifier], trail.suspects
        if any(one.lane != own_lane and held_by_another(state, one.lane) for one in suspects):
            continue  # its process lives and will conclude it
        end = trail.end
        if end is None:
            for intent in suspects:
                _tell(ledger, challenge, intent)
            end = State.UNKNOWN
            found += 1
        challenges.swap(challenge, replace(challenge, state=end, version=challenge.version + 1), durable=False)
    return found


def _tell(ledger: Ledger, challenge: Challenge, intent: Entry) -> None:
    """Say that nobody knows whether this call ran."""
    ledger.append(
        "call.unknown",
        {
            "call_id": intent.text("call_id"),
            "challenge_id": challenge.id,
            "grant_id": intent.text("grant_id"),
            "principal": challenge.principal.subject,
            "server": challenge.server,
            "tool": challenge.name,
            "phase": "outcome",
            "outcome": "unknown",
        },
    )
    log.error(
        "call.unknown", challenge=challenge.id, remedy="look at the tool server whether it ran; it is not repeated"
    )


def _trails(state: Path, wanted: Collection[str]) -> dict[str, _Trail]:
    """What is on record of each of these challenges whose grant was spent."""
    found: dict[str, _Trail] = {}
    for entry in Reader(state).read(holding=_EVENTS):
        if (challenge := entry.text("challenge_id")) in wanted:
            found.setdefault(challenge, _Trail()).take(entry)
    return found
