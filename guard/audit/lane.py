"""One ledger lane on disk: a directory with one writer, and what its file says about itself.

`state/ledger/<lane>/` holds `records.jsonl` and a `lock` that its one writer holds (flock) while it lives.
A record counts once a whole line of it is in the file; what a crash or a full disk left of a line is cut
off again. After a failed fsync the kernel may have dropped the pages and forgotten the error, so the
descriptor is given up, and everything since the last good fsync is compared and written a second time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from guard import faults
from guard.audit import record
from guard.audit.merkle import CompactRange, leaf_hash
from guard.errors import LedgerUnavailableError
from guard.ports import Lane, Lanes

FILE: Final = "records.jsonl"
_LOCK: Final = "lock"
_LANES: Final = 10_000
_ADVICE: Final = "the ledger is not what it was when it was last written; run `guard audit verify`"


def folder(state: Path) -> Path:
    """Where the lanes of a state directory are."""
    return state / "ledger"


def stored_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a lane file, line feed included; an overlong or unfinished one as it stands."""
    while stored := file.readline(record.LIMIT + 1):
        yield stored


def held_by_another(state: Path, lane: str) -> bool:
    """Whether a living process other than this one writes the lane."""
    try:
        lock = _locked(folder(state) / lane / _LOCK)
    except OSError:
        return True  # unknown, so presumed alive
    if lock is None:
        return True
    os.close(lock)
    return False


@dataclass(frozen=True, slots=True)
class Mark:
    """A prefix of a lane: its length in bytes and the tree over its records."""

    offset: int
    tree: CompactRange


