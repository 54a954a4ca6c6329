"""The deployment under load: one folder, real guards and tool servers, agents, and people who vote."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil
import pyotp
from speech import Pipe, Speaker

from guard.app import Desk
from guard.config import load
from guard.factors.totp import TotpFactor
from guard.identity.lifecycle import Lifecycle
from guard.stepup.view import render

ROOT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ROOT / "tests" / "servers" / "journal_server.py"
GUARD: Final = str(Path(sys.executable).with_name("guard"))
AGENTS: Final = ("ada", "bea", "cem", "dia")
PIPED: Final = ("pia", "pim")
PEOPLE: Final = 48
CODE_EVERY: Final = 31.0
"""Seconds until a person has a new code; each counts once."""
IDLE: Final = 2.0
"""Seconds until an unused child is stopped, so that starting and stopping is part of the load."""
START: Final = 20.0

TOML: Final = """\
log_level = "info"
[proxy]
listen = "127.0.0.1:{port}"
hold = 0.4
[console]
listen = "127.0.0.1:{console}"
public_url = "http://localhost:{console}"
[approval]
expires = 60
cool_down = 5
[servers.web]
url = "http://127.0.0.1:{upstream}/mcp"
[servers.desk]
command = {command}
idle_timeout = {idle}
[servers.frail]
command = {command}
idle_timeout = {idle}
[servers.pipe]
command = {command}
"""
POLICY: Final = """\
server: {name}
owner: soak@example.com
default: {{sensitivity: internal}}
tools:
  "*": {{sensitivity: internal}}
  wipe: {{sensitivity: sensitive, require: step_up}}
