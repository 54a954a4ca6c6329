"""The stdio front: a line pump between an agent and one tool server, with the pipeline in the middle.

Messages are sent on in the order they were read, yet a held call delays nobody. Equal tasks take turns:
one reads a message and carries it through; as soon as it has its place in the queue to the tool server,
has begun to hold or has answered, the turn to read goes to the next task. That costs a third of a new task
for each message. Answers pass byte for byte (`guard.proxy.answers`), and only to calls that were sent on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

import anyio
import structlog
from anyio.abc import ByteReceiveStream, ByteSendStream, TaskGroup

from guard.config import Config
from guard.errors import ConfigError, UpstreamError, WireError
from guard.model import Json, Principal, Source
from guard.proxy import answers
from guard.proxy.asking import Questions, handshake
from guard.proxy.child import Child
from guard.proxy.exchange import Arrival, Handler
from guard.proxy.pipes import Flaw, Line, Lines
from guard.proxy.stdio_exchange import Output, StdioExchange
from guard.reasons import Code
from guard.wire import reply
from guard.wire.decode import Message, Notification, Request, Response, decode, single_line
from guard.wire.era import client_name, era_of

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Bytes one line of an agent may hold."""

_CANCELLED: Final = "notifications/cancelled"
_ENDLESS: Final = frozenset({"subscriptions/listen", "tasks/result"})
_MAX_OPEN: Final = 1_024
_EXPIRY_CHECK: Final = 1.0
_GRACE_CANCELLED: Final = 2.0
_GRACE_LAST_LINES: Final = 0.5
_GRACE_ANSWERS: Final = 0.7
_GRACE_HANDLERS: Final = 0.2

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Ends:
    """Everything one run moves lines between."""

    agent: Lines
    output: Output
    child: Child
    group: TaskGroup


