"""A store in memory with the semantics of the real one: a simulator, not a mock.

It holds the part of `guard.ports.Store` that ceremonies use. `attach()` opens a further connection to the same
data, as another process would: its changes move the others' `changed()`, not its own. `before_swap` runs between
the decision to swap and the swap itself, to prove an interleaving.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from guard.errors import LedgerUnavailableError, StoreUnavailableError
from guard.model import Challenge, Json, State
from guard.ports import Approver
from guard.requirement import asks_people


@dataclass
class _Data:
    lock: threading.RLock = field(default_factory=threading.RLock)
    rows: dict[str, Challenge] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)
    commits: list[WorldStore] = field(default_factory=list)
    people: list[Approver] = field(default_factory=list)


class WorldStore:
    """One connection to the shared rows."""

    def __init__(self, data: _Data | None = None) -> None:
        self._data = data or _Data()
        self.away = False
        self.durable: list[State] = []
        self.before_swap: Callable[[], None] | None = None

    def attach(self) -> WorldStore:
        return WorldStore(self._data)

    @property
    def challenges(self) -> WorldStore:
        return self

    @property
    def approvers(self) -> WorldStore:
        return self

    def put(self, person: Approver) -> None:
        self._data.people.append(person)

    def all(self) -> Sequence[Approver]:
        self._require()
        return self._data.people

    def changed(self) -> int:
        self._require()
        return sum(1 for writer in self._data.commits if writer is not self)

    def open_or_join(self, challenge: Challenge) -> Challenge:
        self._require()
        with self._data.lock:
            for row in self._data.rows.values():
                if row.digest == challenge.digest and row.state.open:
                    return row
            assert challenge.id not in self._data.rows
            self._commit(challenge)
            return challenge

    def get(self, challenge_id: str) -> Challenge | None:
        self._require()
        return self._data.rows.get(challenge_id)

    def by_digest(self, digest: str) -> Challenge | None:
        self._require()
        with self._data.lock:
            return next((row for row in reversed(self._data.rows.values()) if row.digest == digest), None)

    def find(
        self, *, states: frozenset[State] = frozenset(), principal: str = "", due: float | None = None
    ) -> Sequence[Challenge]:
        self._require()
        with self._data.lock:
            rows = tuple(self._data.rows.values())
        return [
            row
            for row in rows
            if (not states or row.state in states)
            and principal in {"", row.principal.subject}
            and (due is None or row.expires <= due)
        ]

    def count_open(self, principal: str, now: float) -> int:
        return sum(row.state.open and row.expires > now for row in self.find(principal=principal))

    def waiting(self, now: float) -> Mapping[str, int]:
        return Counter(
            row.requirement.approvers
            for row in self.find(states=frozenset({State.PENDING}))
            if row.expires > now and asks_people(row.requirement)
        )

    def decided(self, principal: str, limit: int, *, state: State | None = None) -> Sequence[Challenge]:
        found = [row for row in reversed(self.find(principal=principal)) if row.state is not State.PENDING]
        return [row for row in found if state in {None, row.state}][:limit]

    def swap(
        self, old: Challenge, new: Challenge, *, durable: bool, spends: Mapping[str, int] = MappingProxyType({})
    ) -> bool:
        self._require()
        hook, self.before_swap = self.before_swap, None
        if hook:
            hook()
        with self._data.lock:
            row = self._data.rows[old.id]
            if (row.version, row.state) != (old.version, old.state):
                return False
            if any(self._data.used[intent] >= uses for intent, uses in spends.items()):
                return False
            self._data.used.update(spends.keys())
            self._commit(new)
            if durable:
                self.durable.append(new.state)
            return True

    def states(self, ids: Sequence[str]) -> Mapping[str, tuple[State, int]]:
        self._require()
        rows = self._data.rows
        return {one: (rows[one].state, rows[one].version) for one in ids if one in rows}

    def _commit(self, challenge: Challenge) -> None:
        self._data.rows[challenge.id] = challenge
        self._data.commits.append(self)

    def _require(self) -> None:
        if self.away:
            raise StoreUnavailableError


class WorldLedger:
    """Keeps records in memory; `away` makes every append fail."""

    def __init__(self) -> None:
        self.records: list[tuple[str, Mapping[str, Json]]] = []
        self.away = False

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.records]

    def last(self, event: str) -> Mapping[str, Json]:
        return next(fields for name, fields in reversed(self.records) if name == event)

    def append(self, event: str, fields: Mapping[str, Json], shared: Mapping[str, Json] | None = None) -> int:
        if self.away:
            raise LedgerUnavailableError
        self.records.append((event, {**(shared or {}), **fields}))
        return len(self.records)

    note = append

    async def append_durably(self, event: str, fields: Mapping[str, Json]) -> int:
        return self.append(event, fields)


class WorldClock:
    """Wall time that only the test moves, beside the real monotonic clock of the event loop."""

    def __init__(self, now: float, mono: Callable[[], float]) -> None:
        self.wall, self.mono = now, mono

    def now(self) -> float:
        return self.wall

    def token(self, prefix: str) -> str:
        return f"{prefix}_{'0' * 22}"
