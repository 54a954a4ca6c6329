"""The pause ladder as clients of the official SDK climb it, through both fronts, in front of a server of that SDK."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import anyio.to_thread
import httpx2
import mcp_types as types
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from guard.factors.signature import workload_factor
from guard.model import State
from guard.proxy import legs
from guard.proxy.habits import recall
from guard.stepup.binding import call_proof_bytes
from tests.nouns import PRINCIPAL, challenge
from tests.world import GUARD, World

pytestmark = pytest.mark.anyio

TOOLS = Path(__file__).parent.parent / "servers" / "asking_server.py"
BOTH = pytest.mark.parametrize("front", ["http", "stdio"])
EITHER = pytest.mark.parametrize("mode", ["auto", "legacy"])

Mode: TypeAlias = Literal["auto", "legacy"]
Answer: TypeAlias = Callable[[types.ElicitRequestURLParams], Awaitable[str]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Person:
    """Whoever sits at the client: sees every question, and does as `answer` says."""

    def __init__(self, answer: Answer) -> None:
        self.seen: list[types.ElicitRequestURLParams] = []
        self._answer = answer

    async def __call__(self, _context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert isinstance(params, types.ElicitRequestURLParams)
        self.seen.append(params)
        action: Any = await self._answer(params)
        return types.ElicitResult(action=action)


@asynccontextmanager
async def client(world: World, front: str, mode: Mode, person: Person | None = None) -> AsyncIterator[Client]:
    """A client of the SDK behind either front."""
    if front == "stdio":
        environment = {"GUARD_AGENT_KEY": world.key, "PATH": "/usr/bin:/bin"}
        command = StdioServerParameters(
            command=str(GUARD), args=["run", "desk", "--config", str(world.file)], env=environment
        )
        with (world.folder / "run.log").open("w") as log:
            transport = stdio_client(command, errlog=log)
            async with Client(transport, mode=mode, elicitation_callback=person) as made:
                yield made
        return
    guard = await anyio.to_thread.run_sync(world.serve)
    headers = {"Authorization": f"Bearer {world.key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        url = f"http://{guard.config.proxy.listen}/mcp/web"
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, elicitation_callback=person) as made:
            yield made


def wait(world: World) -> str:
    """The id of the only challenge, once it is open."""
    deadline = time.monotonic() + 20
    while not (found := world.challenges(State.PENDING)):
        assert time.monotonic() < deadline, "no challenge was opened"
        time.sleep(0.05)
    return found[0].id


async def approve(world: World, challenge: str = "") -> None:
    """Approve as a person elsewhere."""
    identity = challenge or await anyio.to_thread.run_sync(wait, world)
    await anyio.to_thread.run_sync(world.approve, identity)


def text(result: types.CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, types.TextContent)
    return block.text


def paused(result: types.CallToolResult) -> Mapping[str, Any]:
    assert result.is_error, text(result)
    assert result.structured_content is None
    assert len(result.content) == 1
    found: Mapping[str, Any] = (result.meta or {})["guard/challenge"]
    assert found["url"] in text(result)
    return found


def says(world: World, action: str, *, approved: bool = False) -> Person:
    """A person who answers so, after somebody approved the call if that is wanted."""

    async def answer(params: types.ElicitRequestURLParams) -> str:
        if approved:
            await approve(world, params.url.rpartition("/")[2])
        return action

    return Person(answer)


# ------------------------------------------------------------------ the floor


@BOTH
@EITHER
async def test_a_client_without_a_person_reads_what_to_do_and_its_same_call_runs_once(
    tmp_path: Path, front: str, mode: Mode
) -> None:
    with World(tmp_path, tools=TOOLS) as world:
        async with client(world, front, mode) as agent:
            challenge = paused(await agent.call_tool("wipe", {"n": 1, "m": [1.5, "é"]}))
            assert paused(await agent.call_tool("wipe", {"m": [1.5, "é"], "n": 1}))["id"] == challenge["id"]
            await approve(world, challenge["id"])
            assert not (await agent.call_tool("wipe", {"m": [1.5, "é"], "n": 1})).is_error
            assert (await agent.call_tool("wipe", {"n": 1, "m": [1.5, "é"]})).is_error
        assert world.runs("wipe", {"n": 1, "m": [1.5, "é"]}) == 1
        world.check()


@BOTH
async def test_a_changed_call_is_told_which_of_its_arguments_changed_and_no_value(tmp_path: Path, front: str) -> None:
    with World(tmp_path, tools=TOOLS) as world:
        async with client(world, front, "auto") as agent:
            first = paused(await agent.call_tool("wipe", {"who": "alice", "secret": 918273645, "same": 1}))
            await approve(world, first["id"])
            said = text(await agent.call_tool("wipe", {"who": "bob", "same": 1}))
        assert "differs from the call that was approved" in said
        assert '"who"' in said
        assert "1 argument(s) left out" in said
        assert not any(hidden in said for hidden in ("alice", "secret", "918273645", '"same"'))
        assert world.ran() == []


# ------------------------------------------------------------------ a person at the client


@BOTH
@EITHER
async def test_a_person_at_the_client_is_shown_the_page_and_the_approved_call_runs_within_the_same_request(
    tmp_path: Path, front: str, mode: Mode
) -> None:
    with World(tmp_path, tools=TOOLS) as world:
        person = says(world, "accept", approved=True)
        async with client(world, front, mode, person) as agent:
            result = await agent.call_tool("wipe", {"n": 1})
        assert not result.is_error, text(result)
        assert world.runs("wipe", {"n": 1}) == 1
        assert world.ran()[0]["state"] is None  # nothing of the guard's reached the tool server
        (question,) = person.seen
        assert "wipe" in question.message
        world.check()


@BOTH
@EITHER
async def test_opening_the_page_is_no_approval(tmp_path: Path, front: str, mode: Mode) -> None:
    with World(tmp_path, tools=TOOLS) as world:
        async with client(world, front, mode, says(world, "accept")) as agent, anyio.create_task_group() as group:
            await agent.list_tools()
            results: list[types.CallToolResult] = []

            async def call() -> None:
                results.append(await agent.call_tool("wipe", {"n": 1}))

            group.start_soon(call)
            await anyio.to_thread.run_sync(wait, world)
            harmless = await agent.call_tool("note", {"n": 2})  # not delayed by the call that waits
            assert not harmless.is_error
            assert world.runs("wipe", {"n": 1}) == 0
            await approve(world)
        assert [result.is_error for result in results] == [False], text(results[0])
        assert world.runs("wipe", {"n": 1}) == 1
        world.check()


@BOTH
@EITHER
async def test_a_person_who_declines_has_refused_the_call(tmp_path: Path, front: str, mode: Mode) -> None:
    with World(tmp_path, tools=TOOLS) as world:
        async with client(world, front, mode, says(world, "decline")) as agent:
            result = await agent.call_tool("wipe", {"n": 1})
            assert result.is_error
            assert "declined at the client" in text(result)
            assert (await agent.call_tool("wipe", {"n": 1})).is_error
        (denied,) = world.challenges()
        assert (denied.state, denied.ended_by) == (State.DENIED, "client of robot")
        assert world.ran() == []
        world.check()


@BOTH
@EITHER
async def test_a_client_with_nobody_there_gets_the_floor_at_once(tmp_path: Path, front: str, mode: Mode) -> None:
    with World(tmp_path, tools=TOOLS) as world:
        async with client(world, front, mode, says(world, "cancel")) as agent:
            with anyio.fail_after(15):
                challenge = paused(await agent.call_tool("wipe", {"n": 1}))
            await approve(world, challenge["id"])
            assert not (await agent.call_tool("wipe", {"n": 1})).is_error
        world.check()


@BOTH
async def test_a_call_approved_while_the_person_still_reads_goes_on_and_the_question_is_withdrawn(
    tmp_path: Path, front: str
) -> None:
    async def read_for_ever(_params: object) -> str:
        await anyio.sleep_forever()
        return "cancel"

    with World(tmp_path, tools=TOOLS) as world:
        async with client(world, front, "legacy", Person(read_for_ever)) as agent:
            async with anyio.create_task_group() as group:
                group.start_soon(approve, world)
                with anyio.fail_after(18):  # less than a question may take
                    result = await agent.call_tool("wipe", {"n": 1})
            assert not result.is_error
            assert not (await agent.call_tool("note", {})).is_error
        world.check()


async def test_a_question_nobody_answers_is_noted_and_ends_at_the_floor(tmp_path: Path) -> None:
    async def forget(_params: object) -> str:
        await anyio.sleep_forever()
        return "cancel"

    with World(tmp_path, tools=TOOLS) as world:
        async with client(world, "http", "legacy", Person(forget)) as agent:
            began = time.monotonic()
            paused(await agent.call_tool("wipe", {"n": 1}))
            assert time.monotonic() - began > 19
        with world.desk() as services:
            assert recall(services.store.baselines, "robot").dropped == 1
        assert "1 questions unanswered" in world.cli("agent", "show", "robot").stdout


async def test_a_profile_without_elicitation_is_never_asked(tmp_path: Path) -> None:
    with World(tmp_path, tools=TOOLS, more="[agents.robot]\nelicitation = false\n") as world:
        person = says(world, "accept")
        async with client(world, "http", "auto", person) as agent:
            paused(await agent.call_tool("wipe", {"n": 1}))
        assert person.seen == []


# ------------------------------------------------------------------ legs


@BOTH
async def test_a_client_that_repeats_by_itself_gets_its_result_when_the_call_is_approved(
    tmp_path: Path, front: str
) -> None:
    with World(tmp_path, tools=TOOLS, more="[agents.robot]\nlegs = true\n") as world:
        async with client(world, front, "auto") as agent, anyio.create_task_group() as group:
            group.start_soon(approve, world)
            assert not (await agent.call_tool("wipe", {"n": 1})).is_error
        assert world.runs("wipe", {"n": 1}) == 1
        world.check()


@BOTH
async def test_a_state_is_good_for_its_own_call_only(tmp_path: Path, front: str) -> None:
    with World(tmp_path, tools=TOOLS, more="[agents.robot]\nlegs = true\n") as world:
        async with client(world, front, "auto") as agent:
            asked = await agent.session.call_tool("wipe", {"n": 1}, allow_input_required=True)
            assert isinstance(asked, types.InputRequiredResult)
            state = asked.request_state or ""
            assert state.startswith(legs.PREFIX)
            for arguments, forged in ((({"n": 2}), state), ({"n": 1}, state[:-4]), ({"n": 1}, f"{legs.PREFIX}x")):
                refused = await agent.session.call_tool("wipe", arguments, request_state=forged)
                assert isinstance(refused, types.CallToolResult)
                assert refused.is_error
                assert "requestState" in text(refused)
            pre_answered = await agent.session.call_tool("wipe", {"n": 1}, request_state="somebody else's")
            assert isinstance(pre_answered, types.CallToolResult)
            assert pre_answered.is_error
            await approve(world)
            done = await agent.session.call_tool("wipe", {"n": 1}, request_state=state)
            assert isinstance(done, types.CallToolResult)
            assert not done.is_error
            again = await agent.session.call_tool("wipe", {"n": 1}, request_state=state)
            assert isinstance(again, types.CallToolResult)
            assert again.is_error
        assert [line["arguments"] for line in world.ran()] == [{"n": 1}]
        world.check()


# ------------------------------------------------------------------ a tool server with questions of its own


@BOTH
async def test_an_approved_call_whose_server_asks_back_is_challenged_once_and_runs_once(
    tmp_path: Path, front: str
) -> None:
    with World(tmp_path, tools=TOOLS) as world:
        async with client(world, front, "auto") as agent:
            arguments = {"n": 1, "ask": True}
            await approve(world, paused(await agent.call_tool("wipe", arguments))["id"])
            assert not (await agent.call_tool("wipe", arguments)).is_error  # the SDK carries the server's state back
            replayed = await agent.session.call_tool("wipe", arguments, request_state="the-tool-server's-own-state")
            assert isinstance(replayed, types.CallToolResult)
            assert replayed.is_error
        assert world.runs("wipe", arguments) == 1
        assert len(world.challenges()) == 1
        (one, two) = world.records("call.forwarded")
        assert two["continues"] == one["call_id"]
        assert world.verify().ok, world.verify().text()


# ------------------------------------------------------------------ profiles


@BOTH
async def test_a_client_that_hides_errors_reads_a_pause_as_plain_text_if_its_profile_says_so(
    tmp_path: Path, front: str
) -> None:
    with World(tmp_path, tools=TOOLS, more="[agents.robot]\nsuccess_text = true\n") as world:
        async with client(world, front, "auto") as agent:
            await agent.list_tools()
            result = await agent.call_tool("wipe", {"n": 1})
        assert not result.is_error
        assert text(result).startswith("PAUSED, not executed")
        assert (result.meta or {})["guard/challenge"]["id"]
        assert world.ran() == []


# ------------------------------------------------------------------ a proof in the header


def test_a_proof_in_the_header_lets_the_call_run_at_once_and_never_twice(tmp_path: Path) -> None:
    key = generate_private_key(SECP256R1())
    with World(tmp_path, tools=TOOLS) as world:
        with world.desk() as services:
            spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            made = workload_factor(identifier="f_1", subject="robot", spki=spki, attestation=1, now=time.time())
            services.store.factors.add(made)
        guard = world.serve()
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "wipe", "arguments": {"n": 1}, "_meta": meta},
        }
        at = time.time_ns() // 1000
        wanted = challenge(
            name="wipe", server="web", arguments='{"n":1}', principal=replace(PRINCIPAL, subject="robot")
        )
        r, s = decode_dss_signature(key.sign(call_proof_bytes(wanted, audience="guard", at=at), ECDSA(SHA256())))
        signature = base64.b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).decode()
        headers = {
            "Authorization": f"Bearer {world.key}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "wipe",
            "Guard-Proof": f"factor=f_1, at={at}, signature={signature}",
        }
        url = f"http://{guard.config.proxy.listen}/mcp/web"
        with httpx2.Client(headers=headers, trust_env=False, timeout=20) as agent:
            assert 'isError":true' not in agent.post(url, json=message).text
            assert world.runs("wipe", {"n": 1}) == 1
            replayed = agent.post(url, json=message).json()["result"]
            assert replayed["isError"]
            assert "the proof in Guard-Proof does not count" in replayed["content"][0]["text"]
        assert world.runs("wipe", {"n": 1}) == 1
        assert len(world.records("proof.rejected")) == 1
        world.check()
