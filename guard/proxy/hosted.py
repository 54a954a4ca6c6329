"""Tool servers with a `command`, reached over HTTP: sessions, event streams, and the exchange of each message."""

from __future__ import annotations

from functools import partial
from typing import Final

import anyio

from guard.config import Config
from guard.errors import StoreUnavailableError, UpstreamError, WireError
from guard.ports import Clock
from guard.proxy.asking import Questions
from guard.proxy.child_exchange import BEAT, HEARD_LIMIT, Begin, ChildExchange
from guard.proxy.children import Children
from guard.proxy.conversation import LATEST_LEGACY, Conversation, Key, Kind
from guard.proxy.exchange import Arrival
from guard.proxy.headers import Headers, first
from guard.proxy.http_answer import EVENT_STREAM, UNBUFFERED, HttpAnswer, Inbox, accepted, event
from guard.proxy.param_headers import ParamHeaders
from guard.proxy.resumption import Resumable, Resumption, lost
from guard.proxy.sessions import SessionOwners
from guard.proxy.turn import Caller
from guard.proxy.visit import Send
from guard.reasons import Code
from guard.wire.era import Era
from guard.wire.message import Message, Request

_VERSION: Final = b"mcp-protocol-version"


class Hosted:
    """The side of the HTTP front that knows sessions of its own instead of a tool server's."""

    def __init__(self, config: Config, children: Children, params: ParamHeaders, clock: Clock) -> None:
        self._config, self._children, self._params, self._clock = config, children, params, clock
        self._resumption = Resumption()

    def __contains__(self, server: str) -> bool:
        """Whether a server of this name is a command."""
        return server in self._children

    def exchange(
        self,
        arrival: Arrival,
        session: str,
        headers: Headers,
        caller: Caller,
        send: Send,
        *,
        owners: SessionOwners,
        questions: Questions,
    ) -> ChildExchange:
        """The exchange of one message; `session` is the caller's own, or empty.

        Raises:
            WireError: a request with this id is in flight in the session (DUPLICATE_ID), the caller does not
                accept the form its answer has (MEDIA_TYPE), or its headers do not fit its arguments
                (HEADER_MISMATCH).
        """
        settings, message = self._config.servers[arrival.server], arrival.message
        http = HttpAnswer(send, headers)
        listens = isinstance(message, Request) and message.method == "subscriptions/listen"
        if not (http.events if listens else http.possible):
            raise WireError("accept application/json and text/event-stream", reason=Code.MEDIA_TYPE)
        if isinstance(message, Request) and arrival.era is Era.MODERN:
            self._params.check(arrival.server, message, headers)
        conversation = self._conversation(arrival, session, headers)
        return ChildExchange(
            arrival,
            conversation,
            caller,
            http,
            children=self._children,
            opened=partial(self._open, owners),
            questions=questions,
            limits=(settings.answer_timeout, settings.big_integers == "exact"),
            resumable=self._resumable(message, conversation.key, headers, caller),
        )

    async def stream(self, key: Key, headers: Headers, caller: Caller, send: Send) -> None:
        """Carry what a tool server tells a session of its own accord, until the caller leaves or the session ends.

        With `Last-Event-ID` a stream that broke off goes on behind that event; the stream of a request ends
        with its answer.
        """
        last = first(headers, b"last-event-id")
        found = self._resumption.find(key.subject, (key.server, key.session), last)
        if found is not None and found[0].answers:
            await _follow(*found, caller, send)
        elif found is None and (said := lost(last)) is not None:
            await _begin(send)
            await send({"type": "http.response.body", "body": event(said), "more_body": False})
        else:
            await self._listen(key, headers, found, caller, send)

    async def _listen(
        self, key: Key, headers: Headers, found: tuple[Resumable, int] | None, caller: Caller, send: Send
    ) -> None:
        """Carry the session's own stream."""
        conversation = self._session(key, b"")
        if found is not None:
            resumable, replayed = found[0], found[0].after(found[1])
            resumable.carried_by(caller)
        elif _resumes(headers):
            resumable = self._resumption.begin(key.subject, (key.server, key.session), caller)
            replayed = resumable.primer
        else:
            resumable, replayed = None, b""
        stream = _Stream(caller, resumable)
        caller.on_gone(stream.end)
        conversation.listen(stream)
        try:
            await stream.run(send, replayed)
        finally:
            conversation.hearers.remove(stream)
            conversation.used = anyio.current_time()
            caller.forget(stream.end)
            if resumable is not None:
                resumable.left_by(caller)

    def _resumable(self, message: Message, key: Key, headers: Headers, caller: Caller) -> Begin | None:
        """How the stream of a request begins that can be taken up again; None when its client cannot do that."""
        if key.kind is not Kind.SESSION or not isinstance(message, Request) or message.method == "initialize":
            return None
        if not (_resumes(headers) and accepted(headers)[1]):
            return None
        return partial(self._resumption.begin, key.subject, (key.server, key.session), caller, message)

    def end(self, key: Key) -> None:
        """End a session, its child and its streams."""
        conversation = self._children.known(key)
        self._children.end(key)
        self._resumption.forget(key.subject, (key.server, key.session))
        if conversation is not None:
            for hearer in tuple(conversation.hearers):
                if isinstance(hearer, _Stream):
                    hearer.end()

    # ------------------------------------------------------------------ conversations

    def _conversation(self, arrival: Arrival, session: str, headers: Headers) -> Conversation:
        server, subject, message = arrival.server, arrival.principal.subject, arrival.message
        if arrival.era is Era.MODERN:
            return self._children.conversation(Key(server, subject, Kind.MODERN))
        if isinstance(message, Request) and message.method == "initialize":
            key = Key(server, subject, Kind.SESSION, self._clock.token("s"))
            return self._children.conversation(key)
        kind = Kind.SESSION if session else Kind.LEGACY
        return self._session(Key(server, subject, kind, session), first(headers, _VERSION))

    def _session(self, key: Key, version: bytes) -> Conversation:
        """The conversation of a session that exists; one from before a restart is greeted by the guard itself."""
        conversation = self._children.conversation(key)
        if not conversation.greeting:
            conversation.assume(version.decode("latin-1"))
        return conversation

    @staticmethod
    async def _open(owners: SessionOwners, conversation: Conversation) -> str:
        """Give a new session to its principal, before the principal hears of it."""
        server, subject, _, session = conversation.key
        try:
            await owners.bind(server, session, subject)
        except StoreUnavailableError as error:
            raise UpstreamError(sent=True, reason=error.reason, detail=error.detail) from error
        return session


