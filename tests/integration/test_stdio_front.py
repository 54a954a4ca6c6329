"""The stdio front with real tool servers in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from structlog.testing import capture_logs

from guard.config import Config, Server
from guard.errors import ConfigError, UpstreamError, WireError
from guard.model import Principal, Source
from guard.proxy.child import Child
from guard.proxy.exchange import Arrival, Ending, Exchange, Outcome
from guard.proxy.pipes import Lines, PipeReader, PipeWriter
from guard.proxy.stdio import StdioFront
from guard.reasons import Code
from guard.wire import reply
from guard.wire.decode import Request
from tests.guards import PATIENCE, PROMPT
from tests.world import all_gone, until

pytestmark = pytest.mark.anyio

SERVERS = Path(__file__).parent.parent / "servers"
ROBOT = Principal(subject="robot", credential="0" * 16)
MIB = 1024 * 1024


class Gate:
    """A pipeline in small: holds `wipe` until it is approved or its caller leaves, forwards the rest."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.outcomes: list[Outcome] = []
        self.failures: list[UpstreamError] = []
        self.refusals: list[WireError] = []
        self.left: list[str | int] = []
        self.holding = anyio.Event()
        self.approval = anyio.Event()
        self.ended = anyio.Event()

    async def handle(self, arrival: Arrival, exchange: Exchange) -> None:
        self.arrivals.append(arrival)
        message = arrival.message
        if isinstance(message, Request) and message.params.get("name") == "wipe":
            await self._hold(exchange)
            if exchange.gone:
                self.left.append(message.id)
                return
        try:
            self.outcomes.append(await exchange.forward())
        except UpstreamError as error:
            self.failures.append(error)
            if isinstance(message, Request) and not exchange.gone:
                await exchange.answer(reply.refused(message.id, arrival.era, text=error.public, method=message.method))
        if isinstance(message, Request) and message.params.get("name") == "mute":
            self.ended.set()

    async def _hold(self, exchange: Exchange) -> None:
        self.holding.set()
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await exchange.wait_gone()
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self.approval.wait()
            group.cancel_scope.cancel()

    def refused(self, *, server: str, source: Source, principal: Principal | None, error: Exception) -> None:
        assert (server, source.transport, principal) == ("journal", "stdio", ROBOT)
        assert isinstance(error, WireError)
        self.refusals.append(error)


class Agent:
    """The agent's end of the two pipes."""

    def __init__(self, stdin: PipeWriter, stdout: PipeReader, journal: Path, front: StdioFront) -> None:
        self._stdin, self._stdout, self._lines = stdin, stdout, Lines(stdout, 64 * MIB)
        self._journal, self.front = journal, front
        self.returned = anyio.Event()
        self.code: int | None = None

    async def write(self, line: str | bytes) -> None:
        await self._stdin.send((line.encode() if isinstance(line, str) else line) + b"\n")

    async def call(self, request_id: str | int, tool: str, **arguments: object) -> None:
        params = {"name": tool, "arguments": arguments}
        await self.write(json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}))

    async def cancel(self, request_id: str | int) -> None:
        params = {"requestId": request_id}
        await self.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))

    async def raw(self) -> bytes | None:
        with anyio.fail_after(PATIENCE):
            line = await self._lines.next()
        return None if line is None else line.raw

    async def read(self) -> dict[str, Any]:
        raw = await self.raw()
        assert raw is not None
        answer: dict[str, Any] = json.loads(raw)
        return answer

    async def hang_up(self) -> None:
        await self._stdin.aclose()

    async def close(self) -> None:
        await self._stdin.aclose()
        await self._stdout.aclose()

    def journal(self) -> list[dict[str, Any]]:
        if not self._journal.exists():  # the tool server was ended before it had begun
            return []
        entries = [json.loads(line) for line in self._journal.read_text().splitlines()]
        return [{key: value for key, value in entry.items() if key != "mono"} for entry in entries]

    def executed(self) -> list[str | int]:
        return [entry["id"] for entry in self.journal() if "tool" in entry]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.touch()  # a server that ends before it was up leaves none
    return path


def config_for(journal: Path, *arguments: str, **settings: Any) -> Config:  # noqa: ANN401  # checked by the model
    command = (sys.executable, str(SERVERS / "journal_server.py"), "--journal", str(journal), *arguments)
    return Config(servers={"journal": Server(command=command, **settings)})


