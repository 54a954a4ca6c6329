"""An agent that talks raw MCP over HTTP to one server of a running guard, session and all."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from tests.guards import GONE, PATIENCE, Answer, Serving

BOTH = "application/json, text/event-stream"
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


@dataclass(frozen=True)
class Heard:
    """The whole answer to one HTTP request."""

    status: int
    kind: str
    session: str
    messages: list[dict[str, Any]]

    @property
    def answer(self) -> Answer:
        """The last message, which is the response."""
        assert self.messages, self
        return Answer(self.messages[-1], self.status)


class Posted:
    """A POST under way; `leave` closes its connection."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self.future: Future[Heard | None] = Future()

    def leave(self) -> None:
        self._connection.sock.shutdown(socket.SHUT_RDWR)

    def heard(self) -> Heard:
        found = self.future.result(PATIENCE)
        assert found is not None, "the guard left without an answer"
        return found


class Agent:
    """One principal at one server; legacy once it has said `hello`, modern with `modern=True`."""

    def __init__(self, guard: Serving, key: str, server: str = "desk", *, session: str = "") -> None:
        self.guard, self.key, self.server, self.session = guard, key, server, session
        self._ids = itertools.count(1)

    def hello(self) -> Self:
        """Begin a session."""
        heard = self.post({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": HELLO}).heard()
        assert heard.session, heard
        self.session = heard.session
        done = self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}).heard()
        assert (done.status, done.messages) == (202, [])
        return self

    def call(self, tool: str, arguments: Mapping[str, object], *, modern: bool = False) -> Answer:
        """Call a tool and wait for the answer."""
        return self.ask(tool, arguments, modern=modern).heard().answer

    def ask(
        self,
        tool: str,
        arguments: Mapping[str, object],
        *,
        number: str | int | None = None,
        modern: bool = False,
        accept: str = BOTH,
    ) -> Posted:
        """Call a tool and return while it is under way."""
        params: dict[str, object] = {"name": tool, "arguments": arguments}
        return self.request("tools/call", params, number=number, modern=modern, accept=accept)

    def request(
        self,
        method: str,
        params: dict[str, object],
        *,
        number: str | int | None = None,
        modern: bool = False,
        accept: str = BOTH,
    ) -> Posted:
        """Send a request and return while it is under way."""
        extra = {}
        if modern:
            params = {**params, "_meta": MODERN}
            extra = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
            extra |= {"Mcp-Name": str(params["name"])} if "name" in params else {}
        number = next(self._ids) if number is None else number
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        return self.post(message, accept=accept, extra=extra)

    def post(self, message: object, *, accept: str = BOTH, extra: Mapping[str, str] | None = None) -> Posted:
        """Send one message on a connection of its own."""
        connection = self.guard.connect()
        posted = Posted(connection)
        body = message if isinstance(message, bytes) else json.dumps(message).encode()

        def exchange() -> None:
            try:
                connection.request("POST", f"/mcp/{self.server}", body, self._headers(accept) | dict(extra or {}))
                posted.future.set_result(_read(connection.getresponse()))
            except GONE:
                posted.future.set_result(None)
            finally:
                connection.close()

        threading.Thread(target=exchange, daemon=True).start()
        return posted

    @contextmanager
    def listen(self) -> Iterator[http.client.HTTPResponse]:
        """Open the event stream of the session."""
        with closing(self.guard.connect()) as connection:
            connection.request("GET", f"/mcp/{self.server}", headers=self._headers("text/event-stream"))
            with closing(connection.getresponse()) as answer:
                yield answer

    def end(self) -> int:
        """End the session; the status."""
        with closing(self.guard.connect()) as connection:
            connection.request("DELETE", f"/mcp/{self.server}", headers=self._headers(BOTH))
            return connection.getresponse().status

    def _headers(self, accept: str) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", "Accept": accept}
        return headers | ({"Mcp-Session-Id": self.session} if self.session else {})


def next_message(stream: http.client.HTTPResponse) -> dict[str, Any]:
    """The next message of an event stream."""
    while line := stream.readline():
        if line.startswith(b"data: "):
            found: dict[str, Any] = json.loads(line[6:])
            return found
    raise AssertionError("the stream ended")


def _read(answer: http.client.HTTPResponse) -> Heard:
    kind, body = answer.headers.get("Content-Type", ""), answer.read()
    if kind.startswith("text/event-stream"):
        messages = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: ")]
    else:
        messages = [json.loads(body)] if body else []
    return Heard(answer.status, kind, answer.headers.get("Mcp-Session-Id", ""), messages)