class StdioFront:
    """Serves one agent on one pair of streams, with one tool server behind."""

    def __init__(
        self,
        config: Config,
        server: str,
        principal: Principal,
        handler: Handler,
        *,
        observe: Callable[[str, bytes], None] | None = None,
    ) -> None:
        """Serve `server` to `principal`; `observe(server, line)` sees each `tools/list` answer before the agent does.

        Raises:
            ConfigError: the server is not configured with a `command`.
        """
        settings = config.servers.get(server)
        if settings is None or settings.command is None:
            known = ", ".join(sorted(name for name, one in config.servers.items() if one.command)) or "none"
            message = f"no server {server} with a command is configured; there is: {known}"
            raise ConfigError(message, file=config.file)
        self._settings, self._base = settings, config.file.absolute().parent
        self._server, self._handler, self._observe = server, handler, observe
        self.principal = principal
        """Whom calls are made by from now on."""
        self._client = ""
        self._questions, self._handshake = Questions(), dict[str, Json]()
        self._waiting: dict[str | int, StdioExchange] = {}
        self._serving: set[StdioExchange] = set()
        self._asked: dict[str | int, None] = {}
        self._owed: dict[str | int, None] = {}
        self._turn = anyio.Semaphore(1, max_value=1, fast_acquire=True)
        self._spare = 0
        self._ending = anyio.Event()
        self._idle = anyio.Event()
        self._stopped = False
        self._child_ended = False

    def stop(self) -> None:
        """Take no more messages, finish what is sent, let the rest go and return from `run` within 2 s."""
        self._stopped = True
        self._ending.set()

    async def run(self, stdin: ByteReceiveStream, stdout: ByteSendStream) -> int:
        """Start the tool server and pump until the input ends, `stop` is called or the tool server ends.

        Returns:
            The exit code: 0, or 1 when the tool server ended by itself.

        Raises:
            ConfigError: the tool server cannot be started.
        """
        async with (
            Child.start(self._server, self._settings, base=self._base) as child,
            anyio.create_task_group() as group,
        ):
            ends = _Ends(Lines(stdin, MAX_MESSAGE), Output(stdout, self._hang_up), child, group)
            group.start_soon(child.relay_errors)
            group.start_soon(self._watch, ends)
            group.start_soon(self._expire)
            group.start_soon(self._serve, ends)
            await self._ending.wait()
            await self._finish(child)
            group.cancel_scope.cancel()
        return 1 if self._child_ended else 0

    # ------------------------------------------------------------------ agent to tool server

    async def _serve(self, ends: _Ends) -> None:
        """Read a message when it is this task's turn, carry it through, and come back for another."""

        def next_may_read() -> None:
            if not self._spare:
                ends.group.start_soon(self._serve, ends)
            self._turn.release()

        while True:
            self._spare += 1
            await self._turn.acquire()
            self._spare -= 1
            message = await self._next_message(ends)
            if message is None:
                self._hang_up()
                return
            exchange = StdioExchange(
                message,
                ends.child,
                ends.output,
                timeout=self._timeout(message),
                begun=next_may_read,
                questions=self._questions,
            )
            await self._carry(exchange)
            if self._spare:
                return

    async def _next_message(self, ends: _Ends) -> Message | None:
        """The next message that is to be carried through; None when the agent's input ended."""
        while (line := await ends.agent.next()) is not None:
            try:
                message = self._admit(line)
            except WireError as error:
                await self._reject(error, ends.output)
                continue
            if message is not None and not (isinstance(message, Notification) and self._cancels(message)):
                return message
        return None

    def _admit(self, line: Line) -> Message | None:
        """Decode a line strictly and see whether it may come now; None for an empty one.

        Raises:
            WireError: it is malformed, or does not fit what is in flight on this connection.
        """
        if line.flaw is not None:
            raise WireError(line.flaw, reason=Code.TOO_LARGE if line.flaw is Flaw.TOO_LONG else Code.MALFORMED)
        if not line.raw.strip():
            return None
        message = decode(single_line(line.raw), exact_integers=self._settings.big_integers == "exact")
        if self._stopped:
            stopping = WireError(Code.STOPPING.meaning, reason=Code.STOPPING)
            stopping.request_id = message.id if isinstance(message, Request) else None
            raise stopping
        if isinstance(message, Request) and self._in_flight(message.id):
            raise WireError(Code.DUPLICATE_ID.meaning, reason=Code.DUPLICATE_ID)
        return message if not isinstance(message, Response) or self._expected(message) else None

    def _expected(self, response: Response) -> bool:
        """Whether the tool server asked what this answers; False when the guard did, and has its answer now.

        Raises:
            WireError: nobody asked (UNSOLICITED).
        """
        answers_guard = self._questions.take((), response)
        if answers_guard is False or (answers_guard is None and response.id not in self._asked):
            raise WireError(Code.UNSOLICITED.meaning, reason=Code.UNSOLICITED)
        if answers_guard is None:
            del self._asked[response.id]
        return answers_guard is None

    def _in_flight(self, request_id: str | int) -> bool:
        """Whether an answer to this id may still come: from the guard, or late from the tool server."""
        earlier = self._waiting.get(request_id)
        return request_id in self._owed or (earlier is not None and not earlier.answered)

    def _cancels(self, message: Notification) -> bool:
        """Heed a cancellation; True when it must not go on, for what it cancels was never sent or is unknown."""
        if message.method != _CANCELLED:
            return False
        named = message.params.get("requestId")
        exchange = self._waiting.get(named) if isinstance(named, str | int) and not isinstance(named, bool) else None
        if exchange is None:
            return True
        exchange.cancel(_GRACE_CANCELLED)
        return not exchange.sent

    async def _carry(self, exchange: StdioExchange) -> None:
        """Carry one message through the pipeline, and make sure that a request is answered."""
        message, era = exchange.message, era_of(exchange.message)
        if isinstance(message, Request):
            self._waiting[message.id] = exchange
            self._client = client_name(message) or self._client
            if message.method == "initialize":
                self._handshake = dict(handshake(message))
        self._serving.add(exchange)
        try:
            arrival = Arrival(
                message=message,
                era=era,
                principal=self.principal,
                source=self._source(),
                server=self._server,
                capabilities=self._handshake,
            )
            await self._handler.handle(arrival, exchange)
            if isinstance(message, Request) and not exchange.answered and not exchange.cancelled:
                text = self._why_unanswered(exchange)
                await exchange.answer(reply.refused(message.id, era, text=text, method=message.method))
        finally:
            exchange.begin()
            self._forget(exchange)

    def _forget(self, exchange: StdioExchange) -> None:
        """Free the id of a message that was carried through, unless the tool server may still answer it."""
        message = exchange.message
        self._serving.discard(exchange)
        if isinstance(message, Request) and self._waiting.get(message.id) is exchange:
            del self._waiting[message.id]
            if exchange.sent and not exchange.relayed:
                _remember(self._owed, message.id)
        if not self._serving:
            self._idle.set()

    async def _expire(self) -> None:
        """End the calls whose answer is overdue, to the second."""
        while True:
            await anyio.sleep(min(_EXPIRY_CHECK, self._settings.answer_timeout))
            now = anyio.current_time()
            for exchange in tuple(self._serving):
                exchange.expire(now)

    def _timeout(self, message: Message) -> float:
        """Seconds the tool server has for its answer; some methods are answered when something happens."""
        endless = isinstance(message, Request) and message.method in _ENDLESS
        return math.inf if endless else self._settings.answer_timeout

    def _source(self) -> Source:
        return Source(transport="stdio", client=self._client)

    def _why_unanswered(self, exchange: StdioExchange) -> str:
        """Why a request is left without an answer although its caller may still listen."""
        if exchange.sent:
            return Code.UPSTREAM_BROKE.meaning
        if self._child_ended:
            return Code.UPSTREAM_UNAVAILABLE.meaning
        return (Code.STOPPING if self._stopped else Code.INTERNAL).meaning

    async def _reject(self, error: WireError, output: Output) -> None:
        """Record a line that is not taken, and answer it unless it answers a question nobody asked."""
        self._handler.refused(server=self._server, source=self._source(), principal=self.principal, error=error)
        if error.request_id is not None and self._in_flight(error.request_id):
            error.request_id = None  # else the refusal would pass for the answer to the call in flight
        if error.reason is not Code.UNSOLICITED:
            await output.send(reply.malformed(error))

    # ------------------------------------------------------------------ tool server to agent

    async def _watch(self, ends: _Ends) -> None:
        """Relay what the tool server says until it ends; then end every call that was sent to it."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._limit_last_lines, ends.child, group.cancel_scope)
            await self._read_child(ends.child, ends.output)
            group.cancel_scope.cancel()
        if not self._stopped:
            self._child_ended = True
            log.error("child.ended", server=self._server, code=ends.child.code)
        self._abandon()
        self.stop()

    @staticmethod
    async def _limit_last_lines(child: Child, scope: anyio.CancelScope) -> None:
        """Once the tool server exited, give what it wrote last a moment to be read."""
        await child.wait()
        scope.deadline = anyio.current_time() + _GRACE_LAST_LINES

    async def _read_child(self, child: Child, output: Output) -> None:
        """Pass the tool server's lines on; what is no message, or an answer nobody waits for, is dropped."""
        while (line := await child.lines.next()) is not None:
            if not line.raw.strip():
                continue
            try:
                if line.flaw is not None:
                    raise ValueError(line.flaw)  # noqa: TRY301  # one place says why a line was dropped
                said = answers.read(line.raw)
            except ValueError as error:
                self._drop(str(error), line)
                continue
            line = Line(answers.unbroken(line.raw))
            match said:
                case answers.Answer():
                    await self._relay(said, line)
                case answers.Question():
                    _remember(self._asked, said.id)
                    await output.send(line.raw)
                case answers.Notice():
                    await output.send(line.raw)
                case _:
                    assert_never(said)

    async def _relay(self, said: answers.Answer, line: Line) -> None:
        """Pass an answer to the call that waits for it."""
        exchange = self._waiting.get(said.id)
        if exchange is None or not exchange.awaiting:
            self._owed.pop(said.id, None)
            self._drop("no call that was sent waits for this answer", line)
            return
        message = exchange.message
        if self._observe and said.result and isinstance(message, Request) and message.method == "tools/list":
            self._observe(self._server, line.raw)
        await exchange.relay(line.raw, said.ending, said.state)

    def _drop(self, why: str, line: Line) -> None:
        log.warning("child.line_dropped", server=self._server, why=why, size=len(line.raw))

    # ------------------------------------------------------------------ the end

    def _hang_up(self) -> None:
        """The agent has left: nothing that is not sent yet ever will be."""
        for exchange in self._serving:
            if not exchange.sent:
                exchange.leave()
        self.stop()

    def _abandon(self) -> None:
        """End every wait: nothing that was not sent will be, and no more answers come."""
        for exchange in tuple(self._serving):
            if exchange.sent:
                exchange.conclude(UpstreamError(sent=True))
            else:
                exchange.leave()

    async def _finish(self, child: Child) -> None:
        """Give the last answers a moment, record what has none, and end the tool server."""
        await self._settle(_GRACE_ANSWERS)
        self._abandon()
        await self._settle(_GRACE_HANDLERS)
        await child.end()

    async def _settle(self, seconds: float) -> None:
        """Wait until no message is being served."""
        if self._serving:
            self._idle = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._idle.wait()


def _remember(ids: dict[str | int, None], one: str | int) -> None:
    """Add an id; the oldest goes when there are too many."""
    while len(ids) >= _MAX_OPEN:
        del ids[next(iter(ids))]
    ids[one] = None
