"""Tool servers that are child processes of `guard serve`, reached over HTTP by clients of both eras."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.agents import Agent, next_message
from tests.guards import PROMPT, Serving
from tests.world import World, until

TALKING = Path(__file__).parents[1] / "servers" / "talking_server.py"
GIT = Path(sys.executable).with_name("mcp-server-git")


POLICY = """\
server: {server}
default: {{sensitivity: internal}}
tools:
  "*": {{sensitivity: internal}}
  wipe: {{sensitivity: sensitive, require: step_up}}
"""


class Deployment(World):
    """A world whose servers have tags for every tool."""

    def __init__(self, folder: Path, *, hold: float = 0, more: str = "", servers: tuple[str, ...] = ("desk",)) -> None:
        super().__init__(folder, hold=hold, more=more)
        for server in servers:
            self.write_policy(server, text=POLICY.format(server=server))

    def serve_with(self, section: str, settings: str) -> Serving:
        """Start `guard serve` with further settings in a section."""
        self.serve().kill()
        self.file.write_text(self.file.read_text().replace(f"[{section}]\n", f"[{section}]\n{settings}\n"))
        return self.serve()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One deployment for everything that leaves it as it was."""
    folder = tmp_path_factory.mktemp("hosted")
    repository = folder / "repository"
    subprocess.run(["git", "init", "-q", repository], check=True)
    (folder / "world").mkdir()
    more = (
        f"[servers.git]\ncommand = {json.dumps([str(GIT), '--repository', str(repository)])}\n"
        f"[servers.talking]\ncommand = {json.dumps([sys.executable, str(TALKING)])}\n"
        f"[servers.missing]\ncommand = ['{folder}/no-such-program']\n"
    )
    servers = ("desk", "git", "talking", "missing")
    with Deployment(folder / "world", more=more, servers=servers) as made:
        yield made


@pytest.fixture(scope="module")
def guard(world: World) -> Serving:
    """The guard of that deployment."""
    return world.serve()


def said(guard: Serving, event: str) -> list[dict[str, Any]]:
    """What the guard logged under a name."""
    lines = [json.loads(line) for line in guard.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or before it was read
        return False


def notifications(world: World, method: str) -> list[dict[str, Any]]:
    """The notifications of a method the tool server journalled."""
    lines = [json.loads(line) for line in world.journal.read_text().splitlines()]
    return [line for line in lines if line.get("notification") == method]


# ------------------------------------------------------------------ real clients


def bearer(world: World, name: str) -> dict[str, str]:
    """The headers of an agent of one test: a key that other software used before would be doubted."""
    return {"Authorization": f"Bearer {world.add_agent(name)}"}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
async def test_real_clients_of_both_eras_use_a_real_server(
    world: World, guard: Serving, mode: str, version: str
) -> None:
    url, headers = f"http://{guard.config.proxy.listen}/mcp/git", bearer(world, f"real-{mode}")
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        assert client.protocol_version == version
        assert "git_status" in {tool.name for tool in (await client.list_tools()).tools}
        repository = str(Path(world.folder).parent / "repository")
        result = await client.call_tool("git_status", {"repo_path": repository})
        assert not result.is_error, result


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_modern_client_falls_back_before_a_legacy_server(world: World, guard: Serving) -> None:
    url, headers = f"http://{guard.config.proxy.listen}/mcp/desk", bearer(world, "fallback")
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode="auto") as client,
    ):
        assert client.protocol_version == "2025-11-25"
        assert not (await client.call_tool("note", {"from": "fallback"})).is_error


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_progress_and_logs_reach_the_caller_they_belong_to(world: World, guard: Serving, mode: str) -> None:
    url, headers = f"http://{guard.config.proxy.listen}/mcp/talking", bearer(world, f"progress-{mode}")
    steps: list[float] = []
    logs: list[object] = []

    async def step(progress: float, _total: float | None, _message: str | None) -> None:
        steps.append(progress)

    async def logged(params: types.LoggingMessageNotificationParams) -> None:
        logs.append(params.data)

    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, logging_callback=logged) as client,
    ):
        await client.call_tool("count", {}, progress_callback=step)
        await client.call_tool("announce", {})
    assert steps == [1, 2, 3]
    assert logs == (["hear, hear"] if mode == "legacy" else [])  # a modern call asks for logs, or gets none


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_question_of_the_server_is_answered_by_the_session_that_called(world: World, guard: Serving) -> None:
    url, headers = f"http://{guard.config.proxy.listen}/mcp/talking", bearer(world, "asked")

    async def answer(_context: object, _params: object) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "ann"})

    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode="legacy", elicitation_callback=answer) as client,
    ):
        result = await client.call_tool("ask", {})
    assert isinstance(result.content[0], types.TextContent)
    assert result.content[0].text == "accept ann"


