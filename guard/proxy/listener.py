"""The socket side of the MCP endpoint: uvicorn, told to be stricter and never to wait for ever.

uvicorn with httptools already refuses what RFC 9112 calls smuggling: both framings, two lengths, folded
lines, control characters, bare line feeds. `StrictProtocol` closes what is left (each measured with
uvicorn 0.54 and httptools 0.9): trailers that would be merged into the headers, transfer codings other
than `chunked`, targets that lose their fragment or authority, any number of headers, requests that never
end, and a second request while the first is unanswered, which would keep a closed connection unnoticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from guard.config import Listener
from guard.errors import ConfigError
from guard.proxy.crowd import Crowd, room

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of request line and headers together."""
TARGET_LIMIT: Final = 8 * 1024
"""Bytes of the request target."""
HEADER_LIMIT: Final = 128
"""Number of headers."""
ARRIVAL_LIMIT: Final = 20.0
"""Seconds for one whole request, head and body, to arrive; the first one's clock starts with the connection."""
KEEP_ALIVE: Final = 75
"""Seconds an idle connection stays open; longer than any client's own pool keeps it."""
BACKLOG: Final = 4096
"""Connections the system queues before they are accepted."""
LINGER: Final = 1.0
"""Seconds a refused connection is read and ignored before it is closed."""
GRACE: Final = 1
"""Seconds unanswered requests get after the stop; with uvicorn's own ticks the exit stays within two."""


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


class _RefusedError(Exception):
    """Raised inside a parser callback; httptools turns it into a parse error."""


_STATUS: Final = {
    400: b"HTTP/1.1 400 Bad Request\r\n",
    408: b"HTTP/1.1 408 Request Timeout\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
    501: b"HTTP/1.1 501 Not Implemented\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\n",
    505: b"HTTP/1.1 505 HTTP Version Not Supported\r\n",
}


class _Joined:
    """What uvicorn writes an answer to: the head waits for the body that comes with it, so both go in one write.

    Two writes wake the caller twice, and cost a system call more. A head whose body is still to come goes
    by itself in the next turn of the event loop.
    """

    __slots__ = ("_head", "_loop", "_transport", "begun")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self.begun = False

    def write(self, data: bytes) -> None:
        """Hold back the first piece of an answer, send it with the second."""
        if not self.begun:
            self.begun, self._head = True, data
            self._loop.call_soon(self._flush)
        elif self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close once everything is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection ends."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)


