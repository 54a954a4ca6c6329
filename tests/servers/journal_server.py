"""A tool server that journals every call it executes; for tests of the whole path.

    journal_server.py --journal FILE                 MCP over stdio
    journal_server.py --journal FILE --http PORT     MCP over HTTP, JSON answers to POST /mcp (0: prints its port)

Over HTTP `initialize` begins a session, and GET /mcp is an event stream that lasts until the client leaves.
With `--forgetful` a session begun by an earlier process is answered 404.
With `--words FILE` (a JSON object) tools are described in its words, read for every tools/list.

Each tools/call appends one JSON line {"tool", "arguments", "id", "mono"} to the journal before it is answered. Tools:

    note       public-looking: answers with its arguments
    wipe       the same, annotated as destructive
    fail       answers isError
    slow       answers after `seconds`, or as soon as the file `until` is there
    mute       never answers
    variables  answers with this process's environment
    say        writes the line `line` to stdout as it is, then answers
    warn       writes `text` to stderr, then answers
    spawn      starts a grandchild that ignores everything and answers with its pid
    ask        asks the client (`elicitation/create`), and journals what it says
    exit       exits without an answer
    hoard      takes `megabytes` of memory and answers how many it has
    big        answers with `bytes` bytes
    narrate    reports progress `steps` times, then answers (over HTTP in an event stream)
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOOLS = (
    "note",
    "wipe",
    "fail",
    "slow",
    "mute",
    "variables",
    "say",
    "warn",
    "spawn",
    "ask",
    "exit",
    "hoard",
    "big",
    "narrate",
)
STUBBORN = "import signal,time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; time.sleep(600)"


class Journal:
    """Appends what happened, one JSON object a line."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", buffering=1)

    def note(self, **what: object) -> None:
        self._file.write(json.dumps(what) + "\n")


