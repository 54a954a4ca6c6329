"""The guard as its users see it: a folder, the `guard` command, its exit codes and what it prints.

`Verbs` runs short verbs in about 50 ms each; `Site` is a folder with a guard.toml and what people do there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyotp

from tests.world import GUARD, free_port, until

SERVERS = Path(__file__).parent / "servers"


@dataclass(frozen=True)
class Done:
    """How a verb ended and what it printed."""

    code: int
    out: str
    err: str


class Verbs:
    """A process that runs verbs (`tests/servers/guard_verbs.py`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, SERVERS / "guard_verbs.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=SERVERS.parent.parent,
            env={**os.environ, "PYTHONPATH": str(SERVERS.parent.parent)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()

    def __call__(self, *words: str, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = "") -> Done:
        """Run `guard WORDS` in a folder, to its end."""
        out, err = self._folder / "out", self._folder / "err"
        files = {"out": str(out), "err": str(err)}
        whole = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "LOGNAME": "oli", **(env or {})}
        asked = {"words": words, "cwd": str(cwd), "env": whole, "stdin": stdin, **files}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Done(code, out.read_text(), err.read_text())


@dataclass
class Site:
    """A folder with a guard.toml, policies, and what people do there."""

    folder: Path
    verbs: Verbs
    console: int = field(default_factory=free_port)
    proxy: int = field(default_factory=free_port)
    env: Mapping[str, str] = field(default_factory=dict)

    def write(self, servers: str, **policies: str) -> None:
        """Write guard.toml with these servers, and a policy file for each."""
        self.file.write_text(
            f"[proxy]\nlisten = '127.0.0.1:{self.proxy}'\nhold = 1.0\n"
            f"[console]\nlisten = '127.0.0.1:{self.console}'\npublic_url = 'http://localhost:{self.console}'\n{servers}"
        )
        (self.folder / "tool_policies").mkdir(exist_ok=True)
        for server, text in policies.items():
            (self.folder / "tool_policies" / f"{server}.yaml").write_text(text)

    @property
    def file(self) -> Path:
        """The guard.toml."""
        return self.folder / "guard.toml"

    def url(self, server: str) -> str:
        """The MCP endpoint of a server."""
        return f"http://127.0.0.1:{self.proxy}/mcp/{server}"

    def try_(self, *words: str) -> Done:
        """Run a verb here."""
        return self.verbs(*words, cwd=self.folder, env=self.env)

    def guard(self, *words: str) -> str:
        """Run a verb that must succeed; what it printed."""
        done = self.try_(*words)
        assert done.code == 0, f"guard {' '.join(words)}: {done.err}"
        return done.out

    def agent(self, name: str) -> str:
        """Enrol an agent; its key."""
        return self.guard("agent", "add", name).strip()

    def person(self, name: str, *groups: str) -> pyotp.TOTP:
        """Enrol a person; their phone."""
        self.guard("approver", "add", name, *(word for group in groups for word in ("--group", group)))
        phone = pyotp.parse_uri(self.guard("factor", "enroll", "totp", name).strip())
        assert isinstance(phone, pyotp.TOTP)
        return phone

    def approve(self, challenge: str, name: str) -> Done:
        """Let a person nobody has seen before approve, as they would: by the command line, with a code."""
        phone = self.person(name)
        return self.try_("challenge", "approve", challenge, "--as", name, "--code", phone.now())

    def records(self, event: str) -> list[dict[str, Any]]:
        """The records of one event."""
        lines = self.guard("audit", "export", "--format", "jsonl").splitlines()
        return [record for line in lines if (record := json.loads(line))["event"] == event]

    @contextmanager
    def serve(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run `guard serve` until the block ends; ready when it begins."""
        with (self.folder / "serve.log").open("wb") as log:
            process = subprocess.Popen(
                [GUARD, "serve"], cwd=self.folder, env={**os.environ, **self.env}, stdout=log, stderr=log
            )
        try:
            until(lambda: self._healthy(process), "guard serve is ready", within=30)
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def _healthy(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, (self.folder / "serve.log").read_text()
        return self.get("/healthz")[0] == 200

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """GET a path of the console; status and body, (0, "") when nobody listens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.console}{path}", headers=named)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except OSError:
            return 0, ""
