"""The ledger: every step is a record in this process's own lane, and the store remembers how far it reaches.

`append` hands a record to the operating system; `append_durably` returns once it is on disk *and* its
Merkle root is in the store, so that cutting it off later shows. `note` is for what has happened already: such a
record may wait in memory for the next one, or for the next flush. Callers who wait at the same time share
one fsync: it serves everybody who had written before it began. `run` does the same in the background
for records nobody waits for. Whatever fails, nothing is acknowledged, and further records are refused
until the disk proves itself again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, Self

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import structlog

from guard.audit import record
from guard.audit.lane import LaneFile
from guard.errors import LedgerUnavailableError, StoreUnavailableError
from guard.model import Json
from guard.ports import Clock, Lane, Lanes

_CLOSED: Final = "the ledger is closed"

log = structlog.get_logger()

PATIENCE: Final = 2.0
"""Seconds a caller waits for the disk before its call is refused."""

SHARED: Final = 1024
"""Sets of shared fields whose encoding is kept."""

INTERVAL: Final = 0.005
"""Seconds after which a record nobody waits for is brought to disk."""

PATIENT: Final = 0.05
"""Seconds a record that another one of the same call follows waits for the fsync that serves both."""

HELD: Final = 64 * 1024
"""Bytes of noted records that may wait in memory."""

HEAD_INTERVAL: Final = 0.025
"""Seconds between two heads stored under a steady stream of such records."""

RETRY: Final = 0.25
"""Seconds between two attempts on a disk that refused."""

STEP: Final = 2.0
"""Seconds the wall clock may run ahead of the monotonic clock before that is on record."""


class FileLedger:
    """`guard.ports.Ledger` on a lane of this process's own (ledger.md: one process, one lane, one writer).

    `append` may be called from any thread; `append_durably` and `run` belong to one event loop at a time.
    """

    def __init__(self, lane: LaneFile, lanes: Lanes, clock: Clock) -> None:
        """Write to a resumed lane; use `open`."""
        self._lane, self._lanes, self._clock = lane, lanes, clock
        self._boot = clock.token("b")
        self._now, self._mono = _seconds(lane.time), math.inf  # another process's monotonic time does not compare
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._first = self._synced = self._head = lane.tree.size
        self._head_at = clock.mono()
        self._trouble, self._closed = "", False
        self._solo: Mapping[str, Json] = {}
        self._round: anyio.Event | None = None
        self._waker: _Waker | None = None
        self._shared: dict[int, record.Shared] = {}

    @classmethod
    def open(cls, state: Path, lanes: Lanes, clock: Clock, *, solo: bool = False) -> Self:
        """Take a free lane below `state/ledger/` and resume it where it ended; `solo` marks every record of it.

        Raises:
            LedgerUnavailableError: no lane can be written, or the lane is not what the store knows of it.
            StoreUnavailableError: the store cannot say what it knows.
        """
        lane = LaneFile.take(state, lanes)
        try:
            lost = lane.resume(lanes.get(lane.name))
            ledger = cls(lane, lanes, clock)
            ledger._solo = {"solo": True} if solo else {}
            ledger._put_head(lane.tree.size, lane.tree.root())
            if lost:
                ledger.append("ledger.recovered", {"lost_bytes": lost})
        except BaseException:
            lane.close()
            raise
        return ledger

    @property
    def lane(self) -> str:
        """The name of the lane this process writes."""
        return self._lane.name

    # ------------------------------------------------------------------ append

    def append(self, event: str, fields: Mapping[str, Json], shared: Mapping[str, Json] | None = None) -> int:
        """Write one record to the operating system; return its sequence number, counted from 0 in its lane.

        Args:
            event: see `guard.audit.record.EVENTS`.
            fields: those of this record.
            shared: further fields; one object for many records is encoded once.

        Raises:
            LedgerUnavailableError: it could not be written, or earlier records are in doubt.
            ValueError: the event or a field breaks the rules of `guard.audit.record.line`.
        """
        return self._add(self._lane.write, event, fields, shared)

    def note(self, event: str, fields: Mapping[str, Json], shared: Mapping[str, Json] | None = None) -> int:
        """Take one record of what has happened already; it is written with the next one, at most `INTERVAL` later.

        A process that is killed in between loses it; nothing may go on that rests on it.

        Raises:
            LedgerUnavailableError: earlier records are in doubt, or too many wait.
            ValueError: as `append`.
        """
        return self._add(self._hold, event, fields, shared)

    def _hold(self, body: bytes) -> None:
        if self._lane.hold(body) > HELD:
            self._lane.mark()

    def _add(
        self, put: Callable[[bytes], None], event: str, fields: Mapping[str, Json], same: Mapping[str, Json] | None
    ) -> int:
        shared = record.NOTHING if same is None else self._shared.get(id(same)) or self._share(same)
        fields = {**fields, **self._solo} if self._solo else fields
        lock, clock, tree = self._lock, self._clock, self._lane.tree
        if self._trouble or not (lock.acquire(blocking=False) or lock.acquire(timeout=PATIENCE)):
            raise LedgerUnavailableError(detail=self._trouble or "the disk does not answer")
        try:
            if self._trouble:
                raise LedgerUnavailableError(detail=self._trouble)
            now, mono = clock.now(), clock.mono()
            ahead = (now - self._now) - (mono - self._mono)
            if now < self._now or STEP < ahead < math.inf:
                step: dict[str, Json] = {"from": record.rfc3339(self._now), **self._solo}
                put(record.line(tree.size, now, mono, self._boot, event="clock.stepped", fields=step))
            seq = tree.size
            put(record.line(seq, now, mono, self._boot, event=event, fields=fields, shared=shared))
            self._now, self._mono = now, mono
        finally:
            lock.release()
        waker = self._waker
        if waker is not None:
            waker.wake(soon=not _followed(event, fields))
        return seq

    def _share(self, same: Mapping[str, Json]) -> record.Shared:
        """Encode shared fields once; they are kept alive with their encoding, so that an id means one object."""
        if len(self._shared) >= SHARED:
            self._shared.clear()
        shared = self._shared[id(same)] = record.Shared.of(same)
        return shared

    async def append_durably(self, event: str, fields: Mapping[str, Json]) -> int:
        """Write one record and return its sequence number once it is on disk and its head in the store.

        Raises:
            LedgerUnavailableError: that is not known to be so, after at most `PATIENCE` seconds.
            ValueError: as `append`.
        """
        if self._trouble and not self._flushing.locked():
            await self._lead(head=True)
        seq = self.append(event, fields)
        with anyio.move_on_after(PATIENCE) as bound:
            while self._head <= seq:
                if self._round is not None:
                    await self._round.wait()  # it may have begun before this record; then look again
                else:
                    await self._lead(head=True)
        if bound.cancelled_caught:
            self._stalled()
        return seq

    # ------------------------------------------------------------------ bring to disk

    async def _lead(self, *, head: bool) -> None:
        """Flush on behalf of everybody who waits. A caller who leaves does not take the others' fsync along."""
        done = self._round = anyio.Event()
        try:
            with anyio.move_on_after(PATIENCE, shield=True) as bound:
                await anyio.to_thread.run_sync(
                    partial(self._flush, head=head), abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
                )
        finally:
            if self._round is done:
                self._round = None
            done.set()
        if bound.cancelled_caught:
            self._stalled()

    def _stalled(self) -> None:
        """Refuse records while a flush hangs; the flush lifts this when it comes back."""
        detail = f"the disk has not answered for {PATIENCE:.0f} s"
        if self._flushing.locked():
            self._trouble = detail
        raise LedgerUnavailableError(detail=detail)

    def _flush(self, *, head: bool) -> None:
        """Bring what was written so far to disk (fdatasync), then tell the store. Blocks."""
        if not self._flushing.acquire(timeout=PATIENCE):
            raise LedgerUnavailableError(detail="an earlier flush still hangs")
        try:
            if self._lane.suspect:
                with self._lock:
                    self._lane.restore()
            with self._lock:
                mark = self._lane.mark()
            self._lane.sync(mark)
            quiet, self._synced = mark.tree.size == self._synced, mark.tree.size
            now = self._clock.mono()
            if head or quiet or now - self._head_at >= HEAD_INTERVAL:
                self._put_head(mark.tree.size, mark.tree.root())
                self._head_at = now
            self._trouble = _CLOSED if self._closed else ""
        except LedgerUnavailableError as error:
            self._trouble = error.detail or error.public
            raise
        finally:
            self._flushing.release()

    def _put_head(self, size: int, root: bytes) -> None:
        """Tell the store how far the lane reaches. Never ahead of the file: called after the fsync."""
        try:
            self._lanes.put(Lane(name=self._lane.name, size=size, root=root.hex()))
        except (StoreUnavailableError, ValueError) as error:
            raise LedgerUnavailableError(detail=f"the store does not take the ledger's head: {error}") from error
        self._head = size

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Bring records nobody waits for to disk within `INTERVAL`, and try again while the disk refuses.

        Runs until cancelled; `close` flushes what is left.
        """
        said = ""
        try:
            task_status.started()
            while True:
                self._waker = _Waker()
                if self._head == self._lane.tree.size and not self._trouble:
                    await self._waker.written.wait()
                with anyio.move_on_after(PATIENT - INTERVAL):
                    await self._waker.soon.wait()
                await anyio.sleep(INTERVAL)
                try:
                    await self._flush_in_background()
                    said = ""
                except LedgerUnavailableError as error:
                    if error.detail != said:
                        log.error("ledger.unavailable", lane=self.lane, detail=error.detail)  # noqa: TRY400 - no trace
                    said = error.detail
                    await anyio.sleep(RETRY)
        finally:
            self._waker = None

    async def _flush_in_background(self) -> None:
        if self._round is not None:
            await self._round.wait()
        elif self._flushing.locked():  # a flush that was given up hangs; it reports for itself when it comes back
            await anyio.sleep(RETRY)
        else:
            await self._lead(head=False)

    def close(self) -> None:
        """Seal the lane, bring everything to disk and the head to the store, and free the lane. Blocks.

        Raises:
            LedgerUnavailableError: the last records may not be on disk; the lane is free nevertheless.
        """
        if self._closed:
            return
        try:
            if self._lane.tree.size > self._first and not self._trouble:
                tree = self._lane.tree
                self.append("ledger.sealed", {"records": tree.size, "root": tree.root().hex()})
            self._flush(head=True)
        finally:
            self._closed, self._trouble = True, _CLOSED
            if not self._flushing.locked():
                self._lane.close()


def _seconds(time: str) -> float:
    """Unix seconds of a record's time; 0 for none."""
    return datetime.fromisoformat(time).timestamp() if time else 0.0


