"""A tool server built on the official SDK, with legacy sessions in its memory: note_server.py PORT JOURNAL.

`note` answers with its arguments; every execution appends a line to the journal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import uvicorn
from mcp.server import Server, ServerRequestContext
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, TextContent, Tool


def main(port: int, journal: Path) -> None:
    """Serve until killed."""

    async def tools(_: ServerRequestContext, __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="note", description="for tests", input_schema={"type": "object"})])

    async def call(_: ServerRequestContext, params: CallToolRequestParams) -> CallToolResult:
        with journal.open("a") as file:
            file.write(json.dumps(params.arguments) + "\n")
        return CallToolResult(content=[TextContent(text=json.dumps(params.arguments))])

    server = Server("sdk", on_list_tools=tools, on_call_tool=call)
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
