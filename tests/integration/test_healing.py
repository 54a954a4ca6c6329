"""A legacy session that its tool server has lost is begun again by the guard, and the agent notices nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from guard.errors import LedgerUnavailableError, UpstreamError
from guard.proxy.exchange import Ending, Outcome
from guard.reasons import Code
from tests.integration.test_http_front import CALL, INITIALIZE, Permissive, Stage, Upstream, stage

pytestmark = pytest.mark.anyio

INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LEVEL = {"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "error"}}
SESSION = re.compile(rb"mcp-session-id: (\S+)")


def subscribe(uri: str) -> Mapping[str, object]:
    return {"jsonrpc": "2.0", "id": 3, "method": "resources/subscribe", "params": {"uri": uri}}


@pytest.fixture
def anyio_backend() -> str:
    """uvicorn is asyncio."""
    return "asyncio"


@dataclass
class Forgetful:
    """A tool server with sessions that it loses when told to."""

    sessions: set[bytes] = field(default_factory=set)
    said: list[tuple[str, str]] = field(default_factory=list)
    executed: list[object] = field(default_factory=list)
    last_events: list[bool] = field(default_factory=list)
    begun: int = 0
    together: int = 0
    most_together: int = 0
    revision: str = "2025-11-25"
    refuse: int = 0
    streams: bool = True
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    expected: int = 0
    all_asked: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.go_on.set()

    def restart(self) -> None:
        self.sessions.clear()
        self.said.clear()

    async def __call__(self, _upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        found = SESSION.search(head)
        session = found[1] if found else b""
        if head.startswith(b"GET"):
            self.last_events.append(b"last-event-id" in head)
            return await self.stream(session, writer)
        message = json.loads(body) if body else {}
        method = message.get("method", "DELETE" if head.startswith(b"DELETE") else "response")
        self.said.append((method, session.decode()))
        if self.expected and sum(method == "tools/call" for method, _ in self.said) == self.expected:
            self.all_asked.set()
        if method == "initialize":
            return await self.open(message, writer)
        if session not in self.sessions:
            return self.write(writer, "404 Not Found", b"{}")
        if method == "tools/call":
            self.executed.append(message["id"])
        result = {"jsonrpc": "2.0", "id": message.get("id"), "result": {"content": []}}
        if "id" in message and "method" in message:
            return self.write(writer, "200 OK", json.dumps(result).encode(), session)
        return self.write(writer, "202 Accepted", b"", session)

    async def open(self, message: Mapping[str, object], writer: asyncio.StreamWriter) -> None:
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        self.waiting.set()
        await self.go_on.wait()
        self.together -= 1
        if self.refuse:
            return self.write(writer, f"{self.refuse} No", b"{}")
        self.begun += 1
        session = b"up-%d" % self.begun
        self.sessions.add(session)
        result = {"jsonrpc": "2.0", "id": message["id"], "result": {"protocolVersion": self.revision}}
        return self.write(writer, "200 OK", json.dumps(result).encode(), session)

    async def stream(self, session: bytes, writer: asyncio.StreamWriter) -> None:
        if session not in self.sessions or not self.streams:
            return self.write(writer, "404 Not Found", b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: alive\n\n")
        writer.close()
        return None

    @staticmethod
    def write(writer: asyncio.StreamWriter, status: str, body: bytes, session: bytes = b"") -> None:
        lines = b"Content-Length: %d\r\n" % len(body) + (b"Mcp-Session-Id: %b\r\n" % session if session else b"")
        writer.write(b"HTTP/1.1 " + status.encode() + b"\r\n" + lines + b"\r\n" + body)


async def opened(guard: Stage) -> str:
    """A session with everything that sets one up, as the agent knows it."""
    _, head, _ = await guard.call(INITIALIZE)
    found = SESSION.search(head)
    assert found is not None
    session = f"Mcp-Session-Id: {found[1].decode()}"
    version = "MCP-Protocol-Version: 2025-11-25"
    for message in (INITIALIZED, LEVEL, subscribe("a://1"), subscribe("a://2")):
        assert (await guard.call(message, session, version))[0] in {200, 202}
    return session


async def test_a_lost_session_is_set_up_again_and_the_refused_call_runs_once() -> None:
    handler, tools = Permissive(), Forgetful()
    async with stage(handler, Upstream(tools)) as guard:
        session = await opened(guard)
        tools.restart()
        status, head, body = await guard.call(CALL, session)
        assert (status, json.loads(body)["id"]) == (200, 7)
        assert b"mcp-session-id: up-1" in head
        assert tools.executed == [7]
        assert tools.said == [
            ("tools/call", "up-1"),
            ("initialize", ""),
            ("notifications/initialized", "up-2"),
            ("logging/setLevel", "up-2"),
            ("resources/subscribe", "up-2"),
            ("resources/subscribe", "up-2"),
            ("tools/call", "up-2"),
        ]
        assert guard.recorded == ["session.lost", "session.healed"]
        assert (await guard.call(CALL, session))[0] == 200
        assert tools.said[-1] == ("tools/call", "up-2")
        assert handler.outcomes[-2:] == [Outcome(ending=Ending.OK, result_bytes=len(body), status=200)] * 2


async def test_a_session_is_healed_as_often_as_it_is_lost_and_ends_when_the_agent_ends_it() -> None:
    tools = Forgetful()
    async with stage(Permissive(), Upstream(tools)) as guard:
        session = await opened(guard)
        for _ in range(3):
            tools.restart()
            assert (await guard.call(CALL, session))[0] == 200
        assert len(guard.sessions.owners) == 2
        assert (await guard.send(guard.request(b"", session, method="DELETE")))[0] == 202
        assert tools.said[-1] == ("DELETE", "up-4")
        assert guard.sessions.owners == {}
        assert (await guard.call(CALL, session))[0] == 404


async def test_all_who_find_the_session_lost_wait_for_one_healing() -> None:
    tools = Forgetful(expected=20)
    async with stage(Permissive(), Upstream(tools)) as guard:
        session = await opened(guard)
        tools.restart()
        tools.go_on.clear()
        calls = [asyncio.create_task(guard.call({**CALL, "id": n}, session)) for n in range(20)]
        await tools.all_asked.wait()
        tools.go_on.set()
        assert {status for status, _, _ in await asyncio.gather(*calls)} == {200}
        assert (tools.begun, tools.most_together) == (2, 1)
        assert sorted(map(str, tools.executed)) == sorted(map(str, range(20)))


async def test_other_sessions_and_principals_are_not_touched_by_a_healing() -> None:
    tools = Forgetful()
    async with stage(Permissive(), Upstream(tools)) as guard:
        mine = await opened(guard)
        _, head, _ = await guard.call(INITIALIZE, key="KEY-b")
        assert b"mcp-session-id: up-2" in head
        tools.sessions.discard(b"up-1")
        tools.said.clear()
        assert (await guard.call(CALL, mine))[0] == 200
        assert (await guard.call(CALL, "Mcp-Session-Id: up-2", key="KEY-b"))[0] == 200
        assert tools.said[-1] == ("tools/call", "up-2")
        assert (await guard.call(CALL, "Mcp-Session-Id: up-3", key="KEY-b"))[0] == 404


@pytest.mark.parametrize("trouble", ["refuses", "speaks another revision", "gives a foreign session"])
async def test_a_session_that_cannot_be_begun_again_is_a_refusal_within_it_and_never_a_404(trouble: str) -> None:
    handler, tools = Permissive(), Forgetful()
    async with stage(handler, Upstream(tools)) as guard:
        session = await opened(guard)
        tools.restart()
        if trouble == "refuses":
            tools.refuse = 503
        elif trouble == "gives a foreign session":
            guard.sessions.owners["pay", "up-2"] = "b"
        else:
            tools.revision = "2025-06-18"
        status, _, body = await guard.call(CALL, session)
        assert (status, "error" in json.loads(body)) == (200, True)
        error = handler.outcomes[-1]
        assert isinstance(error, UpstreamError)
        assert (error.sent, error.reason) == (False, Code.SESSION_LOST)
        assert tools.executed == []
        tools.refuse, tools.revision = 0, "2025-11-25"
        guard.sessions.owners.pop(("pay", "up-2"), None)
        assert (await guard.call(CALL, session))[0] == 200
        assert tools.executed == [7]


async def test_an_answer_or_a_cancellation_of_the_lost_session_is_not_sent_into_the_new_one() -> None:
    tools = Forgetful()
    async with stage(Permissive(), Upstream(tools)) as guard:
        session = await opened(guard)
        tools.restart()
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        said = {"jsonrpc": "2.0", "id": "q", "result": {}}
        for message in (cancel, said):
            assert (await guard.call(message, session))[0] == 202
        assert tools.said == [("notifications/cancelled", "up-1"), ("response", "up-1")]
        assert (await guard.send(guard.request(b"", session, method="DELETE")))[0] == 200
        assert guard.sessions.owners == {}


async def test_the_event_stream_of_a_lost_session_is_opened_in_the_new_one_without_old_event_ids() -> None:
    tools = Forgetful()
    async with stage(Permissive(), Upstream(tools)) as guard:
        session = await opened(guard)
        tools.restart()
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
            writer.write(guard.request(b"", session, "Last-Event-ID: 9", method="GET"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head
            writer.close()
        assert tools.last_events == [True, False, True]
        assert ("initialize", "") in tools.said


async def test_a_server_without_event_streams_is_not_taken_for_one_that_lost_the_session() -> None:
    tools = Forgetful(streams=False)
    async with stage(Permissive(), Upstream(tools)) as guard:
        session = await opened(guard)
        status, _, _ = await guard.send(guard.request(b"", session, method="GET"))
        assert (status, tools.begun, tools.said[-1]) == (405, 1, ("ping", "up-1"))


async def test_a_session_the_guard_has_no_memory_of_is_answered_as_the_server_answers_it() -> None:
    tools = Forgetful()
    async with stage(Permissive(), Upstream(tools)) as guard:
        guard.sessions.bind("pay", "old", "a", 0.0)
        assert (await guard.call(CALL, "Mcp-Session-Id: old"))[0] == 404
        assert tools.begun == 0


async def test_a_caller_who_leaves_while_the_session_is_healed_gets_nothing_executed() -> None:
    handler, tools = Permissive(), Forgetful()
    async with stage(handler, Upstream(tools)) as guard:
        session = await opened(guard)
        tools.restart()
        tools.go_on.clear()
        tools.waiting.clear()
        handler.done.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        writer.write(guard.request(json.dumps(CALL).encode(), session))
        await tools.waiting.wait()
        writer.close()
        await writer.wait_closed()
        status, _, _ = await guard.call({"jsonrpc": "2.0", "id": 1, "method": "ping"})  # the guard has seen the end
        assert status in {200, 404}
        tools.go_on.set()
        await asyncio.wait_for(handler.done.wait(), 15)
        assert tools.executed == []
        assert (await guard.call(CALL, session))[0] == 200
        assert tools.executed == [7]


async def test_nothing_is_begun_again_without_a_record() -> None:
    tools = Forgetful()
    async with stage(Permissive(), Upstream(tools)) as guard:
        session = await opened(guard)
        tools.restart()
        guard.front._healer._record = unwritable
        assert (await guard.call(CALL, session))[0] == 500
        assert tools.said == [("tools/call", "up-1")]


def unwritable(event: str, fields: object) -> None:
    raise LedgerUnavailableError(detail=f"{event} {fields}")
