"""The story with the official Python SDK 1."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

sys.path.append(str(Path(__file__).resolve().parents[1]))
from scene import Call, tell


@asynccontextmanager
async def connect(url: str, key: str) -> AsyncIterator[Call]:
    headers = {"Authorization": f"Bearer {key}"}
    async with streamablehttp_client(url, headers=headers) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()

        async def call(tool: str, arguments: dict[str, Any]) -> str:
            result = await session.call_tool(tool, arguments)
            return "\n".join(block.text for block in result.content if block.type == "text")

        yield call


if __name__ == "__main__":
    tell(connect, "hold = 20")
