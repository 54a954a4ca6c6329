"""Raw MCP over HTTP and over pipes, so that a caller can also leave, read slowly, or send what no client would."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

PATIENCE: Final = 45.0
"""Seconds until a request counts as unanswered; longer than any timeout it may rightly meet."""
CHUNK: Final = 65_536
BOTH: Final = "application/json, text/event-stream"
LEGACY: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
META: Final = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
BROKEN: Final = (OSError, EOFError)

Message = dict[str, Any]


class UnansweredError(Exception):
    """A request that got neither an answer nor the end of its connection in time."""


@dataclass
class Heard:
    """What came back for one request: `whole` if it ended as announced, `left` if the caller did not wait."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    whole: bool = False
    left: bool = False
    size: int = 0
    last_event: str = ""

    @property
    def answer(self) -> Message:
        """The last message, which is the response when the answer is whole."""
        return self.messages[-1] if self.messages else {}


@dataclass(frozen=True)
class Manner:
    """How a request is made: when its caller leaves, and seconds it takes for each chunk it sends or reads."""

    leave_after: float | None = None
    send_pause: float = 0.0
    read_pause: float = 0.0


PROMPT: Final = Manner()


class Speaker:
    """One agent's HTTP client: one connection, kept while answers are whole and nobody left."""

    def __init__(self, port: int, key: str) -> None:
        """Talk to the MCP endpoint on this port with this key."""
        self.port, self.key = port, key
        self._ids = itertools.count(1)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def request(self, method: str, params: Mapping[str, Any], *, modern: bool = False) -> Message:
        """A new request of this agent."""
        meta = {"_meta": META} if modern else {}
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": {**params, **meta}}

    async def post(self, server: str, message: Message, session: str = "", how: Manner = PROMPT) -> Heard:
        """Send one message and read what comes back."""
        headers = {}
        if META.keys() <= message.get("params", {}).get("_meta", {}).keys():
            headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"]}
            if "name" in message["params"]:
                headers["Mcp-Name"] = message["params"]["name"]
        elif session:
            headers = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": session}
        return await self.send(server, json.dumps(message).encode(), headers=headers, how=how)

    async def send(
        self,
        server: str,
        body: bytes = b"",
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        how: Manner = PROMPT,
    ) -> Heard:
        """Send one HTTP request.

        Raises:
            UnansweredError: nothing came in time.
        """
        lines = {
            "Host": f"127.0.0.1:{self.port}",
            "Authorization": f"Bearer {self.key}",
            "Accept": BOTH,
            **({"Content-Type": "application/json", "Content-Length": str(len(body))} if method == "POST" else {}),
            **(headers or {}),
        }
        head = f"{method} /mcp/{server} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        heard = Heard()
        kept = False
        reader, writer = await self._connection(fresh=how is not PROMPT)
        try:
            async with asyncio.timeout(PATIENCE):
                try:
                    async with asyncio.timeout(how.leave_after):
                        sending = asyncio.create_task(_send(writer, head.encode(), body, how.send_pause))
                        try:
                            await _read(reader, heard, how.read_pause)
                        finally:
                            sending.cancel()
                except TimeoutError:
                    if how.leave_after is None:
                        raise
                    heard.left = True
        except BROKEN:
            pass
        except TimeoutError:
            message = f"{method} /mcp/{server}: nothing for {PATIENCE:g} s after {body[:200]!r}"
            raise UnansweredError(message) from None
        else:
            kept = heard.whole and heard.headers.get("connection") != "close" and how is PROMPT
        finally:
            if kept:
                self._streams = reader, writer
            else:
                writer.transport.abort()
        return heard

    def close(self) -> None:
        """End the connection that is kept."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connection(self, *, fresh: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        kept, self._streams = self._streams, None
        if kept is not None:
            if not fresh and not kept[0].at_eof():
                return kept
            kept[1].transport.abort()
        return await asyncio.open_connection("127.0.0.1", self.port, limit=CHUNK)


async def _send(writer: asyncio.StreamWriter, head: bytes, body: bytes, pause: float) -> None:
    """Send everything at once, or in pieces with pauses; a peer that refuses early closes, which is no error."""
    with suppress(*BROKEN):
        if not pause:
            writer.write(head + body)
            await writer.drain()
            return
        writer.write(head)
        for at in range(len(body)):
            writer.write(body[at : at + 1])
            await writer.drain()
            await asyncio.sleep(pause)


async def _read(reader: asyncio.StreamReader, heard: Heard, pause: float) -> None:
    """Read one HTTP answer into `heard`."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    heard.status = int(head[0].split()[1])
    heard.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    events = heard.headers.get("content-type", "").startswith("text/event-stream")
    body = bytearray()
    while (piece := await _piece(reader, heard)) is not None:
        body += piece
        heard.size += len(piece)
        if events:
            *lines, rest = body.split(b"\n")
            heard.messages += [json.loads(one[6:]) for one in lines if one.startswith(b"data: ") and one[6:].strip()]
            heard.last_event = next(
                (one[4:].decode() for one in reversed(lines) if one[:4] == b"id: "), heard.last_event
            )
            body = bytearray(rest)
        if pause:
            await asyncio.sleep(pause)
    if not events and body and heard.headers.get("content-type", "").startswith("application/json"):
        heard.messages.append(json.loads(body))
    heard.whole = True


