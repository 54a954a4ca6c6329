"""One message posted over HTTP for a tool server on stdio, from its arrival to its answer."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio

from guard.errors import UpstreamError, WireError
from guard.model import Json
from guard.proxy.answers import Answer
from guard.proxy.asking import Questions, handshake
from guard.proxy.children import Children
from guard.proxy.conversation import SUBSCRIPTION, Conversation, Kind
from guard.proxy.documents import wanted_state
from guard.proxy.exchange import KEPT_LIMIT, Arrival, Ending, Gauge, Outcome
from guard.proxy.http_answer import HttpAnswer, Inbox
from guard.proxy.link import Link
from guard.proxy.resumption import Resumable
from guard.proxy.shown import LIMIT
from guard.proxy.spans import exchanged, taken
from guard.proxy.turn import Caller
from guard.reasons import Code
from guard.wire import reply
from guard.wire.decode import decode, single_line
from guard.wire.era import Era
from guard.wire.message import Message, Notification, Request, Response
from guard.wire.methods import target

PRIME: Final = 0.05
"""Seconds after which a pending answer becomes an event stream that a broken connection does not lose."""
BEAT: Final = 20.0
"""Seconds of silence on an open event stream until a comment is sent."""
HEARD_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of notifications that may wait for a slow caller; more are dropped, the answer never."""

_CANCELLED: Final = "notifications/cancelled"
_ENDLESS: Final = frozenset({"subscriptions/listen", "tasks/result"})
_TOKEN: Final = ("params", "_meta", "progressToken")
_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
_GRACE_CANCELLED: Final = 2.0
_STATUS: Final = {-32700: 400, -32600: 400, -32602: 400, -32020: 400, -32021: 400, -32022: 400, -32601: 404}
"""What a modern answer's error code makes of its HTTP status (2026-07-28, streamable HTTP)."""


@dataclass(frozen=True, slots=True)
class _Said:
    line: bytes
    answer: Answer


@dataclass(frozen=True, slots=True)
class _Failed:
    error: UpstreamError


class _Left:
    """The caller closed its connection, or cancelled."""


_Item: TypeAlias = "bytes | _Said | _Failed | _Left"
Begin: TypeAlias = Callable[[], Resumable]
Opened: TypeAlias = Callable[[Conversation], Awaitable[str]]
"""Gives a conversation that was greeted to its principal; returns the session id."""


