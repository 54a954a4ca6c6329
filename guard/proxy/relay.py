"""One HTTP request and its answer: send what was inspected once, and relay what comes back as it comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import anyio

from guard.errors import StoreUnavailableError, UpstreamError
from guard.model import Deny, Json
from guard.proxy.asking import EventStream, Questions, handshake, require_message
from guard.proxy.connection import Connection
from guard.proxy.documents import Listing, Unfinished, ending, glance, wanted_state
from guard.proxy.exchange import Arrival, Ending, Gauge, Outcome
from guard.proxy.headers import Headers, first, returning
from guard.proxy.healing import Accept, Healer, How, how
from guard.proxy.pause import refused_text
from guard.proxy.sessions import SessionOwners
from guard.proxy.setups import SessionLostError
from guard.proxy.sieve import Sieve
from guard.proxy.turn import Caller
from guard.proxy.upstream import Answer, Upstreams
from guard.proxy.visit import Send, Stated
from guard.reasons import Code, Reason
from guard.wire import reply
from guard.wire.era import Era
from guard.wire.message import Request, Response

LOOK_LIMIT: Final = 256 * 1024
"""Bytes of an answer kept to see whether the tool reported an error; longer answers count as OK."""

ANSWER_LIMIT: Final = 256 * 1024 * 1024
"""Bytes of an answer that is no event stream; a longer one is cut off. None of it is ever held in memory."""

_REDIRECTS: Final = range(300, 400)
_NOT_MODIFIED: Final = 304
_BODILESS: Final = frozenset({204, _NOT_MODIFIED})
_CODINGS: Final = frozenset({b"", b"identity"})
_ERRORS: Final = 400


async def write(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Write one whole answer of the guard's own."""
    lines = [*headers, (b"content-length", b"%d" % len(body))]
    if body:
        lines.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class Relay:
    """Carries one request to a tool server and its answer to the caller; nothing is sent twice.

    When the caller leaves, the connection to the tool server is closed at once: in the modern era that is a
    cancel, in the legacy era it says no more than the caller's own leaving would.
    """

    __slots__ = (
        "_caller",
        "_connection",
        "_observe",
        "_send",
        "_upstreams",
        "begun",
        "kept",
        "limit",
        "lists",
        "missing",
        "size",
        "status",
        "unfinished",
    )

    def __init__(
        self,
        upstreams: Upstreams,
        caller: Caller,
        send: Send,
        limit: int = 0,
        observe: Callable[[bytes], None] | None = None,
    ) -> None:
        """Relay between `caller` and `upstreams`.

        `observe` sees every document of an answer that `lists` tools before the caller does, and of every other event
        stream what may be such a list: clients take an answer from any stream.
        """
        self._upstreams = upstreams
        self._caller = caller
        self._send = send
        self._connection: Connection | None = None
        self._observe = observe
        self.limit = limit
        self.kept: list[bytes] | None = []
        self.lists = False
        self.begun = False
        self.size = 0
        self.status = 0
        self.missing: Callable[[], bytes] | None = None
        self.unfinished = False

    async def run(
        self,
        *,
        server: str,
        subject: str,
        method: str,
        lines: bytes,
        body: bytes = b"",
        accept: Callable[[Answer], Awaitable[None]] | None = None,
    ) -> bool:
        """Do it; True when the whole answer was relayed, False when caller or tool server left in between.

        `accept` sees the head before the caller does and may refuse it by raising `UpstreamError`.

        Raises:
            UpstreamError: nothing was answered to the caller; `sent` says whether the request may have arrived.
        """
        self._caller.on_gone(self._abandon)
        try:
            async with await self._upstreams.send(
                server=server, subject=subject, method=method, lines=lines, body=body, started=self._started
            ) as answer:
                _require_readable(answer)
                if accept is not None:
                    await accept(answer)
                await self._copy(answer)
                self._caller.forget(self._abandon)
        except UpstreamError as error:
            if self.begun:
                self._caller.hang_up()
            elif not (error.sent and self._caller.gone):
                raise
            return False
        finally:
            self._caller.forget(self._abandon)
        return True

    async def _copy(self, answer: Answer) -> None:
        headers = returning(answer.headers)
        if answer.status in _BODILESS:
            headers = [pair for pair in headers if pair[0] != b"content-length"]
        streams = answer.streams
        # Of a tool server that ends before the first byte of its answer's body, the caller shall hear words.
        piece = b"" if streams else await answer.chunk()
        self.begun, self.status = True, answer.status
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        listing = None
        if self._observe is not None and answer.status < _ERRORS and (self.lists or streams):
            observe = self._observe if self.lists else partial(glance, self._observe)
            listing = Listing(observe, streamed=streams)
        watch = Unfinished() if self.missing and answer.status < _ERRORS and streams else None
        drained = False
        while not drained:
            piece = piece or await answer.chunk()
            drained = answer.drained
            if watch is not None and self.missing is not None:
                watch.take(piece)
                if drained and watch.ended():
                    await self._say_missing(answer, piece, self.missing())
                    return
            if listing is not None:
                listing.take(piece, last=drained)
            self._keep(piece, streams=streams)
            await self._send({"type": "http.response.body", "body": piece, "more_body": not drained})
            piece = b""

    def _keep(self, piece: bytes, *, streams: bool) -> None:
        """Count a piece, and keep it as long as the answer is short enough to be looked at."""
        self.size += len(piece)
        if self.size > ANSWER_LIMIT and not streams:
            raise UpstreamError(sent=True)
        if self.kept is not None:
            self.kept.append(piece)
            if self.size > self.limit:
                self.kept = None

    async def _say_missing(self, answer: Answer, piece: bytes, said: bytes) -> None:
        """End a stream that ended in order, but without the answer, so that nobody waits for that for ever."""
        self.unfinished, self.size = True, self.size + len(piece)
        if any(name == b"content-length" for name, _ in answer.headers):
            raise UpstreamError(sent=True)
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        event = b"\n\nevent: message\ndata: %b\n\n" % said
        await self._send({"type": "http.response.body", "body": event, "more_body": False})

    def _started(self, connection: Connection) -> None:
        if self._caller.gone:
            raise UpstreamError(sent=False, reason=Code.CALLER_LEFT)
        self._connection = connection

    def _abandon(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _require_readable(answer: Answer) -> None:
    """Refuse an answer that the caller would read otherwise than the guard, or elsewhere.

    A redirect would lead the caller, and its credential, past the guard. Clients disagree about which of two media
    types counts, and most undo a content coding that nobody asked for.
    """
    kinds = [value.lower() for name, value in answer.headers if name == b"content-type"]
    if len(kinds) > 1 or (answer.streams and kinds[0].partition(b";")[0].strip() != b"text/event-stream"):
        raise UpstreamError("the tool server's answer has two media types", sent=True)
    if first(answer.headers, b"content-encoding").lower() not in _CODINGS:
        raise UpstreamError("the tool server's answer has a content coding that was not asked for", sent=True)
    if answer.status in _REDIRECTS and answer.status != _NOT_MODIFIED:
        where = first(answer.headers, b"location").decode("latin-1")
        message = f"the tool server answered {answer.status}, a redirect; its final URL belongs into guard.toml"
        raise UpstreamError(message, sent=True, detail=f"location: {where!r}")


class HttpExchange:
    """The pending POST of one message (`guard.proxy.exchange.Exchange`)."""

    __slots__ = (
        "_arrival",
        "_caller",
        "_events",
        "_healer",
        "_message",
        "_method",
        "_questions",
        "_send",
        "_session",
        "_sessions",
        "_stated",
        "_upstreams",
        "answered",
    )

    def __init__(
        self,
        arrival: Arrival,
        stated: Stated,
        caller: Caller,
        send: Send,
        *,
        upstreams: Upstreams,
        sessions: SessionOwners,
        questions: Questions,
        session: str,
        healer: Healer,
    ) -> None:
        self._arrival = arrival
        self._message = message = arrival.message
        self._method = "" if isinstance(message, Response) else message.method
        self._questions = questions
        self._session = (arrival.server, session, arrival.principal.subject)
        self._events: EventStream | None = None
        self._stated = stated
        self._caller = caller
        self._send = send
        self._upstreams = upstreams
        self._sessions = sessions
        self._healer = healer
        self.answered = False

    @property
    def gone(self) -> bool:
        """Whether the caller closed the connection."""
        return self._caller.gone

    async def wait_gone(self) -> None:
        """Return when the caller has closed the connection; costs nothing until it is awaited."""
        left = anyio.Event()
        self._caller.on_gone(left.set)
        try:
            await left.wait()
        finally:
            self._caller.forget(left.set)

    async def forward(self, gauge: Gauge | None = None) -> Outcome:
        """Send the inspected bytes once and relay the answer.

        When the tool server has lost the session, it is begun again and the refused bytes are sent once more.

        Raises:
            UpstreamError: nothing was answered to the caller; see `guard.proxy.exchange.Exchange`.
        """
        arrival, message, method = self._arrival, self._message, self._method
        relay: Relay
        sieve: Sieve | None = None

        async def attempt(headers: Headers, accept: Accept | None) -> bool:
            nonlocal relay, sieve
            sieve = self._sieve(gauge) if gauge is not None else None
            relay = self._relay(sieve)
            try:
                return await relay.run(
                    server=arrival.server,
                    subject=arrival.principal.subject,
                    method="POST",
                    lines=self._stated.lines(self._upstreams.replaced(arrival.server), headers),
                    body=message.raw,
                    accept=self._bind if method == "initialize" else self._going_on(accept),
                )
            finally:
                self.answered = relay.begun if sieve is None else sieve.begun

        session = b"" if method == "initialize" else self._stated.fields.get(b"mcp-session-id", b"")
        belongs = how(arrival.message)
        try:
            whole = await self._healer.carry(
                arrival.server, session, arrival.principal.subject, self._stated.headers, attempt, how=belongs
            )
        except SessionLostError:
            if belongs is not How.ONCE:
                raise
            await self.answer(b"", status=202)  # whom it concerned is gone
            return Outcome(ending=Ending.OK, status=202)
        if sieve is not None and whole and not await self._let_through(sieve, relay):
            ended = ending(sieve.response) if relay.status < _ERRORS else Ending.UPSTREAM_ERROR
            return Outcome(
                ending=ended, result_bytes=relay.size, status=relay.status, body=sieve.response, withheld=True
            )
        if not whole or relay.unfinished:
            return Outcome(ending=Ending.UNKNOWN, result_bytes=relay.size, status=relay.status)
        return self._relayed(relay, session)

    def _relayed(self, relay: Relay, session: bytes) -> Outcome:
        """What came of an answer that the caller has whole."""
        ended, arrival = _look(relay), self._arrival
        if session and ended is Ending.OK:
            self._healer.note(arrival.server, session, arrival.principal.subject, arrival.message, self._stated.headers)
        return Outcome(
            ending=ended,
            result_bytes=relay.size,
            status=relay.status,
            state=wanted_state(body := b"".join(relay.kept or ())),
            body=body,
            cut=relay.kept is None,
        )

    def _sieve(self, gauge: Gauge) -> Sieve:
        return Sieve(gauge, self._send if self._events is None else self._events.relay, self._events)

    async def _let_through(self, sieve: Sieve, relay: Relay) -> bool:
        """Give the caller an answer that may go on; False when its result is withheld, and nothing was answered."""
        self._events = sieve.speaking
        wants_input = relay.kept is not None and wanted_state(sieve.response)
        if not (relay.unfinished or wants_input or sieve.passes()):
            return False
        self.answered = True
        await sieve.pass_on()
        return True

    def rewrite(self, message: Request) -> None:
        """Send this message instead of the one that came."""
        self._message = message

    async def ask(self, question: str, params: Mapping[str, Json]) -> Response | None:
        """Ask on the event stream that will carry the answer; see `guard.proxy.exchange.Exchange`."""
        self._events = events = self._events or EventStream(self._send)
        asked = self._questions.open(self._session, question)
        self._caller.on_gone(asked.answered.set)
        try:
            await events.say(reply.asked(question, params))
            await asked.answered.wait()
        finally:
            self._caller.forget(asked.answered.set)
            self._questions.close(self._session, question)
            if asked.response is None and not self._caller.gone:
                with anyio.CancelScope(shield=True):
                    await events.say(reply.withdrawn(question))
        return asked.response

    def _relay(self, sieve: Sieve | None) -> Relay:
        look = self._upstreams.observer(self._arrival.server)
        send = sieve.send if sieve is not None else self._send if self._events is None else self._events.relay
        relay = Relay(self._upstreams, self._caller, send, LOOK_LIMIT, look)
        relay.lists = self._method == "tools/list"
        if isinstance(self._message, Request) and self._method != "subscriptions/listen":
            relay.missing = partial(_missing, self._message, self._arrival.era)
        return relay

    def _going_on(self, accept: Accept | None) -> Accept | None:
        """What sees the head of the answer: it may be of a lost session, or no message for a stream that has begun."""
        if self._events is None or accept is None:
            return accept if self._events is None else require_message

        async def accepted(answer: Answer) -> None:
            await accept(answer)
            await require_message(answer)

        return accepted

    async def answer(self, body: bytes, *, status: int = 200) -> None:
        """Write one JSON-RPC message, or nothing but the status when `body` is empty; nothing after an answer."""
        if self.answered:
            return
        self.answered = True
        if self._events is None:
            await write(self._send, status, (), body)
        else:
            await self._events.say(body, last=True)

    async def _bind(self, answer: Answer) -> None:
        """Give the session this answer opens to the caller before the caller hears of it."""
        ids = [value for name, value in answer.headers if name == b"mcp-session-id"]
        if not ids:
            return
        try:
            bound = len(ids) == 1 and await self._sessions.bind(
                self._arrival.server, ids[0].decode("latin-1"), self._arrival.principal.subject
            )
        except StoreUnavailableError as error:
            raise UpstreamError(sent=True, reason=error.reason, detail=error.detail) from error
        if not bound:
            raise UpstreamError(sent=True, reason=Code.FOREIGN_SESSION)
        if isinstance(self._message, Request):
            where = (self._arrival.server, ids[0].decode("latin-1"), self._arrival.principal.subject)
            self._questions.declare(where, handshake(self._message))
        arrival = self._arrival
        self._healer.begin(arrival.server, ids[0], arrival.principal.subject, arrival.message, self._stated.headers)


def _missing(message: Request, era: Era) -> bytes:
    """What is said in the place of an answer that never came."""
    text = refused_text(Deny(reasons=(Reason(Code.UPSTREAM_BROKE),)))
    return reply.refused(message.id, era, text=text, method=message.method)


def _look(relay: Relay) -> Ending:
    """How a whole answer says that the call ended."""
    if relay.status >= _ERRORS:
        return Ending.UPSTREAM_ERROR
    if relay.kept is None:
        return Ending.OK
    return ending(relay.kept[0] if len(relay.kept) == 1 else b"".join(relay.kept))