# ------------------------------------------------------------------ who hears what


def test_equal_ids_of_two_clients_never_cross(world: World, guard: Serving) -> None:
    other = world.add_agent("second")
    agents = [Agent(guard, world.key).hello(), Agent(guard, world.key).hello(), Agent(guard, other).hello()]
    asked = [agent.ask("slow", {"seconds": 0.3, "who": who}, number=7) for who, agent in enumerate(agents)]
    asked += [agents[0].ask("slow", {"seconds": 0.3, "who": who}, number=7, modern=True) for who in (3, 4)]
    for who, one in enumerate(asked):
        answer = one.heard().answer
        assert answer.body["id"] == 7
        assert json.loads(answer.text)["who"] == who
    ids = [line["id"] for line in world.ran() if line["tool"] == "slow"]
    assert 7 not in ids
    assert len(set(ids)) == len(ids)


def test_ids_and_numbers_come_back_as_they_were_spelled(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    raw = (
        b'{\r\n "params": {"arguments": {"id": 1.50, "t": "\xe2\x80\xa8"}, "name": "note"},\n'
        b' "id":\t"\\u0041", "method": "tools/call", "jsonrpc": "2.0"}'
    )
    answer = agent.post(raw).heard().answer
    assert answer.body["id"] == "A"
    assert json.loads(answer.text) == {"id": 1.5, "t": "\u2028"}


def test_the_answer_alone_is_json_and_with_more_it_is_a_stream(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    notice = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}})
    assert agent.ask("note", {}).heard().kind == "application/json"
    heard = agent.ask("say", {"line": notice}).heard()
    assert heard.kind == "text/event-stream"
    assert [message.get("method") for message in heard.messages] == ["notifications/message", None]
    assert agent.ask("note", {}, accept="text/event-stream").heard().kind == "text/event-stream"
    assert agent.ask("note", {}, accept="text/html").heard().status == 406


def test_what_no_answer_can_carry_is_kept_for_the_stream_of_the_session(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    notice = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}})
    assert agent.ask("say", {"line": notice}, accept="application/json").heard().kind == "application/json"
    with agent.listen() as stream:
        assert stream.status == 200
        assert next_message(stream)["params"]["data"] == "x"


def test_a_server_cannot_answer_for_another_call_or_session(world: World, guard: Serving) -> None:
    agent, other = Agent(guard, world.key).hello(), Agent(guard, world.key).hello()
    waiting = other.ask("slow", {"seconds": 0.5, "honest": True}, number=7)
    forged = json.dumps({"jsonrpc": "2.0", "id": 7, "result": {"content": [{"type": "text", "text": "forged"}]}})
    assert agent.call("say", {"line": forged}).ran
    assert agent.call("say", {"line": '{"jsonrpc":"2.0","id":1,"id":7,"result":{}}'}).ran
    assert agent.call("say", {"line": "[" * 5000}).ran
    assert agent.call("note", {}).ran
    assert "forged" not in waiting.heard().answer.text


def test_questions_to_calls_without_a_session_are_answered_by_the_guard(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key)
    assert agent.call("ask", {"who": "nobody"}, modern=True).ran
    until(lambda: '"code": -32601' in world.journal.read_text(), "the server was told that nobody can be asked")


def test_calls_without_a_session_are_served_to_legacy_clients_too(world: World, guard: Serving) -> None:
    assert Agent(guard, world.key).call("note", {"sessionless": True}).ran


