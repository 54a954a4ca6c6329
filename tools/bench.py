"""What the guard costs, measured beside nginx and beside no proxy at all, in one run on this machine.

Starts an echo tool server, nginx and the guard in a temporary directory, loads each in turn with wrk (every
body is checked), then compares `guard run` with the bare tool server. Speed is shown against the goals and
never asserted: the exit code is 1 only when a body was wrong. A call that needs an approval is traced too,
when strace is there.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyotp

ROOT = Path(__file__).resolve().parent.parent
ECHO = ROOT / "tests" / "servers" / "echo_server.py"
GUARD = str(Path(sys.executable).parent / "guard")
TEXT = "x" * 200
FLOOR = 10.0  # microseconds; where nginx adds less, a ratio to it would be noise and none is given
SETTLED = 0.3  # seconds in which the grouped fsync of an outcome has long come
GOALS = {
    "cpu_us": (150, "us CPU a permitted call, c=16"),
    "c1": (10, "x nginx's added p50, c=1"),
    "c16": (10, "x nginx's added p50, c=16"),
    "rss_mb": (90, "MB resident, idle"),
    "stdio_us": (300, "us added p50 over stdio"),
    "fsyncs": (2, "fsyncs before a guarded call is answered"),
}
LUA = """
bad = 0
local threads = {}
function setup(thread) table.insert(threads, thread) end
wrk.method, wrk.body = "POST", %s
wrk.headers["Content-Type"], wrk.headers["Accept"] = "application/json", "application/json, text/event-stream"
wrk.headers["MCP-Protocol-Version"], wrk.headers["Authorization"] = "2025-11-25", %s
function response(status, _, body) if status ~= 200 or not body:find(%s, 1, true) then bad = bad + 1 end end
function done(summary, latency)
  local e = summary.errors
  local wrong = e.connect + e.read + e.write + e.timeout
  for _, thread in ipairs(threads) do wrong = wrong + thread:get("bad") end
  print(string.format('{"p50":%%f,"calls":%%d,"us":%%d,"bad":%%d}',
    latency:percentile(50), summary.requests, summary.duration, wrong))
end
"""
NGINX = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/nginx.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000;
  {temporary}
  upstream echo {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""
TOML = """
state = "state"
policies = "tool_policies"
log_level = "warning"
[proxy]
listen = "127.0.0.1:{port}"
hold = 0
[console]
listen = "127.0.0.1:{console}"
[servers.web]
url = "http://127.0.0.1:{upstream}/mcp"
[servers.pipe]
command = {command}
"""
POLICY = """
server: {name}
owner: bench@example.com
tools:
  echo: {{sensitivity: public}}
  wipe: {{sensitivity: sensitive, require: consent}}
"""


@dataclass
class Target:
    """One way to the tool server, and what was measured on it."""

    name: str
    port: int
    pid: int
    path: str = "/mcp"
    runs: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def best(self, connections: int, key: str) -> float:
        """The least disturbed round."""
        return min(run[key] for run in self.runs[connections])


def say(text: str) -> None:
    """Tell how far we are."""
    print(text, file=sys.stderr, flush=True)


def call(tool: str, number: int = 7) -> str:
    """One tools/call message."""
    params = {"name": tool, "arguments": {"text": TEXT}}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}, separators=(",", ":"))


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(*command: str, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:  # noqa: ANN401  # as Popen has it
    """A process that is ended with the block."""
    process = subprocess.Popen(command, **settings)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait for a listener, at most 20 seconds."""
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    sys.exit(f"{shlex.join(map(str, process.args))} does not listen")  # type: ignore[arg-type]