async def _piece(reader: asyncio.StreamReader, heard: Heard) -> bytes | None:
    """The next piece of the body; None at its announced end."""
    if heard.headers.get("transfer-encoding") == "chunked":
        size = int(await reader.readuntil(b"\r\n"), 16)
        piece = await reader.readexactly(size)
        await reader.readexactly(2)
        return piece if size else None
    left = int(heard.headers.get("content-length", "0")) - heard.size
    if left <= 0:
        return None
    piece = await reader.read(min(CHUNK, left))
    if not piece:
        raise EOFError
    return piece


class Pipe:
    """An agent at the pipes of `guard run`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Talk to this process."""
        self.process = process
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message | None]] = {}
        self._reading = asyncio.create_task(self._read())
        self._ended = False

    async def call(self, tool: str, arguments: Mapping[str, Any], cancel_after: float | None = None) -> Message | None:
        """Call a tool; None when the guard's output ended before the answer, or the call was cancelled.

        Raises:
            UnansweredError: nothing came in time.
        """
        number = next(self._ids)
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": number}}
        answer: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        if self._ended:
            return None
        self._waiting[number] = answer
        await self._write({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        try:
            return await asyncio.wait_for(asyncio.shield(answer), cancel_after or PATIENCE)
        except TimeoutError:
            if cancel_after is None:
                message = f"guard run: nothing for {PATIENCE:g} s after a call of {tool}"
                raise UnansweredError(message) from None
            note = {"method": "notifications/cancelled", "params": {"requestId": number}}
            await self._write({"jsonrpc": "2.0", **note})
            return None
        finally:
            self._waiting.pop(number, None)

    async def end(self, *, kill: bool = False) -> int:
        """Close its input, or kill it; the exit code."""
        if kill:
            self.process.kill()
        elif self.process.stdin is not None:
            self.process.stdin.close()
        code = await asyncio.wait_for(self.process.wait(), PATIENCE)
        await self._reading
        return code

    async def _write(self, message: Message) -> None:
        stdin = self.process.stdin
        with suppress(*BROKEN):
            if stdin is not None:
                stdin.write(json.dumps(message).encode() + b"\n")
                await stdin.drain()

    async def _read(self) -> None:
        """Give every answer to the call it belongs to; at the end, nothing to the others."""
        if self.process.stdout is not None:
            async for line in self.process.stdout:
                message = json.loads(line)
                future = self._waiting.get(message.get("id", -1))
                if future is not None and "method" not in message and not future.done():
                    future.set_result(message)
        self._ended = True
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)


def text_of(messages: Sequence[Message]) -> str:
    """The messages, shortened, for a report."""
    return json.dumps(messages)[:300]
