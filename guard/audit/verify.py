"""Whether the ledger is what the guard wrote: every record, in order, and consistent with every other.

What a lane must hash to comes from the store, never from the files that are being verified. The tree proves
that nothing was changed; sequence numbers and checksums name the place. Beyond that the records themselves
must tell a possible story: no forward without a decision, no grant spent twice or without proofs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guard.audit import record
from guard.audit.consistency import Bad, Consistency, Unfinished
from guard.audit.lane import FILE, folder, stored_lines
from guard.audit.merkle import CompactRange, leaf_hash
from guard.model import Json
from guard.ports import Lane


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
    story, reports, damage = Consistency(), list[LaneReport](), list[Bad]()
    for name in sorted(found | set(known)):
        check = _LaneCheck(name, known.get(name), story)
        check.run(home / name / FILE)
        reports.append(check.report)
        damage += check.bad
    return Report(tuple(reports), (*damage, *story.contradictions()), story.unfinished())


class _LaneCheck:
    """Reads one lane once; stops at its first damaged record."""

    def __init__(self, name: str, known: Lane | None, story: Consistency) -> None:
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
