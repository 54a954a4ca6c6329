"""A broken connection loses no answer of a tool server on stdio (2025-11-25, resumability)."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
import mcp_types as types
import pytest
from anyio.abc import SocketStream
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.agents import Agent
from tests.guards import Serving
from tests.world import World, until

VERSION = {"MCP-Protocol-Version": "2025-11-25"}

POLICY = """\
server: {server}
default: {sensitivity: internal}
tools:
  "*": {sensitivity: internal}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One deployment for everything that leaves it as it was."""
    with World(tmp_path_factory.mktemp("resumption")) as made:
        made.write_policy("desk", POLICY)
        yield made


@pytest.fixture(scope="module")
def guard(world: World) -> Serving:
    """The guard of that deployment."""
    return world.serve()


@dataclass
class Event:
    """One event of a stream."""

    id: str
    retry: str
    data: str

    @property
    def message(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.data)
        return found


def events(stream: http.client.HTTPResponse) -> Iterator[Event]:
    """The events of a stream, to its end; comments are none."""
    fields: dict[str, str] = {}
    while line := stream.readline().decode():
        name, _, value = line.rstrip("\n").partition(": ")
        if line == "\n" and fields:
            yield Event(fields.get("id", ""), fields.get("retry", ""), fields.get("data", ""))
            fields = {}
        elif name in {"id", "retry", "data"}:
            fields[name] = value


@contextmanager
def posting(
    agent: Agent, tool: str, arguments: dict[str, object], *, number: int = 7
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a call, as it comes; leaving breaks the connection."""
    params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"}}
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
    headers = agent._headers("application/json, text/event-stream") | VERSION
    with closing(agent.guard.connect()) as connection:
        connection.request("POST", f"/mcp/{agent.server}", body, headers)
        with closing(connection.getresponse()) as answer:
            yield answer


@contextmanager
def resuming(agent: Agent, last: str) -> Iterator[http.client.HTTPResponse]:
    """What a client hears that comes back with the id of the last event it saw; "" opens the session's own stream."""
    headers = agent._headers("text/event-stream") | VERSION | ({"Last-Event-ID": last} if last else {})
    with closing(agent.guard.connect()) as connection:
        connection.request("GET", f"/mcp/{agent.server}", headers=headers)
        with closing(connection.getresponse()) as answer:
            yield answer


def notice(word: str) -> dict[str, object]:
    """Arguments that make the tool server say something of its own accord."""
    params = {"level": "info", "data": word}
    return {"line": json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params})}


def test_an_answer_that_takes_its_time_can_be_fetched_after_the_connection_broke(
    world: World, guard: Serving, tmp_path: Path
) -> None:
    agent, go_on = Agent(guard, world.key).hello(), tmp_path / "broken"
    with posting(agent, "slow", {"until": str(go_on)}) as answer:
        primer = next(events(answer))
    assert (primer.data, primer.retry) == ("", "1000")
    go_on.touch()
    with resuming(agent, primer.id) as stream:
        [event] = events(stream)
    assert event.message["id"] == 7
    assert "broken" in event.data
    with resuming(agent, primer.id) as stream:  # and once more, if that connection broke too
        assert [one.data for one in events(stream)] == [event.data]
    with resuming(agent, event.id) as stream:
        assert list(events(stream)) == []
    assert world.runs("slow", {"until": str(go_on)}) == 1
    world.check()


