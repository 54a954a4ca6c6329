"""Event streams that a client takes up again where its connection broke (2025-11-25, `Last-Event-ID`).

What was said on a stream stays for a while, numbered, within a share of memory that each principal has for
itself. An id names its stream and, for the stream of a request, that request: when the answer is not kept any
more, or the guard was started anew meanwhile, the client is told so and does not wait for it for ever.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from collections import OrderedDict, deque
from typing import Final, Protocol

import anyio

from guard.reasons import Code
from guard.wire import reply
from guard.wire.era import Era
from guard.wire.message import Request

SHARE: Final = 16 * 1024 * 1024
"""Bytes kept for one principal; the oldest streams that have ended go first."""
LARGEST: Final = SHARE // 2
"""Bytes of an event that can be kept."""
STREAMS: Final = 256
"""Ended streams kept for one principal."""
SECONDS: Final = 300.0
"""Seconds an ended stream is kept."""
RETRY: Final = 1_000
"""Milliseconds after which a client shall come back."""

_CALL: Final = "tools/call"
_ID: Final = re.compile(rb"([scr])([0-9a-f]{16})(?:\.([A-Za-z0-9_-]{1,1024}))?-([0-9]{1,18})")

Where = tuple[str, str]
"""A tool server and a session at it."""


class Hearer(Protocol):
    """Whoever a stream is written to (a `guard.proxy.listener.Caller`)."""

    @property
    def gone(self) -> bool:
        """Whether it has left."""

    def hang_up(self) -> None:
        """Break the connection: another one carries the stream now."""


class Resumable:
    """One event stream of a session, however many connections carry it one after the other."""

    def __init__(self, shelf: _Shelf, name: str, caller: Hearer) -> None:
        self.name, self.size, self.ended = name, 0, 0.0
        self._shelf, self._caller = shelf, caller
        self._events: deque[tuple[int, bytes]] = deque()
        self._count = 0
        self._more = anyio.Event()

    @property
    def answers(self) -> bool:
        """Whether this is the stream of a request, which ends with its answer."""
        return not self.name.startswith("s")

    @property
    def primer(self) -> bytes:
        """The first event: nothing but an id to come back with."""
        return b"id: %b-0\nretry: %d\ndata: \n\n" % (self.name.encode(), RETRY)

    def mark(self, event: bytes) -> bytes:
        """Number an event and keep it, or in the place of one that is too large that it is lost."""
        self._count += 1
        mark = b"id: %b-%d\n" % (self.name.encode(), self._count)
        kept = event
        if len(event) > LARGEST:
            said = lost(mark[4:-1])
            kept = b"" if said is None else b"event: message\ndata: %b\n\n" % said
        self._keep(mark + kept if kept else b"")
        self.wake()
        return mark + event

    def end(self) -> None:
        """Nothing more is said on this stream."""
        self.ended = self.ended or anyio.current_time()
        self.wake()

    def carried_by(self, caller: Hearer) -> None:
        """The client came back on this connection; the one before it, if it still stands, carries nothing more."""
        before, self._caller = self._caller, caller
        before.hang_up()
        if not self.answers:
            self.ended = 0.0

    def after(self, number: int) -> bytes:
        """Every kept event behind the one with this number."""
        return b"".join(event for count, event in self._events if count > number)

    @property
    def count(self) -> int:
        """The number of the last event."""
        return self._count

    async def more(self, number: int, caller: Hearer) -> bool:
        """Wait until there is an event behind this one; False when the stream ended without, or the caller left."""
        while self._count <= number and not self.ended and not caller.gone:
            await self._more.wait()
        return self._count > number

    def wake(self) -> None:
        """Have whoever waits for more look again."""
        more, self._more = self._more, anyio.Event()
        more.set()

    def left_by(self, caller: Hearer) -> None:
        """A connection that carried the session's own stream has ended; it is kept for the next."""
        if self._caller is caller:
            self.end()

    def shed(self) -> None:
        """Let the oldest event go."""
        _, event = self._events.popleft()
        self.size -= len(event)

    def _keep(self, event: bytes) -> None:
        self._events.append((self._count, event))
        self.size += len(event)
        self._shelf.fit(self)


class _Shelf:
    """The streams of one principal, oldest first."""

    def __init__(self) -> None:
        self.streams: OrderedDict[tuple[Where, str], Resumable] = OrderedDict()

    def fit(self, growing: Resumable) -> None:
        """Keep within the share: ended streams go first, then the oldest events of the one that grows."""
        over = sum(one.size for one in self.streams.values()) - SHARE
        for key, one in tuple(self.streams.items()):
            if over <= 0:
                return
            if one.ended:
                over -= one.size
                del self.streams[key]
        while over > 0 and growing.size:
            size = growing.size
            growing.shed()
            over -= size - growing.size

    def tidy(self) -> None:
        """Let go what was kept long enough, and what is too much."""
        ended = [(key, one) for key, one in self.streams.items() if one.ended]
        until = anyio.current_time() - SECONDS
        for place, (key, one) in enumerate(ended):
            if one.ended < until or place < len(ended) - STREAMS:
                del self.streams[key]


class Resumption:
    """Every stream that can be taken up again, by the principal it belongs to."""

    def __init__(self) -> None:
        """Begin without any."""
        self._shelves: dict[str, _Shelf] = {}

    def begin(self, subject: str, where: Where, caller: Hearer, request: Request | None = None) -> Resumable:
        """A new stream: that of a request, or without one that of the session itself."""
        self.tidy()
        shelf = self._shelves.setdefault(subject, _Shelf())
        name = f"s{secrets.token_hex(8)}"
        if request is not None:
            name = f"{'c' if request.method == _CALL else 'r'}{name[1:]}.{_encoded(request.id)}"
        made = shelf.streams[where, name] = Resumable(shelf, name, caller)
        return made

    def find(self, subject: str, where: Where, last: bytes) -> tuple[Resumable, int] | None:
        """The stream of an event id, and the number of the event; None when it is not kept."""
        found, shelf = _ID.fullmatch(last), self._shelves.get(subject)
        if found is None or shelf is None:
            return None
        stream = shelf.streams.get((where, last.rpartition(b"-")[0].decode("ascii")))
        return None if stream is None else (stream, int(found[4]))

    def forget(self, subject: str, where: Where) -> None:
        """The session has ended."""
        shelf = self._shelves.get(subject)
        if shelf is not None:
            for key in [key for key in shelf.streams if key[0] == where]:
                del shelf.streams[key]

    def tidy(self) -> None:
        """Let go what was kept long enough."""
        for subject, shelf in tuple(self._shelves.items()):
            shelf.tidy()
            if not shelf.streams:
                del self._shelves[subject]


def lost(last: bytes) -> bytes | None:
    """What a client hears that comes back for an answer which is not kept; None when the id is not a request's."""
    found = _ID.fullmatch(last)
    if found is None or not found[3]:
        return None
    try:
        raw = base64.urlsafe_b64decode(found[3] + b"=" * (-len(found[3]) % 4))
        request = json.loads(raw)
    except (ValueError, binascii.Error):
        return None
    if isinstance(request, bool) or not isinstance(request, str | int):
        return None
    method = _CALL if found[1] == b"c" else ""
    return reply.refused(request, Era.LEGACY, text=f"Refused: {Code.ANSWER_LOST.meaning}.", method=method)


def _encoded(request: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps(request).encode()).rstrip(b"=").decode("ascii")
