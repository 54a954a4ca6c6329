"""Whether the records of all lanes tell a story that can have happened. Pure.

A call runs only after a decision that lets it; a challenged one only on a grant that was proven first and
is spent once; and what was let go either ends or is reported as unfinished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from guard.audit.record import Entry

RAN: Final = frozenset({"ok", "tool_error", "upstream_error", "unknown"})
"""Outcomes of calls that were given to their tool server, or may have been."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that is not what it should be: its lane, its sequence number (counted from 0), and why."""

    lane: str
    seq: int
    why: str

    def __str__(self) -> str:
        """Say it as one line."""
        return f"lane {self.lane}, record {self.seq}: {self.why}"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A call that was permitted or about to run, and of whose end nothing is on record."""

    lane: str
    seq: int
    call: str


@dataclass(frozen=True, slots=True)
class _Place:
    lane: str
    seq: int
    time: str


@dataclass(slots=True)
class _Passage:
    """What is on record of one challenge."""

    opened: _Place | None = None
    proven: _Place | None = None
    consumed: _Place | None = None


@dataclass(slots=True)
class Consistency:
    """What the records say about calls, challenges and grants, over all lanes."""

    bad: list[Bad] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)
    open: dict[str, _Place] = field(default_factory=dict)
    intents: dict[str, _Place] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    passages: dict[str, _Passage] = field(default_factory=dict)
    ran: list[tuple[str, _Place]] = field(default_factory=list)
    stepped: set[str] = field(default_factory=set)

    def take(self, entry: Entry) -> None:
        """Follow one record."""
        place = _Place(entry.lane, entry.seq, entry.time)
        match entry.event:
            case "decision.made":
                self._decided(entry, place)
            case "call.forwarded":
                self._forwarded(entry, place)
            case "call.concluded":
                self._concluded(entry, place)
            case "call.unknown":
                self.unknown.add(entry.text("call_id"))
            case "challenge.opened" | "proof.accepted" | "grant.consumed":
                self._stepped_up(entry, place)
            case "clock.stepped":
                self.stepped.add(entry.lane)
            case _:
                pass

    def _blame(self, place: _Place, why: str) -> None:
        self.bad.append(Bad(place.lane, place.seq, why))

    def _decided(self, entry: Entry, place: _Place) -> None:
        call, decision = entry.text("call_id"), entry.decision
        if decision != "deny":
            self.verdicts[call] = decision
        if decision == "permit":
            self.open[call] = place

    def _forwarded(self, entry: Entry, place: _Place) -> None:
        call = entry.text("call_id")
        if call not in self.verdicts:
            self._blame(place, "a call goes to its tool server without a decision that lets it")
        elif self.verdicts[call] == "challenge" and not entry.text("grant_id"):
            self._blame(place, "a challenged call goes to its tool server without a grant")
        if call in self.intents:
            self._blame(place, "a call goes to its tool server a second time")
        self.intents[call] = place

    def _concluded(self, entry: Entry, place: _Place) -> None:
        call, outcome, grant = entry.text("call_id"), entry.text("outcome"), entry.text("grant_id")
        intent, verdict = self.intents.pop(call, None), self.verdicts.get(call)
        self.open.pop(call, None)
        if outcome in RAN:
            if verdict is None:
                self._blame(place, "a call ran without a decision that lets it")
            elif grant:
                self.ran.append((grant, place))
            if (verdict == "challenge" or grant) and intent is None:
                self._blame(place, "a challenged call ran without its intent being on record")
        if outcome != "refused":  # a call that lost the race for a grant may still win the next
            self.verdicts.pop(call, None)

    def _stepped_up(self, entry: Entry, place: _Place) -> None:
        passage = self.passages.setdefault(entry.text("challenge_id"), _Passage())
        match entry.event:
            case "challenge.opened":
                passage.opened = passage.opened or place
            case "proof.accepted":
                passage.proven = passage.proven or place
            case _ if passage.consumed is None:
                passage.consumed = place
            case _:
                earlier = passage.consumed
                self._blame(place, f"a grant is spent a second time, after lane {earlier.lane}, record {earlier.seq}")

    def contradictions(self) -> tuple[Bad, ...]:
        """What cannot have happened in this order."""
        late = list[Bad]()
        for passage in self.passages.values():
            late += self._out_of_order(passage)
        for grant, place in self.ran:
            passage = self.passages.get("c" + grant[1:], _Passage())
            if passage.consumed is None or not self._before(passage.consumed, place):
                late.append(Bad(place.lane, place.seq, "a call ran on a grant that was not spent before"))
        return tuple(sorted((*self.bad, *late), key=lambda bad: (bad.lane, bad.seq)))

    def _out_of_order(self, passage: _Passage) -> list[Bad]:
        opened, proven, consumed = passage.opened, passage.proven, passage.consumed
        late = list[Bad]()
        if proven is not None and (opened is None or not self._before(opened, proven)):
            late.append(Bad(proven.lane, proven.seq, "a proof is accepted for a challenge that was not opened before"))
        if consumed is not None and (proven is None or not self._before(proven, consumed)):
            late.append(Bad(consumed.lane, consumed.seq, "a grant is spent before anything was proven"))
        return late

    def _before(self, first: _Place, second: _Place) -> bool:
        """Whether this can have been the order; across lanes only the clock tells, unless it was set."""
        if first.lane == second.lane:
            return first.seq < second.seq
        return first.time <= second.time or not self.stepped.isdisjoint({first.lane, second.lane})

    def unfinished(self) -> tuple[Unfinished, ...]:
        """Calls that were let go and never concluded."""
        places: Mapping[str, _Place] = self.open | self.intents
        return tuple(Unfinished(at.lane, at.seq, call) for call, at in places.items() if call not in self.unknown)
