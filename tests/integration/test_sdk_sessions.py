"""Real clients and a real tool server of the official SDK, which is restarted under them."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult

from tests.guards import Serving
from tests.world import World, free_port, until

NOTE_SERVER = Path(__file__).parents[1] / "servers" / "note_server.py"
POLICY = "server: sdk\nowner: tests\ntools: {note: {sensitivity: public}}\n"


@pytest.fixture
def anyio_backend() -> str:
    """The SDK's transport is asyncio here."""
    return "asyncio"


@contextmanager
def tool_server(port: int, journal: Path) -> Iterator[None]:
    """The tool server; all its sessions end with the block."""
    process = subprocess.Popen([sys.executable, NOTE_SERVER, str(port), journal])

    def ready() -> bool:
        assert process.poll() is None
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/mcp", timeout=5)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    try:
        until(ready, "the tool server is ready")
        yield
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def client(guard: Serving, key: str) -> AsyncIterator[Client]:
    url = f"http://{guard.config.proxy.host}:{guard.config.proxy.port}/mcp/sdk"
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=30) as web,
        Client(streamable_http_client(url, http_client=web), mode="legacy") as agent,
    ):
        yield agent


@pytest.mark.anyio
async def test_a_legacy_client_lives_through_restarts_of_its_tool_server(tmp_path: Path) -> None:
    port, journal = free_port(), tmp_path / "sdk.jsonl"
    with World(tmp_path, more=f"[servers.sdk]\nurl = 'http://127.0.0.1:{port}/mcp'\n") as world:
        world.write_policy("sdk", text=POLICY)
        with ExitStack() as first:
            first.enter_context(tool_server(port, journal))
            async with client(world.serve(), world.key) as agent:
                assert len((await agent.list_tools()).tools) == 1
                assert not called(await agent.call_tool("note", {"n": 0})).is_error
                for n in (1, 2):
                    first.close()
                    first.enter_context(tool_server(port, journal))
                    for m in (n, n + 10):
                        assert not called(await agent.call_tool("note", {"n": m})).is_error
        notes = [json.loads(line)["n"] for line in journal.read_text().splitlines()]
        assert notes == [0, 1, 11, 2, 12]
        assert len(world.records("session.lost")) == len(world.records("session.healed")) >= 2
        assert world.verify().ok


def called(result: object) -> CallToolResult:
    assert isinstance(result, CallToolResult)
    return result
