"""What a process keeps of agents and of tool servers that say much: little, whatever they say."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from guard.model import Json
from guard.proxy import param_headers
from guard.proxy.asking import handshake
from guard.proxy.conversation import BACKLOG, BACKLOG_BYTES, REPEATED_BYTES, Conversation, Key, Kind
from guard.proxy.link import Link
from guard.proxy.param_headers import ParamHeaders
from guard.proxy.pipes import Line
from guard.wire.message import Request

pytestmark = pytest.mark.anyio

KEY = Key("desk", "robot", Kind.SESSION, "s1")
NOBODY = cast("Link", None)  # notices and questions of a session never reach the link


class Stream:
    """An event stream of the session."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def hear(self, line: bytes) -> None:
        self.heard.append(line)


def request(method: str, params: dict[str, Json]) -> tuple[Request, bytes]:
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return Request(1, method, params, raw), raw


def notice(size: int) -> Line:
    params = {"level": "info", "data": "x" * size}
    return Line(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params}).encode())


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        ({"elicitation": {"url": {"more": "x"}, "form": {}}, "sampling": {"a": [1] * 9}}, {"elicitation": {"url": {}}}),
        ({"elicitation": {"form": {}}}, {"elicitation": {}}),
        ({"elicitation": {"url": True}}, {"elicitation": {}}),
        ({"elicitation": True, "roots": {}}, {}),
        ({"much": ["x"] * 9}, {}),
        ("everything", {}),
    ],
)
def test_of_a_handshake_only_what_the_guard_uses_is_kept(declared: Json, kept: Json) -> None:
    message, _ = request("initialize", {"protocolVersion": "2025-11-25", "capabilities": declared})
    assert handshake(message) == kept


async def test_a_greeting_too_long_to_keep_is_repeated_as_that_of_a_client_without_capabilities() -> None:
    conversation = Conversation(KEY)
    long = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x" * REPEATED_BYTES}}
    conversation.learn(*request("initialize", cast("dict[str, Json]", long)))
    hello: dict[str, Any] = json.loads(conversation.greeting)
    assert (hello["method"], hello["params"]["protocolVersion"]) == ("initialize", "2025-06-18")
    assert len(conversation.greeting) < 1000


async def test_a_backlog_is_bounded_by_its_bytes_and_the_newest_messages_stay() -> None:
    conversation, stream = Conversation(KEY), Stream()
    for _ in range(BACKLOG):
        conversation.take(NOBODY, notice(BACKLOG_BYTES // 4))
    conversation.take(NOBODY, newest := notice(1))
    conversation.listen(stream)
    assert stream.heard[-1] == newest.raw
    assert BACKLOG_BYTES // 2 < sum(map(len, stream.heard)) <= BACKLOG_BYTES


async def test_a_question_under_an_id_that_no_agent_can_answer_is_dropped() -> None:
    conversation, stream = Conversation(KEY), Stream()
    conversation.listen(stream)
    for size in (129, 128):
        asked = {"jsonrpc": "2.0", "id": "q" * size, "method": "roots/list"}
        conversation.take(NOBODY, Line(json.dumps(asked).encode()))
    assert [len(one) for one in conversation.asked] == [128]
    assert len(stream.heard) == 1


def test_schemas_of_new_tools_push_out_those_listed_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(param_headers, "_MAX_TOOLS", 2)
    params = ParamHeaders(lambda _server, _answer: None)
    for number in range(3):
        schema = {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
        tools = [{"name": f"tool{number}", "inputSchema": schema}]
        params.observe("desk", json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}).encode())
    assert [name for _, name in params._schemas] == ["tool1", "tool2"]