def test_a_program_that_cannot_be_started_is_a_refusal_and_not_the_end(world: World, guard: Serving) -> None:
    answer = Agent(guard, world.key, "missing").call("note", {}, modern=True)
    assert answer.result["isError"]
    assert Agent(guard, world.key).call("note", {"after": "missing"}, modern=True).ran


# ------------------------------------------------------------------ sessions


def test_a_session_belongs_to_its_principal_and_ends_when_it_is_deleted(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    thief = Agent(guard, world.add_agent("thief"), session=agent.session)
    assert thief.ask("note", {"stolen": True}).heard().status == 404
    with thief.listen() as stream:
        assert stream.status == 404
    assert thief.end() == 404
    assert Agent(guard, world.key, session="s_made-up").ask("note", {}).heard().status == 404
    assert agent.call("note", {"mine": True}).ran
    assert agent.end() == 200
    assert agent.ask("note", {}).heard().status == 404
    assert world.runs("note", {"stolen": True}) == 0


def test_a_request_twice_in_flight_under_one_id_is_refused(world: World, guard: Serving) -> None:
    agent, go_on = Agent(guard, world.key).hello(), world.folder / "twice"
    first = agent.ask("slow", {"until": str(go_on)}, number="same")
    until(lambda: world.runs("slow", {"until": str(go_on)}), "the first is under way")
    assert agent.ask("note", {"n": "second"}, number="same").heard().status == 400
    go_on.touch()
    assert first.heard().answer.ran
    assert world.runs("note", {"n": "second"}) == 0


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_session_outlives_the_guard(tmp_path: Path, end: str) -> None:
    with Deployment(tmp_path) as world:
        first = world.serve_with("servers.desk", "max_memory = 512")
        agent = Agent(first, world.key).hello()
        assert agent.call("note", {"n": 1}).ran
        pid = said(first, "child.started")[0]["pid"]
        if end == "kill":
            first.kill()
        else:
            code, seconds = first.terminate()
            assert (code, seconds < PROMPT) == (0, True)
        until(lambda: not alive(pid), "its child is gone, one with a limit on memory too")
        agent.guard = world.serve()
        assert agent.call("note", {"n": 2}).ran
        world.check()


# ------------------------------------------------------------------ leaving and cancelling


def test_nothing_runs_after_the_caller_of_a_held_call_left(tmp_path: Path) -> None:
    with Deployment(tmp_path, hold=10) as world:
        guard = world.serve()
        agent = Agent(guard, world.key).hello()
        asked = agent.ask("wipe", {"n": 1})
        world.wait_for("challenge.opened")
        asked.leave()
        world.wait_for("call.concluded", count=3)
        challenge = world.challenges()[-1].id
        world.approve(challenge)
        assert world.runs("wipe", {"n": 1}) == 0
        assert agent.call("wipe", {"n": 1}).ran  # the approval serves the retry, once
        assert world.runs("wipe", {"n": 1}) == 1
        world.check()


def test_a_cancelled_call_that_is_held_never_runs(tmp_path: Path) -> None:
    with Deployment(tmp_path, hold=10) as world:
        guard = world.serve()
        agent = Agent(guard, world.key).hello()
        asked = agent.ask("wipe", {"n": 1}, number=5)
        world.wait_for("challenge.opened")
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
        assert agent.post(cancel).heard().status == 202
        assert "error" in asked.heard().messages[-1]
        world.approve(world.challenges()[-1].id)
        assert world.runs("wipe", {"n": 1}) == 0
        assert notifications(world, "notifications/cancelled") == []


def test_a_cancellation_reaches_the_server_under_the_id_it_knows(world: World, guard: Serving) -> None:
    agent = Agent(guard, world.key).hello()
    asked = agent.ask("mute", {"n": "legacy"}, number=5)
    until(lambda: world.runs("mute", {"n": "legacy"}), "the call is under way")
    assert (
        agent.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}).heard().status
        == 202
    )
    number = next(line["id"] for line in world.ran() if line["arguments"] == {"n": "legacy"})
    until(
        lambda: number in {one["params"]["requestId"] for one in notifications(world, "notifications/cancelled")},
        "the server hears of it",
    )
    assert "error" in asked.heard().messages[-1]


