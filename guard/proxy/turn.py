"""One request of a caller and its answer, as ASGI sees them, and what is known about who asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, Protocol

import structlog

log = structlog.get_logger()

BUFFER_LIMIT: Final = 64 * 1024
"""Bytes of a body that wait for the application before reading pauses."""
STATUS_LINES: Final = {code.value: b"HTTP/1.1 %d %b\r\n" % (code, code.phrase.encode()) for code in HTTPStatus}

_BODILESS: Final = frozenset({204, 304})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Caller:
    """Who is at the other end of one connection: whether still there, and a way to be told when not."""

    __slots__ = ("_listeners", "_transport", "gone")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._listeners: list[Callable[[], None]] = []
        self.gone = False

    def on_gone(self, tell: Callable[[], None]) -> None:
        """Have `tell` called once when the caller leaves, at once if that has happened."""
        if self.gone:
            tell()
        else:
            self._listeners.append(tell)

    def forget(self, tell: Callable[[], None]) -> None:
        """Take an `on_gone` back; harmless when it was called already."""
        if tell in self._listeners:
            self._listeners.remove(tell)

    def hang_up(self) -> None:
        """Break the connection, so that a half-written answer can never be taken for a whole one."""
        self._transport.abort()
        self.leave()

    def leave(self) -> None:
        """Note that the caller has left."""
        if self.gone:
            return
        self.gone = True
        listeners, self._listeners = self._listeners, []
        for tell in listeners:
            tell()


class Head:
    """Request line and headers of a request, and of every later one of its connection that repeats them.

    `headers` of a head that was known again lack its Content-Length. `meaning` belongs to the application.
    """

    __slots__ = ("headers", "meaning", "method", "path", "query", "target")

    def __init__(
        self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], *, path: str, query: bytes
    ) -> None:
        self.method, self.target, self.headers = method, target, headers
        self.path, self.query = path, query
        self.meaning: object = None


class Carrier(Protocol):
    """The connection, as far as one request needs it; `drained` is there while the caller does not read."""

    caller: Caller
    loop: asyncio.AbstractEventLoop
    drained: asyncio.Event | None

    def write(self, data: bytes) -> None:
        """Write to the caller, unless the connection ends."""

    def close(self) -> None:
        """Close once everything is sent."""

    def pause_reading(self) -> None:
        """Read no more until the application has caught up."""

    def resume_reading(self) -> None:
        """Read on."""

    def answered(self, turn: Turn) -> None:
        """The answer is whole."""


class Turn:
    """One request on a connection and its answer: what ASGI calls `receive` and `send`."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_expects",
        "_head",
        "_head_only",
        "_left",
        "_pieces",
        "_read",
        "_size",
        "_waiter",
        "begun",
        "complete",
        "keep",
        "whole",
    )

    def __init__(self, connection: Carrier, *, method: str, keep: bool, expects: bool) -> None:
        self._connection = connection
        self._expects = expects
        self._head_only = method == "HEAD"
        self._pieces: list[bytes] = []
        self._size = 0
        self._read = False
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""
        self._chunked = False
        self._left = 0  # bytes of the answer that its content-length still announces
        self.keep = keep
        self.whole = False
        self.begun = False
        self.complete = False

    # ------------------------------------------------------------------ the request

    def feed(self, body: bytes) -> None:
        """Take a piece of the body; it is dropped when the answer was given without it."""
        if self.complete:
            return
        self._pieces.append(body)
        self._size += len(body)
        if self._size > BUFFER_LIMIT:
            self._connection.pause_reading()
        self.wake()

    def wake(self) -> None:
        """Let the application look again: more of the body, its end, or the end of the connection."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> MutableMapping[str, Any]:
        """ASGI's receive: the body as it comes, then the disconnect when there is one."""
        connection = self._connection
        while True:
            if connection.caller.gone or self.complete:
                return {"type": "http.disconnect"}
            if self._pieces or (self.whole and not self._read):
                body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces, self._size, self._read = [], 0, self.whole
                connection.resume_reading()
                return {"type": "http.request", "body": body, "more_body": not self.whole}
            if self._expects:
                self._expects = False
                connection.write(_CONTINUE)
            self._waiter = connection.loop.create_future()
            await self._waiter

    # ------------------------------------------------------------------ the answer

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI's send. The head waits for the body that comes with it, so that both leave in one write.

        Raises:
            RuntimeError: a defect of the application: out of order, or another length than it announced.
        """
        connection = self._connection
        if connection.caller.gone:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        else:
            self._body(message.get("body", b""), more=message.get("more_body", False))
        if connection.drained is not None:
            await connection.drained.wait()

    def _start(self, status: int, headers: Any) -> None:  # noqa: ANN401  # as ASGI has it
        if self.begun:
            raise RuntimeError("a second answer")
        self.begun, self._chunked = True, True
        lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in headers:
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                self._chunked, self._left = False, int(value)
            elif name == b"connection" and value.lower() == b"close":
                self.keep = False
        if status in _BODILESS:
            self._chunked = False
        elif self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)
        self._connection.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send a head whose body takes its time."""
        head, self._head = self._head, b""
        if head:
            self._connection.write(head)

    def _body(self, body: bytes, *, more: bool) -> None:
        if not self.begun or self.complete:
            raise RuntimeError("a body without its head")
        head, self._head = self._head, b""
        if self._head_only:
            piece = b""
        elif self._chunked:
            piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            piece = piece if more else piece + b"0\r\n\r\n"
        else:
            piece = body
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the answer is not as long as it says")
        if head or piece:
            self._connection.write(head + piece if head else piece)
        if not more:
            self.complete = True
            self.wake()
            self._connection.answered(self)

    def ended(self, task: asyncio.Task[None]) -> None:
        """The application is done. What it left unanswered is answered by the connection's end."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("request.failed", exc_info=error)
        connection = self._connection
        if self.complete or connection.caller.gone:
            return
        if self.begun:
            connection.caller.hang_up()
        else:
            connection.write(STATUS_LINES[500] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            connection.close()