def _followed(event: str, fields: Mapping[str, Json]) -> bool:
    """Whether another record of the same call follows, mostly within milliseconds.

    A challenge's own, or the intent, follows the decision that demands one; the intent of the call that is held follows
    the proof that was missing, and would have to wait for an fsync of that proof's own; the outcome follows a spent
    grant. What is permitted without any may take long, and its decision is brought to disk as soon as any other record.
    """
    match event:
        case "grant.consumed":
            return True
        case "decision.made":
            return fields.get("decision") == "challenge"
        case "proof.accepted":
            return not fields.get("missing")
        case _:
            return False


class _Waker:
    """Tells `run`, from its own thread or another, that something was written, and whether to flush it soon."""

    __slots__ = ("_thread", "_token", "soon", "written")

    def __init__(self) -> None:
        self.written, self.soon = anyio.Event(), anyio.Event()
        self._token, self._thread = anyio.lowlevel.current_token(), threading.get_ident()

    def wake(self, *, soon: bool) -> None:
        """Say it once; costs nothing after that."""
        for event in (self.written, self.soon) if soon else (self.written,):
            if event.is_set():
                continue
            if threading.get_ident() == self._thread:
                event.set()
            else:
                with suppress(anyio.RunFinishedError):  # the loop has ended: `close` flushes
                    anyio.from_thread.run_sync(event.set, token=self._token)
