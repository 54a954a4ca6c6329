"""A pipeline deploys without a person: one signed intent, one version, one environment, once, in time.

Two machines in two folders: the guard's, with its state and the job's signer; and CI, which holds the release system's
key in a token of its own and knows nothing of the guard but the address of its console. What happened is judged by what
was deployed. If any part is missing or behaves differently, the story ends non-zero with what it expected.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE.parent / "git")]
from scene import CHALLENGE, BrokenOffError, challenge_in, expect, free_port, guard_command, leaves, show  # noqa: E402
from token_key import SoftHsm  # noqa: E402

RELEASE = {"service": "shop", "version": "1.4.2", "environment": "prod"}


class Machine:
    """A folder, a token, and the commands that are typed there."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.hsm = name, folder, SoftHsm(folder / "hsm")
        folder.mkdir()
        self.env = {**os.environ, **self.hsm.env}

    def guard(self, *words: str, env: dict[str, str] | None = None, told: bool = True) -> str:
        show(self.name, "$ guard " + " ".join(words)) if told else None
        done = subprocess.run(
            [guard_command(), *words],
            cwd=self.folder, env=env or self.env, text=True, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        show(self.name, done.stdout + done.stderr) if told else None
        expect(done.returncode == 0, f"guard {words[0]} to end with 0, not {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    @contextlib.contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / f"{words[0]}.log").open("wb") as log:
            process = subprocess.Popen([guard_command(), *words], cwd=self.folder, env=self.env, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(10)


class Stage:
    """Both machines, and the tool server behind the guard."""

    def __init__(self, folder: Path) -> None:
        self.here, self.ci = Machine("guard", folder / "guard"), Machine("ci", folder / "ci")
        proxy, console = free_port(), free_port()
        self.url, self.console = f"http://127.0.0.1:{proxy}/mcp/deploy", f"http://127.0.0.1:{console}"
        python = guard_command().resolve().with_name("python")
        command = json.dumps([str(python), str(HERE / "deploy_server.py"), str(folder)])
        (self.here.folder / "tool_policies").mkdir()
        shutil.copy(HERE / "deploy.yaml", self.here.folder / "tool_policies")
        (self.here.folder / "guard.toml").write_text(
            f'[proxy]\nlisten = "127.0.0.1:{proxy}"\nhold = 2\n'
            f'[console]\nlisten = "127.0.0.1:{console}"\npublic_url = "http://localhost:{console}"\n'
            f"[servers.deploy]\ncommand = {command}\n[agents.deployer]\nhold = 10\n"
        )
        self._deployed = folder / "deployed.csv"

    def enrol(self) -> str:
        """The job with its key, and the release system with another; the job's API key."""
        key = self.here.guard("agent", "add", "deployer", "--owner", "olga", told=False)
        self.here.hsm.generate("deployer")
        self.ci.hsm.generate("releases")
        self.here.guard("factor", "enroll", "signature", "deployer", *self.here.hsm.options("deployer"))
        words = ("--agent", "deployer", "--server", "deploy", *self.ci.hsm.options("releases"))
        self.here.guard("factor", "enroll", "intent", "releases", *words, env=self.ci.env)
        self.here.guard("policy", "check")
        return key

    def sign(self, lasts: str = "10m", **wanted: str) -> None:
        """CI says which deployment is wanted, on its own machine."""
        arguments = [word for name, value in wanted.items() for word in ("--argument", f"{name}={value}")]
        self.ci.guard(
            "intent", "sign", "--as", "releases", "--agent", "deployer", "--server", "deploy", "--tool", "deploy",
            *arguments, "--for", lasts, "--ticket", "CHG0030001", "--reason", "release of the shop",
            *self.ci.hsm.options("releases"), "--to", self.console,
        )  # fmt: skip

    def deployed(self) -> list[str]:
        return self._deployed.read_text().splitlines() if self._deployed.exists() else []

    def ready(self, serving: subprocess.Popen[bytes]) -> None:
        while True:
            expect(serving.poll() is None, "guard serve to run: " + (self.here.folder / "serve.log").read_text())
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.console}/healthz"):
                return
            time.sleep(0.05)

    @contextlib.asynccontextmanager
    async def job(self, key: str) -> AsyncIterator[Client]:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=60) as http,
            Client(streamable_http_client(self.url, http_client=http)) as client,
        ):
            yield client


async def call(client: Client, **arguments: str) -> str:
    show("job", f"deploy {json.dumps(arguments)}")
    result = await client.call_tool("deploy", arguments)
    text = "\n".join(block.text for block in result.content if block.type == "text")
    show("guard" if CHALLENGE.search(text) else "server", text)
    return text


async def story(stage: Stage) -> None:
    key = stage.enrol()
    with stage.here.running("serve") as serving, stage.here.running("signer", "run", "deployer") as signer:
        stage.ready(serving)
        async with stage.job(key) as client:
            # Without an intent the job's own signature is not enough.
            challenge_in(await call(client, **RELEASE))
            # With one, the same deployment goes through, and nobody is asked.
            stage.sign(**RELEASE)
            expect("1.4.2 runs in prod" in await call(client, **RELEASE), "the wanted deployment to happen")
            # Once; this version; this environment.
            again = challenge_in(await call(client, **RELEASE))
            stage.sign(**RELEASE | {"version": "1.4.3"})
            challenge_in(await call(client, **RELEASE | {"version": "1.4.4"}))
            challenge_in(await call(client, **RELEASE | {"version": "1.4.3", "environment": "staging"}))
            # And not after its window.
            stage.sign("8s", **RELEASE | {"version": "1.5.0"})
            await anyio.sleep(8)
            late = challenge_in(await call(client, **RELEASE | {"version": "1.5.0"}))
        expect(stage.deployed() == ["shop,1.4.2,prod"], f"one deployment, not {stage.deployed()}")
        expect(signer.poll() is None, "the signer to be alive")
    expect("no use left" in stage.here.guard("why", again, told=False), "the reason for the second one")
    expect("the window of the intent is over" in stage.here.guard("why", late), "the reason for the late one")
    stage.here.guard("intent", "ls")
    stage.here.guard("audit", "verify")


def main() -> int:
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="guard-pipeline-") as folder:
        try:
            anyio.run(story, Stage(Path(folder)))
        except* BrokenOffError as group:
            broken = [str(error) for error in leaves(group)]
        except* (OSError, MCPError, subprocess.SubprocessError, httpx2.HTTPError) as others:
            broken = [f"every part to work, not {others.exceptions[0]!r}"]
    for line in broken:
        print(f"the story broke off: expected {line}", file=sys.stderr)
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
