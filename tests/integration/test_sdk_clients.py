"""The official SDK's client, in both eras, against `guard serve` in front of a server made with the official SDK.

What passes must arrive as if the guard were not there; what is paused must leave the agent with a session
that works, a challenge it can read, and exactly one run after the approval.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from tests.outside import SERVERS, Site, Verbs
from tests.world import free_port, until

POLICY = """\
server: vault
owner: platform-security
default: {sensitivity: sensitive}
tools:
  echo: {sensitivity: public}
  count: {sensitivity: public}
  "*_gate": {sensitivity: public}
  delete_secret: {sensitivity: sensitive, effects: [write], require: consent}
resources:
  "note://**": {sensitivity: public}
  "config://**": {sensitivity: sensitive, require: consent}
prompts:
  greet: {sensitivity: public}
"""

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])


@pytest.fixture
def anyio_backend() -> str:
    """One loop for all: the promises here are about bytes."""
    return "asyncio"


@dataclass
class Vault:
    """A running guard in front of the SDK's server."""

    site: Site
    journal: Path
    direct: str
    agents: int = 0
    people: int = 0

    def ran(self, path: str) -> int:
        """How often the server deleted this secret, by its own journal."""
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return sum(line["tool"] == "delete_secret" and line["arguments"]["path"] == path for line in lines)

    @asynccontextmanager
    async def http(self, name: str = "") -> AsyncIterator[httpx2.AsyncClient]:
        """An HTTP client with the key of an agent of its own."""
        self.agents += 1
        headers = {"Authorization": f"Bearer {self.site.agent(name or f'robot{self.agents}')}"}
        async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=60)) as http:
            yield http

    @asynccontextmanager
    async def client(self, mode: str, name: str = "") -> AsyncIterator[Client]:
        """The official client of an agent of its own, in one era."""
        async with self.http(name) as http:
            transport = streamable_http_client(self.site.url("vault"), http_client=http)
            async with Client(transport, mode=mode) as client:
                yield client

    def pending(self, name: str) -> str:
        """The challenge that an agent's call waits for, once it does."""
        found: list[str] = []

        def waits() -> bool:
            rows = json.loads(self.site.guard("challenge", "ls", "--json"))
            found.extend(row["id"] for row in rows if (row["principal"], row["state"]) == (name, "pending"))
            return bool(found)

        until(waits, f"a call of {name} waits")
        return found[0]

    def approve(self, challenge: str) -> None:
        """A person approves by the command line."""
        self.people += 1
        done = self.site.approve(challenge, f"ann{self.people}")
        assert done.code == 0, done.err


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    folder = tmp_path_factory.mktemp("vault")
    port, journal = free_port(), folder / "journal.jsonl"
    journal.touch()
    with (folder / "server.log").open("wb") as log, Verbs(tmp_path_factory.mktemp("verbs")) as verbs:
        process = subprocess.Popen(
            [sys.executable, SERVERS / "sdk_server.py", str(port), journal], stdout=log, stderr=log
        )
        try:
            site = Site(folder, verbs)
            patient = "".join(f"[agents.patient-{mode}]\nhold = 50\n" for mode in ("auto", "legacy"))
            site.write(f"[servers.vault]\nurl = 'http://127.0.0.1:{port}/mcp'\n{patient}", vault=POLICY)
            until(lambda: answers(port), "the server listens", within=30)
            with site.serve():
                yield Vault(site, journal, f"http://127.0.0.1:{port}/mcp")
        finally:
            process.terminate()
            process.wait(10)


def answers(port: int) -> bool:
    try:
        httpx2.get(f"http://127.0.0.1:{port}/mcp")
    except httpx2.TransportError:
        return False
    return True


def text(result: CallToolResult) -> str:
    return " ".join(block.text for block in result.content if isinstance(block, TextContent))


def first_url(result: CallToolResult) -> str:
    return next(word for word in text(result).split() if word.startswith(("http://", "https://")))


def challenge_of(result: CallToolResult) -> dict[str, Any]:
    assert result.is_error, result
    challenge: dict[str, Any] = (result.meta or {})["guard/challenge"]
    return challenge


# ------------------------------------------------------------------ what passes


