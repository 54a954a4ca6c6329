"""Byte streams over file descriptors of ours, and bounded lines on top of them.

Waiting for a non-blocking descriptor costs a tenth of a worker thread per message and keeps no unbounded buffer,
which is why the stdio front does not wrap `sys.stdin`.
"""

from __future__ import annotations

import asyncio
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


class _Watch:
    """Waits until a non-blocking descriptor can be read, on an asyncio loop.

    The loop goes on watching between two waits, so it may report what was read meanwhile: a read that then blocked, as
    on a terminal, would stop the loop. To add and remove the descriptor each time, as
    `anyio.wait_readable` does, takes six times as long (34 and 6 µs with uvloop 0.23).
    """

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        """Watch `fd` on `loop`."""
        self._fd, self._loop = fd, loop
        self._waiter: asyncio.Future[None] | None = None
        self._watching = False

    async def readable(self) -> None:
        """Wait until the descriptor seems readable; reading may still find nothing.

        Raises:
            anyio.BusyResourceError: somebody else waits.
            anyio.ClosedResourceError: `close` was called meanwhile.
            PermissionError: the system cannot wait for this kind of file.
        """
        if self._waiter is not None:
            raise anyio.BusyResourceError("reading from")
        if not self._watching:
            self._loop.add_reader(self._fd, self._ready)
            self._watching = True
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _ready(self) -> None:
        if self._waiter is None:
            self._stop()  # bytes that nobody wants yet would wake the loop again and again
        elif not self._waiter.done():
            self._waiter.set_result(None)

    def _stop(self) -> None:
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._fd)

    def close(self) -> None:
        """Watch no more; who waits gets a ClosedResourceError."""
        self._stop()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(anyio.ClosedResourceError())


class PipeReader(ByteReceiveStream):
    """The receiving end of a pipe, socket, terminal or file. `aclose` closes the descriptor."""

    def __init__(self, fd: int) -> None:
        """Take over the descriptor."""
        self._fd = fd
        self._polled = True
        self._watch: _Watch | None = None
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
                if self._watch is None and (loop := _asyncio()) and not os.get_blocking(self._fd):
                    self._watch = _Watch(self._fd, loop)
                await (anyio.wait_readable(self._fd) if self._watch is None else self._watch.readable())
            except PermissionError:
                self._polled = False
        return self._polled

    async def aclose(self) -> None:
        """Close the descriptor, once; who waits on it gets a ClosedResourceError."""
        fd, self._fd = self._fd, -1
        if self._watch is not None:
            self._watch.close()
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


def _asyncio() -> asyncio.AbstractEventLoop | None:
    """The running loop, if it is one of asyncio's."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


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