class ChildExchange:
    """The pending POST of one message (`guard.proxy.exchange.Exchange`, `Waiter` of a link, `Hearer`)."""

    def __init__(
        self,
        arrival: Arrival,
        conversation: Conversation,
        caller: Caller,
        http: HttpAnswer,
        *,
        children: Children,
        opened: Opened,
        questions: Questions,
        limits: tuple[float, bool],
        resumable: Begin | None = None,
    ) -> None:
        """Stand between the message and the child of its conversation.

        `limits` are the server's `answer_timeout` and whether it reads big integers exactly; `resumable` begins
        a stream that the caller can take up again, if it knows how to.

        Raises:
            WireError: a request with this id is in flight in the session.
        """
        self.arrival, self.conversation = arrival, conversation
        self.sent = False
        self._message = arrival.message
        self._questions = questions
        self._where = (arrival.server, conversation.key.session, arrival.principal.subject)
        self._caller, self._http, self._children, self._opened = caller, http, children, opened
        self._timeout, self._exact = limits
        self._begin = resumable
        self._inbox: Inbox[_Item] = Inbox()
        self._heard = 0
        self._gone = self._cancelled = self._over = False
        self._number = -1
        self._gauge: Gauge | None = None
        message = arrival.message
        self._id = taken(message.raw, "id") if isinstance(message, Request) else b""
        self._token = taken(message.raw, *_TOKEN) if isinstance(message, Request) else b""
        if isinstance(message, Request) and conversation.key.kind is Kind.SESSION:
            if message.id in conversation.pending:
                raise WireError(Code.DUPLICATE_ID.meaning, reason=Code.DUPLICATE_ID)
            conversation.pending[message.id] = self
        caller.on_gone(self._leave)

    # ------------------------------------------------------------------ what the pipeline calls

    @property
    def answered(self) -> bool:
        """Whether the caller has its whole answer."""
        return self._http.finished

    @property
    def gone(self) -> bool:
        """Whether the caller cancelled the request, or closed the connection and cannot come back for the answer."""
        return self._gone and not self._resumes

    async def wait_gone(self) -> None:
        """Return when the caller has left."""
        while not self._gone:
            await self._inbox.next()

    async def forward(self, gauge: Gauge | None = None) -> Outcome:
        """Write the inspected message to the child once; for a request, relay what belongs to it.

        Raises:
            UpstreamError: see `guard.proxy.exchange.Exchange.forward`.
        """
        message = self._message
        if isinstance(message, Request):
            self._gauge = gauge
            return await self._request(message)
        if self.conversation.key.kind is Kind.SESSION:
            self._tell(message)
        await self.answer(b"", status=202)
        return Outcome(ending=Ending.OK)

    def rewrite(self, message: Request) -> None:
        """Send this message instead of the one that came."""
        self._message = message

    async def ask(self, question: str, params: Mapping[str, Json]) -> Response | None:
        """Ask on the event stream that will carry the answer; see `guard.proxy.exchange.Exchange`."""
        asked = self._questions.open(self._where, question)
        self._caller.on_gone(asked.answered.set)
        try:
            await self._http.say(reply.asked(question, params))
            await asked.answered.wait()
        finally:
            self._caller.forget(asked.answered.set)
            self._questions.close(self._where, question)
            if asked.response is None and not self._caller.gone:
                with anyio.CancelScope(shield=True):
                    await self._http.say(reply.withdrawn(question))
        return asked.response

    async def answer(self, body: bytes, *, status: int = 200) -> None:
        """Answer in the tool server's stead, or with nothing but the status when `body` is empty."""
        self._over = True
        if self._heeded:
            await self._http.finish(body, status=status)

    async def close(self) -> None:
        """Leave nothing behind; a request that its own caller cancelled still has its HTTP answer to get."""
        self._over = True
        self._caller.forget(self._leave)
        if self._http.resumable is not None:
            self._http.resumable.end()
        message = self.arrival.message
        if isinstance(message, Request):
            if self.conversation.pending.get(message.id) is self:
                del self.conversation.pending[message.id]
            if self._cancelled and not self.answered and not self._caller.gone:
                await self._http.finish(reply.error(message.id, reply.REFUSED, Code.CALLER_LEFT.meaning))

    # ------------------------------------------------------------------ what a link calls

    def depart(self) -> bool:
        """Whether the line may be written: not after the caller left or was answered."""
        self.sent = not (self._gone or self._over)
        if not self.sent:
            self._inbox.put(_Failed(UpstreamError(sent=False, reason=Code.CALLER_LEFT)))
        elif self._may_hear():
            self.conversation.calls.append(self)
        return self.sent

    def concluded(self, line: bytes, said: Answer) -> None:
        """Take the tool server's answer."""
        self._inbox.put(_Said(line, said))

    def notified(self, line: bytes, *, progress: bool) -> None:
        """Take a notification of this request, and give it back the client's own token or id."""
        if progress and self._token:
            self.hear(exchanged(line, (("params", "progressToken"), self._token)))
        elif not progress:
            self.hear(exchanged(line, (SUBSCRIPTION, self._id)))

    def hear(self, line: bytes) -> None:
        """Take a message that goes to the caller before the answer."""
        self._heard += len(line)
        if self._http.events and self._heard <= HEARD_LIMIT:
            self._inbox.put(line)
        else:
            self._heard -= len(line)

    def failed(self, error: UpstreamError | None = None) -> None:
        """Take that no answer will come."""
        self._inbox.put(_Failed(error or UpstreamError(sent=self.sent)))

    def cancel(self) -> None:
        """The client cancelled this request by a message."""
        self._cancelled = True
        self._leave()

    # ------------------------------------------------------------------ requests

    async def _request(self, message: Request) -> Outcome:
        conversation = self.conversation
        async with self._children.using(conversation) as link:
            self._number = link.expect(self)
            try:
                line = self._outgoing(message)
                link.post(line, self)
                said, size = await self._relay(link)
                if said is None:
                    return Outcome(ending=Ending.UNKNOWN, result_bytes=size)
                return await self._conclude(message, line, said, size)
            finally:
                link.forget(self._number)
                self._stop_hearing()
                if message.method == "initialize" and not conversation.greeting:
                    self._children.end(conversation.key)

    def _outgoing(self, message: Request) -> bytes:
        """The inspected bytes on one line, with an id (and a progress token) of the guard's own and nothing else new.

        Raises:
            UpstreamError: `sent=False`: what would be sent does not say what was inspected.
        """
        number = b"%d" % self._number
        line = exchanged(_line(message.raw), (("id",), number), (_TOKEN, number))
        again = decode(line, exact_integers=self._exact)
        if not (isinstance(again, Request) and again.method == message.method and target(again) == target(message)):
            raise UpstreamError(sent=False, reason=Code.AMBIGUOUS)
        return line

    async def _relay(self, link: Link) -> tuple[_Said | None, int]:
        """Pass on what comes until the answer, and return that; None when the caller left before it."""
        deadline = anyio.current_time() + self._patience()
        size = 0
        while True:
            item = await self._next(deadline)
            match item:
                case bytes():
                    size += len(item)
                    self._heard -= len(item)
                    await self._prime()
                    await self._http.say(item)
                case _Said():
                    return item, size
                case _Failed():
                    if self._gone and self.sent and not self._resumes:
                        return None, size
                    raise item.error
                case _Left():
                    if self._cancels():
                        self._cancel_at(link)
                        deadline = anyio.current_time() + _GRACE_CANCELLED
                case None:
                    if self._gone and not self._resumes:
                        return None, size
                    self._over = True
                    self._cancel_at(link)
                    raise UpstreamError("the tool server did not answer in time", sent=self.sent)

    async def _next(self, deadline: float) -> _Item | None:
        """What comes next; None at the deadline. An open stream is kept alive meanwhile."""
        while (now := anyio.current_time()) < deadline:
            with anyio.move_on_at(min(deadline, now + (PRIME if self._primes else BEAT))):
                return await self._inbox.next()
            if self._primes:
                await self._prime()
            elif self._http.streaming and not self._caller.gone:
                await self._http.beat()
        return None

    @property
    def _primes(self) -> bool:
        """Whether the answer may still become a stream that can be taken up again."""
        return self._begin is not None and self._http.resumable is None and not self._caller.gone

    @property
    def _resumes(self) -> bool:
        """Whether the caller, though its connection may be gone, can come back for the answer."""
        return self._http.resumable is not None and not self._cancelled

    @property
    def _heeded(self) -> bool:
        """Whether what is answered reaches anybody."""
        return self._resumes or not self._caller.gone

    async def _prime(self) -> None:
        if self._primes and self._begin is not None:
            await self._http.prime(self._begin())

    async def _conclude(self, message: Request, line: bytes, said: _Said, size: int) -> Outcome:
        """Give the answer to the caller under its own id."""
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if said.answer.result:
            self.conversation.learn(message, line)
            if message.method == "tools/list":
                self.conversation.observe(said.line)
            if message.method == "initialize":
                session = await self._opened(self.conversation)
                headers = ((b"mcp-session-id", session.encode()),)
                where = (self.arrival.server, session, self.arrival.principal.subject)
                self._questions.declare(where, handshake(message))
        body = exchanged(said.line, (("id",), self._id))
        if message.method == "subscriptions/listen":
            body = exchanged(body, (("result", *SUBSCRIPTION[1:]), self._id))
        state = wanted_state(said.line)
        kept = body.strip() if len(body) <= KEPT_LIMIT else b""
        if self._gauge is not None and not state and not self._gauge.passes(kept, len(body)):
            return Outcome(
                ending=said.answer.ending, result_bytes=size + len(body), status=200, body=kept, withheld=True
            )
        if self._heeded:
            await self._http.finish(body.strip(), status=self._status(said), headers=headers)
        return Outcome(
            ending=said.answer.ending,
            result_bytes=size + len(body),
            status=200,
            state=state,
            body=said.line,
            cut=len(said.line) > LIMIT,
        )

    def _status(self, said: _Said) -> int:
        if self.arrival.era is Era.LEGACY or said.answer.result:
            return 200
        error = json.loads(said.line)["error"]
        code = error.get("code") if isinstance(error, dict) else None
        return _STATUS.get(code, 200) if isinstance(code, int) else 200

    # ------------------------------------------------------------------ leaving

    def _leave(self) -> None:
        self._gone = True
        if not self._resumes:
            self._stop_hearing()
        self._inbox.put(_Left())

    def _stop_hearing(self) -> None:
        if self in self.conversation.calls:
            self.conversation.calls.remove(self)

    def _cancels(self) -> bool:
        """Whether leaving cancels the request: always in the modern era, by a message in the legacy one."""
        return self._cancelled or self.arrival.era is Era.MODERN

    def _cancel_at(self, link: Link) -> None:
        """Tell the tool server that nobody waits any more; greetings cannot be cancelled."""
        message = self.arrival.message
        if self.sent and link.usable and isinstance(message, Request) and message.method != "initialize":
            body = {"jsonrpc": "2.0", "method": _CANCELLED, "params": {"requestId": self._number}}
            link.post(json.dumps(body).encode())

    def _patience(self) -> float:
        """Seconds the tool server has for its answer; some methods are answered when something happens."""
        message = self.arrival.message
        return math.inf if isinstance(message, Request) and message.method in _ENDLESS else self._timeout

    def _may_hear(self) -> bool:
        """Whether messages of the tool server that name no call may belong to this one."""
        message = self.arrival.message
        if not self._http.events or not isinstance(message, Request) or message.method in _ENDLESS:
            return False
        meta = message.params.get("_meta")
        return self.arrival.era is Era.LEGACY or (isinstance(meta, dict) and _LOG_LEVEL in meta)

    # ------------------------------------------------------------------ notifications and answers

    def _tell(self, message: Message) -> None:
        """Hand over what needs no answer; a child that is not there needs none of it."""
        conversation, link = self.conversation, self.conversation.link
        match message:
            case Response():
                if message.id not in conversation.asked or link is None:
                    raise UpstreamError(Code.UNSOLICITED.meaning, sent=False, reason=Code.UNSOLICITED)
                del conversation.asked[message.id]
                link.post(_line(message.raw))
            case Notification(method="notifications/cancelled"):
                named = message.params.get("requestId")
                if isinstance(named, str | int) and named in conversation.pending:
                    conversation.pending[named].cancel()
            case Notification():
                if link is not None and link.usable:
                    link.post(_line(message.raw))
            case Request():
                pass


def _line(raw: bytes) -> bytes:
    """The message on one line; raw line breaks can only stand between its tokens."""
    return single_line(raw.replace(b"\r", b" ").replace(b"\n", b" "))
