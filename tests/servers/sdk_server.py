"""A tool server made with the official SDK, over streamable HTTP in both eras: sdk_server.py PORT JOURNAL.

Every run of a tool is a line `{"tool", "arguments"}` of the journal.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import anyio
import anyio.lowlevel
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

server = MCPServer("vault", instructions="a vault for tests")
journal = Path(sys.argv[2])


gates: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)


class Deleted(BaseModel):
    """What `delete_secret` answers."""

    deleted: str


def note(tool: str, **arguments: object) -> None:
    """Journal a run."""
    with journal.open("a") as file:
        file.write(json.dumps({"tool": tool, "arguments": arguments}) + "\n")


@server.tool()
def echo(text: str) -> str:
    """Answers with its text."""
    note("echo", text=text)
    return text


@server.tool()
async def count(to: int, context: Context) -> str:
    """Counts, and reports each step while it does."""
    note("count", to=to)
    for step in range(1, to + 1):
        await context.report_progress(step, to, f"step {step}")
        await anyio.lowlevel.checkpoint()
    return f"counted to {to}"


@server.tool()
async def pass_gate(name: str, context: Context) -> str:
    """Reports that it waits at a gate, and answers when `open_gate` opens it."""
    await context.report_progress(1, 2, "waiting")
    await gates[name].wait()
    return "passed"


@server.tool()
def open_gate(name: str) -> str:
    """Opens a gate."""
    gates[name].set()
    return "open"


@server.tool()
def delete_secret(path: str) -> Deleted:
    """Deletes a secret for good."""
    note("delete_secret", path=path)
    return Deleted(deleted=path)


@server.resource("note://{name}")
def read_note(name: str) -> str:
    """A note."""
    return f"note {name}"


@server.resource("config://all")
def read_config() -> str:
    """The configuration."""
    return "verbose = true"


@server.prompt()
def greet(name: str) -> str:
    """A greeting."""
    return f"Say hello to {name}"


if __name__ == "__main__":
    uvicorn.run(
        server.streamable_http_app(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
