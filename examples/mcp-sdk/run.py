"""The story with the official Python SDK 2; `--legacy` speaks revision 2025-11-25."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

sys.path.append(str(Path(__file__).resolve().parents[1]))
from scene import Call, tell

LEGACY = "--legacy" in sys.argv


@asynccontextmanager
async def connect(url: str, key: str) -> AsyncIterator[Call]:
    headers, timeout = {"Authorization": f"Bearer {key}"}, httpx2.Timeout(30, read=300)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as http,
        Client(streamable_http_client(url, http_client=http), mode="legacy" if LEGACY else "auto") as client,
    ):

        async def call(tool: str, arguments: dict[str, Any]) -> str:
            result = await client.call_tool(tool, arguments)
            return "\n".join(block.text for block in result.content if block.type == "text")

        yield call


if __name__ == "__main__":
    tell(connect, "hold = 50" if LEGACY else "legs = true")
