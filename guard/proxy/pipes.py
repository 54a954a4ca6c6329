"""Byte streams over file descriptors of ours, and bounded lines on top of them.

`anyio.wait_readable` on a non-blocking descriptor costs a tenth of a worker thread per message and
keeps no unbounded buffer, which is why the stdio front does not wrap `sys.stdin`.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

_CHUNK: Final = 65_536
_HEAD: Final = 4_096


def _unblock(fd: int) -> bool:
    """Make a pipe or socket non-blocking; whether it was blocking. Terminals stay as their other users need them."""
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) or not os.get_blocking(fd):
        return False
    os.set_blocking(fd, False)
    return True


class PipeReader(ByteReceiveStream):
    """The receiving end of a pipe, socket, terminal or file. `aclose` closes the descriptor."""

    def __init__(self, fd: int) -> None:
        """Take over the descriptor."""
        self._fd = fd
        self._polled = True
        self._unblocked = _unblock(fd)

    async def receive(self, max_bytes: int = _CHUNK) -> bytes:
        """Wait for bytes; between 1 and `max_bytes` of them.

        Raises:
            anyio.EndOfStream: the other end closed, or broke off.
            anyio.ClosedResourceError: this end was closed.
        """
        while True:
            if self._fd < 0:
                raise anyio.ClosedResourceError
            try:
                if await self._readable():
                    data = os.read(self._fd, max_bytes)
                else:
                    data = await anyio.to_thread.run_sync(os.read, self._fd, max_bytes, abandon_on_cancel=True)
            except BlockingIOError:
                continue
            except OSError as error:
                raise anyio.EndOfStream from error
            if not data:
                raise anyio.EndOfStream
            return data

    async def _readable(self) -> bool:
        """Wait for bytes; False when the system cannot wait for this kind of file (a regular one, /dev/null)."""
        if self._polled:
            try:
                await anyio.wait_readable(self._fd)
            except PermissionError:
                self._polled = False
        return self._polled

    async def aclose(self) -> None:
        """Close the descriptor, once; who waits on it gets a ClosedResourceError."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _release(fd, unblocked=self._unblocked)


class PipeWriter(ByteSendStream):
    """The sending end of a pipe, socket, terminal or file. `aclose` closes the descriptor.

    `written` counts the bytes the system took, so that a broken send can be told from one that never began.
    """

    def __init__(self, fd: int) -> None:
        """Take over the descriptor."""
        self._fd = fd
        self._unblocked = _unblock(fd)
        self.written = 0

    async def send(self, item: bytes) -> None:
        """Write all bytes; returns without yielding when the system takes them at once.

        Raises:
            anyio.BrokenResourceError: the other end is gone.
            anyio.ClosedResourceError: this end was closed.
        """
        while item := self.offer(item):
            await anyio.wait_writable(self._fd)

    def offer(self, item: bytes) -> bytes:
        """Write what the system takes at once; return the rest.

        Raises:
            anyio.BrokenResourceError: the other end is gone.
            anyio.ClosedResourceError: this end was closed.
        """
        rest = memoryview(item)
        while rest:
            if self._fd < 0:
                raise anyio.ClosedResourceError
            try:
                count = os.write(self._fd, rest)
            except BlockingIOError:
                break
            except OSError as error:
                raise anyio.BrokenResourceError from error
            self.written += count
            rest = rest[count:]
        return bytes(rest)

    async def aclose(self) -> None:
        """Close the descriptor, once; who waits on it gets a ClosedResourceError."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _release(fd, unblocked=self._unblocked)


def _release(fd: int, *, unblocked: bool) -> None:
    """Wake the waiters, put the shared blocking flag back as it was, and close."""
    anyio.notify_closing(fd)
    if unblocked:
        os.set_blocking(fd, True)
    os.close(fd)


@contextmanager
def standard_streams() -> Iterator[tuple[PipeReader, PipeWriter]]:
    """This process's input and output as streams, with descriptor 1 pointed at stderr meanwhile.

    So a stray print of any library lands in the log and never between two protocol lines. The caller
    closes the streams; leaving restores descriptor 1.
    """
    sys.stdout.flush()
    output = os.dup(1)
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield PipeReader(os.dup(0)), PipeWriter(output)
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


class Flaw(StrEnum):
    """Why a line cannot be taken."""

    TOO_LONG = "the line is longer than this side accepts"
    UNFINISHED = "the input ended inside a line"


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its newline; with a `flaw`, the first bytes of one that cannot be taken."""

    raw: bytes
    flaw: Flaw | None = None


class Lines:
    """Newline-delimited lines of at most `limit` bytes each; memory stays bounded by the limit.

    The rest of a longer line is thrown away as it comes, so an endless one costs time and no memory.
    """

    def __init__(self, stream: ByteReceiveStream, limit: int) -> None:
        """Read from `stream`."""
        self._stream, self._limit = stream, limit
        self._buffer = bytearray()
        self._searched = 0
        self._discarding = False

    async def next(self) -> Line | None:
        """The next line; None when the stream ended, after a last unfinished line was reported as such."""
        while True:
            line = self._cut() or self._overflow()
            if line is not None:
                return line
            try:
                self._buffer += await self._stream.receive(_CHUNK)
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return self._last()

    def _cut(self) -> Line | None:
        """Take the next finished line off the buffer."""
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            raw = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            if self._discarding:
                self._discarding = False
            elif len(raw) > self._limit:
                return self._too_long(raw)
            else:
                return Line(raw)
        self._searched = len(self._buffer)
        return None

    def _overflow(self) -> Line | None:
        """Give up a line that has outgrown the limit; what follows of it is not kept."""
        if not self._discarding and len(self._buffer) <= self._limit:
            return None
        report = None if self._discarding else self._too_long(self._buffer)
        self._discarding = True
        self._buffer = bytearray()
        self._searched = 0
        return report

    @staticmethod
    def _too_long(raw: bytes | bytearray) -> Line:
        return Line(bytes(raw[:_HEAD]), Flaw.TOO_LONG)

    def _last(self) -> Line | None:
        rest, self._buffer, self._searched = bytes(self._buffer[:_HEAD]), bytearray(), 0
        return Line(rest, Flaw.UNFINISHED) if rest and not self._discarding else None