@MODES
async def test_what_the_client_sees_is_what_the_server_says_itself(vault: Vault, mode: str) -> None:
    async def seen(client: Client) -> list[object]:
        return [
            client.protocol_version,
            client.instructions,
            (await client.list_tools()).model_dump(exclude={"meta"}),
            (await client.list_resources()).model_dump(exclude={"meta"}),
            (await client.list_resource_templates()).model_dump(exclude={"meta"}),
            (await client.list_prompts()).model_dump(exclude={"meta"}),
            (await client.call_tool("echo", {"text": "é \u2028 😀"})).model_dump(exclude={"meta"}),
            (await client.read_resource("note://one")).model_dump(exclude={"meta"}),
            (await client.get_prompt("greet", {"name": "Ann"})).model_dump(exclude={"meta"}),
        ]

    async with Client(vault.direct, mode=mode) as direct, vault.client(mode) as guarded:
        assert await seen(guarded) == await seen(direct)


@MODES
async def test_progress_reaches_the_client_in_order(vault: Vault, mode: str) -> None:
    steps: list[float] = []

    async def note(progress: float, _total: float | None, _message: str | None) -> None:
        steps.append(progress)

    async with vault.client(mode) as client:
        result = await client.call_tool("count", {"to": 5}, progress_callback=note)
    assert (text(result), steps) == ("counted to 5", [1, 2, 3, 4, 5])


@MODES
async def test_an_answer_is_streamed_while_the_tool_still_runs(vault: Vault, mode: str) -> None:
    async with vault.client(mode) as client:
        waiting = anyio.Event()

        async def note(*_: object) -> None:
            waiting.set()

        async def open_when_waiting() -> None:
            await waiting.wait()
            await client.call_tool("open_gate", {"name": mode})

        async with anyio.create_task_group() as group:
            group.start_soon(open_when_waiting)
            with anyio.fail_after(20):
                result = await client.call_tool("pass_gate", {"name": mode}, progress_callback=note)
    assert text(result) == "passed"


@MODES
async def test_calls_of_one_client_run_side_by_side(vault: Vault, mode: str) -> None:
    async with vault.client(mode) as client:
        heard: dict[str, str] = {}

        async def say(word: str) -> None:
            heard[word] = text(await client.call_tool("echo", {"text": word}))

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(say, f"word {number}")
    assert heard == {word: word for word in heard}
    assert len(heard) == 20


async def test_a_legacy_session_belongs_to_its_agent_and_ends_with_delete(vault: Vault) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    url, accept = vault.site.url("vault"), {"Accept": "application/json, text/event-stream"}
    async with vault.http() as owner, vault.http() as stranger:
        session = (await owner.post(url, json=hello, headers=accept)).headers["mcp-session-id"]
        within = accept | {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
        statuses = [
            (await owner.post(url, json=ping, headers=within)).status_code,
            (await stranger.post(url, json=ping, headers=within)).status_code,
            (await stranger.delete(url, headers=within)).status_code,
            (await owner.delete(url, headers=within)).status_code,
            (await owner.post(url, json=ping, headers=within)).status_code,
        ]
    assert statuses == [200, 404, 404, 200, 404]


async def test_a_caller_without_a_valid_key_is_told_so_as_oauth_clients_expect(vault: Vault) -> None:
    ping, url = {"jsonrpc": "2.0", "id": 2, "method": "ping"}, vault.site.url("vault")
    async with httpx2.AsyncClient() as http:
        none = await http.post(url, json=ping)
        wrong = await http.post(url, json=ping, headers={"Authorization": "Bearer grd_wrong"})
    assert [none.status_code, wrong.status_code] == [401, 401]
    assert none.headers["www-authenticate"].startswith("Bearer ")
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]


# ------------------------------------------------------------------ what is paused


@MODES
async def test_a_paused_call_reaches_the_agent_as_a_tool_result_that_names_its_challenge(
    vault: Vault, mode: str
) -> None:
    async with vault.client(mode) as client:
        await client.list_tools()
        result = await client.call_tool("delete_secret", {"path": f"shape/{mode}"})
    challenge = challenge_of(result)
    assert set(challenge) == {"id", "url", "expires", "requirement", "reasons"}
    assert result.structured_content is None
    assert len(result.content) == 1
    assert first_url(result) == challenge["url"]
    assert urlsplit(challenge["url"]).path.rpartition("/")[2] == challenge["id"]
    assert 0 < challenge["expires"] - time.time() <= 900
    assert challenge["requirement"]
    assert challenge["reasons"]
    assert vault.ran(f"shape/{mode}") == 0


