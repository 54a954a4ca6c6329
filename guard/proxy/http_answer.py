"""How a tool server on stdio is heard over HTTP: one JSON body, or events when it says more than its answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

import anyio

from guard.proxy.headers import Headers
from guard.proxy.relay import write
from guard.proxy.resumption import Resumable
from guard.proxy.visit import Send

EVENT_STREAM: Final = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"))
UNBUFFERED: Final = (b"x-accel-buffering", b"no")

_ANY: Final = frozenset({"*/*"})
_JSON: Final = frozenset({"application/json", "application/*"}) | _ANY
_EVENTS: Final = frozenset({"text/event-stream", "text/*"}) | _ANY

T = TypeVar("T")


class Inbox(Generic[T]):
    """What one task waits for, in the order it came; whoever puts something in never waits."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._more = anyio.Event()

    def put(self, item: T) -> None:
        """Add an item."""
        self._items.append(item)
        self._more.set()

    async def next(self) -> T:
        """Wait for the next item and take it."""
        while not self._items:
            self._more = anyio.Event()
            await self._more.wait()
        return self._items.popleft()


def accepted(headers: Headers) -> tuple[bool, bool]:
    """Whether JSON and whether an event stream may be answered; without an `Accept` header only JSON."""
    lines = [value.decode("latin-1").lower() for name, value in headers if name == b"accept"]
    if not lines:
        return True, False
    kinds = {part.partition(";")[0].strip() for line in lines for part in line.split(",")}
    return bool(kinds & _JSON), bool(kinds & _EVENTS)


def event(line: bytes) -> bytes:
    """One message as an event; a raw carriage return, which JSON allows between tokens, would end its line."""
    return b"event: message\ndata: " + line.replace(b"\r", b" ") + b"\n\n"


class HttpAnswer:
    """The one HTTP answer of a POST: JSON when only the response comes, events when more belongs to it."""

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send = send
        self._json, self.events = accepted(headers)
        self.streaming = False
        self.finished = False
        self.resumable: Resumable | None = None

    @property
    def possible(self) -> bool:
        """Whether the caller accepts any form of answer."""
        return self._json or self.events

    async def prime(self, resumable: Resumable) -> None:
        """Begin to stream, in a way that the caller can take up again from now on."""
        self.resumable = resumable
        await self._stream()
        await self._send({"type": "http.response.body", "body": resumable.primer, "more_body": True})

    async def say(self, line: bytes) -> None:
        """Send one message ahead of the response."""
        await self._stream()
        await self._send({"type": "http.response.body", "body": self._event(line), "more_body": True})

    async def beat(self) -> None:
        """Send a comment, so that nobody takes the silent stream for dead."""
        await self._stream()
        await self._send({"type": "http.response.body", "body": b": \n\n", "more_body": True})

    async def finish(self, body: bytes, *, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Send the response, or only the status when `body` is empty; nothing can follow."""
        if self.finished:
            return
        self.finished = True
        if self.streaming or (body and not self._json):
            await self._stream(headers)
            last = self._event(body) if body else b""
            if self.resumable is not None:
                self.resumable.end()
            await self._send({"type": "http.response.body", "body": last, "more_body": False})
        else:
            await write(self._send, status, headers, body)

    def _event(self, line: bytes) -> bytes:
        return event(line) if self.resumable is None else self.resumable.mark(event(line))

    async def _stream(self, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        if not self.streaming:
            self.streaming = True
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": [*EVENT_STREAM, UNBUFFERED, *headers]}
            )
