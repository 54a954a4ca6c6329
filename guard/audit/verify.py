"""Whether the ledger is what the guard wrote: every record, in order, and consistent with every other.

What a lane must hash to comes from the store, never from the files that are being verified. The tree proves
that nothing was changed; sequence numbers and checksums name the place. Beyond that the records themselves
must tell a possible story: no forward without a decision, no grant spent twice or without proofs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from guard.audit import record
from guard.audit.lane import FILE, folder, stored_lines
from guard.audit.merkle import CompactRange, leaf_hash
from guard.audit.record import Entry
from guard.model import Json
from guard.ports import Lane

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
class LaneReport:
    """One lane: all its `records`, of which the store vouches for `sealed`, and `torn` bytes of an unfinished one."""

    name: str
    records: int
    sealed: int
    torn: int
    root: str


@dataclass(frozen=True, slots=True)
class Report:
    """The result over all lanes. `bad` lists damage to lanes first, then contradictions between records."""

    lanes: tuple[LaneReport, ...]
    bad: tuple[Bad, ...]
    unfinished: tuple[Unfinished, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is bad; unfinished calls and records not yet sealed are no fault."""
        return not self.bad

    def json(self) -> dict[str, Json]:
        """The report as one JSON object."""
        return {
            "ok": self.ok,
            "bad": [{"lane": bad.lane, "seq": bad.seq, "why": bad.why} for bad in self.bad],
            "lanes": [
                {
                    "lane": lane.name,
                    "records": lane.records,
                    "sealed": lane.sealed,
                    "torn": lane.torn,
                    "root": lane.root,
                }
                for lane in self.lanes
            ],
            "unfinished": [{"lane": one.lane, "seq": one.seq, "call_id": one.call} for one in self.unfinished],
        }

    def text(self) -> str:
        """The report for people; the first bad record stands in the first line."""
        lines = [f"bad: {bad}" for bad in self.bad] or ["the ledger is intact"]
        for lane in self.lanes:
            tail = f", {lane.records - lane.sealed} not yet sealed" if lane.records > lane.sealed else ""
            torn = f", {lane.torn} bytes of an unfinished record" if lane.torn else ""
            lines.append(
                f"lane {lane.name}: {lane.records} records, {lane.sealed} vouched for by the store{tail}{torn}"
            )
        lines += [f"unfinished: call {one.call} (lane {one.lane}, record {one.seq})" for one in self.unfinished]
        return "\n".join(lines)


def verify(state: Path, lanes: Sequence[Lane]) -> Report:
    """Verify every lane below `state/ledger/` against what the store knows of it.

    `lanes` must have been read from the store before this is called, since a live ledger grows.

    Raises:
        OSError: a file cannot be read.
    """
    known = {lane.name: lane for lane in lanes}
    home = folder(state)
    found = {path.name for path in home.iterdir() if path.is_dir()} if home.is_dir() else set[str]()
    story, reports, damage = _Story(), list[LaneReport](), list[Bad]()
    for name in sorted(found | set(known)):
        check = _LaneCheck(name, known.get(name), story)
        check.run(home / name / FILE)
        reports.append(check.report)
        damage += check.bad
    return Report(tuple(reports), (*damage, *story.contradictions()), story.unfinished())


class _LaneCheck:
    """Reads one lane once; stops at its first damaged record."""

    def __init__(self, name: str, known: Lane | None, story: _Story) -> None:
        self._name, self._known, self._story = name, known, story
        self._size = known.size if known else 0
        self._tree, self._crc, self._time, self._torn = CompactRange(), 0, "", 0
        self.bad: list[Bad] = []

    def run(self, file: Path) -> None:
        """Check the file line by line, then its length."""
        if file.exists():
            with file.open("rb") as stream:
                for stored in stored_lines(stream):
                    if not stored.endswith(b"\n") and len(stored) <= record.LIMIT:
                        self._torn = len(stored)
                    elif why := self._fault(stored[:-1]):
                        self._blame(self._tree.size, why)
                        return
        count = self._tree.size
        if self._known is None and (count or self._torn):
            self._blame(0, "the store does not know this lane: it was added by somebody else")
        elif count < self._size:
            have = f"the file ends after {count}" if file.exists() else "the file is missing"
            self._blame(count, f"it is missing: the store knows {self._size} records, {have}")

    @property
    def report(self) -> LaneReport:
        """What was read."""
        size = self._tree.size
        return LaneReport(self._name, size, min(self._size, size), self._torn, self._tree.root().hex())

    def _blame(self, seq: int, why: str) -> None:
        self.bad.append(Bad(self._name, seq, why))

    def _fault(self, line: bytes) -> str:
        """Take one line into the tree; in words, what is wrong with it, or nothing."""
        try:
            entry, claimed = record.read(self._name, line)
        except ValueError as error:
            return str(error)
        tree = self._tree
        if entry.seq != tree.size:
            return f"it carries number {entry.seq}: a record was removed, repeated, inserted or moved here"
        if claimed != record.crc_of(line, self._crc):
            return "its checksum does not follow from it and the records before: it was changed"
        if entry.time < self._time and entry.event != "clock.stepped":
            return "it is dated before the record ahead of it"
        if entry.event == "ledger.sealed" and entry.text("root") != tree.root().hex():
            return "its root is not that of the records before it"
        tree.append(leaf_hash(line))
        self._crc, self._time = claimed, entry.time
        if tree.size == self._size and self._known and tree.root().hex() != self._known.root:
            self._blame(0, f"the first {tree.size} records are not those the store knows: the lane was rewritten")
        self._story.take(entry)
        return ""


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
class _Story:
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
        call, decision = entry.text("call_id"), entry.text("decision")
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