@MODES
async def test_an_approved_call_runs_exactly_once_and_the_session_goes_on(vault: Vault, mode: str) -> None:
    call = ("delete_secret", {"path": f"contract/{mode}"})
    async with vault.client(mode) as client:
        assert text(await client.call_tool("echo", {"text": "before"})) == "before"
        first = challenge_of(await client.call_tool(*call))
        assert challenge_of(await client.call_tool(*call))["id"] == first["id"], "the same call joins its challenge"
        assert vault.ran(call[1]["path"]) == 0
        vault.approve(first["id"])
        assert vault.ran(call[1]["path"]) == 0
        done = await client.call_tool(*call)
        assert (done.is_error, done.structured_content) == (False, {"deleted": call[1]["path"]})
        again = challenge_of(await client.call_tool(*call))
        assert again["id"] != first["id"]
        assert vault.ran(call[1]["path"]) == 1
        assert text(await client.call_tool("echo", {"text": "after"})) == "after"


@MODES
async def test_a_public_call_beside_a_paused_one_is_not_kept_waiting(vault: Vault, mode: str) -> None:
    order: list[str] = []
    async with vault.client(mode, f"patient-{mode}") as client:
        await client.list_tools()

        async def pause() -> None:
            await client.call_tool("delete_secret", {"path": f"beside/{mode}"})
            order.append("paused")

        async with anyio.create_task_group() as group:
            group.start_soon(pause)
            challenge = await anyio.to_thread.run_sync(vault.pending, f"patient-{mode}")
            await client.call_tool("echo", {"text": "beside"})
            order.append("public")
            await anyio.to_thread.run_sync(vault.site.guard, "challenge", "cancel", challenge)
    assert order == ["public", "paused"]
    assert vault.ran(f"beside/{mode}") == 0


@MODES
async def test_a_changed_argument_needs_an_approval_of_its_own(vault: Vault, mode: str) -> None:
    async with vault.client(mode) as client:
        await client.list_tools()
        first = challenge_of(await client.call_tool("delete_secret", {"path": f"one/{mode}"}))
        vault.approve(first["id"])
        other = challenge_of(await client.call_tool("delete_secret", {"path": f"two/{mode}"}))
    assert other["id"] != first["id"]
    assert vault.ran(f"two/{mode}") == 0


@MODES
async def test_an_approval_for_one_agent_serves_no_other(vault: Vault, mode: str) -> None:
    call = ("delete_secret", {"path": f"stolen/{mode}"})
    async with vault.client(mode) as owner, vault.client(mode) as other:
        await owner.list_tools()
        first = challenge_of(await owner.call_tool(*call))
        vault.approve(first["id"])
        assert challenge_of(await other.call_tool(*call))["id"] != first["id"]
    assert vault.ran(call[1]["path"]) == 0


@MODES
async def test_a_paused_resource_is_an_error_with_the_challenge_as_data_and_is_read_after_approval(
    vault: Vault, mode: str
) -> None:
    async with vault.client(mode) as client:
        with pytest.raises(MCPError) as paused:
            await client.read_resource("config://all")
        error = paused.value.error
        assert -32019 <= error.code <= -32000
        assert error.data["url"].endswith(error.data["id"])
        vault.approve(error.data["id"])
        assert "verbose" in (await client.read_resource("config://all")).contents[0].text  # type: ignore[union-attr]


# ------------------------------------------------------------------ the console is no place for agents


async def test_an_agents_key_is_refused_everywhere_on_the_console(vault: Vault) -> None:
    key = vault.site.agent("nosy")
    paths = ("/v1/challenges", "/v1/grants", "/v1/agents", "/v1/events", "/v1/challenges/c_0000000000000000000000")
    said = {path: vault.site.get(path, Authorization=f"Bearer {key}")[0] for path in paths}
    assert said == dict.fromkeys(paths, 403)


async def test_the_console_says_that_it_is_ready_and_is_closed_to_nobody_in_particular(vault: Vault) -> None:
    assert vault.site.get("/healthz")[0] == 200
    assert vault.site.get("/v1/challenges")[0] == 401


async def test_the_challenges_page_opens_and_shows_no_argument(vault: Vault) -> None:
    async with vault.client("auto") as client:
        await client.list_tools()
        challenge = challenge_of(await client.call_tool("delete_secret", {"path": "secret-argument"}))
    status, page = vault.site.get(urlsplit(challenge["url"]).path)
    assert status == 200
    assert challenge["id"] in page
    assert "secret-argument" not in page
