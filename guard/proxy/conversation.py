"""What one legacy session, or everything else one principal says, has to do with one tool server on stdio.

A conversation outlives the child behind it: a child that crashed or was stopped for being idle is replaced,
and greeted as the client once greeted it, so that clients which cannot begin again never have to.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import anyio
import structlog

from guard import __version__
from guard.errors import UpstreamError
from guard.model import Json
from guard.proxy import answers
from guard.proxy.link import Link
from guard.proxy.pipes import Line
from guard.proxy.spans import exchanged
from guard.wire.era import LEGACY_VERSIONS
from guard.wire.message import Request

BACKLOG: Final = 256
"""Messages of a tool server kept for a session that has no stream open; the oldest goes first."""
BACKLOG_BYTES: Final = 1024 * 1024
"""Bytes of them together."""
REPEATED_BYTES: Final = 64 * 1024
"""Bytes of a greeting that is repeated to a new child, and of everything else together that it is told."""
LATEST_LEGACY: Final = "2025-11-25"
SUBSCRIPTION: Final = ("params", "_meta", "io.modelcontextprotocol/subscriptionId")
INITIALIZED: Final = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'

_MAX_ASKED: Final = 1_024
_MAX_REPEATED: Final = 256
_CALM: Final = ("notifications/resources/", "notifications/tools/", "notifications/prompts/", "notifications/tasks/")
"""What a tool server says about itself, whoever called; it rather goes to the stream of the session."""

log = structlog.get_logger()


class Kind(StrEnum):
    """Who shares a child: the calls of one legacy session, or all calls without one of a principal in an era."""

    SESSION = "session"
    LEGACY = "legacy"
    MODERN = "modern"


class Key(NamedTuple):
    """What tells conversations apart."""

    server: str
    subject: str
    kind: Kind
    session: str = ""


class Hearer(Protocol):
    """An open answer of a session that can carry a message of the tool server."""

    def hear(self, line: bytes) -> None:
        """Take one message."""


class Pending(Protocol):
    """A request of a session that has no answer yet."""

    def cancel(self) -> None:
        """Take that the client cancelled it."""


class _Silent:
    """Waits for an answer that no client hears of."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.said: answers.Answer | None = None

    def depart(self) -> bool:
        return True

    def concluded(self, line: bytes, said: answers.Answer) -> None:
        del line
        self.said = said
        self.done.set()

    def notified(self, line: bytes, *, progress: bool) -> None:
        """Progress of a repeated greeting interests nobody."""

    def failed(self, error: UpstreamError | None = None) -> None:
        del error
        self.done.set()


