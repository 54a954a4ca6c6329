"""A tool server on stdio made with the MCP SDK, which says more than its answers: talking_server.py"""

from __future__ import annotations

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

SCHEMA = {"type": "object"}


async def list_tools(_context: object, _params: object) -> types.ListToolsResult:
    """Three tools."""
    names = ("count", "ask", "announce")
    return types.ListToolsResult(tools=[types.Tool(name=name, description=name, input_schema=SCHEMA) for name in names])


async def call_tool(context, params) -> types.CallToolResult:  # noqa: ANN001  # the SDK's context is generic
    """Count with progress, ask the person, or announce something in the log."""
    said = "done"
    if params.name == "count":
        for step in (1, 2, 3):
            await context.session.report_progress(step, 3)
    elif params.name == "ask":
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        answer = await context.session.elicit_form("Who are you?", schema, context.request_id)
        said = f"{answer.action} {(answer.content or {}).get('name')}"
    else:
        await context.session.send_log_message("warning", "hear, hear", related_request_id=context.request_id)
    return types.CallToolResult(content=[types.TextContent(text=said)])


async def main() -> None:
    """Serve until the input ends."""
    server = Server("talking", version="1", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


anyio.run(main)