@asynccontextmanager
async def connected(
    config: Config, gate: Gate, journal: Path, observe: Callable[[str, bytes], None] | None = None
) -> AsyncIterator[Agent]:
    """An agent connected to a front; leaving hangs up and waits for the front to return."""
    (agent_reads, we_write), (we_read, agent_writes) = os.pipe(), os.pipe()
    front = StdioFront(config, "journal", ROBOT, gate, observe=observe)
    agent = Agent(PipeWriter(agent_writes), PipeReader(agent_reads), journal, front)

    async def run() -> None:
        async with PipeReader(we_read) as stdin, PipeWriter(we_write) as stdout:
            agent.code = await front.run(stdin, stdout)
        agent.returned.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        yield agent
        await agent.hang_up()
        with anyio.fail_after(10):
            await agent.returned.wait()
        await agent.close()


# ------------------------------------------------------------------ the ordinary way


async def test_a_permitted_call_is_executed_once_and_its_answer_arrives_byte_for_byte(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call("a", "note", text="ü")
        raw = await agent.raw()
    text = json.dumps({"text": "ü"})
    assert (
        raw
        == json.dumps(
            {"jsonrpc": "2.0", "id": "a", "result": {"content": [{"type": "text", "text": text}], "isError": False}}
        ).encode()
    )
    assert agent.journal() == [{"tool": "note", "arguments": {"text": "ü"}, "id": "a"}]
    assert gate.outcomes == [Outcome(ending=Ending.OK, result_bytes=len(raw or b""))]
    assert agent.code == 0


async def test_a_tool_that_fails_and_a_method_that_is_refused_end_as_such(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call(1, "fail")
        assert (await agent.read())["result"]["isError"] is True
        await agent.write('{"jsonrpc":"2.0","id":2,"method":"prompts/list"}')
        assert (await agent.read())["error"]["code"] == -32601
    assert [outcome.ending for outcome in gate.outcomes] == [Ending.TOOL_ERROR, Ending.UPSTREAM_ERROR]


async def test_a_held_call_delays_no_other_and_runs_once_it_is_approved(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call(1, "wipe")
        await gate.holding.wait()
        await agent.call(2, "note")
        assert (await agent.read())["id"] == 2
        assert agent.executed() == [2]
        gate.approval.set()
        assert (await agent.read())["id"] == 1
    assert agent.executed() == [2, 1]


async def test_calls_reach_the_tool_server_in_the_order_they_were_read(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        for number in range(200):
            await agent.call(number, "note", text="x" * (number * 97 % 9000))
        answers = [(await agent.read())["id"] for _ in range(200)]
    assert agent.executed() == answers == list(range(200))


async def test_a_tool_list_is_observed_before_the_agent_has_it(journal: Path) -> None:
    seen: list[tuple[str, bytes]] = []
    async with connected(config_for(journal), Gate(), journal, lambda *what: seen.append(what)) as agent:
        await agent.write('{"jsonrpc":"2.0","id":1,"method":"tools/list"}')
        raw = await agent.raw()
        assert seen == [("journal", raw)]


async def test_a_client_names_itself_for_the_records(journal: Path) -> None:
    gate = Gate()
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "pytest", "version": "1"}}
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.write(json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}))
        await agent.read()
        await agent.call(1, "note")
        await agent.read()
    assert [arrival.source for arrival in gate.arrivals] == [Source(transport="stdio", client="pytest")] * 2


# ------------------------------------------------------------------ callers that leave


