"""Reads an HTTP answer of a tool server whole before the caller has any of it, and lets it go on only if it may.

What a tool server says before its response (progress, questions, signs of life) goes on at once, without the ids from
which the caller could take the stream up at the tool server, past the guard.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

from guard.proxy.asking import EventStream
from guard.proxy.documents import Listing
from guard.proxy.exchange import KEPT_LIMIT, Gauge
from guard.proxy.headers import first
from guard.proxy.visit import Send


class Sieve:
    """ASGI's send for one answer that may have to be withheld."""

    def __init__(self, gauge: Gauge, send: Send, events: EventStream | None) -> None:
        """Stand before `send`, which is that of `events` where those have begun already."""
        self._gauge, self._send, self._spoke = gauge, send, False
        self._head: MutableMapping[str, Any] = {}
        self._pieces: list[bytes] = []
        self._said: list[bytes] = []
        self._documents: Listing
        self._beats = False
        self.response = b""
        self.size = 0
        self.begun = False
        """Whether the caller has any of the answer itself."""
        self.speaking = events
        """The stream on which something was said before the response, if anything was."""

    async def send(self, event: MutableMapping[str, Any]) -> None:
        """Take what a relay would write to the caller."""
        if event["type"] == "http.response.start":
            await self._start(event)
        elif self.begun:
            await self._send(event)
        else:
            await self._take(event["body"], last=not event["more_body"])

    async def _start(self, event: MutableMapping[str, Any]) -> None:
        headers: list[tuple[bytes, bytes]] = event["headers"]
        streamed = first(headers, b"content-type").lower().startswith(b"text/event-stream")
        length = first(headers, b"content-length")
        self._head, self._documents = event, Listing(self._said.append, streamed=streamed)
        self._beats = streamed
        if not streamed and length.isdigit() and int(length) > KEPT_LIMIT and self._gauge.fits(int(length)):
            self.begun = True
            await self._send(event)

    async def _take(self, piece: bytes, *, last: bool) -> None:
        self.size += len(piece)
        if self.size <= KEPT_LIMIT:
            self._pieces.append(piece)
        else:
            self._pieces.clear()
        self._documents.take(piece, last=last)
        said, self._said[:] = [*self._said], ()
        if self._beats and piece.startswith(b":"):
            self._spoke, self.speaking = True, self.speaking or EventStream(self._send)
            await self.speaking.beat()
        for document in said:
            if _is_response(document):
                self.response = self.response or document
            else:
                self._spoke, self.speaking = True, self.speaking or EventStream(self._send)
                await self.speaking.say(b" ".join(document.split(b"\n")))

    def passes(self) -> bool:
        """Whether the whole answer, which is here now, may go on."""
        return self.begun or self._gauge.passes(self.response if self.size <= KEPT_LIMIT else b"", self.size)

    async def pass_on(self) -> None:
        """Give the caller the whole answer, as it came unless a stream has begun."""
        if self.begun:
            return
        self.begun = True
        if self.speaking is not None and self._spoke:
            await self.speaking.say(b" ".join(self.response.split(b"\n")), last=True)
        else:
            await self._send(self._head)
            await self._send({"type": "http.response.body", "body": b"".join(self._pieces), "more_body": False})


def _is_response(document: bytes) -> bool:
    """Whether this is no message of the tool server's own; what cannot be read is held like a response."""
    try:
        message = json.loads(document)
    except (ValueError, RecursionError):
        return True
    return not (isinstance(message, dict) and "method" in message)
