"""One life of a child process: what is to be written to it, and who waits for which of its answers.

The ids a child sees are random and the guard's own, so that two callers with equal ids, or a child that
guesses, can never cross. One task writes, so that a caller who leaves never cuts a line in half.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import Final, Protocol

import anyio

from guard.errors import UpstreamError
from guard.proxy.answers import Answer
from guard.proxy.child import Child
from guard.reasons import Code

QUEUE_LIMIT: Final = 32 * 1024 * 1024
"""Bytes that may wait for a child that does not read."""
_IDS: Final = 2**31


class Waiter(Protocol):
    """Somebody who has sent a request to a child."""

    def depart(self) -> bool:
        """Called right before its line is written; False when it must not be any more."""

    def concluded(self, line: bytes, said: Answer) -> None:
        """Take the answer."""

    def notified(self, line: bytes, *, progress: bool) -> None:
        """Take a notification that belongs to the request; with `progress` it carries the token of the guard."""

    def failed(self, error: UpstreamError | None = None) -> None:
        """Take that no answer will come; without an error whether it was sent is the waiter's own knowledge."""


class Link:
    """A running child, its outgoing lines and its pending requests."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.began = anyio.current_time()
        self.waiting: dict[int, Waiter] = {}
        self.dismissed = anyio.Event()
        self._queue: deque[tuple[bytes, Waiter | None]] = deque()
        self._queued = 0
        self._more = anyio.Event()
        self._closed = False

    @property
    def usable(self) -> bool:
        """Whether anything may be sent."""
        return not self._closed and not self.dismissed.is_set()

    def dismiss(self) -> None:
        """Have the child ended; nobody is to be blamed for it."""
        self.dismissed.set()

    def expect(self, waiter: Waiter) -> int:
        """An id of the guard's own, under which the answer finds the waiter."""
        number = secrets.randbelow(_IDS)
        while number in self.waiting:
            number = secrets.randbelow(_IDS)
        self.waiting[number] = waiter
        return number

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self.waiting.pop(number, None)

    def post(self, line: bytes, waiter: Waiter | None = None) -> None:
        """Write a line as soon as those before it are written.

        Raises:
            UpstreamError: `sent=False`: the child has ended, or does not read.
        """
        if not self.usable:
            raise UpstreamError(sent=False)
        if self._queued + len(line) > QUEUE_LIMIT:
            raise UpstreamError("the tool server does not read", sent=False, reason=Code.OVERLOADED)
        self._queue.append((line, waiter))
        self._queued += len(line)
        self._more.set()

    async def write(self) -> None:
        """Write what is posted; runs as long as the child."""
        while True:
            while self._queue:
                line, waiter = self._queue.popleft()
                self._queued -= len(line)
                if waiter is not None and not waiter.depart():
                    continue
                try:
                    async with self.child.turn:
                        await self.child.write(line)
                except UpstreamError as error:
                    if waiter is not None:
                        waiter.failed(error)
            line, waiter = b"", None  # else an idle child keeps the largest of messages in memory
            self._more = anyio.Event()
            await self._more.wait()

    def seal(self) -> None:
        """Take nothing more; what was taken may still be answered."""
        self._closed = True

    def close(self) -> None:
        """The child has ended: nothing is written any more, and nobody gets an answer."""
        self.seal()
        self._queue.clear()
        waiting, self.waiting = list(self.waiting.values()), {}
        for waiter in waiting:
            waiter.failed()
