"""Tool servers reached over HTTP: pooled connections, one request sent once, the answer as it comes.

Connections are never shared between principals, so that a confused or poisoned one can only confuse its
own principal. Nothing is ever sent twice: an idle connection is asked whether it still lives before a byte
is written (`Connection.reusable`), and after that every failure is final and says `sent=True`.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias
from urllib.parse import SplitResult, urlsplit

from guard.config import Server
from guard.errors import ConfigError, UpstreamError
from guard.proxy.connection import Connection
from guard.proxy.headers import FRAMING, Headers, is_stream

IDLE_LIMIT: Final = 64
"""Idle connections kept for one principal and server."""
IDLE_SECONDS: Final = 30.0
"""How long at least, and about twice that at most, an idle connection is kept."""

_TARGET: Final = re.compile(r"/[!-~]*")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[ -~\x80-\xff\t]*")

Observe: TypeAlias = Callable[[str, bytes], None]
"""Called with the server's name and what is or may be an answer to `tools/list`, before the caller has it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One configured server, with everything about its requests that never changes.

    `lead` follows the method: target, version, Host and the configured headers, each with its line end.
    """

    name: str
    host: str
    port: int
    tls: ssl.SSLContext | None
    lead: bytes
    replaced: frozenset[bytes]
    connect_timeout: float
    answer_timeout: float
    pause_timeout: float


class Answer:
    """The answer of a tool server, its head read and its body still to come. Use `async with`.

    Leaving the block returns the connection to the pool if the answer was read to its end, and closes it
    otherwise.
    """

    __slots__ = ("_connection", "_patience", "_release", "headers", "status", "streams")

    def __init__(self, connection: Connection, release: Callable[[Connection], None], patience: float) -> None:
        self.status = connection.status
        self.headers: Headers = connection.headers
        self._connection = connection
        self._release = release
        self.streams = is_stream(self.headers)
        self._patience = None if self.streams else patience

    @property
    def drained(self) -> bool:
        """Whether every byte was taken."""
        return self._connection.drained

    async def chunk(self) -> bytes:
        """The next bytes of the body, as they come; empty at the end.

        Raises:
            UpstreamError: `sent=True`: the tool server broke off, or paused for too long.
        """
        return await self._connection.chunk(self._patience)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release(self._connection)


class Upstreams:
    """Every tool server with a `url`, and the connections to them. One event loop.

    Raises:
        ConfigError: a URL or a configured header cannot be sent as HTTP.
    """

    def __init__(self, servers: Mapping[str, Server], observe: Observe | None = None) -> None:
        self.observe = observe
        self._tls: ssl.SSLContext | None = None  # one for all servers that trust the system's authorities
        self._endpoints = {
            name: self._endpoint(name, server, server.url) for name, server in servers.items() if server.url is not None
        }
        self._idle: dict[tuple[str, str], deque[Connection]] = {}
        self._open: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    def __contains__(self, server: str) -> bool:
        """Whether a server of this name is reached over HTTP."""
        return server in self._endpoints

    async def send(
        self,
        *,
        server: str,
        subject: str,
        method: str,
        lines: bytes,
        body: bytes = b"",
        started: Callable[[Connection], None] | None = None,
    ) -> Answer:
        """Send one request, once, and return when its answer begins.

        Args:
            server: name of the configured server; KeyError when it has no URL.
            subject: the principal on whose connections it goes.
            method: GET, POST or DELETE.
            lines: the caller's header lines that may cross (`guard.proxy.headers.outgoing`).
            body: sent unchanged.
            started: called with the connection before the first byte is written; it may refuse by raising.

        Raises:
            UpstreamError: `sent=False`: no connection; `sent=True`: no whole answer head came back.
        """
        endpoint = self._endpoints[server]
        pool = self._idle.get((subject, server))
        if pool is None:
            pool = self._idle[subject, server] = deque()
        connection = self._take(pool) or await self._connect(endpoint)
        sent = False
        try:
            if started is not None:
                started(connection)
            length = b"" if method == "GET" else b"content-length: %d\r\n" % len(body)
            data = b"%b %b%b%b\r\n%b" % (method.encode(), endpoint.lead, lines, length, body)
            await connection.request(data, endpoint.answer_timeout)
            sent = True
        finally:
            if not sent:
                connection.close()
        return Answer(connection, partial(self._give_back, pool), endpoint.pause_timeout)

    def observer(self, server: str) -> Callable[[bytes], None] | None:
        """Who sees what may be a list of this server's tools."""
        return None if self.observe is None else partial(self.observe, server)

    def replaced(self, server: str) -> frozenset[bytes]:
        """The names of headers that the configuration of a server sets."""
        return self._endpoints[server].replaced

    def close(self) -> None:
        """Close every connection; what waits on one gets `UpstreamError`."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in tuple(self._open):
            connection.close()
        self._idle.clear()

    # ------------------------------------------------------------------ pool

    def _take(self, idle: deque[Connection]) -> Connection | None:
        while idle:
            connection = idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        return None

    def _give_back(self, idle: deque[Connection], connection: Connection) -> None:
        if not connection.rests():
            connection.close()
            return
        if len(idle) >= IDLE_LIMIT:
            idle.popleft().close()
        idle.append(connection)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(IDLE_SECONDS, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what was idle for long; runs only as long as anything is idle."""
        oldest = loop.time() - IDLE_SECONDS
        for idle in self._idle.values():
            while idle and (idle[0].idle_since <= oldest or not idle[0].reusable):
                idle.popleft().close()
        self._sweeper = loop.call_later(IDLE_SECONDS, self._sweep, loop) if any(self._idle.values()) else None

    async def _connect(self, endpoint: Endpoint) -> Connection:
        try:
            async with asyncio.timeout(endpoint.connect_timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._open.discard),
                    endpoint.host,
                    endpoint.port,
                    ssl=endpoint.tls,
                    server_hostname=endpoint.host if endpoint.tls else None,
                )
        except (OSError, UnicodeError) as error:  # timeout, refusal, bad certificate, unknown or impossible name
            raise UpstreamError(sent=False, detail=f"{endpoint.host}:{endpoint.port}: {error!r}") from error
        self._open.add(connection)
        return connection

    # ------------------------------------------------------------------ configuration

    def _endpoint(self, name: str, server: Server, url: str) -> Endpoint:
        parts = urlsplit(url)
        target = _target(name, parts)
        tls = None
        if parts.scheme == "https":
            tls = self._tls = self._tls or ssl.create_default_context()
            if server.ca_file is not None:
                tls = _trusting(name, server.ca_file)
        host = parts.hostname or ""
        added = {b"host": _authority(name, parts), **_configured(name, server.headers)}
        lines = b"".join(b"%b: %b\r\n" % pair for pair in ({**added, b"accept-encoding": b"identity"}).items())
        return Endpoint(
            name=name,
            host=host,
            port=parts.port or (443 if tls else 80),
            tls=tls,
            lead=target + b" HTTP/1.1\r\n" + lines,
            replaced=frozenset(added),
            connect_timeout=server.connect_timeout,
            answer_timeout=server.answer_timeout,
            pause_timeout=server.pause_timeout,
        )


