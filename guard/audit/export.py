"""Reading the ledger for people and other systems. Proves nothing: that is `guard.audit.verify`."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from guard.audit import record
from guard.audit.lane import FILE, folder, stored_lines
from guard.audit.record import Entry
from guard.audit.redact import shown
from guard.errors import LedgerUnavailableError
from guard.model import Json

SHOWN: Final = ("principal", "server", "tool", "decision", "outcome", "challenge_id", "grant_id", "call_id")


class Reader:
    """Reads every lane from where it stopped last time, so that it can follow a ledger that grows.

    `skipped` counts lines that are no records; `guard audit verify` says which.
    """

    def __init__(self, state: Path) -> None:
        """Begin at the first record of every lane below `state/ledger/`."""
        self.skipped = 0
        self._home = folder(state)
        self._offsets: dict[str, int] = {}

    def read(self, *, holding: frozenset[bytes] = frozenset()) -> Iterator[Entry]:
        """Entries not read before, over all lanes by time; with `holding`, only those with one of these texts.

        Raises:
            LedgerUnavailableError: a lane cannot be read. None is left out, for nobody would notice.
        """
        return heapq.merge(*(self._lane(lane, holding) for lane in self._lanes()), key=lambda entry: entry.time)

    def _lanes(self) -> list[str]:
        found: list[str] = []
        with _readable():
            for name in sorted(os.listdir(self._home) if self._home.exists() else ()):  # noqa: PTH208 - only names
                try:
                    (self._home / name / FILE).stat()
                except (FileNotFoundError, NotADirectoryError):
                    continue
                found.append(name)
        return found

    def _lane(self, lane: str, holding: frozenset[bytes]) -> Iterator[Entry]:
        with _readable(), (self._home / lane / FILE).open("rb") as file:
            file.seek(self._offsets.get(lane, 0))
            for stored in stored_lines(file):
                if not stored.endswith(b"\n"):
                    return  # still being written, or torn; looked at again next time
                self._offsets[lane] = self._offsets.get(lane, 0) + len(stored)
                if holding and not any(text in stored for text in holding):
                    continue
                try:
                    entry, _ = record.read(lane, stored[:-1])
                except ValueError:
                    self.skipped += 1
                    continue
                yield entry


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerUnavailableError("the ledger cannot be read", detail=str(error)) from error


def jsonl(entry: Entry) -> str:
    """One record as one line of JSON, its lane in front: sequence numbers count by lane."""
    return f'{{"lane":"{entry.lane}",{entry.line[1:].decode("ascii")}'


def summary(entry: Entry) -> str:
    """One record as a line for people: time, place, event, and who, what and how it ended."""
    words = " ".join(f"{name}={text}" for name in SHOWN if (text := entry.text(name)))
    codes = " ".join(_codes(entry.fields.get("reasons")))
    return shown(
        f"{entry.time} {entry.lane}/{entry.seq} {entry.event} {words}{f' ({codes})' if codes else ''}".rstrip()
    )


def _codes(reasons: Json) -> Iterator[str]:
    """The codes of a record's reasons."""
    for reason in reasons if isinstance(reasons, list) else ():
        if isinstance(reason, Mapping) and isinstance(code := reason.get("code"), str):
            yield code
