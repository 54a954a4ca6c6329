"""One connection of a caller: strict HTTP/1.1 in, ASGI inside, every answer in as few writes as it allows.

httptools already refuses what RFC 9112 calls smuggling: both framings, two lengths, folded lines, control
characters, bare line feeds. What is left is refused here: trailers that would be merged into the headers,
transfer codings other than `chunked`, protocol upgrades, any number of headers, requests that never end, and a
second request while the first is unanswered, which would keep a closed connection unnoticed.

Clients repeat their headers with every request of a connection. So a head whose bytes were parsed before, all
but its Content-Length, is known again by comparing them, and what the application worked out from it is kept
with it (`Head.meaning`).

uvicorn runs it as its HTTP protocol class. Its own does more than this endpoint needs and took 88 µs of CPU a
call where this took 55 (an application that answers at once, 16 connections, before heads were known again).
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

import httptools
import structlog
import uvicorn
from uvicorn.server import ServerState

from guard.proxy.crowd import Crowd
from guard.proxy.turn import STATUS_LINES, Caller, Head, Turn

log = structlog.get_logger()

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of request line and headers together."""
TARGET_LIMIT: Final = 8 * 1024
"""Bytes of the request target."""
HEADER_LIMIT: Final = 128
"""Number of headers."""
ARRIVAL_LIMIT: Final = 20.0
"""Seconds for one whole request, head and body, to arrive; the first one's clock starts with the connection."""
KEEP_ALIVE: Final = 75.0
"""Seconds an idle connection stays open; longer than any client's own pool keeps it."""
LINGER: Final = 1.0
"""Seconds a refused connection is read and ignored before it is closed."""
HEADS_LIMIT: Final = 8
"""Heads of one connection that are known again."""
HEADS_BYTES: Final = 8 * 1024
"""Bytes of them together; they are kept before anybody is known to be who they say."""

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = len(b"\r\nContent-Length: ")
_DIGITS: Final = 9
_FRAMING: Final = frozenset({b"transfer-encoding", b"connection", b"keep-alive", b"expect", b"upgrade", b"trailer"})


class _RefusedError(Exception):
    """Raised inside a parser callback; httptools turns it into a parse error."""


