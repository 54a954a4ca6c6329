"""What ledger tests share: an outside memory, a clock that is set by hand, and the lane file itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from guard.audit import record
from guard.audit.merkle import CompactRange, leaf_hash
from guard.ports import Lane


class MemoryLanes:
    """`guard.ports.Lanes` in memory, with the store's rule: a known history neither shrinks nor changes."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._lock = threading.Lock()
        self.puts = 0

    def get(self, name: str) -> Lane | None:
        return self._lanes.get(name)

    def all(self) -> Sequence[Lane]:
        return tuple(self._lanes[name] for name in sorted(self._lanes))

    def put(self, lane: Lane) -> None:
        with self._lock:
            known = self._lanes.get(lane.name)
            if known and (lane.size < known.size or (lane.size == known.size and lane.root != known.root)):
                raise ValueError(lane.name)
            self._lanes[lane.name] = lane
            self.puts += 1


class HandClock:
    """`guard.ports.Clock` that moves a millisecond with every look, and otherwise when told."""

    def __init__(self, now: float = 1_763_779_338.0) -> None:
        self.wall, self.monotonic, self._tokens = now, 100.0, 0
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            self.wall += 0.001
            return self.wall

    def mono(self) -> float:
        with self._lock:
            self.monotonic += 0.001
            return self.monotonic

    def token(self, prefix: str) -> str:
        with self._lock:
            self._tokens += 1
            return f"{prefix}_{self._tokens:022d}"


def file_of(state: Path, lane: str = "0001") -> Path:
    return state / "ledger" / lane / "records.jsonl"


def lines_of(state: Path, lane: str = "0001") -> list[bytes]:
    return file_of(state, lane).read_bytes().splitlines(keepends=True)


def events_of(state: Path, lane: str = "0001") -> list[str]:
    return [record.read(lane, line[:-1])[0].event for line in lines_of(state, lane)]


def root_of(lines: Sequence[bytes]) -> str:
    tree = CompactRange()
    for line in lines:
        tree.append(leaf_hash(line[:-1]))
    return tree.root().hex()
