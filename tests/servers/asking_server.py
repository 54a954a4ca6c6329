"""A tool server made with the official SDK, for both eras: asking_server.py --journal FILE [--http PORT].

`note` and `wipe` answer with their arguments and journal every time they run. With the argument `ask`, they
first ask for more input by a `requestState` of their own, and run when they get that back.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server import Server
from mcp.server.stdio import stdio_server

STATE = "the-tool-server's-own-state"


def make(journal: Path) -> Server[Any]:
    """The server; it notes what it runs in `journal`."""

    async def list_tools(_context: object, _params: object) -> types.ListToolsResult:
        schema: dict[str, Any] = {"type": "object"}
        return types.ListToolsResult(
            tools=[types.Tool(name=name, description=name, input_schema=schema) for name in ("note", "wipe")]
        )

    async def call_tool(
        _context: object, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        arguments = params.arguments or {}
        if arguments.get("ask") and params.request_state != STATE:
            return types.InputRequiredResult(request_state=STATE)
        with journal.open("a") as file:
            file.write(json.dumps({"tool": params.name, "arguments": arguments, "state": params.request_state}) + "\n")
        return types.CallToolResult(content=[types.TextContent(text=json.dumps(arguments))])

    return Server(
        "sdk",
        version="1",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        get_tool_input_schema=lambda _name: {"type": "object"},
    )


async def on_stdio(server: Server[Any]) -> None:
    """Serve on stdin and stdout."""
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def on_http(server: Server[Any]) -> None:
    """Serve on a free port, which is the first line of stdout."""
    listening = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    settings = uvicorn.Config(server.streamable_http_app(), log_level="error")
    uvicorn.Server(settings).run([listening])


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--journal", type=Path, required=True)
    cli.add_argument("--http")
    cli.add_argument("--words")
    options = cli.parse_args()
    made = make(options.journal)
    if options.http is None:
        anyio.run(on_stdio, made)
    else:
        on_http(made)
