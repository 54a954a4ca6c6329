"""An MCP tool server that costs next to nothing, so that a measurement shows what stands in front of it.

echo_server.py --port N (0: a free one, which it prints), or echo_server.py --stdio. Every tool repeats its `text`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import uvloop

VERSION = "2025-11-25"


def answer(message: dict[str, Any]) -> bytes:
    """The answer to one message; empty when it wants none."""
    if "id" not in message:
        return b""
    method, params = message.get("method"), message.get("params", {})
    if method == "tools/call":
        text = "echo:" + params.get("arguments", {}).get("text", "")
        result: dict[str, Any] = {"content": [{"type": "text", "text": text}], "isError": False}
    elif method == "initialize":
        about = {"name": "echo", "version": "1"}
        result = {"protocolVersion": VERSION, "capabilities": {"tools": {}}, "serverInfo": about}
    else:
        result = {}
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}, separators=(",", ":")).encode()


class Http(asyncio.Protocol):
    """One keep-alive connection; requests have a Content-Length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport: Any = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        data = self.rest + data if self.rest else data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end].lower()
            at = head.find(b"\r\ncontent-length:")
            size = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(data) < end + 4 + size:
                break
            body, data = data[end + 4 : end + 4 + size], data[end + 4 + size :]
            said = answer(json.loads(body)) if body else b""
            status = b"200 OK" if said else b"202 Accepted"
            self.transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(said), said)
            )
        self.rest = data


async def serve(port: int) -> None:
    """Listen on loopback, and say where."""
    server = await asyncio.get_running_loop().create_server(Http, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


def pump() -> None:
    """Answer lines."""
    for line in sys.stdin.buffer:
        if said := answer(json.loads(line)):
            sys.stdout.buffer.write(said + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--stdio", action="store_true")
    given = arguments.parse_args()
    if given.stdio:
        pump()
    else:
        uvloop.run(serve(given.port))