class Server:
    """Answers MCP messages; `write` sends a line of its own accord (stdio only)."""

    def __init__(self, journal: Journal, words: Path | None = None) -> None:
        self._journal, self._words = journal, words
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        with self._lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def take(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to one message, or None when there is none."""
        method = message.get("method")
        if method is None:
            self._journal.note(answer=message)
            return None
        if "id" not in message:
            self._journal.note(notification=method, params=message.get("params"))
            return None
        params = message.get("params") or {}
        if method == "tools/call":
            said = {"tool": params["name"], "arguments": params.get("arguments", {}), "id": message["id"]}
            self._journal.note(**said, mono=time.monotonic())
            result = self.call(params["name"], params.get("arguments", {}))
        elif method == "tools/list":
            words = json.loads(self._words.read_text()) if self._words and self._words.exists() else {}
            result = {"tools": [describe(name, words.get(name, f"{name} for tests")) for name in TOOLS]}
        elif method in {"initialize", "server/discover"}:
            result = {
                "protocolVersion": params.get("protocolVersion", "2025-11-25"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "journal", "version": "1"},
            }
        elif method == "ping":
            result = {}
        else:
            return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": f"no {method}"}}
        return None if result is None else {"jsonrpc": "2.0", "id": message["id"], "result": result}

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Carry out one tool; None means that it never answers."""
        text, failed = "x" * arguments["bytes"] if tool == "big" else json.dumps(arguments), tool == "fail"
        if tool == "slow":
            take_time(**arguments)
        elif tool == "mute":
            return None
        elif tool == "variables":
            text = json.dumps(dict(os.environ))
        elif tool == "say":
            self.write(arguments["line"])
        elif tool == "warn":
            sys.stderr.write(arguments["text"] + "\n")
            sys.stderr.flush()
        elif tool == "spawn":
            text = str(subprocess.Popen([sys.executable, "-c", STUBBORN]).pid)
        elif tool == "ask":
            self.write('{"jsonrpc":"2.0","id":"q1","method":"elicitation/create","params":{"message":"really?"}}')
        elif tool == "hoard":
            text = str(len(bytearray(arguments["megabytes"] << 20)) >> 20)
        elif tool == "exit":
            os._exit(arguments.get("code", 3))
        return {"content": [{"type": "text", "text": text}], "isError": failed}


def take_time(seconds: float = 0.0, until: str = "", **_: object) -> None:
    """Return after so long, or as soon as the file is there."""
    time.sleep(seconds)
    while until and not Path(until).exists():
        time.sleep(0.01)


def progress(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The progress a call of `narrate` reports, if it is one and asked for it."""
    params = message.get("params") or {}
    token = (params.get("_meta") or {}).get("progressToken")
    steps = params["arguments"]["steps"] if params.get("name") == "narrate" and token is not None else 0
    return [
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": step}}
        for step in range(1, steps + 1)
    ]


def describe(name: str, words: str) -> dict[str, Any]:
    """One tool as tools/list shows it."""
    tool = {"name": name, "description": words, "inputSchema": {"type": "object"}}
    return tool | ({"annotations": {"destructiveHint": True}} if name == "wipe" else {})


def serve_stdio(server: Server, *, stubborn: bool) -> None:
    """Answer lines of stdin, each call in a thread of its own, journalled in the order it came."""
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if (message.get("params") or {}).get("name") == "slow":
            threading.Thread(target=answer, args=(server, message), daemon=True).start()
        else:
            answer(server, message)
    while stubborn:
        time.sleep(600)


def answer(server: Server, message: dict[str, Any]) -> None:
    """Answer one line."""
    for note in progress(message):
        server.write(json.dumps(note))
    if (reply := server.take(message)) is not None:
        server.write(json.dumps(reply))


def serve_http(server: Server, port: int, *, forgetful: bool) -> None:
    """Answer POST /mcp with JSON until killed; the first line of stdout is the port."""
    sessions: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            message = json.loads(body)
            known = not forgetful or self.headers.get("Mcp-Session-Id") in {None, *sessions}
            reply = server.take(message) if self.path == "/mcp" and known else None
            if reply and (notes := progress(message)):
                narrate(self, [*notes, reply])
            else:
                self.respond(message, reply, known=known)

        def respond(self, message: dict[str, Any], reply: dict[str, Any] | None, *, known: bool) -> None:
            if known and reply is None and "id" in message and "method" in message:
                self.close_connection = True
                self.connection.recv(1)  # it never answers: until the client leaves
                return
            data = b"" if reply is None else json.dumps(reply).encode()
            self.send_response(404 if self.path != "/mcp" or not known else 200 if data else 202)
            if data:
                self.send_header("Content-Type", "application/json")
            if message.get("method") == "initialize":
                sessions.add(begun := uuid.uuid4().hex)
                self.send_header("Mcp-Session-Id", begun)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b": alive\n\n")
            self.connection.recv(1)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as httpd:
        sys.stdout.write(f"{httpd.server_address[1]}\n")
        sys.stdout.flush()
        httpd.serve_forever()


def narrate(handler: BaseHTTPRequestHandler, messages: list[dict[str, Any]]) -> None:
    """Answer with events, each a chunk of its own."""
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for one in messages:
        event = b"event: message\ndata: " + json.dumps(one).encode() + b"\n\n"
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
    handler.wfile.write(b"0\r\n\r\n")


def main() -> None:
    """Parse the command line and serve."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--journal", type=Path, required=True)
    cli.add_argument("--http", type=int, metavar="PORT")
    cli.add_argument("--stubborn", action="store_true", help="stdio: ignore SIGTERM and the end of the input")
    cli.add_argument("--forgetful", action="store_true", help="HTTP: do not know sessions of an earlier process")
    cli.add_argument("--words", type=Path, help="JSON file: descriptions of tools by name")
    args = cli.parse_args()
    server = Server(Journal(args.journal), args.words)
    if args.http is None:
        serve_stdio(server, stubborn=args.stubborn)
    else:
        serve_http(server, args.http, forgetful=args.forgetful)


if __name__ == "__main__":
    main()
