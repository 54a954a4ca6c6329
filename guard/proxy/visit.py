"""One HTTP request on its way in: what its head states, who sent it, and how it is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import cached_property
from typing import Any, Final, NoReturn, TypeAlias

from guard.errors import GuardError, WireError
from guard.model import Principal
from guard.proxy.headers import Headers, first, is_json, outgoing
from guard.proxy.turn import Caller, Head
from guard.reasons import Code
from guard.wire import era

CREDENTIAL_LIMIT: Final = 16 * 1024
"""Bytes of one credential."""

_SINGLE: Final = frozenset(
    {
        b"host",
        b"origin",
        b"authorization",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"mcp-session-id",
        b"guard-proof",
    }
)

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
"""ASGI's scope, receive and send; the messages are open dictionaries by its specification."""


class RefusedError(Exception):
    """A request that ends here: its HTTP status, why, and headers of the answer."""

    def __init__(self, status: int, error: GuardError, *, headers: Headers = ()) -> None:
        self.status = status
        self.error = error
        self.headers = headers
        super().__init__(error.public)


class LeftError(Exception):
    """The caller left before its message was whole; there is nobody to answer."""


def refuse(status: int, code: Code, text: str) -> NoReturn:
    """End the request."""
    raise RefusedError(status, WireError(text, reason=code))


class Stated:
    """What the headers of a request state; the same for every request of a connection that repeats them."""

    def __init__(self, headers: Headers) -> None:
        """Take the headers that decide anything; each may be given once.

        Raises:
            RefusedError: one is given twice.
        """
        self.headers = headers
        self.fields: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _SINGLE:
                if name in self.fields:
                    text = f"the header {name.decode('ascii')} is given twice"
                    raise RefusedError(400, WireError(text, reason=Code.HEADER_MISMATCH))
                self.fields[name] = value
        self._lines: dict[frozenset[bytes], bytes] = {}

    @cached_property
    def host(self) -> str:
        """The Host header."""
        return self.fields.get(b"host", b"").decode("latin-1")

    @cached_property
    def credential(self) -> str:
        """The bearer token; "" when there is none that could be one."""
        scheme, _, token = self.fields.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or len(token) > CREDENTIAL_LIMIT or not token.isascii():
            return ""
        return token.strip(b" ").decode("ascii")

    @cached_property
    def session(self) -> str | None:
        """The legacy session it belongs to."""
        raw = self.fields.get(b"mcp-session-id")
        return None if raw is None else raw.decode("latin-1")

    @cached_property
    def proof(self) -> str:
        """The inline proof."""
        return self.fields.get(b"guard-proof", b"").decode("latin-1")

    @cached_property
    def reads_events(self) -> bool:
        """Whether the caller says that it reads an event stream as the answer."""
        return any(name == b"accept" and b"text/event-stream" in value.lower() for name, value in self.headers)

    @cached_property
    def version(self) -> str:
        """The protocol version; "" for none."""
        return first(self.headers, era.VERSION).decode("latin-1")

    @cached_property
    def routing(self) -> Mapping[bytes, str]:
        """The headers that servers route by.

        Raises:
            WireError: one is given twice (HEADER_MISMATCH).
        """
        return era.routing(self.headers)

    @cached_property
    def unreadable(self) -> str:
        """Why no body that is announced so is read; "" when one is."""
        if not is_json(self.fields.get(b"content-type", b"")):
            return "send Content-Type: application/json"
        return "send the body without a Content-Encoding" if b"content-encoding" in self.fields else ""

    def lines(self, replaced: frozenset[bytes], headers: Headers) -> bytes:
        """The lines that go upstream of these headers or what became of them, without the `replaced` names."""
        if headers is not self.headers:
            return outgoing(headers, replaced)
        known = self._lines.get(replaced)
        if known is None:
            known = self._lines[replaced] = outgoing(self.headers, replaced)
        return known


class Visit:
    """One HTTP request; what is known about it grows."""

    __slots__ = ("address", "caller", "principal", "receive", "send", "server", "size", "stated")

    def __init__(self, scope: Scope, receive: Receive, send: Send, server: str) -> None:
        self.receive = receive
        self.send = send
        self.caller: Caller = scope["guard.caller"]
        peer = scope["client"]
        self.address: str = peer[0] if peer else ""
        self.server = server
        self.principal: Principal | None = None
        self.size = 0
        self.stated: Stated


def stated(scope: Scope, accept: Callable[[Stated], None]) -> Stated:
    """What the head of this request states, worked out and found acceptable once for all that repeat it.

    Raises:
        RefusedError: a header is given twice, or `accept` refuses.
    """
    head: Head = scope["guard.head"]
    known = head.meaning
    if not isinstance(known, Stated):
        known = Stated(head.headers)
        accept(known)
        head.meaning = known
    return known
