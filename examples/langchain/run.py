"""The story with LangChain: `create_agent` with the tools of langchain-mcp-adapters and a scripted chat model."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langchain_mcp_adapters.client import MultiServerMCPClient

sys.path.append(str(Path(__file__).resolve().parents[1]))
from scene import Call, tell


class Scripted(GenericFakeChatModel):
    """Says what it was given to say."""

    def bind_tools(self, *_: object, **__: object) -> Scripted:
        return self


@asynccontextmanager
async def connect(url: str, key: str) -> AsyncIterator[Call]:
    headers = {"Authorization": f"Bearer {key}"}
    client = MultiServerMCPClient({"payments": {"transport": "streamable_http", "url": url, "headers": headers}})
    tools = await client.get_tools()

    async def call(tool: str, arguments: dict[str, Any]) -> str:
        wants = AIMessage(content="", tool_calls=[ToolCall(name=tool, args=arguments, id="1")])
        model = Scripted(messages=iter([wants, AIMessage(content="done")]))
        said = (await create_agent(model, tools).ainvoke({"messages": [("user", "go")]}))["messages"]
        return "\n".join(message.text for message in said if isinstance(message, ToolMessage))

    yield call


if __name__ == "__main__":
    tell(connect, "hold = 20")