def test_leaving_cancels_a_modern_call(world: World, guard: Serving) -> None:
    asked = Agent(guard, world.key).ask("mute", {"n": "modern"}, modern=True)
    until(lambda: world.runs("mute", {"n": "modern"}), "the call is under way")
    asked.leave()
    number = next(line["id"] for line in world.ran() if line["arguments"] == {"n": "modern"})
    until(
        lambda: number in {one["params"]["requestId"] for one in notifications(world, "notifications/cancelled")},
        "the server hears of it",
    )


# ------------------------------------------------------------------ the life of children


def test_a_crash_in_a_call_is_told_recorded_and_healed(tmp_path: Path) -> None:
    with Deployment(tmp_path) as world:
        guard = world.serve()
        agent, other = Agent(guard, world.key).hello(), Agent(guard, world.key).hello()
        waiting = other.ask("slow", {"seconds": 1, "n": 1})
        crashed = agent.call("exit", {"code": 3})
        assert crashed.result["isError"]
        assert "the outcome is unknown" in crashed.text
        world.wait_for("child.ended")
        record = world.records("child.ended")[0]
        assert (record["server"], record["principal"], record["exit_code"], record["unanswered"]) == (
            "desk",
            "robot",
            3,
            1,
        )
        assert agent.call("note", {"n": 2}).ran  # in the same session, which was greeted anew
        assert waiting.heard().answer.ran
        world.check()


DEAF = """\
import json, signal, sys
hello = json.loads(sys.stdin.readline())
print(json.dumps({"jsonrpc": "2.0", "id": hello["id"], "result": {}}), flush=True)
signal.pause()
"""


def test_a_server_that_does_not_read_is_ended_and_started_anew_for_the_next_call(tmp_path: Path) -> None:
    deaf = f"[servers.deaf]\ncommand = {json.dumps([sys.executable, '-c', DEAF])}\nanswer_timeout = 0.5\n"
    with Deployment(tmp_path, more=deaf, servers=("desk", "deaf")) as world:
        guard = world.serve()
        agent = Agent(guard, world.key, "deaf")
        assert agent.call("note", {"text": "x" * 1_000_000}).result["isError"]
        world.wait_for("child.ended")
        agent.call("note", {"n": 1})
        assert len(said(guard, "child.started")) == 2
        assert [line["meaning"] for line in said(guard, "child.deaf")] == ["it does not read, and is killed"]


def test_of_many_calls_that_wait_for_a_server_that_hangs_only_the_first_wait_for_its_start(tmp_path: Path) -> None:
    mute = json.dumps([sys.executable, "-c", "import signal; signal.pause()"])
    hung = f"[servers.hung]\ncommand = {mute}\nconnect_timeout = 0.5\n"
    with Deployment(tmp_path, more=hung, servers=("desk", "hung")) as world:
        guard = world.serve()
        agent = Agent(guard, world.key, "hung")
        calls = [agent.ask("note", {"n": number}) for number in range(8)]
        told = [call.heard().answer.text for call in calls]
        assert any("does not answer its greeting" in text for text in told)
        assert any("several times in a row" in text for text in told)
        assert len(said(guard, "child.started")) < len(calls)
        world.wait_for("child.ended", count=2)


def test_a_server_that_keeps_crashing_is_left_alone_for_a_while(tmp_path: Path) -> None:
    with Deployment(tmp_path) as world:
        agent = Agent(world.serve(), world.key).hello()
        crashes = 0
        while "outcome is unknown" in (said := agent.call("exit", {"n": crashes}).text):
            crashes += 1
            assert crashes < 6  # pauses grow: a second is soon over on a busy machine, a quarter of a minute is not
            world.wait_for("child.ended", count=crashes)
        assert "several times in a row" in said
        assert crashes >= 2
        assert world.runs("exit", {"n": crashes}) == 0
        until(lambda: agent.call("note", {}).ran, "it is started again")


