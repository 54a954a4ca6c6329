"""What set a legacy session up, as far as it is kept to be said again when the tool server has lost it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import anyio

from guard.errors import UpstreamError
from guard.model import Json
from guard.proxy.headers import Headers, connection_named, crosses
from guard.proxy.upstream import Answer
from guard.reasons import Code
from guard.wire.message import Message

MEMORY_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of set-up messages kept for one principal; its least recently used sessions go first."""
MESSAGE_LIMIT: Final = 64 * 1024
"""Bytes of one set-up message that is kept."""

SESSION: Final = b"mcp-session-id"
SUCCESS: Final = range(200, 300)
GONE: Final = 404
_LAST_EVENT: Final = b"last-event-id"


class NoStreamError(UpstreamError):
    """The tool server offers no event stream."""

    def __init__(self) -> None:
        super().__init__("the tool server offers no event stream", sent=False)


class SessionLostError(UpstreamError):
    """The tool server has lost the session; it executed nothing."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(sent=False, reason=Code.SESSION_LOST, detail=detail)


@dataclass(frozen=True, slots=True)
class Said:
    """A message that set a session up, with the headers of it that cross."""

    body: bytes
    headers: Headers

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


class Session:
    """One session: the agent's id for it, the tool server's, and what set it up."""

    __slots__ = ("healing", "id", "initialize", "initialized", "level", "server", "stale", "subscriptions", "upstream")

    def __init__(self, server: str, session: bytes, initialize: Said) -> None:
        self.server, self.id, self.upstream = server, session, session
        self.initialize = initialize
        self.initialized: Said | None = None
        self.level: Said | None = None
        self.subscriptions: dict[Json, Said] = {}
        self.healing: anyio.Event | None = None
        self.stale = False

    @property
    def size(self) -> int:
        """Bytes of everything that is kept."""
        said = (self.initialize, self.initialized, self.level, *self.subscriptions.values())
        return sum(one.size for one in said if one is not None)

    def outgoing(self, headers: Headers) -> Headers:
        """The headers of the agent's request with the id the tool server knows.

        The id of an event of the lost session means nothing in the new one.
        """
        if self.upstream == self.id and not self.stale:
            return headers
        left_out = {SESSION, _LAST_EVENT} if self.stale else {SESSION}
        kept = [pair for pair in headers if pair[0] not in left_out]
        return [*kept, (SESSION, self.upstream)] if self.upstream else kept

    async def accept(self, answer: Answer) -> None:
        """Stop a 404 before the agent hears of it, and give every other answer the agent's own id."""
        if answer.status == GONE:
            raise SessionLostError
        if self.upstream != self.id:
            answer.headers = [(name, self.id if name == SESSION else value) for name, value in answer.headers]

    async def accept_stream(self, answer: Answer) -> None:
        """The same for an event stream; once it flows, the ids of its events count again."""
        await self.accept(answer)
        if answer.status in SUCCESS:
            self.stale = False


class Share:
    """What is kept of one principal's sessions, the least recently used first."""

    __slots__ = ("sessions", "size")

    def __init__(self) -> None:
        self.sessions: OrderedDict[tuple[str, bytes], Session] = OrderedDict()
        self.size = 0

    def put(self, known: Session, grown: int) -> None:
        """Keep a session that has grown by so many bytes, and let the oldest go for it."""
        self.sessions[known.server, known.id] = known
        self.size += grown
        while self.size > MEMORY_LIMIT:
            _, oldest = self.sessions.popitem(last=False)
            self.size -= oldest.size

    def pop(self, server: str, session: bytes) -> Session | None:
        """Forget a session."""
        known = self.sessions.pop((server, session), None)
        self.size -= known.size if known is not None else 0
        return known


def said(message: Message, headers: Headers) -> Said | None:
    """What is kept of a set-up message; None when it is too large to keep."""
    left_out = connection_named(headers) | {SESSION, _LAST_EVENT}
    kept = tuple((name, value) for name, value in headers if crosses(name) and name not in left_out)
    heard = Said(message.raw, kept)
    return heard if heard.size <= MESSAGE_LIMIT else None
