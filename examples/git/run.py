"""The whole job on a real git server: pass, pause, prove, approve, run once, explain.

A throw-away repository is served by `mcp-server-git` behind `guard run`; the agent is the official MCP client.
Every line comes from the agent, the guard's commands, its ledger, or the repository; nothing is narrated. If
any part is missing or behaves differently, the story ends non-zero with what it expected.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pyotp
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, TextContent
from token_key import SoftHsm

HERE = Path(__file__).resolve().parent
POLICIES = HERE.parent.parent / "tool_policies"
GUARD = Path(sys.executable).with_name("guard")
SERVER = Path(sys.executable).with_name("mcp-server-git")


class UnexpectedError(Exception):
    """The story did not go as promised."""


def expect(condition: object, what: str) -> None:
    if not condition:
        raise UnexpectedError(what)


def show(who: str, text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"{who:>7} | {line}", flush=True)


class Stage:
    """A directory with everything in it, and the commands a person would type there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.repo, self.hsm = folder, folder / "repo", SoftHsm(folder / "hsm")
        self.env = {**os.environ, **self.hsm.env}

    def guard(self, *words: str, ok: int = 0, quiet: bool = False) -> str:
        done = subprocess.run(
            [GUARD, *words], cwd=self.folder, env=self.env, text=True, capture_output=True, check=False, timeout=30
        )
        if not quiet:
            show("$", "guard " + " ".join(words))
            show("guard", done.stdout + done.stderr)
        expect(done.returncode == ok, f"guard {' '.join(words)} ended {done.returncode}, not {ok}: {done.stderr}")
        return done.stdout

    def git(self, *words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=self.repo, env=self.env, text=True, capture_output=True, check=True
        ).stdout.strip()

    def build(self) -> None:
        """A repository with one commit and one staged change, and a guard.toml in front of it."""
        self.repo.mkdir()
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "robot")
        self.git("config", "user.email", "robot@example.com")
        (self.repo / "notes.txt").write_text("one\n")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "first")
        (self.repo / "notes.txt").write_text("one\ntwo\n")
        (self.folder / "tool_policies").mkdir()
        shutil.copy(POLICIES / "git.yaml", self.folder / "tool_policies")
        command = json.dumps([str(SERVER), "--repository", str(self.repo)])
        (self.folder / "guard.toml").write_text(f"[servers.git]\ncommand = {command}\n")

    def enrol(self) -> tuple[str, pyotp.TOTP]:
        """An agent with a key in a token, and a person with a phone; the agent's key and the phone."""
        key = self.guard("agent", "add", "robot", "--owner", "oli", quiet=True).strip()
        self.guard("policy", "check")
        self.hsm.generate("robot")
        self.guard("factor", "enroll", "signature", "robot", *self.hsm.options("robot"))
        self.guard("approver", "add", "ann")
        uri = self.guard("factor", "enroll", "totp", "ann", quiet=True).strip()
        phone = pyotp.parse_uri(uri)
        expect(isinstance(phone, pyotp.TOTP), "an otpauth:// URI")
        return key, phone  # type: ignore[return-value]

    @contextlib.contextmanager
    def signer(self) -> Iterator[subprocess.Popen[bytes]]:
        """The sidecar that holds the token's PIN; stopped at the end."""
        with (self.folder / "signer.log").open("wb") as log:
            process = subprocess.Popen(
                [GUARD, "signer", "run", "robot"], cwd=self.folder, env=self.env, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(5)

    @contextlib.asynccontextmanager
    async def agent(self, key: str) -> AsyncIterator[Client]:
        """The official client, talking to the git server through the guard."""
        server = StdioServerParameters(
            command=str(GUARD),
            args=["run", "git", "--config", str(self.folder / "guard.toml")],
            env={**self.env, "GUARD_AGENT_KEY": key},
        )
        async with Client(server) as client:
            yield client


async def call(client: Client, tool: str, **arguments: object) -> CallToolResult:
    show("agent", f"{tool} {json.dumps(arguments)}")
    result = await client.call_tool(tool, arguments)
    text = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
    show("server" if "guard/challenge" not in (result.meta or {}) else "guard", text)
    return result


def challenge_of(result: CallToolResult) -> str:
    expect(result.is_error and result.meta and "guard/challenge" in result.meta, "a paused call")
    identifier = (result.meta or {})["guard/challenge"]["id"]
    expect(isinstance(identifier, str), "a challenge id")
    return str(identifier)


async def story(stage: Stage, *, keep: bool) -> None:
    key, phone = stage.enrol()
    where = {"repo_path": str(stage.repo)}
    with stage.signer() as signer:
        async with stage.agent(key) as client:
            await client.list_tools()
            # Harmless calls pass.
            expect(not (await call(client, "git_status", **where)).is_error, "git_status to pass")
            expect(not (await call(client, "git_log", **where, max_count=5)).is_error, "git_log to pass")
            # A commit needs the workload's key; the signer answers while the call is held.
            expect(not (await call(client, "git_add", **where, files=["notes.txt"])).is_error, "git_add to pass")
            done = await call(client, "git_commit", **where, message="second")
            expect(not done.is_error, "git_commit to run on the workload's signature")
            expect(stage.git("rev-list", "--count", "HEAD") == "2", "exactly one more commit")
            # A reset needs a person too.
            (stage.repo / "notes.txt").write_text("three\n")
            stage.git("add", ".")
            identifier = challenge_of(await call(client, "git_reset", **where))
            stage.guard("challenge", "show", identifier)
            stage.guard(
                "challenge", "approve", identifier, "--as", "ann", "--code", phone.now(), "--reason", "start over"
            )
            # What was approved is exactly this call; a changed argument is another one.
            other = challenge_of(await call(client, "git_reset", repo_path=f"{stage.repo}/."))
            expect(other != identifier, "a changed argument to need an approval of its own")
            expect(stage.git("diff", "--cached", "--name-only") == "notes.txt", "nothing to have run yet")
            expect(not (await call(client, "git_reset", **where)).is_error, "the approved call to run")
            expect(not stage.git("diff", "--cached", "--name-only"), "the reset to have happened")
            again = challenge_of(await call(client, "git_reset", **where))
            expect(again not in {identifier, other}, "one approval to run one call")
            await keep_open(stage, again) if keep else None
        expect(signer.poll() is None, "the signer to be alive")
    await stolen(stage, key)
    lines = stage.guard("why", identifier)
    expect("ann" in lines and "robot" in lines and "git_reset" in lines, "the reasons")
    stage.guard("audit", "verify")
    ledger(stage, identifier)


async def stolen(stage: Stage, key: str) -> None:
    """The key alone, without the machine that holds the signing key, gets nowhere."""
    stage.git("add", ".")
    async with stage.agent(key) as thief:
        challenge_of(await call(thief, "git_commit", repo_path=str(stage.repo), message="mine now"))
    expect(stage.git("rev-list", "--count", "HEAD") == "2", "no commit by the thief")


def ledger(stage: Stage, identifier: str) -> None:
    """The records of the approved reset, and that it was forwarded once."""
    records = [
        json.loads(line) for line in stage.guard("audit", "export", "--format", "jsonl", quiet=True).splitlines()
    ]
    of_it = [record for record in records if record.get("challenge_id") == identifier]
    for record in of_it:
        show("ledger", f"{record['time']} {record['event']} {record.get('outcome', '')}")
    events = [record["event"] for record in of_it]
    expect(events.count("call.forwarded") == 1, "one forward")
    expect(events.count("grant.consumed") == 1, "one grant consumed")


async def keep_open(stage: Stage, identifier: str) -> None:
    """Leave everything running until Ctrl-C, with commands to try."""
    exports = " ".join(f"{name}={value}" for name, value in stage.hsm.env.items())
    show("try", f"cd {stage.folder}; export {exports}; PATH={GUARD.parent}:$PATH")
    for words in ("challenge ls", f"challenge show {identifier}", "audit tail --follow", f"why {identifier}", "doctor"):
        show("try", f"guard {words}")
    show("try", "press Ctrl-C here to end the story")
    with contextlib.suppress(anyio.get_cancelled_exc_class()), anyio.open_signal_receiver(signal.SIGINT) as signals:
        async for _ in signals:
            return


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--keep", action="store_true", help="leave it running with the commands to try printed")
    keep = options.parse_args().keep
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="guard-demo-") as folder:
        stage = Stage(Path(folder))
        try:
            stage.build()
            anyio.run(lambda: story(stage, keep=keep))
        except* (UnexpectedError, OSError, subprocess.SubprocessError, MCPError) as group:
            broken = [f"{type(error).__name__}: {error}" for error in _leaves(group)] + _logs(stage)
    for line in broken:
        print(f"the story broke off: {line}", file=sys.stderr)
    return bool(broken)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _logs(stage: Stage) -> list[str]:
    log = stage.folder / "signer.log"
    return log.read_text().splitlines()[-5:] if log.exists() else []


if __name__ == "__main__":
    sys.exit(main())