class Conversation:
    """The state of one conversation; `guard.proxy.children` gives it a child when it needs one."""

    def __init__(self, key: Key, observe: Callable[[str, bytes], None] | None = None) -> None:
        """Begin without a child."""
        self.key = key
        self.lock = anyio.Lock()
        self.link: Link | None = None
        self.greeting = b""
        self.uses = 0
        self.used = anyio.current_time()
        self.over = False
        self.asked: dict[str | int, None] = {}
        self.hearers: list[Hearer] = []
        self.calls: list[Hearer] = []
        self.pending: dict[str | int, Pending] = {}
        self._repeated: dict[str, bytes] = {}
        self._backlog: deque[bytes] = deque()
        self._observe = observe

    @property
    def busy(self) -> bool:
        """Whether somebody waits for its child or listens to it."""
        return bool(self.uses or self.hearers or self.pending)

    # ------------------------------------------------------------------ from the client

    def learn(self, request: Request, line: bytes) -> None:
        """Remember what a new child must be told; the tool server took this request without an error."""
        match request.method:
            case "initialize" if len(line) <= REPEATED_BYTES:
                self.greeting = line
            case "initialize":
                self.assume(request.params.get("protocolVersion"))
            case "logging/setLevel" if self._fits(line):
                self._repeated["level"] = line
            case "resources/subscribe" if self._fits(line) and len(self._repeated) < _MAX_REPEATED:
                self._repeated[f"uri {request.params['uri']}"] = line
            case "resources/unsubscribe":
                self._repeated.pop(f"uri {request.params['uri']}", None)
            case _:
                pass

    def _fits(self, line: bytes) -> bool:
        """Whether there is room for one more line that a new child is told."""
        return len(line) + sum(map(len, self._repeated.values())) <= REPEATED_BYTES

    def assume(self, version: Json) -> None:
        """Greet as a client that never did, or whose greeting is not kept: with no capability at all."""
        known = isinstance(version, str) and version in LEGACY_VERSIONS
        hello = {
            "protocolVersion": version if known else LATEST_LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "guard", "version": __version__},
        }
        self.greeting = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}).encode()

    async def greet(self, link: Link, within: float) -> None:
        """Bring a new child to where the one before was, by nothing that has an effect.

        Raises:
            UpstreamError: `sent=False`: it does not take the greeting.
        """
        if not self.greeting:
            return
        with anyio.move_on_after(within):
            if await self._ask(link, self.greeting):
                link.post(INITIALIZED)
                for line in tuple(self._repeated.values()):
                    await self._ask(link, line)
                return
        raise UpstreamError("the tool server was started and does not answer its greeting", sent=False)

    @staticmethod
    async def _ask(link: Link, line: bytes) -> bool:
        """Send a request of the guard's own and wait for its answer; whether there was a result."""
        waiter = _Silent()
        number = link.expect(waiter)
        try:
            link.post(exchanged(line, (("id",), b"%d" % number)), waiter)
            await waiter.done.wait()
        finally:
            link.forget(number)
        return waiter.said is not None and waiter.said.result

    # ------------------------------------------------------------------ from the tool server

    def listen(self, hearer: Hearer) -> None:
        """Give the session's own messages to this stream from now on, beginning with those nobody heard."""
        self.hearers.append(hearer)
        while self._backlog:
            hearer.hear(self._backlog.popleft())

    def take(self, link: Link, line: Line) -> None:
        """Bring one line of the child to whom it belongs; what is no message, or nobody's, is dropped."""
        if not line.raw.strip():
            return
        try:
            if line.flaw is not None:
                raise ValueError(line.flaw)  # noqa: TRY301  # one place says why a line was dropped
            said, whole = answers.read(line.raw), answers.unbroken(line.raw)
            match said:
                case answers.Answer():
                    self._answer(link, said, whole)
                case answers.Question():
                    self._question(link, said, whole)
                case answers.Notice():
                    self._notice(link, whole)
        except (ValueError, RecursionError, UpstreamError) as error:
            self._drop(str(error), line.raw)

    def _answer(self, link: Link, said: answers.Answer, line: bytes) -> None:
        waiter = link.waiting.get(said.id) if isinstance(said.id, int) else None
        if waiter is None:
            self._drop("no call that was sent waits for this answer", line)
            return
        link.forget(said.id)  # type: ignore[arg-type]  # found, so it is an integer
        waiter.concluded(line, said)

    def observe(self, line: bytes) -> None:
        """Show an answer to `tools/list` to whoever watches the definitions."""
        if self._observe is not None:
            self._observe(self.key.server, line)

    def _question(self, link: Link, said: answers.Question, line: bytes) -> None:
        if self.key.kind is Kind.SESSION:
            while len(self.asked) >= _MAX_ASKED:
                del self.asked[next(iter(self.asked))]
            self.asked[said.id] = None
            self._hear(line, calm=False)
            return
        body = {"result": {}} if json.loads(line).get("method") == "ping" else {"error": _NOBODY}
        link.post(json.dumps({"jsonrpc": "2.0", "id": said.id, **body}).encode())

    def _notice(self, link: Link, line: bytes) -> None:
        message = json.loads(line, object_pairs_hook=_once)
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        method = str(message["method"])
        meta = params.get("_meta")
        marked = meta.get(SUBSCRIPTION[-1]) if isinstance(meta, dict) else None
        progress = method == "notifications/progress"
        if progress or marked is not None:
            number = params.get("progressToken") if progress else marked
            waiter = link.waiting.get(number) if type(number) is int else None
            if waiter is None:
                self._drop("no call that was sent asked for this", line)
            else:
                waiter.notified(line, progress=progress)
        elif self.key.kind is Kind.SESSION:
            self._hear(line, calm=method.startswith(_CALM))
        elif len(self.calls) == 1:
            self.calls[0].hear(line)
        else:
            self._drop("several calls share this tool server, and it does not say which one this belongs to", line)

    def _hear(self, line: bytes, *, calm: bool) -> None:
        """Give a message to the session: to the call it most likely belongs to, or to its own stream, or keep it."""
        first, second = (self.hearers, self.calls) if calm else (self.calls, self.hearers)
        hearers = first or second
        if hearers:
            hearers[-1].hear(line)
            return
        self._backlog.append(line)
        while len(self._backlog) > BACKLOG or sum(map(len, self._backlog)) > BACKLOG_BYTES:
            self._drop("nobody has heard it for too long", self._backlog.popleft())

    def _drop(self, why: str, line: bytes) -> None:
        log.warning("child.line_dropped", server=self.key.server, principal=self.key.subject, why=why, size=len(line))


_NOBODY: Final = {"code": -32601, "message": "nobody can be asked here: these calls belong to no session"}


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object none of whose members comes twice, for two readers would route it differently."""
    made = dict(pairs)
    if len(made) != len(pairs):
        message = "a member comes twice"
        raise ValueError(message)
    return made
