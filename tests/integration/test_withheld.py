"""Results that are withheld until somebody consents: at every front, across a crash, and in event streams."""

from __future__ import annotations

import asyncio
import http.client
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from guard.proxy.exchange import Arrival, Ending, Exchange, Outcome
from guard.wire import reply
from guard.wire.message import Request
from tests.guards import Serving
from tests.integration.test_http_front import CALL, RESULT, Permissive, Upstream, stage
from tests.integration.test_unfinished_streams import ANSWER, PROGRESS, messages, streamed
from tests.visitors import Client, add_person
from tests.world import World

POLICY = """\
server: {server}
owner: journal-team
tools:
  big: {sensitivity: internal, limits: {bytes: 1KB, per: 1h, reason: exports are for people}}
  note: {sensitivity: internal}
"""
MUCH = {"bytes": 2000}


def hosted(guard: Serving, key: str) -> dict[str, Any]:
    """Call the tool server that the guard hosts, over HTTP."""
    message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "big", "arguments": MUCH}}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Accept": "application/json"}
    with closing(
        http.client.HTTPConnection(guard.config.proxy.host, guard.config.proxy.port, timeout=30)
    ) as connection:
        connection.request("POST", "/mcp/desk", json.dumps(message), headers)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


@pytest.mark.parametrize("front", ["http", "stdio"])
def test_a_withheld_result_survives_a_crash_and_its_call_runs_once(tmp_path: Path, front: str) -> None:
    with World(tmp_path) as world:
        world.write_everywhere(POLICY)
        guard = world.start(front)
        first = guard.call("big", MUCH)
        assert first.text.startswith("WITHHELD: big on")
        guard.kill()
        guard = world.start(front)
        assert guard.call("big", MUCH).text.startswith("WITHHELD: big on")
        if isinstance(guard, Serving):
            _the_console_says_that_it_ran(world, guard, first.challenge)
        world.approve(first.challenge, via=guard)
        again = guard.call("big", MUCH)
        assert (again.text, world.runs("big", MUCH)) == ("x" * 2000, 1)
        assert guard.call("big", {"bytes": 10}).text.startswith("WITHHELD"), "what was released counts"
        assert world.runs("big", {"bytes": 10}) == 1
        assert guard.call("note", {"n": 1}).ran
        if isinstance(guard, Serving):
            _a_hosted_one_is_withheld_as_well(world, guard)
            _why_tells_it(world, first.challenge)
        world.settle()
        world.check()


def _the_console_says_that_it_ran(world: World, guard: Serving, challenge: str) -> None:
    client, phone = Client(guard), add_person(world, "pat")
    assert client.log_in("pat", phone.now()).status == 201
    page = client("GET", f"/challenges/{challenge}").text
    assert "wants what came back from big</h1>" in page
    assert "to run" not in page
    assert "result of big" in client("GET", "/").text


def _a_hosted_one_is_withheld_as_well(world: World, guard: Serving) -> None:
    before = world.runs("big", MUCH)
    paused = hosted(guard, world.key)["result"]
    assert paused["content"][0]["text"].startswith("WITHHELD: big on desk ran, once")
    world.approve(paused["_meta"]["guard/challenge"]["id"], via=guard)
    released = hosted(guard, world.key)
    assert (released["id"], released["result"]["content"][0]["text"]) == (7, "x" * 2000)
    assert world.runs("big", MUCH) == before + 1


def _why_tells_it(world: World, challenge: str) -> None:
    told = world.cli("why", challenge).stdout
    for words in ("result big of server web", "exports are for people", "a call ran, and what came back goes to"):
        assert words in told
    assert "a grant was spent on a withheld result, and the agent gets it (" in told
    [dropped_or_released] = [one for one in world.records("result.released") if one["server"] == "web"]
    run = world.cli("why", dropped_or_released["call_id"]).stdout
    assert "the tool server answered" in run
    assert "goes to the agent only once somebody consents" in run


# ------------------------------------------------------------------ answers of tool servers over HTTP


class Weighing(Permissive):
    """Lets an answer through when it has at most so many bytes, and says so when it has more."""

    most = 10_000

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def fits(self, size: int) -> bool:
        return size <= self.most

    def passes(self, answer: bytes, size: int) -> bool:
        self.told.append(len(answer))
        return size <= self.most

    async def handle(self, arrival: Arrival, exchange: Exchange) -> None:
        outcome = await exchange.forward(self)
        self.outcomes.append(outcome)
        if outcome.withheld and isinstance(arrival.message, Request):
            await exchange.answer(reply.refused(arrival.message.id, arrival.era, text="withheld"))

    @property
    def outcome(self) -> Outcome:
        [outcome] = self.outcomes
        assert isinstance(outcome, Outcome)
        return outcome


LONG = b'data: {"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"' + b"x" * 20_000 + b'"}]}}\n\n'


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_comes_before_a_withheld_response_goes_on_without_an_id_to_fetch_the_rest_by() -> None:
    handler = Weighing()
    async with stage(
        handler, Upstream(streamed(b": alive\n\n", b"id: 1\ndata: \n\n", b"id: 2\n" + PROGRESS, b"id: 3\n" + LONG))
    ) as guard:
        status, _, body = await guard.call()
    assert status == 200
    progress, last = messages(body)
    assert (progress["method"], last["id"]) == ("notifications/progress", CALL["id"])
    assert b"id: " not in body
    assert body.startswith(b": \n\n"), "a sign of life"
    assert b"xxxx" not in body
    assert handler.outcome.withheld
    assert json.loads(handler.outcome.body)["id"] == CALL["id"]
    assert handler.outcome.ending is Ending.OK


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("pieces", [(ANSWER,), (ANSWER[:20], ANSWER[20:]), (b"id: 4\n" + ANSWER,)])
async def test_a_measured_stream_that_may_go_on_is_relayed_as_it_came(pieces: tuple[bytes, ...]) -> None:
    async with stage(Weighing(), Upstream(streamed(*pieces))) as guard:
        assert (await guard.call())[2] == b"".join(pieces)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("size", "through"), [(5_000, True), (20_000, False), (5_000_000, False)])
async def test_a_measured_json_answer_goes_on_whole_or_not_at_all(size: int, through: bool) -> None:
    whole = RESULT[:-1] + b" " * (size - len(RESULT)) + b"}"

    async def respond(upstream: Upstream, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(whole))
        writer.write(whole)
        await writer.drain()

    handler = Weighing()
    async with stage(handler, Upstream(respond)) as guard:
        status, _, body = await guard.call()
    assert status == 200
    assert (body == whole, b"withheld" in body) == (through, not through)
    assert handler.outcome.withheld is not through
    assert handler.outcome.result_bytes == size
    assert handler.told == [size if size < 4_194_304 else 0]
