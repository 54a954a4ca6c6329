"""The agent's end of the stdio front: whole lines back to it, and one exchange for each of its messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
from anyio.abc import ByteSendStream

from guard.errors import UpstreamError
from guard.model import Json
from guard.proxy.asking import Questions
from guard.proxy.child import Child
from guard.proxy.exchange import KEPT_LIMIT, Ending, Gauge, Outcome
from guard.proxy.shown import LIMIT
from guard.reasons import Code
from guard.wire import reply
from guard.wire.message import Message, Request, Response


class Output:
    """The way back to the agent: whole lines, one after the other."""

    def __init__(self, stream: ByteSendStream, broken: Callable[[], None]) -> None:
        """Write to `stream`; `broken` is called once when the agent no longer reads."""
        self._stream, self._on_break = stream, broken
        self._turn = anyio.Lock(fast_acquire=True)
        self._broken = False

    async def send(self, message: bytes) -> None:
        """Write one line; nobody is told when there is nobody left to read it."""
        async with self._turn:
            if self._broken:
                return
            self._broken = True  # stays so unless the line is written whole
            try:
                await self._stream.send(message + b"\n")
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._on_break()
                return
            self._broken = False


class StdioExchange:
    """One message of the agent, from reading to its answer (see `guard.proxy.exchange.Exchange`)."""

    def __init__(
        self,
        message: Message,
        child: Child,
        output: Output,
        *,
        timeout: float,
        begun: Callable[[], None],
        questions: Questions,
    ) -> None:
        """Stand between the message and the tool server it is meant for.

        `timeout` is how many seconds the tool server has to answer; `begun` is called once, when the next
        message may be read without overtaking this one.
        """
        self.message = message
        self._raw, self._questions = message.raw, questions
        self.sent = False
        self.awaiting = False
        self.due = 0.0
        self.answered = False
        self.relayed = False
        self.cancelled = False
        self._child, self._output, self._timeout = child, output, timeout
        self._begun: Callable[[], None] | None = begun
        self._gone = False
        self._left: anyio.Event | None = None
        self._done: anyio.Event | None = None
        self._end: Outcome | UpstreamError | None = None
        self._gauge: Gauge | None = None

    # ------------------------------------------------------------------ what the pipeline calls

    @property
    def gone(self) -> bool:
        """Whether the caller cancelled this message, or left."""
        return self._gone

    async def wait_gone(self) -> None:
        """Return when the caller has left; from here on the message counts as held."""
        self.begin()
        if not self._gone:
            self._left = self._left or anyio.Event()
            await self._left.wait()

    async def forward(self, gauge: Gauge | None = None) -> Outcome:
        """Write the inspected bytes to the tool server once; for a request, wait until its answer was relayed.

        Raises:
            UpstreamError: see `guard.proxy.exchange.Exchange.forward`.
        """
        self.begin()
        self._gauge = gauge
        async with self._child.turn:
            if self._gone:
                raise UpstreamError(Code.CALLER_LEFT.meaning, sent=False, reason=Code.CALLER_LEFT)
            self.sent = True
            try:
                await self._child.write(self._raw)
            except UpstreamError as error:
                self.sent = error.sent
                raise
        if not isinstance(self.message, Request):
            return Outcome(ending=Ending.OK)
        self._done = anyio.Event()
        self.due = anyio.current_time() + self._timeout
        self.awaiting = True
        await self._done.wait()
        if isinstance(self._end, Outcome):
            return self._end
        raise self._end or UpstreamError(sent=True)

    def rewrite(self, message: Request) -> None:
        """Send this message instead of the one that came."""
        self._raw = message.raw

    async def ask(self, question: str, params: Mapping[str, Json]) -> Response | None:
        """Ask the agent between its request and the answer; see `guard.proxy.exchange.Exchange`."""
        asked = self._questions.open((), question)
        try:
            await self._output.send(reply.asked(question, params))
            async with anyio.create_task_group() as group:
                group.start_soon(self._until_gone, asked.answered)
                await asked.answered.wait()
                group.cancel_scope.cancel()
        finally:
            self._questions.close((), question)
            if asked.response is None and not self._gone:
                with anyio.CancelScope(shield=True):
                    await self._output.send(reply.withdrawn(question))
        return asked.response

    async def _until_gone(self, over: anyio.Event) -> None:
        await self.wait_gone()
        over.set()

    async def answer(self, body: bytes, *, status: int = 200) -> None:
        """Answer a request in the tool server's stead; nothing else has an answer, and `status` is HTTP's."""
        del status
        if isinstance(self.message, Request) and not self.answered:
            self.answered = True
            await self._output.send(body)
        self.begin()

    # ------------------------------------------------------------------ what the front calls

    def begin(self) -> None:
        """Let the next message be read, once."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun()

    def leave(self) -> None:
        """The caller has left."""
        self._gone = True
        if self._left is not None:
            self._left.set()

    def cancel(self, grace: float) -> None:
        """The caller cancelled; a tool server that has the call already may answer for `grace` seconds more."""
        self.cancelled = True
        self.due = anyio.current_time() + grace
        self.leave()

    def expire(self, now: float) -> None:
        """End the wait for an answer that is overdue."""
        if self.awaiting and now >= self.due:
            late = UpstreamError("the tool server did not answer in time", sent=True)
            self.conclude(Outcome(ending=Ending.UNKNOWN) if self.cancelled else late)

    async def relay(self, line: bytes, ending: Ending, state: str = "") -> None:
        """Pass the tool server's answer on, if it may go on, and end the wait for it."""
        kept = line if len(line) <= KEPT_LIMIT else b""
        if self._gauge is not None and not state and not self._gauge.passes(kept, len(line)):
            self.relayed = True
            self.conclude(Outcome(ending=ending, result_bytes=len(line), body=kept, withheld=True))
            return
        self.awaiting, self.answered, self.relayed = False, True, True
        await self._output.send(line)
        self.conclude(Outcome(ending=ending, result_bytes=len(line), state=state, body=line, cut=len(line) > LIMIT))

    def conclude(self, end: Outcome | UpstreamError) -> None:
        """End the wait for the tool server's answer; the first end counts."""
        self.awaiting = False
        self._end = self._end or end
        if self._done is not None:
            self._done.set()