def test_a_child_beyond_its_memory_dies_and_nobody_else_does(tmp_path: Path) -> None:
    with Deployment(tmp_path) as world:
        guard = world.serve_with("servers.desk", "max_memory = 96")
        greedy, other = Agent(guard, world.key).hello(), Agent(guard, world.key).hello()
        waiting = other.ask("slow", {"seconds": 1, "n": 1})
        assert greedy.call("hoard", {"megabytes": 16}).text == "16"
        assert "outcome is unknown" in greedy.call("hoard", {"megabytes": 256}).text
        world.wait_for("child.ended")
        assert waiting.heard().answer.ran
        assert greedy.call("note", {"n": 2}).ran  # by a new child, in the same session
        until(lambda: any("MemoryError" in line["line"] for line in said(guard, "child.said")), "why is logged")
        world.check()


def test_idle_children_are_stopped_and_come_back(tmp_path: Path) -> None:
    with Deployment(tmp_path) as world:
        guard = world.serve_with("servers.desk", "idle_timeout = 0.3")
        agent = Agent(guard, world.key).hello()
        pid = said(guard, "child.started")[0]["pid"]
        until(lambda: not alive(pid), "the idle child is stopped")
        assert agent.call("note", {"n": 1}).ran
        assert world.records("child.ended") == []


def test_limits_hold_and_only_ones_own_idle_children_make_room(tmp_path: Path) -> None:
    with Deployment(tmp_path) as world:
        guard = world.serve_with("proxy", "max_children = 3\nmax_children_per_principal = 2")
        first, second, third = Agent(guard, world.key).hello(), Agent(guard, world.key).hello(), Agent(guard, world.key)
        go_on = tmp_path / "go on"
        busy = [agent.ask("slow", {"until": str(go_on)}) for agent in (first, second)]
        until(lambda: len(world.ran()) == 2, "both are busy")
        refused = third.request(
            "initialize",
            {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
        ).heard()
        assert "as the limits allow" in refused.answer.text
        assert not refused.session
        other = Agent(guard, world.add_agent("second")).hello()
        go_on.touch()
        assert all(one.heard().answer.ran for one in busy)
        third.hello()
        assert third.call("note", {"n": 3}).ran
        assert first.call("note", {"n": 4}).ran
        assert second.call("note", {"n": 5}).ran
        assert said(guard, "child.stopped")
        assert {line["principal"] for line in said(guard, "child.stopped")} == {"robot"}
        assert other.call("note", {"n": 6}).ran


def test_no_child_outlives_a_guard_that_is_killed_or_stopped(tmp_path: Path) -> None:
    with Deployment(tmp_path) as world:
        for end in ("kill", "terminate"):
            guard = world.serve()
            agents = [Agent(guard, world.key).hello() for _ in range(3)]
            grandchild = int(agents[0].call("spawn", {"end": end}).text)
            pending = agents[1].ask("mute", {"end": end})
            until(lambda end=end: world.runs("mute", {"end": end}), "a call is under way")
            pids = [line["pid"] for line in said(guard, "child.started")] + [grandchild]
            assert len(pids) == 4
            assert all(map(alive, pids))
            if end == "kill":
                guard.kill()
            else:
                code, seconds = guard.terminate()
                assert (code, seconds < PROMPT) == (0, True), seconds
                assert "outcome is unknown" in pending.heard().answer.text
            until(lambda pids=pids: not any(map(alive, pids)), "every child is gone")
        world.check()


def test_what_a_child_says_on_stderr_is_logged_without_secrets(world: World, guard: Serving) -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLE"
    agent = Agent(guard, world.key).hello()
    assert agent.call("warn", {"text": f"\x1b[31mred {key}"}).ran
    until(lambda: any("red" in line["line"] for line in said(guard, "child.said")), "the line is logged")
    logged = next(line["line"] for line in said(guard, "child.said") if "red" in line["line"])
    assert "\x1b" not in logged
    assert key not in logged


def test_the_ledger_covers_everything_that_ran(world: World, guard: Serving) -> None:
    assert Agent(guard, world.key).call("note", {"last": True}, modern=True).ran
    assert all(record["same_uid"] for record in world.records("decision.made") if record["server"] == "desk")
    assert world.verify().ok
