"""The story with the OpenAI Agents SDK: an `Agent` whose `Model` is scripted."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, TResponseInputItem, Usage
from agents.mcp import MCPServerStreamableHttp
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

sys.path.append(str(Path(__file__).resolve().parents[1]))
from scene import Call, tell


class Scripted(Model):
    """Wants one tool at first; once its answer is there, says what was read."""

    def __init__(self, tool: str, arguments: dict[str, Any]) -> None:
        self.wants = ResponseFunctionToolCall(
            type="function_call", call_id="1", name=tool, arguments=json.dumps(arguments)
        )

    async def get_response(
        self,
        *_: object,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK's word
        **__: object,
    ) -> ModelResponse:
        items = [] if isinstance(input, str) else input
        read = [item["output"] for item in items if item.get("type") == "function_call_output"]
        return ModelResponse(output=[say(read[0]) if read else self.wants], usage=Usage(), response_id=None)

    def stream_response(self, *_: object, **__: object) -> AsyncIterator[Any]:
        raise NotImplementedError("nothing is streamed here")


def say(read: object) -> ResponseOutputMessage:
    text = ResponseOutputText(type="output_text", text=json.dumps(read), annotations=[])
    return ResponseOutputMessage(id="2", type="message", role="assistant", status="completed", content=[text])


@asynccontextmanager
async def connect(url: str, key: str) -> AsyncIterator[Call]:
    async with MCPServerStreamableHttp(
        params={"url": url, "headers": {"Authorization": f"Bearer {key}"}},
        client_session_timeout_seconds=30,  # 5 by default, which is enough for the guard's default hold only
    ) as server:

        async def call(tool: str, arguments: dict[str, Any]) -> str:
            agent = Agent(name="robot", model=Scripted(tool, arguments), mcp_servers=[server])
            result = await Runner.run(agent, "go", run_config=RunConfig(tracing_disabled=True))
            return str(result.final_output)

        yield call


if __name__ == "__main__":
    tell(connect, "hold = 20")
