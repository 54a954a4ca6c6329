"""Running guards and the agents that talk to them: raw MCP on a socket or on a pipe, nothing in between."""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from guard.config import Config
from tests.launching import Launched

PATIENCE = 25.0
"""Seconds until a test gives up on an answer."""
PROMPT = 10.0
"""Seconds for what happens at once, on a machine that other tests keep busy; whatever could hold it up takes longer."""
GONE = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Answer:
    """What came back for one message."""

    body: Mapping[str, Any]
    status: int = 200

    @property
    def result(self) -> Mapping[str, Any]:
        return self.body.get("result", {})

    @property
    def ran(self) -> bool:
        """Whether the tool server answered without an error."""
        return bool(self.result) and not self.result.get("isError")

    @property
    def challenge(self) -> str:
        """The id of the challenge a paused call waits for; empty when it is not paused."""
        return str(self.result.get("_meta", {}).get("guard/challenge", {}).get("id", ""))

    @property
    def text(self) -> str:
        """What the agent reads."""
        blocks = self.result.get("content") or [{"text": self.body.get("error", {}).get("message", "")}]
        return str(blocks[0]["text"])


class Asked:
    """A call under way. `leave` is the agent giving up on it."""

    def __init__(self, leave: Callable[[], object]) -> None:
        self.leave = leave
        self.future: Future[Answer | None] = Future()

    def answer(self) -> Answer:
        """The answer, which must come."""
        found = self.future.result(PATIENCE)
        assert found is not None, "the guard left without an answer"
        return found

    def unanswered(self) -> bool:
        """Wait for the end of it; whether it ended without an answer."""
        return self.future.result(PATIENCE) is None


