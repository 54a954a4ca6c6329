"""The stage of the framework stories: a payments server behind `guard serve`, two agents and two people.

    tell(connect, "hold = 20")

`connect(url, key)` is the framework: an async context that yields `call(tool, arguments)`, which does what its
agent loop does with a model that wants exactly this call, and returns what that model reads. `tell` lets two
agents use it, one as guard.toml treats everybody and one with the given settings, and ends the process with 0
only if everything happened as promised. What ran is judged by the money that moved.

A framework in another language is a program that reads calls and writes answers, a line each, as JSON:

    python scene.py "hold = 50" node typescript/run.mjs

Only the standard library is used here, so that every framework's environment can import it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

Call = Callable[[str, dict[str, Any]], Awaitable[str]]
Connect = Callable[[str, str], AbstractAsyncContextManager[Call]]

HERE = Path(__file__).resolve().parent
CHALLENGE = re.compile(r"https?://[^\s\"]+/(c_\w+)")
SEVEN, EIGHT = {"invoice": 7, "amount": 90}, {"invoice": 8, "amount": 120}


class BrokenOffError(Exception):
    """The story did not go as promised."""


def expect(condition: object, what: str) -> None:
    if not condition:
        raise BrokenOffError(what)


def show(who: str, text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"{who:>7} | {line}", flush=True)


def guard_command() -> Path:
    """`guard` as named by $GUARD, of this checkout, or on the PATH."""
    own = HERE.parent / ".venv" / "bin" / "guard"
    found = os.environ.get("GUARD") or (str(own) if own.exists() else shutil.which("guard"))
    expect(found, "a command `guard`; $GUARD may name it")
    return Path(str(found))


def one_time_code(uri: str) -> str:
    """The six digits an authenticator app shows now for an otpauth:// URI (RFC 6238)."""
    secret = parse_qs(urlsplit(uri).query)["secret"][0]
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.digest(key, struct.pack(">Q", int(time.time()) // 30), "sha1")
    (number,) = struct.unpack_from(">I", digest, digest[-1] & 15)
    return f"{(number & 0x7FFFFFFF) % 10**6:06}"


def free_port() -> int:
    """A port nobody listens on, below those the system gives to outgoing connections: it is listened on only later."""
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_server(("127.0.0.1", random.randrange(10_000, 20_000))) as found,
        ):
            return int(found.getsockname()[1])


class Scene:
    """A directory with a guard.toml, and the commands a person would type there."""

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder, self.guard = folder, guard_command()
        self.proxy, self.console = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.proxy}/mcp/payments"
        python = self.guard.resolve().with_name("python")
        command = json.dumps([str(python), str(HERE / "payments.py"), str(folder)])
        (folder / "tool_policies").mkdir()
        shutil.copy(HERE / "payments.yaml", folder / "tool_policies")
        (folder / "guard.toml").write_text(
            f'[proxy]\nlisten = "127.0.0.1:{self.proxy}"\n'
            f'[console]\nlisten = "127.0.0.1:{self.console}"\npublic_url = "http://localhost:{self.console}"\n'
            f"[servers.payments]\ncommand = {command}\n"
            f"[agents.patient]\n{settings}\n"
        )

    def __call__(self, *words: str, told: bool = True) -> str:
        """Run a verb of the guard to its end; what it printed."""
        show("$", "guard " + " ".join(words)) if told else None
        done = subprocess.run(
            [self.guard, *words], cwd=self.folder, text=True, capture_output=True, check=False, timeout=60
        )
        show("guard", done.stdout + done.stderr) if told else None
        expect(done.returncode == 0, f"guard {' '.join(words)} ended {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def person(self, name: str) -> str:
        """Enrol somebody who may approve; the secret in their phone."""
        self("approver", "add", name, told=False)
        return self("factor", "enroll", "totp", name, told=False)

    def refunds(self) -> list[str]:
        """The money that moved."""
        paid = self.folder / "refunds.csv"
        return paid.read_text().splitlines() if paid.exists() else []

    @contextlib.contextmanager
    def command(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run a verb of the guard until the block ends."""
        with (self.folder / f"{words[0]}.log").open("w") as log:
            process = subprocess.Popen(
                [self.guard, *words], cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=log
            )
        with process:
            try:
                yield process
            finally:
                process.terminate()

    def ready(self, serving: subprocess.Popen[str]) -> None:
        """Wait until the guard answers."""
        while True:
            expect(serving.poll() is None, "guard serve to run: " + (self.folder / "serve.log").read_text())
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.console}/healthz"):
                return
            time.sleep(0.05)


async def ask(call: Call, tool: str, **arguments: Any) -> str:  # noqa: ANN401 - what JSON can say
    show("agent", f"{tool} {json.dumps(arguments)}")
    text = await call(tool, arguments)
    show("guard" if CHALLENGE.search(text) else "server", text)
    return text


def challenge_in(text: str) -> str:
    found = CHALLENGE.search(text)
    expect(found, f"a challenge in the text the agent reads, not {text!r}")
    return found[1] if found else ""


async def paused(scene: Scene, call: Call, phone: str) -> None:
    """The agent is told that its call waits, a person approves, and the same call runs once."""
    expect("invoice 7" in await ask(call, "list_invoices"), "a harmless call to pass")
    identifier = challenge_in(await ask(call, "refund", **SEVEN))
    expect("invoice 7" in await ask(call, "list_invoices"), "a harmless call to pass beside a paused one")
    expect(not scene.refunds(), "nothing to have been paid yet")
    scene("challenge", "approve", identifier, "--as", "ann", "--code", one_time_code(phone), "--reason", "agreed")
    expect("refunded 90" in await ask(call, "refund", **SEVEN), "the approved call to run")
    again = challenge_in(await ask(call, "refund", **SEVEN))
    expect(again != identifier, "one approval to run one call")
    expect(scene.refunds() == ["7,90"], "one refund")


async def patient(scene: Scene, call: Call) -> None:
    """With its own settings, the call waits for a person who only now joins: the agent notices a delay."""
    with scene.command("challenge", "watch", "--json") as screen:
        asked = asyncio.create_task(ask(call, "refund", **EIGHT))
        waiting = asyncio.create_task(asyncio.to_thread(on_screen, screen))
        await asyncio.wait({asked, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():  # then nothing will come on the screen
            screen.terminate()
            expect(False, f"the call to wait for a person, not {asked.result()!r}")
        phone = await asyncio.to_thread(scene.person, "ben")
        code = one_time_code(phone)
        await asyncio.to_thread(scene, "challenge", "approve", waiting.result(), "--as", "ben", "--code", code)
        expect("refunded 120" in await asked, "the approved call to run without being repeated")
    expect(scene.refunds() == ["7,90", "8,120"], "one refund more")


def on_screen(screen: subprocess.Popen[str]) -> str:
    """The id of the call of `patient`, as soon as it waits for a person."""
    rows = (json.loads(line) for line in screen.stdout or ())
    return str(next((row["id"] for row in rows if (row["principal"], row["state"]) == ("patient", "pending")), ""))


async def story(scene: Scene, connect: Connect) -> None:
    keys = {name: scene("agent", "add", name, "--owner", "oli", told=False) for name in ("robot", "patient")}
    ann = scene.person("ann")
    with scene.command("serve") as serving:
        scene.ready(serving)
        async with connect(scene.url, keys["robot"]) as call:
            await paused(scene, call, ann)
        async with connect(scene.url, keys["patient"]) as call:
            await patient(scene, call)
    scene("audit", "verify")


def leaves(group: BaseExceptionGroup[BrokenOffError]) -> Iterator[BaseException]:
    for error in group.exceptions:
        yield from leaves(error) if isinstance(error, BaseExceptionGroup) else (error,)


def tell(connect: Connect, settings: str) -> NoReturn:
    """Tell the story with a framework; `settings` are those of `[agents.patient]`."""
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="guard-story-") as folder:
        try:
            asyncio.run(story(Scene(Path(folder), settings), connect))
        except* BrokenOffError as group:
            broken = [str(error) for error in leaves(group)]
    for line in broken:
        print(f"the story broke off: expected {line}", file=sys.stderr)
    sys.exit(bool(broken))


def program(*words: str) -> Connect:
    """A framework in another language; it finds $GUARD_URL and $GUARD_AGENT_KEY."""

    @contextlib.asynccontextmanager
    async def connect(url: str, key: str) -> AsyncIterator[Call]:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "GUARD_URL": url, "GUARD_AGENT_KEY": key},
        )
        written, said = process.stdin, process.stdout

        async def call(tool: str, arguments: dict[str, Any]) -> str:
            written.write(json.dumps([tool, arguments]).encode() + b"\n")
            line = await said.readline()
            expect(line, f"{words[0]} to answer")
            return str(json.loads(line))

        try:
            yield call
        finally:
            written.close()
            await process.wait()

    return connect


if __name__ == "__main__":
    tell(program(*sys.argv[2:]), sys.argv[1])