class _Stream:
    """The open event stream of a session (a `Hearer`)."""

    def __init__(self, caller: Caller, resumable: Resumable | None) -> None:
        self._caller, self._resumable = caller, resumable
        self._inbox: Inbox[bytes] = Inbox()
        self._waiting = 0

    def hear(self, line: bytes) -> None:
        """Take one message; a caller that does not read loses its stream and may open another."""
        said = event(line) if self._resumable is None else self._resumable.mark(event(line))
        self._waiting += len(said)
        if self._waiting > HEARD_LIMIT:
            self._caller.hang_up()
        else:
            self._inbox.put(said)

    def end(self) -> None:
        """Let `run` return."""
        self._inbox.put(b"")

    async def run(self, send: Send, replayed: bytes) -> None:
        """Write what is heard, after what is `replayed`; a comment now and then shows a caller that is gone."""
        await _begin(send)
        await send({"type": "http.response.body", "body": b": open\n\n" + replayed, "more_body": True})
        while not self._caller.gone:
            piece = b": \n\n"
            with anyio.move_on_after(BEAT):
                piece = await self._inbox.next()
                if not piece:
                    break
                self._waiting -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not self._caller.gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _follow(stream: Resumable, number: int, caller: Caller, send: Send) -> None:
    """Carry the stream of a request from behind an event to its end, or until the caller leaves."""
    stream.carried_by(caller)
    caller.on_gone(stream.wake)
    try:
        await _begin(send)
        while not caller.gone:
            said, at = stream.after(number), stream.count
            if said:
                await send({"type": "http.response.body", "body": said, "more_body": True})
            number, waited = at, False
            with anyio.move_on_after(BEAT):
                if not await stream.more(number, caller):
                    break
                waited = True
            if not waited:
                await send({"type": "http.response.body", "body": b": \n\n", "more_body": True})
        if not caller.gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        caller.forget(stream.wake)


async def _begin(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [*EVENT_STREAM, UNBUFFERED]})


def _resumes(headers: Headers) -> bool:
    """Whether the client knows streams that can be taken up again; an older one stumbles over an empty event."""
    return first(headers, _VERSION) == LATEST_LEGACY.encode()