class StrictProtocol(asyncio.Protocol):
    """One connection. Puts its `Caller` into `scope["guard.caller"]` and the whole target into `raw_path`."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: object = None,
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        crowd: Crowd,
    ) -> None:
        """Take what uvicorn hands to every protocol class, and the other connections of the listener."""
        del app_state  # there is no lifespan
        self._app = config.loaded_app
        self._crowd = crowd
        self.loop = _loop or asyncio.get_running_loop()
        self._connections = cast("set[object]", server_state.connections)
        self._tasks = server_state.tasks
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._base: dict[str, Any]
        self.caller: Caller
        self.drained: asyncio.Event | None = None
        self._turn: Turn | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects = False
        self._heads: dict[bytes, Head] = {}
        self._new = b""  # the bytes of the head being parsed, if it may be known again
        self._status = 400
        self._between = True  # no request has begun since the last one was whole
        self._in_head = True
        self._read = 0  # bytes since the head began, as long as it is incomplete
        self._size = 0  # bytes of its headers, as parsed
        self._refused = False
        self._paused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._idler: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock of the first request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but no subclass
        self.caller = Caller(self._transport)
        self._connections.add(self)
        self._base = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "root_path": "",
            "guard.caller": self.caller,
        }
        self._deadline = self.loop.call_later(ARRIVAL_LIMIT, self._too_slow)
        if not self._crowd.enter(self):
            self._status = 503
            self._refuse_connection("Too many connections are in use.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever carries out this connection's request."""
        del exc
        self._connections.discard(self)
        self._crowd.leave(self)
        self._stop_clock()
        if self._idler is not None:
            self._idler.cancel()
            self._idler = None
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Parse; the clock runs exactly while a request is incomplete."""
        if self._refused or (self._between and self._recognised(data)):
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse_connection("Invalid HTTP request received.")
            return
        if self._between:
            if self._deadline is not None:
                self._stop_clock()
            return
        if self._deadline is None:
            self._deadline = self.loop.call_later(ARRIVAL_LIMIT, self._too_slow)
        if self._in_head:
            self._read += len(data)
            if self._read > HEAD_LIMIT:
                self._status = 431
                self._refuse_connection("The request's head is too large.")

    def _recognised(self, data: bytes) -> bool:
        """Start the request if these bytes are one, whole, with a head that was parsed before."""
        self._new, self._expects = b"", False
        end = data.find(_HEAD_END)
        at = data.find(b"\r\nContent-Length: ", 0, end)
        if at < 0:
            at = data.find(b"\r\ncontent-length: ", 0, end)
        if at < 0 or end < 0 or (self._turn is not None and not self._turn.complete):
            return False
        digits_end = data.find(b"\r\n", at + 2)
        digits, rest = data[at + _LENGTH : digits_end], data[:at] + data[digits_end:end]
        if not digits.isdigit() or len(digits) > _DIGITS or len(data) != end + 4 + int(digits):
            return False
        head = self._heads.get(rest)
        if head is None:
            self._new = rest
            return False
        if self._deadline is not None:
            self._stop_clock()
        turn = self._start(head, keep=True)
        turn.whole = True
        turn.feed(data[end + 4 :])
        return True

    def _start(self, head: Head, *, keep: bool) -> Turn:
        """Let the application begin with a request."""
        self._crowd.work(self)
        turn = self._turn = Turn(self, method=head.method, keep=keep, expects=self._expects)
        scope = self._base.copy()
        scope["method"], scope["headers"], scope["guard.head"] = head.method, head.headers, head
        scope["raw_path"], scope["path"], scope["query_string"] = head.target, head.path, head.query
        task = self.loop.create_task(self._app(scope, turn.receive, turn.send))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(turn.ended)
        return turn

    def _remember(self, head: Head) -> None:
        """Know a head again; what a parser may have understood otherwise than as these bytes is left to the parser."""
        if not self._new or len(self._new) > HEADS_BYTES or any(name in _FRAMING for name, _ in head.headers):
            return
        heads = self._heads
        headers = [pair for pair in head.headers if pair[0] != b"content-length"]
        heads[self._new] = Head(head.method, head.target, headers, path=head.path, query=head.query)
        while len(heads) > HEADS_LIMIT or sum(map(len, heads)) > HEADS_BYTES:
            del heads[next(iter(heads))]

    def pause_writing(self) -> None:
        """Hold back the application until the caller has read."""
        self.drained = asyncio.Event()

    def resume_writing(self) -> None:
        """Let the application go on."""
        drained, self.drained = self.drained, None
        if drained is not None:
            drained.set()

    # ------------------------------------------------------------------ httptools

    def on_message_begin(self) -> None:
        """Begin counting; nobody may ask twice at once."""
        if self._turn is not None and not self._turn.complete:
            raise _RefusedError
        self._target, self._headers, self._expects = b"", [], False
        self._between, self._in_head, self._read, self._size = False, True, 0, 0

    def on_url(self, target: bytes) -> None:
        """Collect the request target."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect and count; a trailer (a header after the head) is refused, for it would pass for a header."""
        if not self._in_head:
            raise _RefusedError
        headers = self._headers
        self._size += len(name) + len(value)
        if len(headers) == HEADER_LIMIT or self._size > HEAD_LIMIT:
            self._refuse(431)
        name = name.lower()
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            self._refuse(501)
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects = True
        headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Refuse what two parsers could frame differently, then let the application start."""
        parser, target = self._parser, self._target
        if parser.get_http_version() != "1.1":
            self._refuse(505)
        if parser.should_upgrade():
            self._refuse(501)  # httptools would take the body for the new protocol's first bytes
        if len(target) > TARGET_LIMIT:
            self._refuse(431)
        self._in_head = False
        path, query = _split(target)
        head = Head(parser.get_method().decode("ascii"), target, self._headers, path=path, query=query)
        self._start(head, keep=parser.should_keep_alive())
        self._remember(head)

    def on_body(self, body: bytes) -> None:
        """Hand on a piece of the body."""
        if self._turn is not None:
            self._turn.feed(body)

    def on_message_complete(self) -> None:
        """The request is whole; the next byte begins another."""
        self._between = True
        if self._turn is not None:
            self._turn.whole = True
            self._turn.wake()

    # ------------------------------------------------------------------ for the turn

    def write(self, data: bytes) -> None:
        """Write to the caller, unless the connection ends."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close once everything is sent."""
        self._transport.close()

    def pause_reading(self) -> None:
        """Read no more until the application has caught up."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def answered(self, turn: Turn) -> None:
        """The answer is whole: close, or wait for the next request."""
        self.resume_reading()
        self._crowd.rest(self)
        if not turn.keep:
            self._transport.close()
            return
        self._idle_since = self.loop.time()
        if self._idler is None:
            self._idler = self.loop.call_later(KEEP_ALIVE, self._look_idle)

    def _look_idle(self) -> None:
        """Close what was idle for long. One timer goes on through many requests, instead of one for each."""
        self._idler = None
        if not self._between or (self._turn is not None and not self._turn.complete):
            return
        rest = self._idle_since + KEEP_ALIVE - self.loop.time()
        if rest > 0:
            self._idler = self.loop.call_later(rest, self._look_idle)
        else:
            self._transport.close()

    # ------------------------------------------------------------------ ends

    def make_room(self) -> None:
        """End a connection without a request for the sake of a new one; its last answer is still sent."""
        if self._transport.get_write_buffer_size():
            self._transport.close()
        else:
            self._transport.abort()

    def shutdown(self) -> None:
        """Close when idle, else after the answer that is under way (uvicorn's graceful stop)."""
        if self._turn is None or self._turn.complete:
            self._transport.close()
        else:
            self._turn.keep = False

    def _refuse(self, status: int) -> None:
        self._status = status
        raise _RefusedError

    def _refuse_connection(self, text: str) -> None:
        """Refuse what is no request, and close once the caller had a chance to read why.

        Closing at once with unread bytes would reset the connection and destroy the answer.
        """
        self._refused = True
        self._stop_clock()
        if self._turn is not None and self._turn.begun and not self._turn.complete:
            self.caller.hang_up()
            self._leave()
            return
        head = b"content-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(text)
        self.write(STATUS_LINES[self._status] + head + text.encode("ascii"))
        self._leave()
        if self._transport.can_write_eof():
            self.resume_reading()
            self._transport.write_eof()
            self._deadline = self.loop.call_later(LINGER, self._transport.close)
        else:
            self._transport.close()

    def _leave(self) -> None:
        """Nobody is there any more for whoever carries out this connection's request."""
        self.caller.leave()
        self.resume_writing()
        if self._turn is not None:
            self._turn.wake()

    def _too_slow(self) -> None:
        """End a connection whose request does not arrive; an application reading its body sees it leave."""
        self._deadline = None
        turn = self._turn
        if turn is None or not turn.begun or (turn.complete and self._in_head):
            self._status = 408
            self._refuse_connection("The request took too long to arrive.")
        else:
            self._transport.abort()

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _address(name: object) -> tuple[str, int] | None:
    """Host and port of a socket's name; None for a unix socket."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) and len(name) >= 2 else None  # noqa: PLR2004


@lru_cache(maxsize=256)
def _split(target: bytes) -> tuple[str, bytes]:
    """The decoded path and the query of a request target.

    Raises:
        _RefusedError: it is no URL.
    """
    try:
        parsed = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise _RefusedError from None
    return unquote_to_bytes(parsed.path or b"").decode("utf-8", "replace"), parsed.query or b""