async def test_a_call_cancelled_while_held_is_never_forwarded(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call("1", "wipe")
        await gate.holding.wait()
        await agent.cancel("1")
        await agent.call(2, "note")
        assert (await agent.read())["id"] == 2
    assert gate.left == ["1"]
    assert agent.journal() == [{"tool": "note", "arguments": {}, "id": 2}]


async def test_cancelling_another_id_leaves_a_held_call_alone(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call("1", "wipe")
        await gate.holding.wait()
        await agent.cancel(1)
        gate.approval.set()
        assert (await agent.read())["id"] == "1"
    assert agent.journal() == [{"tool": "wipe", "arguments": {}, "id": "1"}]


async def test_the_cancellation_of_a_forwarded_call_is_forwarded_and_its_late_answer_still_passes(
    journal: Path,
) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call(1, "slow", seconds=0.5)
        await agent.cancel(1)
        assert (await agent.read())["id"] == 1
    assert {"notification": "notifications/cancelled", "params": {"requestId": 1}} in agent.journal()
    assert Ending.UNKNOWN not in [outcome.ending for outcome in gate.outcomes]


async def test_a_held_call_is_not_executed_after_the_input_ended(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call(1, "wipe")
        await gate.holding.wait()
        await agent.hang_up()
        assert (await agent.read())["result"]["isError"] is True
        assert await agent.raw() is None
    assert gate.left == [1]
    assert agent.executed() == []


async def test_an_agent_that_no_longer_reads_has_left(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call(1, "wipe")
        await gate.holding.wait()
        await agent._stdout.aclose()
        await agent.call(2, "note")
        with anyio.fail_after(15):
            await agent.returned.wait()
    assert gate.left == [1]
    assert agent.executed() == [2]


async def test_an_answer_under_way_when_the_input_ends_still_arrives(journal: Path) -> None:
    async with connected(config_for(journal), Gate(), journal) as agent:
        await agent.call(0, "note")
        assert (await agent.read())["id"] == 0  # it has started, and that is not what it is given time for
        await agent.call(1, "slow", seconds=0.2)
        await agent.hang_up()
        assert (await agent.read())["id"] == 1


async def test_stopping_ends_a_call_without_answer_at_once_and_says_that_its_outcome_is_unknown(
    journal: Path,
) -> None:
    gate = Gate()
    async with connected(config_for(journal, "--stubborn"), gate, journal) as agent:
        await agent.call(1, "note")
        await agent.read()
        await agent.call(2, "mute")
        await agent.call(3, "note")
        await agent.read()
        began = time.monotonic()
        agent.front.stop()
        assert Code.UPSTREAM_BROKE.meaning in json.dumps(await agent.read())
        assert await agent.raw() is None
        assert time.monotonic() - began < PROMPT
    assert [error.sent for error in gate.failures] == [True]


async def test_an_unfinished_last_line_is_not_executed(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent._stdin.send(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"note"}}')
        await agent.hang_up()
        assert (await agent.read())["error"]["message"] == "the input ended inside a line"
    assert gate.arrivals == []


# ------------------------------------------------------------------ agents that lie


async def test_an_id_in_flight_may_not_be_used_again_but_its_other_spelling_may(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call(1, "wipe")
        await gate.holding.wait()
        await agent.call(1, "note")
        assert (await agent.read())["id"] is None
        await agent.call("1", "note")
        assert (await agent.read())["id"] == "1"
        gate.approval.set()
        assert (await agent.read())["id"] == 1
        await agent.call(1, "note")
        assert (await agent.read())["id"] == 1
    assert [error.reason for error in gate.refusals] == [Code.DUPLICATE_ID]
    assert agent.executed() == ["1", 1, 1]


MALFORMED = (
    b"\xff\xfe",
    b"[]",
    b'{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"wipe"}}',
    b'{"jsonrpc":"2.0","id":1.0,"method":"tools/call","params":{"name":"wipe"}}',
    b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"note"}}',
    b'{"jsonrpc":"2.0","method":"notifications/vendor/delete","params":{}}',
    b'{"jsonrpc":"2.0","id":7,"method":"tools/callBatch","params":{}}',
    b'{"jsonrpc":"2.0","id":7,"method":"ping"}\r{"jsonrpc":"2.0","id":8,"method":"tools/call"}',
)


async def test_a_malformed_line_is_answered_and_recorded_and_reaches_nobody(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        for line in MALFORMED:
            await agent.write(line)
            assert "error" in await agent.read(), line
        await agent.call(9, "note")
        assert (await agent.read())["id"] == 9
    assert len(gate.refusals) == len(MALFORMED)
    assert agent.journal() == [{"tool": "note", "arguments": {}, "id": 9}]


async def test_an_endless_line_costs_no_memory_and_is_answered_once(journal: Path) -> None:
    gate, chunk, process = Gate(), b"A" * MIB, psutil.Process()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call(1, "note")
        await agent.read()
        before = process.memory_info().rss
        most = 0
        for _ in range(64):
            await agent._stdin.send(chunk)
            most = max(most, process.memory_info().rss - before)
        await agent.write(b"")
        assert (await agent.read())["id"] is None
        await agent.call(2, "note")
        assert (await agent.read())["id"] == 2
    assert most < 24 * MIB
    assert [error.reason for error in gate.refusals] == [Code.TOO_LARGE]


async def test_an_answer_to_a_question_nobody_asked_is_refused(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.write('{"jsonrpc":"2.0","id":"q1","result":{"action":"accept"}}')
        await agent.call(1, "ask")
        assert (await agent.read())["method"] == "elicitation/create"
        await agent.read()
        await agent.write('{"jsonrpc":"2.0","id":"q1","result":{"action":"decline"}}')
        await agent.write('{"jsonrpc":"2.0","id":"q1","result":{"action":"accept"}}')
        await agent.call(2, "note")
        await agent.read()
    assert [error.reason for error in gate.refusals] == [Code.UNSOLICITED] * 2
    assert [entry["answer"]["result"] for entry in agent.journal() if "answer" in entry] == [{"action": "decline"}]


# ------------------------------------------------------------------ tool servers that lie or fail


LIES = (
    '{"jsonrpc":"2.0","id":"held","result":{"content":[]}}',
    '{"jsonrpc":"2.0","id":"held","id":"call","result":{"content":[]}}',
    '{"jsonrpc":"2.0","id":"call","ID":"held","result":{"content":[]}}',
    '{"jsonrpc":"2.0","id":"held","result":{},"error":{"code":1,"message":""}}',
    '{"jsonrpc":"2.0","id":"never","result":{}}',
    '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":""}}',
    '{"jsonrpc":"2.0","id":"call","result":{}} {"jsonrpc":"2.0","id":"held","result":{}}',
    "[" * 100_000,
    "starting up ...",
    "",
)


async def test_what_a_tool_server_may_not_say_is_dropped(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call("held", "wipe")
        await gate.holding.wait()
        for line in LIES:
            await agent.call("call", "say", line=line)
            answer = await agent.read()
            assert (answer["id"], answer["result"].get("isError")) == ("call", False), line
        gate.approval.set()
        assert (await agent.read())["id"] == "held"


async def test_notifications_of_the_tool_server_pass_byte_for_byte(journal: Path) -> None:
    line = '{ "method":"notifications/progress" , "jsonrpc":"2.0","params":{"progressToken":1,"progress":1e0}}'
    async with connected(config_for(journal), Gate(), journal) as agent:
        await agent.call(1, "say", line=line)
        assert await agent.raw() == line.encode()


@pytest.mark.parametrize("end", ["\r", "\u0085", "\u2028", "\u2029"], ids=ascii)
async def test_no_line_reader_finds_a_second_message_in_what_a_tool_server_says(journal: Path, end: str) -> None:
    answer = '{"jsonrpc":"2.0","id":"held","result":{}}'
    inside = "[" + end + answer + end + "]" if end == "\r" else json.dumps(end + answer + end, ensure_ascii=False)
    line = '{"jsonrpc":"2.0","method":"notifications/message","params":{"data":' + inside + "}}"
    async with connected(config_for(journal), Gate(), journal) as agent:
        await agent.call(1, "say", line=line)
        raw = await agent.raw()
    assert raw is not None
    assert raw.decode().splitlines() == [raw.decode()]
    assert json.loads(raw) == json.loads(line)


async def test_a_large_result_passes_whole(journal: Path) -> None:
    async with connected(config_for(journal), Gate(), journal) as agent:
        for number in range(4):
            await agent.call(number, "note", text="x" * 3 * MIB)
        for number in range(4):
            answer = await agent.read()
            assert answer["id"] == number
            assert len(answer["result"]["content"][0]["text"]) == 3 * MIB + len('{"text": ""}')


async def test_a_tool_server_that_ends_by_itself_ends_the_front_and_every_call_is_told(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal), gate, journal) as agent:
        await agent.call("held", "wipe")
        await gate.holding.wait()
        await agent.call("sent", "mute")
        await agent.call("last", "exit")
        answers = [await agent.read() for _ in range(3)]
        assert await agent.raw() is None
    texts = {answer["id"]: answer["result"]["content"][0]["text"] for answer in answers}
    assert texts == {
        "held": Code.UPSTREAM_UNAVAILABLE.meaning,
        "sent": Code.UPSTREAM_BROKE.meaning,
        "last": Code.UPSTREAM_BROKE.meaning,
    }
    assert agent.code == 1
    assert agent.executed() == ["sent", "last"]


async def test_an_answer_written_just_before_the_exit_is_relayed(journal: Path) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})
    script = f"import sys; sys.stdin.readline(); print({line!r}, flush=True)"
    config = Config(servers={"journal": Server(command=(sys.executable, "-c", script))})
    async with connected(config, Gate(), journal) as agent:
        await agent.call(1, "note")
        assert await agent.raw() == line.encode()
        assert await agent.raw() is None
    assert agent.code == 1


async def test_a_tool_server_that_never_answers_is_given_up(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal, answer_timeout=0.1), gate, journal) as agent:
        await agent.call(1, "mute")
        assert (await agent.read())["result"]["isError"] is True
    assert [error.sent for error in gate.failures] == [True]


async def test_a_tool_server_that_does_not_read_is_given_up_and_ended(tmp_path: Path) -> None:
    deaf = Config(
        servers={"journal": Server(command=(sys.executable, "-c", "import signal; signal.pause()"), answer_timeout=0.2)}
    )
    gate = Gate()
    async with connected(deaf, gate, tmp_path / "journal") as agent:
        await agent.call(1, "note", text="x" * MIB)
        assert (await agent.read())["result"]["isError"] is True
        assert await agent.raw() is None
    assert [error.sent for error in gate.failures] == [True]
    assert agent.code == 1


async def test_an_id_whose_answer_may_still_come_late_cannot_be_used_again(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal, answer_timeout=0.1), gate, journal) as agent:
        await agent.call(1, "mute")
        assert (await agent.read())["result"]["isError"] is True
        await agent.call(1, "note")
        assert (await agent.read())["id"] is None
        await anyio.to_thread.run_sync(until, agent.journal, "the call has arrived")
    assert [error.reason for error in gate.refusals] == [Code.DUPLICATE_ID]
    assert [entry["tool"] for entry in agent.journal()] == ["mute"]


async def test_the_tool_server_gets_a_short_list_of_variables_and_never_the_guards(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GUARD_AGENT_KEY", "GUARD_TESTING", "AWS_SECRET_ACCESS_KEY", "WANTED", "LC_TIME"):
        monkeypatch.setenv(name, "value")
    config = config_for(journal, env={"OWN": "1", "GUARD_X": "2"}, pass_env=("WANTED", "GUARD_AGENT_KEY"))
    async with connected(config, Gate(), journal) as agent:
        await agent.call(1, "variables")
        variables = json.loads((await agent.read())["result"]["content"][0]["text"])
    assert {"OWN", "WANTED", "LC_TIME", "PATH"} <= variables.keys()
    assert variables.keys() <= {
        *("OWN", "WANTED", "PATH", "HOME", "LANG", "TZ", "TMPDIR"),
        *(name for name in variables if name.startswith("LC_")),
    }


async def test_what_the_tool_server_writes_to_stderr_is_logged_without_control_characters(journal: Path) -> None:
    with capture_logs() as logs:
        async with connected(config_for(journal), Gate(), journal) as agent:
            await agent.call(1, "warn", text="\x1b[2Jgone \u202e" + "x" * 20_000)
            await agent.read()
    said = next(entry for entry in logs if entry["event"] == "child.said")
    assert said["line"].startswith("\\x1b[2Jgone \\u202exxx")
    assert len(said["line"]) < 10_000
    assert said["cut"] is True


async def test_a_tool_server_beyond_its_memory_dies_and_its_call_ends(journal: Path) -> None:
    gate = Gate()
    async with connected(config_for(journal, max_memory=96), gate, journal) as agent:
        await agent.call(1, "hoard", megabytes=256)
        assert (await agent.read())["result"]["isError"] is True
        with anyio.fail_after(10):
            await agent.returned.wait()
    assert agent.code == 1
    assert [failure.sent for failure in gate.failures] == [True]


@pytest.mark.parametrize("program", ["no-such-program", "./no-such-program"])
async def test_a_limited_program_that_is_missing_is_a_mistake_of_the_config(journal: Path, program: str) -> None:
    config = Config(servers={"journal": Server(command=(program,), max_memory=96)})
    with pytest.raises(ConfigError, match="cannot be started"):
        async with Child.start("journal", config.servers["journal"], base=journal.parent):
            pass


async def test_a_program_that_does_not_exist_is_a_mistake_in_the_config(journal: Path) -> None:
    config = Config(servers={"journal": Server(command=("no-such-program",))})
    front = StdioFront(config, "journal", ROBOT, Gate())
    (read, theirs), (ours, write) = os.pipe(), os.pipe()
    async with PipeReader(read) as stdin, PipeWriter(write) as stdout:
        with pytest.raises(ConfigError, match="server journal: no-such-program cannot be started"):
            await front.run(stdin, stdout)
    os.close(theirs)
    os.close(ours)


def test_a_server_by_url_is_refused_with_a_sentence() -> None:
    config = Config(servers={"far": Server(url="https://far.example/mcp")})
    with pytest.raises(ConfigError, match="no server far with a command is configured"):
        StdioFront(config, "far", ROBOT, Gate())


# ------------------------------------------------------------------ nobody is left behind


@contextmanager
def running_front(config: Config, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A front in a process of its own."""
    command = config.servers["journal"].command or ()
    file = tmp_path / "guard.toml"
    file.write_text(f"[servers.journal]\ncommand = {json.dumps(command)}\n")
    arguments = [sys.executable, str(SERVERS / "open_front.py"), str(file), "journal"]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], bufsize=0,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": "."}
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[bytes], tool: str) -> str:
    """Call a tool and return the text of its answer, the first thing on stdout."""
    assert process.stdin is not None
    assert process.stdout is not None
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    answer = json.loads(process.stdout.readline())
    text: str = answer["result"]["content"][0]["text"]
    return text


def with_descendants(process: subprocess.Popen[bytes], grandchild: str) -> list[psutil.Process]:
    """The tool server, the keeper and the grandchild of a running front."""
    found = psutil.Process(process.pid).children(recursive=True)
    assert int(grandchild) in {one.pid for one in found}
    assert len(found) == 3
    return found


@pytest.mark.parametrize("how", ["input ends", "SIGTERM", "SIGKILL"])
def test_no_process_outlives_the_front_however_it_ends_and_however_stubborn_it_is(
    journal: Path, tmp_path: Path, how: str
) -> None:
    with running_front(config_for(journal, "--stubborn"), tmp_path) as process:
        descendants = with_descendants(process, ask(process, "spawn"))
        began = time.monotonic()
        if how == "input ends":
            assert process.stdin is not None
            process.stdin.close()
        else:
            process.send_signal(signal.Signals[how])
        code = process.wait(PATIENCE)
        assert time.monotonic() - began < PROMPT
        assert code == (0 if how != "SIGKILL" else -signal.SIGKILL)
        until(lambda: all_gone(descendants), "nothing is left", within=PROMPT)


def test_a_grandchild_does_not_outlive_a_tool_server_that_ends_by_itself(journal: Path, tmp_path: Path) -> None:
    with running_front(config_for(journal), tmp_path) as process:
        descendants = with_descendants(process, ask(process, "spawn"))
        tool_server = next(one for one in descendants if "journal_server.py" in " ".join(one.cmdline()))
        tool_server.kill()
        assert process.wait(PATIENCE) == 1
        until(lambda: all_gone(descendants), "nothing is left", within=PROMPT)


def test_stdin_from_a_file_is_served_to_its_end(journal: Path, tmp_path: Path) -> None:
    config = config_for(journal)
    with running_front(config, tmp_path):
        pass
    requests = tmp_path / "requests"
    requests.write_text('{"jsonrpc":"2.0","id":1,"method":"ping"}\n{"jsonrpc":"2.0","id":2,"method":"ping"}\n')
    with requests.open() as stdin:
        done = subprocess.run(
            [sys.executable, str(SERVERS / "open_front.py"), str(tmp_path / "guard.toml"), "journal"],
            stdin=stdin, capture_output=True, check=True, cwd=Path(__file__).parents[2], timeout=50,
            env={**os.environ, "PYTHONPATH": "."}
        )  # fmt: skip
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, 2]
