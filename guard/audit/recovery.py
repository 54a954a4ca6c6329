"""What a crash left behind: granted calls that may have run, and of whose end nothing is on record.

A grant is consumed before the first byte goes upstream. So a challenge that is still CONSUMED while the
process that consumed it is gone may or may not have run: its outcome is unknown, it is never repeated, and
a person should look. An intent whose grant is unspent was provably not forwarded and needs nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import structlog

from guard.audit.export import Reader
from guard.audit.lane import held_by_another
from guard.audit.record import Entry
from guard.model import State
from guard.ports import Challenges, Ledger

log = structlog.get_logger()


def recover(state: Path, challenges: Challenges, ledger: Ledger, *, own_lane: str) -> int:
    """Give every call that was cut off by a crash the outcome `unknown`; how many there were.

    `own_lane` is this process's lane: whoever wrote to it before is gone.

    Raises:
        StoreUnavailableError, LedgerUnavailableError, OSError: the state cannot be read or written.
    """
    stuck = {challenge.id: challenge for challenge in challenges.find(states=frozenset({State.CONSUMED}))}
    if not stuck:
        return 0
    found = 0
    for intent in _intents(state, frozenset(stuck)):
        challenge = stuck[intent.text("challenge_id")]
        if intent.lane != own_lane and held_by_another(state, intent.lane):
            continue  # its process lives and will conclude it
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
        challenges.swap(
            challenge, replace(challenge, state=State.UNKNOWN, version=challenge.version + 1), durable=False
        )
        log.error(
            "call.unknown", challenge=challenge.id, remedy="look at the tool server whether it ran; it is not repeated"
        )
        found += 1
    return found


def _intents(state: Path, wanted: frozenset[str]) -> list[Entry]:
    """The last intent on record for each of these challenges: the one that consumed its grant."""
    last: dict[str, Entry] = {}
    for entry in Reader(state).read(holding=frozenset({b'"call.forwarded"'})):
        if entry.text("challenge_id") in wanted:
            last[entry.text("challenge_id")] = entry
    return list(last.values())