def _trusting(name: str, file: Path) -> ssl.SSLContext:
    """Verify certificates and names as ever, but trust only the authorities of this file."""
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        message = f"servers.{name}.ca_file: {file} cannot be loaded: {error}"
        raise ConfigError(message) from None


def _authority(name: str, parts: SplitResult) -> bytes:
    host = parts.hostname or ""
    try:
        plain = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        message = f"servers.{name}.url: {host!r} is not a host name"
        raise ConfigError(message) from None
    plain = f"[{plain}]" if ":" in plain else plain
    return (f"{plain}:{parts.port}" if parts.port else plain).encode("ascii")


def _target(name: str, parts: SplitResult) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.username is not None or parts.password is not None:
        message = f"servers.{name}.url: put the credential into `headers`, not into the URL"
        raise ConfigError(message)
    if not _TARGET.fullmatch(target):
        message = f"servers.{name}.url: percent-encode the path and the query"
        raise ConfigError(message)
    return target.encode("ascii")


def _configured(name: str, headers: Mapping[str, str]) -> dict[bytes, bytes]:
    added: dict[bytes, bytes] = {}
    for key, value in headers.items():
        lower = key.lower().encode("latin-1", "replace")
        if not _NAME.fullmatch(key) or not _VALUE.fullmatch(value):
            message = f"servers.{name}.headers: {key!r} is not a header that HTTP can carry"
            raise ConfigError(message)
        if lower in FRAMING:
            message = f"servers.{name}.headers: {key} belongs to the connection and cannot be configured"
            raise ConfigError(message)
        added[lower] = value.encode("latin-1")
    return added