class LaneFile:
    """The writer's end of one lane. `write` and `mark` are called under `guard.audit.ledger`'s lock."""

    def __init__(self, directory: Path, lock: int) -> None:
        """Own the lane whose lock descriptor is `lock`; `resume` before the first `write`."""
        self.name = directory.name
        self.crc, self.time = 0, ""
        self.tree = CompactRange()
        self.suspect = False
        self._path, self._lock, self._file = directory / FILE, lock, -1
        self._offset, self._torn, self._held = 0, False, b""
        self._kept = Mark(0, CompactRange())

    @classmethod
    def take(cls, state: Path, lanes: Lanes) -> Self:
        """Lock the first free lane, making it when there is none.

        A directory whose records the store has never heard of is nobody's lane: it is left for
        `guard audit verify` to name.

        Raises:
            LedgerUnavailableError: the directory cannot be written, or a lane the store knows is gone.
        """
        home = folder(state)
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            for lane in lanes.all():
                if lane.size and not (home / lane.name / FILE).exists():
                    raise LedgerUnavailableError(_ADVICE, detail=f"lane {lane.name} is missing")
            for number in range(1, _LANES):
                directory = home / f"{number:04d}"
                directory.mkdir(mode=0o700, exist_ok=True)
                lock = _locked(directory / _LOCK)
                if lock is None:
                    continue
                file = directory / FILE
                if lanes.get(directory.name) is None and file.exists() and file.stat().st_size:
                    os.close(lock)
                    continue
                return cls(directory, lock)
        except OSError as error:
            raise LedgerUnavailableError(detail=f"{home}: {error}") from error
        raise LedgerUnavailableError(detail=f"all {_LANES - 1} lanes of {home} are in use")

    def resume(self, known: Lane | None) -> int:
        """Read the lane once, compare it with what the store knows, cut a torn last line; return the bytes lost.

        Raises:
            LedgerUnavailableError: it cannot be read, is shorter than the store knows, or has another root there.
        """
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._read_back(known or Lane(name=self.name, size=0, root=self.tree.root().hex()))
            lost = os.fstat(self._file).st_size - self._offset
            if lost:
                os.ftruncate(self._file, self._offset)
            os.fsync(self._file)
            for directory in (self._path.parent, self._path.parent.parent):
                _sync_directory(directory)
        except OSError as error:
            raise LedgerUnavailableError(detail=f"{self._path}: {error}") from error
        self._kept = self.mark()
        return lost

    def _read_back(self, known: Lane) -> None:
        """Rebuild tree, checksum and time from the file, one line at a time."""
        last, agreed = b"", not known.size
        with self._path.open("rb") as file:
            for stored in stored_lines(file):
                if not stored.endswith(b"\n"):
                    break
                last = stored[:-1]
                self.tree.append(leaf_hash(last))
                self._offset += len(stored)
                if self.tree.size == known.size:
                    agreed = self.tree.root().hex() == known.root
        if not agreed:
            raise LedgerUnavailableError(
                _ADVICE, detail=f"lane {self.name}: the store knows {known.size} records, and not these"
            )
        if last:
            try:
                entry, self.crc = record.read(self.name, last)
            except ValueError as error:
                raise LedgerUnavailableError(_ADVICE, detail=f"lane {self.name}, last record: {error}") from error
            self.time = entry.time

    def mark(self) -> Mark:
        """Everything so far; what was held is written first.

        Raises:
            LedgerUnavailableError: that could not be written, and is still held.
        """
        if self._held:
            self._write(self._held)
            self._held = b""
        return Mark(self._offset, self.tree.copy())

    def hold(self, body: bytes) -> int:
        """Take a record body that is written together with the next one, or by `mark`; return the bytes held."""
        stored, self.crc = record.chain(body, self.crc)
        self.tree.append(leaf_hash(stored[:-1]))
        self._held += stored
        return len(self._held)

    def write(self, body: bytes) -> None:
        """Append one record body (see `guard.audit.record.line`), and what is held, whole or not at all.

        Raises:
            LedgerUnavailableError: it could not be written; the file ends where it ended before.
        """
        stored, crc = record.chain(body, self.crc)
        self._write(self._held + stored if self._held else stored)
        self._held = b""
        self.crc = crc
        self.tree.append(leaf_hash(stored[:-1]))

    def _write(self, stored: bytes) -> None:
        """One write of whole lines, or none of it."""
        if self._torn:
            self._cut()
        try:
            faults.point("ledger.append")
            written = os.write(self._file, stored)
        except OSError as error:
            self._torn = True
            with contextlib.suppress(LedgerUnavailableError):  # tried again before the next write
                self._cut()
            raise LedgerUnavailableError(detail=f"{self._path}: {error}") from error
        if written != len(stored):
            self._torn = True
            self._cut()
            raise LedgerUnavailableError(detail=f"{self._path}: only {written} of {len(stored)} bytes fit")
        self._offset += written

    def _cut(self) -> None:
        """Remove what a failed write may have left behind the last whole record."""
        try:
            os.ftruncate(self._file, self._offset)
        except OSError as error:
            raise LedgerUnavailableError(detail=f"{self._path}: {error}") from error
        self._torn = False

    def sync(self, mark: Mark) -> None:
        """Bring everything up to `mark` to the disk. Blocks; one thread at a time.

        Raises:
            LedgerUnavailableError: it is not known to be there; `suspect` until `restore` succeeds.
        """
        try:
            untouched = self._untouched(mark)
            if untouched and mark.offset > self._kept.offset:
                faults.point("ledger.fsync")
                os.fdatasync(self._file)
        except OSError as error:
            self.suspect = True
            raise LedgerUnavailableError(detail=f"{self._path}: {error}") from error
        if not untouched:
            self.suspect = True
            raise LedgerUnavailableError(_ADVICE, detail=f"{self._path} was moved or cut by somebody else")
        self._kept = mark

    def _untouched(self, mark: Mark) -> bool:
        """Whether the file is still under its name and as long as it must be."""
        here, there = os.fstat(self._file), self._path.stat()
        return there.st_ino == here.st_ino and here.st_size >= mark.offset

    def restore(self) -> None:
        """After a failed fsync: on a new descriptor, compare the unsynced tail, write it again, fsync it.

        Called under the ledger's lock. Blocks.

        Raises:
            LedgerUnavailableError: the tail is not what was written, or the disk still refuses.
        """
        start, end = self._kept.offset, self._offset
        try:
            self._close_file()
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                tail, tree = os.pread(file, end - start, start), self._kept.tree.copy()
                whole = tail + self._held
                for stored in whole.splitlines():
                    tree.append(leaf_hash(stored))
                if len(tail) != end - start or tree.root() != self.tree.root():
                    raise LedgerUnavailableError(_ADVICE, detail=f"{self._path} lost records that were written")
                if os.pwrite(file, whole, start) != len(whole):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                faults.point("ledger.fsync")
                os.fdatasync(file)
                os.ftruncate(file, start + len(whole))
            finally:
                os.close(file)
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise LedgerUnavailableError(detail=f"{self._path}: {error}") from error
        self._offset, self._held = start + len(whole), b""
        self._kept, self._torn, self.suspect = self.mark(), False, False

    def close(self) -> None:
        """Give up file and lock."""
        self._close_file()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _close_file(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            with contextlib.suppress(OSError):  # the descriptor is gone either way; what counts is checked elsewhere
                os.close(file)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock, or None when another process holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _sync_directory(directory: Path) -> None:
    """Make a new name durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
