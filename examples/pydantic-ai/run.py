"""The story with Pydantic AI: an `Agent` whose model is a function."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

sys.path.append(str(Path(__file__).resolve().parents[1]))
from scene import Call, tell


@asynccontextmanager
async def connect(url: str, key: str) -> AsyncIterator[Call]:
    agent = Agent(toolsets=[MCPToolset(url, headers={"Authorization": f"Bearer {key}"})])

    async def call(tool: str, arguments: dict[str, Any]) -> str:
        def model(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
            """Want the tool at first; once its answer is there, say what was read."""
            read = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart | RetryPromptPart)]
            return ModelResponse(parts=[TextPart(str(read[0].content)) if read else ToolCallPart(tool, arguments)])

        return (await agent.run("go", model=FunctionModel(model))).output

    async with agent:
        yield call


if __name__ == "__main__":
    tell(connect, "legs = true")