class Guard:
    """One running guard process."""

    def __init__(self, process: Launched, log: Path, state: Path) -> None:
        self.process, self.log = process, log
        self._socket = state / "run" / f"{process.pid}.sock"
        self._ids = itertools.count(1)

    def ask(self, tool: str, arguments: Mapping[str, object], **where: str) -> Asked:
        """Send a tools/call and return while it is under way; `where` is for HTTP: another `key` or `source`."""
        raise NotImplementedError

    def call(self, tool: str, arguments: Mapping[str, object], **where: str) -> Answer:
        """Send a tools/call and wait for its answer."""
        return self.ask(tool, arguments, **where).answer()

    def request(self, method: str, params: Mapping[str, object]) -> Answer:
        """Send another request and wait for its answer."""
        raise NotImplementedError

    def prove(self, challenge: str, evidence: Mapping[str, str]) -> bool:
        """Send a proof to this guard's API on its local socket; False when it died of it."""
        connection = _LocalConnection(self._socket)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/v1/challenges/{challenge}/proofs", json.dumps(evidence), headers)
            answer = connection.getresponse()
            body = answer.read()
        except GONE:
            return False
        finally:
            connection.close()
        assert answer.status == 200, body
        return True

    def died(self) -> bool:
        """Wait for the end of the process; whether it was killed."""
        return self.process.wait(PATIENCE) == -signal.SIGKILL

    def children(self) -> list[psutil.Process]:
        """Every process it started, and theirs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        """End it without warning."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def terminate(self) -> tuple[int, float]:
        """Send SIGTERM; the exit code and the seconds until then."""
        began = time.monotonic()
        self.process.terminate()
        code = self.process.wait(PATIENCE)
        return code, time.monotonic() - began

    def close(self) -> None:
        """Kill what is left."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _message(self, method: str, params: Mapping[str, object]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}


class Serving(Guard):
    """`guard serve`, and agents that call it over HTTP."""

    def __init__(self, process: Launched, log: Path, state: Path, config: Config, key: str) -> None:
        super().__init__(process, log, state)
        self.config, self._key = config, key

    def wait_ready(self, until: Callable[..., None]) -> None:
        """Wait until the health check says that calls are taken."""
        until(self._ready, "guard serve is ready", within=PATIENCE)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        connection = http.client.HTTPConnection(self.config.console.host, self.config.console.port, timeout=PATIENCE)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except GONE:
            return False
        finally:
            connection.close()

    def ask(self, tool: str, arguments: Mapping[str, object], **where: str) -> Asked:
        """Send a tools/call on a connection of its own, with this `key`, from this `source` address."""
        connection = self.connect(where.get("source", "127.0.0.1"))
        asked = Asked(lambda: connection.sock.shutdown(socket.SHUT_RDWR))
        message = self._message("tools/call", {"name": tool, "arguments": arguments})

        def exchange() -> None:
            asked.future.set_result(self._post(connection, message, where.get("key", "")))

        threading.Thread(target=exchange, daemon=True).start()
        return asked

    def request(self, method: str, params: Mapping[str, object]) -> Answer:
        """Send another request and wait for its answer."""
        found = self._post(self.connect(), self._message(method, params), "")
        assert found is not None
        return found

    @contextmanager
    def event_stream(self) -> Iterator[None]:
        """Begin a session and keep its event stream open."""
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        with closing(self.connect()) as connection:
            connection.request("POST", "/mcp/web", json.dumps(self._message("initialize", hello)), self._headers(""))
            session = connection.getresponse().headers["Mcp-Session-Id"]
        with closing(self.connect()) as connection:
            connection.request("GET", "/mcp/web", headers=self._headers("") | {"Mcp-Session-Id": session})
            with connection.getresponse() as stream:
                assert (stream.status, stream.readline()) == (200, b": alive\n")
                yield

    def wait_on_console(self) -> socket.socket:
        """Have a request wait for news of challenges, as a console page does."""
        made = socket.create_connection((self.config.console.host, self.config.console.port))
        made.sendall(b"GET /v1/challenges?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return made

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPConnection:
        """A connection to the MCP endpoint."""
        made = http.client.HTTPConnection(
            self.config.proxy.host, self.config.proxy.port, timeout=PATIENCE, source_address=(source, 0)
        )
        made.connect()
        return made

    def _post(self, connection: http.client.HTTPConnection, message: object, key: str) -> Answer | None:
        """The answer, or None when the connection ended before it."""
        try:
            connection.request("POST", "/mcp/web", json.dumps(message), self._headers(key))
            answer = connection.getresponse()
            raw, kind = answer.read(), answer.headers.get_content_type()
            return Answer(json.loads(raw) if kind == "application/json" else {}, answer.status)
        except GONE:
            return None
        finally:
            connection.close()

    def _headers(self, key: str) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {key or self._key}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }


class Running(Guard):
    """`guard run`, and the agent at its pipes."""

    def __init__(self, process: Launched, log: Path, state: Path) -> None:
        super().__init__(process, log, state)
        self._waiting: dict[int, Asked] = {}
        self._lock, self._ended = threading.Lock(), False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, tool: str, arguments: Mapping[str, object], **where: str) -> Asked:
        """Write a tools/call; the key and the place of the agent are those of the process."""
        assert not where
        return self._send("tools/call", {"name": tool, "arguments": arguments})

    def request(self, method: str, params: Mapping[str, object]) -> Answer:
        """Send another request and wait for its answer."""
        return self._send(method, params).answer()

    def end_input(self) -> None:
        """Close the guard's stdin, as an agent that leaves does."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        """Kill what is left."""
        self.process.kill()
        self._reader.join(PATIENCE)
        super().close()

    def _send(self, method: str, params: Mapping[str, object]) -> Asked:
        message = self._message(method, params)
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": message["id"]}}
        asked = Asked(lambda: self._write(cancel))
        with self._lock:
            self._waiting[message["id"]] = asked
            ended = self._ended
        if ended:
            asked.future.set_result(None)
        else:
            with suppress(OSError):  # it died: the reader says so to everybody
                self._write(message)
        return asked

    def _write(self, message: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def _read(self) -> None:
        """Give every answer to the call it belongs to; at the end, nothing to the others."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            body = json.loads(line)
            with self._lock:
                asked = self._waiting.pop(body.get("id"), None)
            if asked is not None:
                asked.future.set_result(Answer(body))
        with self._lock:
            self._ended, left = True, list(self._waiting.values())
            self._waiting.clear()
        for asked in left:
            asked.future.set_result(None)


class _LocalConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))