def test_only_what_came_after_the_last_event_is_said_again(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    with posting(agent, "narrate", {"steps": 3}) as answer:
        primer, *steps, last = events(answer)
    assert primer.data == ""
    assert [one.message.get("method") for one in (*steps, last)] == [*["notifications/progress"] * 3, None]
    with resuming(agent, steps[1].id) as stream:
        assert list(events(stream)) == [steps[2], last]
    assert len({one.id for one in (primer, *steps, last)}) == 5


def test_the_sessions_own_stream_goes_on_where_it_broke_off(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    agent.ask("say", notice("first"), accept="application/json").heard()
    with resuming(agent, "") as stream:
        heard = events(stream)
        primer, first = next(heard), next(heard)
        assert "first" in first.data
        agent.ask("say", notice("second"), accept="application/json").heard()
    agent.ask("say", notice("third"), accept="application/json").heard()
    with resuming(agent, first.id) as stream:
        heard = events(stream)
        assert ["second" in next(heard).data, "third" in next(heard).data] == [True, True]
    with resuming(agent, primer.id) as stream:
        heard = events(stream)
        assert [next(heard).message["params"] for _ in range(3)] == [
            {"level": "info", "data": word} for word in ("first", "second", "third")
        ]


def test_a_client_that_comes_back_takes_the_stream_over(world: World, guard: Serving, tmp_path: Path) -> None:
    agent, go_on = Agent(guard, world.key).hello(), tmp_path / "twice"
    with posting(agent, "slow", {"until": str(go_on)}) as answer:
        heard = events(answer)
        primer = next(heard)
        with resuming(agent, primer.id) as stream:
            go_on.touch()
            [event] = events(stream)
            assert "twice" in event.data
        with suppress(http.client.HTTPException, OSError):
            assert list(heard) == []  # no message is said on two streams


def test_an_answer_that_is_not_kept_is_told_and_not_waited_for(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.write_policy("desk", POLICY)
        first = world.serve()
        agent = Agent(first, world.key).hello()
        with posting(agent, "slow", {"until": str(tmp_path / "never")}) as answer:
            primer = next(events(answer))
            first.kill()
        again = Agent(world.serve(), world.key, session=agent.session)
        with resuming(again, primer.id) as stream:
            [event] = events(stream)
        assert event.message["id"] == 7
        assert event.message["result"]["isError"] is True  # type: ignore[index]
        assert "the outcome is unknown" in event.data


def test_an_answer_is_its_sessions_own(world: World, guard: Serving, tmp_path: Path) -> None:
    agent, other = Agent(guard, world.key).hello(), Agent(guard, world.key).hello()
    with posting(agent, "slow", {"until": str(tmp_path / "mine")}) as answer:
        heard = events(answer)
        primer = next(heard)
        (tmp_path / "mine").touch()
        [last] = heard
    assert "mine" in last.data
    with resuming(other, primer.id) as stream:
        assert ["mine" in one.data for one in events(stream)] == [False]
    with resuming(Agent(guard, world.add_agent("thief"), session=agent.session), primer.id) as stream:
        assert stream.status == 404
    agent.end()
    with resuming(agent, primer.id) as stream:
        assert stream.status == 404


@pytest.mark.parametrize("last", ["", "x", "s0-1", "c0123456789abcdef.!-1", "c0123456789abcdef.bnVsbA-0"])
def test_an_id_that_no_stream_has_opens_the_sessions_own(world: World, guard: Serving, last: str) -> None:
    agent = Agent(guard, world.key).hello()
    with resuming(agent, last) as stream:
        assert next(events(stream)).data == ""


def test_a_client_of_an_older_revision_gets_no_event_it_would_stumble_over(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    heard = agent.ask("slow", {"seconds": 0.2}).heard()
    assert heard.kind == "application/json"
    modern = agent.ask("slow", {"seconds": 0.2}, modern=True).heard()
    assert modern.kind == "application/json"


def test_a_cancelled_call_is_not_resumed(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    with posting(agent, "slow", {"seconds": 30}) as answer:
        primer = next(events(answer))
    agent.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}).heard()
    with resuming(agent, primer.id) as stream:
        assert not any("seconds" in one.data for one in events(stream))
    until(lambda: any(r.get("outcome") == "unknown" for r in world.records("call.concluded")), "the call is concluded")


def test_a_crash_after_the_connection_broke_is_told_to_the_client_that_comes_back(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    with posting(agent, "slow", {"seconds": 30, "who": "crash"}) as answer:
        primer = next(events(answer))
    agent.call("exit", {})
    with resuming(agent, primer.id) as stream:
        [event] = events(stream)
    assert event.message["id"] == 7
    assert "FAILED, perhaps executed" in event.data


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_real_client_gets_its_answer_over_a_connection_that_is_cut(
    world: World, guard: Serving, tmp_path: Path
) -> None:
    cut, go_on = anyio.Event(), tmp_path / "cut"

    async def answer() -> None:
        await cut.wait()
        go_on.touch()

    async def pump(source: SocketStream, sink: SocketStream, *, answers: bool) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with source, sink:
                async for piece in source:
                    await sink.send(piece)
                    if answers and b"id: c" in piece and not cut.is_set():
                        cut.set()
                        return

    async def carry(client: SocketStream) -> None:
        server = await anyio.connect_tcp(guard.config.proxy.host, guard.config.proxy.port)
        async with anyio.create_task_group() as both:
            both.start_soon(lambda: pump(client, server, answers=False))
            both.start_soon(lambda: pump(server, client, answers=True))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, carry)
        group.start_soon(answer)
        headers = {"Authorization": f"Bearer {world.key}", "Host": guard.config.proxy.listen}
        with anyio.fail_after(30):
            async with (
                httpx2.AsyncClient(headers=headers, timeout=30) as http,
                Client(
                    streamable_http_client(f"http://127.0.0.1:{port}/mcp/desk", http_client=http), mode="legacy"
                ) as client,
            ):
                result = await client.call_tool("slow", {"until": str(go_on)})
        assert cut.is_set()
        assert isinstance(result.content[0], types.TextContent)
        assert "cut" in result.content[0].text
        group.cancel_scope.cancel()
    assert world.runs("slow", {"until": str(go_on)}) == 1