def guard(home: Path, *arguments: str) -> str:
    """Run a verb; its output."""
    done = subprocess.run(
        [GUARD, *arguments, "--config", str(home / "guard.toml")], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


# ------------------------------------------------------------------ over HTTP


def load(target: Target, key: str, connections: int, seconds: int, home: Path) -> None:
    """One round of wrk; remembers p50, calls, CPU per call of the target's processes, and wrong bodies."""
    script = home / "load.lua"
    script.write_text(LUA % (f"[[{call('echo')}]]", f'"Bearer {key}"', f'"echo:{TEXT}"'))
    process = psutil.Process(target.pid)

    def used() -> float:
        tree = [process, *process.children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in tree)

    before = used()
    url = f"http://127.0.0.1:{target.port}{target.path}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    run = json.loads(printed.strip().splitlines()[-1])
    run["cpu"] = (used() - before) * 1e6 / max(run["calls"], 1)
    run["rate"] = run["calls"] * 1e6 / run["us"]
    target.runs.setdefault(connections, []).append(run)


def over_http(home: Path, key: str, targets: list[Target], given: argparse.Namespace) -> dict[str, Any]:
    """Rounds over all targets in rotating order, so that each ratio is taken between neighbours in time."""
    for turn in range(given.rounds):
        for connections in (1, 16):
            for target in targets[turn % len(targets) :] + targets[: turn % len(targets)]:
                say(f"round {turn + 1} of {given.rounds}: {target.name}, {connections} connections")
                load(target, key, connections, given.secs, home)
    direct, nginx, _ = targets
    figures: dict[str, Any] = {"bad": sum(int(r["bad"]) for t in targets for runs in t.runs.values() for r in runs)}
    for connections in (1, 16):
        unit = nginx.best(connections, "p50") - direct.best(connections, "p50")
        for target in targets:
            added = target.best(connections, "p50") - direct.best(connections, "p50")
            figures[f"{target.name}_c{connections}"] = {
                "p50_us": round(target.best(connections, "p50"), 1),
                "added_us": round(added, 1),
                "x_nginx": round(added / unit, 2) if unit >= FLOOR else None,
                "cpu_us": round(target.best(connections, "cpu"), 1),
                "calls_per_s": round(max(run["rate"] for run in target.runs[connections])),
            }
    return figures


# ------------------------------------------------------------------ over stdio


def lines(command: list[str], calls: int, environment: dict[str, str]) -> tuple[float, int]:
    """Median latency of sequential calls in microseconds, and how many answers were wrong."""
    with started(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError(command)
        took, bad = [], 0
        for number in range(calls + 200):
            message = call("echo", number).encode() + b"\n"
            before = time.perf_counter()
            process.stdin.write(message)
            process.stdin.flush()
            answer = process.stdout.readline()
            took.append((time.perf_counter() - before) * 1e6)
            bad += f"echo:{TEXT}".encode() not in answer
            if not answer:
                break
        process.stdin.close()
        return statistics.median(took[200:] or [0.0]), bad


def over_stdio(home: Path, key: str, given: argparse.Namespace) -> dict[str, Any]:
    """The bare tool server and `guard run`, in turns."""
    guarded = [GUARD, "run", "pipe", "--config", str(home / "guard.toml")]
    bare, added, bad = [], [], 0
    for turn in range(given.rounds):
        say(f"round {turn + 1} of {given.rounds}: stdio")
        for command, kept in (([sys.executable, str(ECHO), "--stdio"], bare), (guarded, added)):
            median, wrong = lines(command, given.calls, os.environ | {"GUARD_AGENT_KEY": key})
            kept.append(median)
            bad += wrong
    return {
        "stdio_direct_us": round(min(bare), 1),
        "stdio_added_us": round(min(added) - min(bare), 1),
        "stdio_bad": bad,
    }


# ------------------------------------------------------------------ a guarded call


def ask(port: int, key: str) -> str:
    """Call the tool that needs an approval; the answer's body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Authorization": f"Bearer {key}"}
    connection.request("POST", "/mcp/web", call("wipe"), headers)
    body = connection.getresponse().read().decode()
    connection.close()
    return body


def approved(home: Path, key: str, target: Target, person: str) -> None:
    """Have a new person approve the call, so that it runs when it is asked again."""
    guard(home, "approver", "add", person)
    code = pyotp.parse_uri(guard(home, "factor", "enroll", "totp", person).splitlines()[-1])
    if not isinstance(code, pyotp.TOTP):
        raise TypeError(code)
    challenge = json.loads(ask(target.port, key))["result"]["_meta"]["guard/challenge"]["id"]
    guard(home, "challenge", "approve", challenge, "--as", person, "--code", code.now())


def fsyncs(home: Path, key: str, target: Target) -> dict[str, Any]:
    """How often the disk is waited for before an approved call is answered, and how often after.

    The first approved call is not counted: SQLite syncs the directory of a new log once.
    """
    say("a guarded call under strace")
    approved(home, key, target, "ann")
    ask(target.port, key)
    approved(home, key, target, "bob")
    log = home / "strace.log"
    tracing = ("strace", "-f", "-ttt", "-e", "trace=fsync,fdatasync", "-o", str(log), "-p", str(target.pid))
    with started(*tracing, stderr=subprocess.PIPE) as tracer:
        if tracer.stderr is not None:
            tracer.stderr.readline()  # it says so when it is attached
        time.sleep(SETTLED)
        before = time.time()
        answer = ask(target.port, key)
        answered = time.time()
        time.sleep(SETTLED)
    seen = re.findall(r"^\d+ +([\d.]+) f(?:data)?sync\(", log.read_text(), re.MULTILINE)
    times = [float(one) for one in seen if float(one) >= before]
    at_once = sum(one <= answered for one in times)
    return {"fsyncs": at_once, "fsyncs_after": len(times) - at_once, "guarded_bad": int(f"echo:{TEXT}" not in answer)}


# ------------------------------------------------------------------ all of it


@contextlib.contextmanager
def proxies(home: Path) -> Iterator[tuple[str, list[Target], float]]:
    """The echo server, nginx and the guard, running: the agent's key, the targets, MB of the idle guard."""
    exe = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if not exe or not shutil.which("wrk"):
        sys.exit("wrk and nginx are needed (Debian: wrk nginx-light)")
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(started(sys.executable, str(ECHO), stdout=subprocess.PIPE))
        upstream = int(echo.stdout.readline()) if echo.stdout else 0
        ports = [free_port() for _ in range(3)]
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{kind}_temp_path {home}/{kind};" for kind in kinds)
        (home / "nginx.conf").write_text(NGINX.format(home=home, temporary=temporary, upstream=upstream, port=ports[0]))
        command = json.dumps([sys.executable, str(ECHO), "--stdio"])
        text = TOML.format(port=ports[1], console=ports[2], upstream=upstream, command=command)
        (home / "guard.toml").write_text(text)
        (home / "tool_policies").mkdir()
        for name in ("web", "pipe"):
            (home / "tool_policies" / f"{name}.yaml").write_text(POLICY.format(name=name))
        key = guard(home, "agent", "add", "bench")
        nginx = stack.enter_context(started(exe, "-p", str(home), "-c", str(home / "nginx.conf")))
        served = stack.enter_context(
            started(GUARD, "serve", "--config", str(home / "guard.toml"), stderr=subprocess.DEVNULL)
        )
        until_listening(ports[0], nginx)
        until_listening(ports[1], served)
        until_listening(ports[2], served)
        rss = psutil.Process(served.pid).memory_info().rss / 2**20
        yield (
            key,
            [
                Target("direct", upstream, echo.pid),
                Target("nginx", ports[0], nginx.pid),
                Target("guard", ports[1], served.pid, "/mcp/web"),
            ],
            rss,
        )


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything, in a temporary directory."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with proxies(home) as (key, targets, rss):
            figures = {"rss_mb": round(rss, 1)} | over_http(home, key, targets, given)
            if shutil.which("strace"):
                figures |= fsyncs(home, key, targets[2])
        return figures | over_stdio(home, key, given)


def reached(figures: dict[str, Any]) -> dict[str, float | None]:
    """The figure for each goal."""
    return {
        "cpu_us": figures["guard_c16"]["cpu_us"],
        "c1": figures["guard_c1"]["x_nginx"],
        "c16": figures["guard_c16"]["x_nginx"],
        "rss_mb": figures["rss_mb"],
        "stdio_us": figures["stdio_added_us"],
        "fsyncs": figures.get("fsyncs"),
    }


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    load_average = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {load_average:.1f}, Python {platform.python_version()}\n")
    print("| | p50 us | added us | x nginx | CPU us/call | calls/s |\n|---|---|---|---|---|---|")
    for connections in (1, 16):
        for name in ("direct", "nginx", "guard"):
            row = figures[f"{name}_c{connections}"]
            print(f"| {name}, c={connections} | {' | '.join(str(value) for value in row.values())} |")
    print("\n| goal | measured | holds |\n|---|---|---|")
    for name, value in reached(figures).items():
        limit, words = GOALS[name]
        verdict = "not measured" if value is None else "yes" if value <= limit else "no"
        print(f"| at most {limit} {words} | {'-' if value is None else value} | {verdict} |")
    if "fsyncs_after" in figures:
        print(
            f"\nthe outcome of the guarded call reached the disk after the answer, in {figures['fsyncs_after']} fsync"
        )


def main() -> int:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--secs", type=int, default=2, help="seconds of one round of wrk")
    arguments.add_argument("--calls", type=int, default=1000, help="calls of one round over stdio")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end what was started, too
    figures = measure(given)
    if given.json:
        print(json.dumps(figures))
    else:
        show(figures)
    wrong = figures["bad"] + figures["stdio_bad"] + figures.get("guarded_bad", 0)
    if wrong:
        say(f"{wrong} answers were wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
