"""Questions of the guard to clients of the legacy era, asked on the event stream that answers their request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import anyio

from guard.errors import UpstreamError
from guard.model import Json
from guard.proxy.headers import first
from guard.proxy.upstream import Answer
from guard.proxy.visit import Send
from guard.wire.message import Request, Response

PREFIX: Final = "guard_"
"""How the id of every question of the guard begins."""
REMEMBERED: Final = 10_000
"""Handshakes that are kept; a client whose handshake is forgotten is not asked."""

URL_VERSIONS: Final = frozenset({"2025-11-25"})
"""The revisions of the legacy era in which a client can be asked to open a URL."""

_OK: Final = 200
_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def handshake(message: Request) -> Mapping[str, Json]:
    """What an `initialize` request declares, as far as the guard uses it: only that, for it is kept.

    Nothing but whether the client takes questions, and whether it opens URLs.
    """
    declared, version = message.params.get("capabilities"), message.params.get("protocolVersion")
    asked = declared.get("elicitation") if isinstance(declared, Mapping) and version in URL_VERSIONS else None
    if not isinstance(asked, Mapping):
        return {}
    return {"elicitation": {"url": {}} if isinstance(asked.get("url"), Mapping) else {}}


class Question:
    """One question that waits for its answer."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.response: Response | None = None


class Questions:
    """The open questions of one front, and what the clients of its sessions declared.

    `where` names a session and whom it belongs to: nobody else's answer counts.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, ...], Question] = {}
        self._late: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._declared: OrderedDict[tuple[str, ...], Mapping[str, Json]] = OrderedDict()

    def declare(self, where: tuple[str, ...], capabilities: Mapping[str, Json]) -> None:
        """Remember what a client declared at the beginning of its session."""
        self._declared[where] = capabilities
        while len(self._declared) > REMEMBERED:
            self._declared.popitem(last=False)

    def declared(self, where: tuple[str, ...]) -> Mapping[str, Json]:
        """What the client of a session declared; {} when that is not known here."""
        return self._declared.get(where, {})

    def forget(self, where: tuple[str, ...]) -> None:
        """The session ended."""
        self._declared.pop(where, None)

    def open(self, where: tuple[str, ...], identity: str) -> Question:
        """Wait for the answer to the question with this id."""
        question = self._open[*where, identity] = Question()
        return question

    def close(self, where: tuple[str, ...], identity: str) -> None:
        """Wait no longer; an answer that comes late is taken and ignored."""
        del self._open[*where, identity]
        self._late[*where, identity] = None
        while len(self._late) > REMEMBERED:
            self._late.popitem(last=False)

    def take(self, where: tuple[str, ...], response: Response) -> bool | None:
        """Give a response to the question it answers.

        Returns:
            Whether it answers a question that was asked here; None when it is not meant for the guard.
        """
        if not isinstance(response.id, str) or not response.id.startswith(PREFIX):
            return None
        question = self._open.get((*where, response.id))
        if question is None:
            return (*where, response.id) in self._late
        question.response = question.response or response
        question.answered.set()
        return True


class EventStream:
    """An answer that has begun as an event stream, because the guard had a question before it could be given."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False
        self._wrap = False

    async def say(self, message: bytes, *, last: bool = False) -> None:
        """Send one message as an event."""
        await self._write(b"event: message\ndata: " + message + b"\n\n" if message else b"", last=last)

    async def beat(self) -> None:
        """Send a comment, so that nobody takes the silent stream for dead."""
        await self._write(b": \n\n", last=False)

    async def _write(self, event: bytes, *, last: bool) -> None:
        if not self._begun:
            self._begun = True
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache, no-transform")]
            await self._send({"type": "http.response.start", "status": _OK, "headers": headers})
        await self._send({"type": "http.response.body", "body": event, "more_body": not last})

    async def relay(self, event: MutableMapping[str, Any]) -> None:
        """ASGI's send for an answer of the tool server: what it writes becomes the rest of the stream.

        A JSON answer becomes one event. Line breaks in JSON stand between its tokens only, so they may be spaces.
        """
        if event["type"] == "http.response.start":
            self._wrap = not _streams(event["headers"])
            if self._wrap:
                await self._send({"type": "http.response.body", "body": b"event: message\ndata: ", "more_body": True})
            return
        body, more = event["body"], event["more_body"]
        if self._wrap:
            body = body.translate(_BREAKS) + (b"" if more else b"\n\n")
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


async def require_message(answer: Answer) -> None:
    """See that an answer of a tool server can go on in an event stream that has begun.

    Raises:
        UpstreamError: it is no message; its status can no longer be passed on.
    """
    if answer.status != _OK:
        raise UpstreamError(f"the tool server answered with HTTP status {answer.status}", sent=True)


def _streams(headers: list[tuple[bytes, bytes]]) -> bool:
    return first(headers, b"content-type").lower().startswith(b"text/event-stream")
