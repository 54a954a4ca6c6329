"""A tool server that is not ours: the public filesystem server (Node), behind `guard run`, driven by the official SDK.

`write_file` needs a person's consent; `move_file` is critical and destroys, so it needs the workload's key
and a person. The files say what ran.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult

from examples.git.token_key import SoftHsm
from tests.outside import Site, Verbs
from tests.world import GUARD, until

PACKAGE = "@modelcontextprotocol/server-filesystem@2026.8.31"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guard-tests" / "filesystem"
POLICY = """\
server: files
owner: files-team
default: {sensitivity: public}
tools:
  "read_*": {sensitivity: public}
  write_file: {sensitivity: internal, effects: [write], require: consent}
  move_file: {sensitivity: critical, effects: [destroy]}
"""

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])


@pytest.fixture
def anyio_backend() -> str:
    """The SDK's children are read by asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def program() -> Path:
    """The server's start script, installed once into the cache."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm is not installed")
    script = CACHE / "node_modules" / ".bin" / "mcp-server-filesystem"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other processes of this run wait, and find all of it or that it failed
        if not script.exists() and time.time() - failed_at(lock) > 600:
            words = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(CACHE), PACKAGE]
            subprocess.run(["timeout", "120", *words], check=False)
            if not script.exists():
                lock.write(f"{time.time()}\n")
    if not script.exists():
        pytest.skip(f"{PACKAGE} cannot be installed")
    return script


def failed_at(lock: TextIO) -> float:
    """When it could not be installed the last time."""
    lock.seek(0)
    return max(map(float, lock), default=0.0)


@pytest.fixture(scope="module")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verbs]:
    with Verbs(tmp_path_factory.mktemp("verbs")) as running:
        yield running


class Desk(Site):
    """A site in front of the filesystem server, with a folder it may touch and an agent's key."""

    def build(self, program: Path) -> None:
        self.files = self.folder / "files"
        self.files.mkdir()
        self.write(f"[servers.files]\ncommand = {json.dumps([str(program), str(self.files)])}\n", files=POLICY)
        self.key = self.agent("robot")

    @asynccontextmanager
    async def client(self, mode: str) -> AsyncIterator[Client]:
        """The official client, talking to the server through `guard run`."""
        parameters = StdioServerParameters(
            command=str(GUARD),
            args=["run", "files", "--config", str(self.file)],
            env={**os.environ, "GUARD_AGENT_KEY": self.key},
        )
        async with Client(parameters, mode=mode) as client:
            yield client

    @contextmanager
    def signer(self) -> Iterator[None]:
        """The workload's signer, until the block ends."""
        with (self.folder / "signer.log").open("wb") as log:
            process = subprocess.Popen(
                [GUARD, "signer", "run", "robot"],
                cwd=self.folder,
                env={**os.environ, **self.env},
                stdout=log,
                stderr=log,
            )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)

    def enrol_token(self) -> None:
        """Give the agent a key in a SoftHSM token."""
        pytest.importorskip("pkcs11", reason="the extra `hsm` is not installed")
        if shutil.which("softhsm2-util") is None:
            pytest.skip("SoftHSM 2 is not installed")
        token = SoftHsm(self.folder / "hsm")
        token.folder.mkdir()
        token.generate("robot")
        self.env = token.env
        self.guard("factor", "enroll", "signature", "robot", *token.options("robot"))

    def missing(self, challenge: str) -> str:
        """What a challenge still waits for."""
        return str(json.loads(self.guard("challenge", "show", challenge, "--json"))["missing"])


@pytest.fixture
def desk(tmp_path: Path, verbs: Verbs, program: Path) -> Desk:
    made = Desk(tmp_path, verbs)
    made.build(program)
    return made


def paused(result: CallToolResult) -> dict[str, Any]:
    """The challenge of a paused call."""
    assert result.is_error, result
    assert result.structured_content is None
    challenge: dict[str, Any] = (result.meta or {})["guard/challenge"]
    return challenge


@MODES
async def test_a_public_tool_passes_and_one_that_no_entry_names_does_not(desk: Desk, mode: str) -> None:
    (desk.files / "a.txt").write_text("hello")
    async with desk.client(mode) as client:
        assert "write_file" in {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("read_text_file", {"path": str(desk.files / "a.txt")})
        untagged = paused(await client.call_tool("list_directory", {"path": str(desk.files)}))
    assert "untagged" in untagged["reasons"]
    assert not result.is_error
    assert "hello" in result.content[0].text  # type: ignore[union-attr]


@MODES
async def test_a_write_waits_for_a_person_and_runs_once(desk: Desk, mode: str) -> None:
    target = desk.files / "new.txt"
    call = ("write_file", {"path": str(target), "content": "one"})
    async with desk.client(mode) as client:
        await client.list_tools()
        challenge = paused(await client.call_tool(*call))
        assert not target.exists()
        done = desk.approve(challenge["id"], "ann")
        assert done.code == 0, done.err
        assert not target.exists(), "an approval runs nothing by itself"
        assert not (await client.call_tool(*call)).is_error
        assert target.read_text() == "one"
        target.unlink()
        assert paused(await client.call_tool(*call))["id"] != challenge["id"]
        assert not target.exists()
    assert len(desk.records("call.forwarded")) == 1


@MODES
async def test_a_code_alone_does_not_let_a_critical_call_through(desk: Desk, mode: str) -> None:
    (desk.files / "a.txt").write_text("a")
    call = ("move_file", {"source": str(desk.files / "a.txt"), "destination": str(desk.files / "b.txt")})
    async with desk.client(mode) as client:
        await client.list_tools()
        challenge = paused(await client.call_tool(*call))
        done = desk.approve(challenge["id"], "ann")
        assert done.code == 0, done.err
        assert "still required" in done.err
        assert paused(await client.call_tool(*call))["id"] == challenge["id"]
    assert (desk.files / "a.txt").exists()


@MODES
async def test_a_signature_alone_does_not_let_a_critical_call_through_and_both_do(desk: Desk, mode: str) -> None:
    desk.enrol_token()
    (desk.files / "a.txt").write_text("a")
    call = ("move_file", {"source": str(desk.files / "a.txt"), "destination": str(desk.files / "b.txt")})
    with desk.signer():
        async with desk.client(mode) as client:
            await client.list_tools()
            challenge = paused(await client.call_tool(*call))
            until(lambda: given(desk, challenge["id"]) == ["possession"], "the signer signs", within=15)
            assert paused(await client.call_tool(*call))["id"] == challenge["id"]
            assert (desk.files / "a.txt").exists()
            done = desk.approve(challenge["id"], "ann")
            assert done.code == 0, done.err
            assert not (await client.call_tool(*call)).is_error
    assert not (desk.files / "a.txt").exists()
    assert (desk.files / "b.txt").read_text() == "a"


def given(desk: Desk, challenge: str) -> list[str]:
    """The classes of the proofs a challenge has."""
    shown = json.loads(desk.guard("challenge", "show", challenge, "--json"))
    return [proof["class"] for proof in shown["proofs"]]
