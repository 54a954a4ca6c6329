"""The JSON documents in the body of an HTTP answer: the body itself, or the data of every event of a stream.

Nothing is changed here; the answer is relayed as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Final

from guard.proxy.answers import state_of
from guard.proxy.exchange import Ending

LISTING_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of one answer to tools/list kept for the observer; of a longer one it learns that there was one."""
EVENT_LIMIT: Final = 256 * 1024
"""Bytes of an event that is looked at to see whether it is the answer."""

_SUSPECT: Final = re.compile(rb'"isError"\s*:\s*true|"error"\s*:')
_WANTS_INPUT: Final = b'"requestState"'
_EVENT_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_EVENT_ID: Final = re.compile(rb"^id:", re.MULTILINE)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_DATA: Final = re.compile(rb"^data: ?(.*)$")


class Listing:
    """Hands the documents of an answer to an observer as they complete, so that it knows them before the caller."""

    def __init__(self, observe: Callable[[bytes], None], *, streamed: bool) -> None:
        """Cut an event stream into its events when `streamed`; anything else is one document."""
        self._observe, self._streamed = observe, streamed
        self._buffer = bytearray()
        self._lost = False

    def take(self, piece: bytes, *, last: bool) -> None:
        """Take the next bytes; `last` when nothing follows. A document too long to keep is observed as empty."""
        if self._lost:
            return
        start, done = max(0, len(self._buffer) - 3), 0
        self._buffer += piece
        if self._streamed:
            for found in _EVENT_END.finditer(self._buffer, start):
                self._tell(bytes(self._buffer[done : found.end()]))
                done = found.end()
            del self._buffer[:done]
        if len(self._buffer) > LISTING_LIMIT:
            self._lost, self._buffer = True, bytearray()
            self._observe(b"")
        elif last:
            self._tell(bytes(self._buffer))

    def _tell(self, whole: bytes) -> None:
        document = _data(whole) if self._streamed else whole
        if document.strip():
            self._observe(document)


def glance(observe: Callable[[bytes], None], document: bytes) -> None:
    """Show an observer what may be a list of tools where none belongs; no other document can have a member `tools`."""
    if b'"tools"' in document or b"\\u00" in document:
        observe(document)


class Unfinished:
    """Says whether an event stream ended without the answer to its request.

    What could bring the answer in any other way counts as finished: an event with an id, from which a client
    takes the stream up again, one that is too long to be looked at, and one that is no message.
    """

    def __init__(self) -> None:
        """Begin before the first byte."""
        self._buffer = bytearray()
        self._answered = False

    def take(self, piece: bytes) -> None:
        """Take the next bytes."""
        if self._answered:
            return
        start, done = max(0, len(self._buffer) - 3), 0
        self._buffer += piece
        for found in _EVENT_END.finditer(self._buffer, start):
            self._see(bytes(self._buffer[done : found.end()]))
            done = found.end()
        del self._buffer[:done]
        if len(self._buffer) > EVENT_LIMIT:
            self._answered, self._buffer = True, bytearray()

    def ended(self) -> bool:
        """Whether the answer is missing, now that nothing follows."""
        self._see(bytes(self._buffer))
        return not self._answered

    def _see(self, event: bytes) -> None:
        said = _data(event)
        if _EVENT_ID.search(event):
            self._answered = True
        elif said.strip():
            try:
                message = json.loads(said)
            except (ValueError, RecursionError):
                message = None
            self._answered = self._answered or not (isinstance(message, dict) and "method" in message)


def documents(body: bytes) -> Iterator[bytes]:
    """The JSON texts of an answer: the body itself, or the data of every event of an event stream.

    An event stream is told by its first byte: no JSON-RPC message begins like a line of one.
    """
    if body.lstrip()[:1] in {b"{", b""}:
        yield body
        return
    yield from filter(None, map(_data, _EVENT_END.split(body)))


def _data(event: bytes) -> bytes:
    """The data of one event of an event stream; empty when it has none."""
    lines = event.removeprefix(_BYTE_ORDER_MARK).splitlines()
    return b"\n".join(found[1] for line in lines if (found := _DATA.match(line)))


def wanted_state(body: bytes) -> str:
    """The `requestState` of an answer that wants more input; "" for every other, read only where it looks like one."""
    if _WANTS_INPUT not in body:
        return ""
    for document in documents(body):
        try:
            message = json.loads(document)
        except (ValueError, RecursionError):
            continue
        if isinstance(message, dict) and (state := state_of(message.get("result"))):
            return state
    return ""


def ending(body: bytes) -> Ending:
    """How the tool says the call ended: its JSON is read only where its bytes look like an error."""
    if not _SUSPECT.search(body):
        return Ending.OK
    for document in documents(body):
        try:
            message = json.loads(document)
        except (ValueError, RecursionError):
            continue
        if not isinstance(message, dict) or "method" in message:
            continue
        if "error" in message:
            return Ending.UPSTREAM_ERROR
        result = message.get("result")
        if isinstance(result, dict) and result.get("isError") is True:
            return Ending.TOOL_ERROR
    return Ending.OK