class StrictProtocol(HttpToolsProtocol):
    """One connection. Puts its `Caller` into `scope["guard.caller"]` and the whole target into `raw_path`."""

    def __init__(self, *args: Any, crowd: Crowd, **settings: Any) -> None:  # noqa: ANN401  uvicorn's own signature
        super().__init__(*args, **settings)
        self._crowd = crowd
        self._caller: Caller
        self._joined: _Joined
        self._status = 400
        self._whole = False  # between two requests
        self._in_head = True
        self._read = 0  # bytes since the head began, as long as it is incomplete
        self._size = 0  # bytes of its headers, as parsed
        self._fields = 0
        self._draining = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Start the clock of the first request."""
        self._caller = Caller(transport)
        super().connection_made(transport)
        self._joined = _Joined(transport, self.loop)
        self._deadline = self.loop.call_later(ARRIVAL_LIMIT, self._too_slow)
        if not self._crowd.enter(self):
            self._status = 503
            self.send_400_response("Too many connections are in use.")

    def make_room(self) -> None:
        """End a connection without a request for the sake of a new one; its last answer is still sent."""
        if self.transport.get_write_buffer_size():
            self.transport.close()
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever carries out this connection's request."""
        super().connection_lost(exc)
        self._stop_clock()
        self._crowd.leave(self)
        self._caller.leave()

    def data_received(self, data: bytes) -> None:
        """Parse; the clock runs exactly while a request is incomplete."""
        if self._draining:
            return
        super().data_received(data)
        self._mind_the_clock(len(data))

    def _mind_the_clock(self, read: int) -> None:
        if self._draining:
            return
        if self._whole:
            self._stop_clock()
            return
        if self._deadline is None:
            self._deadline = self.loop.call_later(ARRIVAL_LIMIT, self._too_slow)
        if self._in_head:
            self._read += read
            if self._read > HEAD_LIMIT:
                self._status = 431
                self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        """Begin counting; nobody may ask twice at once."""
        cycle = self._cycle
        if cycle is not None and not cycle.response_complete:
            raise _RefusedError
        super().on_message_begin()
        self.scope["guard.caller"] = self._caller  # type: ignore[typeddict-unknown-key]  # ASGI allows own keys
        self._whole, self._in_head, self._read, self._size, self._fields = False, True, 0, 0, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count; a trailer (a header after the head) is refused, for uvicorn would add it to the headers."""
        if not self._in_head:
            raise _RefusedError
        self._fields += 1
        self._size += len(name) + len(value)
        if self._fields > HEADER_LIMIT or self._size > HEAD_LIMIT:
            self._refuse(431)
        name = name.lower()
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            self._refuse(501)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse what two parsers could frame differently, then let the application start."""
        if self.parser.get_http_version() != "1.1":
            self._refuse(505)
        if self.parser.should_upgrade():
            self._refuse(501)  # httptools would take the body for the new protocol's first bytes
        if len(self.url) > TARGET_LIMIT:
            self._refuse(431)
        super().on_headers_complete()
        self.scope["raw_path"] = self.url
        self._crowd.work(self)
        self._joined.begun = False
        self.cycle.transport = self._joined  # type: ignore[assignment]  # it writes, closes, and asks no more
        self._in_head = False

    def on_response_complete(self) -> None:
        """The answer is whole; until the next request the connection may be ended."""
        self._crowd.rest(self)
        super().on_response_complete()

    def on_message_complete(self) -> None:
        """The request is whole; the next byte begins another."""
        super().on_message_complete()
        self._whole = True

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close once the caller had a chance to read why.

        uvicorn calls this for every parse error. Closing at once with unread bytes would reset the
        connection and destroy the answer.
        """
        text = msg.encode("ascii", "replace")
        head = b"content-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(text)
        self.transport.write(_STATUS[self._status] + head + text)
        self._draining = True
        self._stop_clock()
        self._caller.leave()
        if (cycle := self._cycle) is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        if self.transport.can_write_eof():
            self.flow.resume_reading()
            self.transport.write_eof()
            self._deadline = self.loop.call_later(LINGER, self.transport.close)
        else:
            self.transport.close()

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        """The newest request; uvicorn starts with None whatever it declares."""
        return self.cycle

    def _refuse(self, status: int) -> None:
        self._status = status
        raise _RefusedError

    def _too_slow(self) -> None:
        """End a connection whose request does not arrive; an application reading its body sees it leave."""
        self._deadline = None
        cycle = self._cycle
        if cycle is None or not cycle.response_started or (cycle.response_complete and self._in_head):
            self._status = 408
            self.send_400_response("The request took too long to arrive.")
        else:
            self.transport.abort()

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Listening(uvicorn.Server):
    """A uvicorn server whose signals belong to the process that composes it: end it by `stop`."""

    def __init__(self, config: uvicorn.Config) -> None:
        """Take the settings `server` made."""
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self, *, force: bool = False) -> None:
        """Take no more requests and end once those under way are answered, or at once; call it in the event loop."""
        self.should_exit, self.force_exit = True, force
        self._stopping.set()

    async def main_loop(self) -> None:
        """Wait for the stop. uvicorn would look ten times a second, for its Date header and request limit."""
        await self._stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


def bind(listener: Listener) -> socket.socket:
    """Open the listening socket; with port 0 the system's choice is in `getsockname()`. Connections queue at once.

    Raises:
        ConfigError: the address cannot be bound.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        message = f"cannot listen on {listener.listen}: {error.strerror or error}"
        raise ConfigError(message) from error
    listening.setblocking(False)
    return listening


def server(listener: Listener, app: ASGIApp, *, protocol: type[StrictProtocol] = StrictProtocol) -> Listening:
    """A server for one listener. Run `await it.serve(sockets=[bind(listener)])`; it exits within two seconds.

    Raises:
        ConfigError: certificate and key cannot be loaded.
    """
    crowd = Crowd(room(listener.max_connections))
    settings = uvicorn.Config(
        app,
        http=partial(protocol, crowd=crowd),  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        backlog=BACKLOG,
        ssl_certfile=listener.tls_cert,
        ssl_keyfile=listener.tls_key,
    )
    try:
        settings.load()
    except OSError as error:
        message = f"tls_cert {listener.tls_cert} and tls_key {listener.tls_key} cannot be loaded: {error}"
        raise ConfigError(message) from error
    return Listening(settings)
