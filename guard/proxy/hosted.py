"""Tool servers with a `command`, reached over HTTP: sessions, event streams, and the exchange of each message."""

from __future__ import annotations

from functools import partial
from typing import Final

import anyio

from guard.config import Config
from guard.errors import StoreUnavailableError, UpstreamError, WireError
from guard.ports import Clock
from guard.proxy.asking import Questions
from guard.proxy.child_exchange import BEAT, HEARD_LIMIT, ChildExchange
from guard.proxy.children import Children
from guard.proxy.conversation import Conversation, Key, Kind
from guard.proxy.exchange import Arrival
from guard.proxy.headers import Headers, first
from guard.proxy.http_answer import EVENT_STREAM, UNBUFFERED, HttpAnswer, Inbox, event
from guard.proxy.ingress import Caller
from guard.proxy.param_headers import ParamHeaders
from guard.proxy.sessions import SessionOwners
from guard.proxy.visit import Send
from guard.reasons import Code
from guard.wire.era import LEGACY_VERSIONS, Era
from guard.wire.message import Request

_VERSION: Final = b"mcp-protocol-version"


class Hosted:
    """The side of the HTTP front that knows sessions of its own instead of a tool server's."""

    def __init__(self, config: Config, children: Children, params: ParamHeaders, clock: Clock) -> None:
        self._config, self._children, self._params, self._clock = config, children, params, clock

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
        )

    async def stream(self, key: Key, caller: Caller, send: Send) -> None:
        """Carry what a tool server tells a session of its own accord, until the caller leaves or the session ends."""
        conversation = self._session(key, b"")
        stream = _Stream(caller)
        caller.on_gone(stream.end)
        conversation.listen(stream)
        try:
            await stream.run(send)
        finally:
            conversation.hearers.remove(stream)
            conversation.used = anyio.current_time()
            caller.forget(stream.end)

    def end(self, key: Key) -> None:
        """End a session, its child and its streams."""
        conversation = self._children.known(key)
        self._children.end(key)
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
            stated = version.decode("latin-1")
            conversation.assume(stated if stated in LEGACY_VERSIONS else "")
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

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._inbox: Inbox[bytes] = Inbox()
        self._waiting = 0

    def hear(self, line: bytes) -> None:
        """Take one message; a caller that does not read loses its stream and may open another."""
        self._waiting += len(line)
        if self._waiting > HEARD_LIMIT:
            self._caller.hang_up()
        else:
            self._inbox.put(line)

    def end(self) -> None:
        """Let `run` return."""
        self._inbox.put(b"")

    async def run(self, send: Send) -> None:
        """Write what is heard; a comment now and then shows a caller that is gone."""
        await send({"type": "http.response.start", "status": 200, "headers": [*EVENT_STREAM, UNBUFFERED]})
        await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
        while not self._caller.gone:
            piece = b": \n\n"
            with anyio.move_on_after(BEAT):
                line = await self._inbox.next()
                if not line:
                    break
                self._waiting -= len(line)
                piece = event(line)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not self._caller.gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