"""
SERVERS: Final = ("web", "desk", "frail", "pipe")


class Person:
    """An approver and the phone that makes the codes."""

    def __init__(self, name: str, phone: pyotp.TOTP) -> None:
        """Nobody has voted yet."""
        self.name, self.phone, self.voted = name, phone, 0.0


class Stage:
    """Everything that runs. `folder` is in the command line of every process it starts, which finds the orphans."""

    def __init__(self, folder: Path) -> None:
        """Write the configuration and enrol everybody; starts nothing."""
        self.folder, self.state, self.journal = folder, folder / "state", folder / "journal.jsonl"
        self.file, self.log = folder / "guard.toml", folder / "guard.log"
        self.port, self.console, self.upstream = (_free_port() for _ in range(3))
        self.journal.touch()
        command = json.dumps([sys.executable, str(TOOLS), "--journal", str(self.journal)])
        self.file.write_text(
            TOML.format(port=self.port, console=self.console, upstream=self.upstream, command=command, idle=IDLE)
        )
        (folder / "tool_policies").mkdir()
        for name in SERVERS:
            (folder / "tool_policies" / f"{name}.yaml").write_text(POLICY.format(name=name))
        self._desk = Desk(load(self.file))
        life = Lifecycle(self._desk.store, self._desk.ledger, self._desk.clock)
        self.keys = {name: life.add_agent(name, owner="oli") for name in (*AGENTS, *PIPED)}
        self._people = deque(self._enrol(life, f"ann{number}") for number in range(PEOPLE))
        self._upstream: asyncio.subprocess.Process | None = None
        self.serving: asyncio.subprocess.Process | None = None
        self.upstream_kills = 0

    def _enrol(self, life: Lifecycle, name: str) -> Person:
        life.add_approver(name)
        codes = TotpFactor(self._desk.store.factors, self._desk.keyring, self._desk.ledger, self._desk.clock)
        phone = pyotp.parse_uri(codes.enroll(name, issuer="guard").uri)
        if not isinstance(phone, pyotp.TOTP):
            raise TypeError(phone)
        return Person(name, phone)

    # ------------------------------------------------------------------ processes

    async def open(self) -> None:
        """Start the tool server and `guard serve`, and wait until calls are taken."""
        await self.start_upstream()
        with self.log.open("ab") as log:
            self.serving = await asyncio.create_subprocess_exec(
                GUARD, "serve", "--config", str(self.file), stderr=log, stdout=log, env=self._environment()
            )
        await _listening(self.port, self.serving)
        await _listening(self.console, self.serving)

    async def start_upstream(self) -> None:
        """Start the tool server that is reached over HTTP."""
        self._upstream = await asyncio.create_subprocess_exec(
            sys.executable, str(TOOLS), "--journal", str(self.journal), "--http", str(self.upstream), "--forgetful",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await _listening(self.upstream, self._upstream)

    async def crash_upstream(self) -> None:
        """Kill it without warning, and start it again a moment later without a memory of its sessions."""
        if self._upstream is not None:
            self._upstream.kill()
            await self._upstream.wait()
            self.upstream_kills += 1
            await asyncio.sleep(0.5)
            await self.start_upstream()

    async def run(self, agent: str) -> Pipe:
        """Start `guard run` for an agent."""
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                GUARD, "run", "pipe", "--config", str(self.file),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, limit=64 << 20,
                env=self._environment() | {"GUARD_AGENT_KEY": self.keys[agent]},
            )  # fmt: skip
        return Pipe(process)

    def speaker(self, agent: str) -> Speaker:
        """An HTTP client of an agent."""
        return Speaker(self.port, self.keys[agent])

    def guard(self) -> psutil.Process:
        """The running `guard serve`."""
        if self.serving is None or self.serving.returncode is not None:
            message = f"guard serve has ended; see {self.log}"
            raise RuntimeError(message)
        return psutil.Process(self.serving.pid)

    async def close(self) -> tuple[int | None, float]:
        """End the guard by SIGTERM and the tool server; the guard's exit code and the seconds it took."""
        began, code = time.monotonic(), None
        if self.serving is not None and self.serving.returncode is None:
            self.serving.terminate()
            code = await asyncio.wait_for(self.serving.wait(), START)
        took = time.monotonic() - began
        if self._upstream is not None and self._upstream.returncode is None:
            self._upstream.kill()
            await self._upstream.wait()
        self._desk.close()
        return code, took

    def orphans(self) -> list[str]:
        """Processes of this folder that still run, by their command line; the caller has ended all it started."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            words = process.info["cmdline"] or []
            if str(self.folder) in " ".join(words) and process.pid != os.getpid():
                found.append(f"{process.pid}: {' '.join(words)}"[:200])
        return found

    def kill_everything(self) -> None:
        """After a failure: leave nothing of this folder running."""
        for line in self.orphans():
            os.kill(int(line.partition(":")[0]), signal.SIGKILL)

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return {**passed, "HOME": str(self.folder)}

    # ------------------------------------------------------------------ people

    async def vote(self, challenge: str, *, approve: bool) -> bool | None:
        """Have somebody approve or deny; whether the vote counts, None when nobody has a fresh code."""
        now = time.time()
        if self._people[0].voted + CODE_EVERY > now:
            return None
        person = self._people.popleft()
        person.voted = now
        self._people.append(person)
        found = self._desk.store.challenges.get(challenge)
        if found is None:
            message = f"there is no challenge {challenge}"
            raise RuntimeError(message)
        evidence = {
            "kind": "approval", "as": person.name, "code": person.phone.now(), "view_digest": render(found).digest,
            **({} if approve else {"because": "not today"}),
        }  # fmt: skip
        return await self._api(f"/v1/challenges/{challenge}/{'proofs' if approve else 'deny'}", evidence)

    async def _api(self, path: str, body: Mapping[str, Any]) -> bool:
        """POST to the local socket of `guard serve`; whether it was taken."""
        process = self.guard()
        reader, writer = await asyncio.open_unix_connection(str(self.state / "run" / f"{process.pid}.sock"))
        try:
            raw = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
            status = int((await reader.readline()).split()[1])
            await reader.read()
        finally:
            writer.close()
        return status == 200  # noqa: PLR2004  # HTTP's OK


def _free_port() -> int:
    """A port nobody listens on, below those the system gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


async def _listening(port: int, process: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    message = f"nothing listens on port {port}"
    raise RuntimeError(message)
