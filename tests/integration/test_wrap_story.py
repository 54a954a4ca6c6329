"""Wrap, a protected call, unwrap: with a configuration as each agent has it, started the way that agent starts it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from guard.audit.export import Reader
from guard.clients.jsonc import Jsonc
from guard.clients.toml import Toml
from tests.outside import Verbs

pytestmark = pytest.mark.anyio

TESTS = Path(__file__).parent.parent
PROGRAMS = ("npx", "uvx", "docker", "py", "python", "python3")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the official client needs it


@pytest.fixture(scope="module")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verbs]:
    with Verbs(tmp_path_factory.mktemp("verbs")) as running:
        yield running


@dataclass(frozen=True)
class Case:
    """An agent with its sample, where that belongs, and which server of it is started."""

    agent: str
    sample: str
    place: str
    table: tuple[str, ...]
    server: str
    variables: Mapping[str, str]


CASES = [
    Case(
        "claude-code",
        "claude.json",
        ".claude.json",
        ("mcpServers",),
        "github",
        {"GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_"},
    ),
    Case("claude-code", "dot-mcp.json", "guard/.mcp.json", ("mcpServers",), "time", {"TZ": "filled in"}),
    Case(
        "claude-desktop",
        "claude_desktop_config.json",
        ".config/Claude/claude_desktop_config.json",
        ("mcpServers",),
        "filesystem",
        {},
    ),
    Case("cursor", "cursor-mcp.json", ".cursor/mcp.json", ("mcpServers",), "filesystem", {}),
    Case("vscode", "vscode-mcp.json", ".config/Code/User/mcp.json", ("servers",), "git", {}),
    Case("vscode", "vscode-settings.json", ".config/Code/User/settings.json", ("mcp", "servers"), "fetch", {}),
    Case("codex", "codex-config.toml", ".codex/config.toml", ("mcp_servers",), "memory", {}),
    Case(
        "gemini",
        "gemini-settings.json",
        ".gemini/settings.json",
        ("mcpServers",),
        "pythonTools",
        {"API_KEY": "filled in", "DATABASE_URL": "filled in"},
    ),
    Case("windsurf", "windsurf-mcp_config.json", ".codeium/windsurf/mcp_config.json", ("mcpServers",), "git", {}),
]


class Laptop:
    """A home folder with one agent's configuration, and the programs its servers are started with."""

    def __init__(self, folder: Path, verbs: Verbs, case: Case) -> None:
        self.folder, self.verbs, self.case = folder, verbs, case
        self.desk, self.journal = folder / "guard", folder / "journal"
        self.file = folder / case.place
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.desk.mkdir(exist_ok=True)
        (self.desk / "guard.toml").write_text("[proxy]\nhold = 0\n")
        self.before = (TESTS / "clients" / case.sample).read_bytes()
        self.file.write_bytes(self.before)
        for name in PROGRAMS:
            program = folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            server = TESTS / "servers" / "journal_server.py"
            program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{server}' --journal '{self.journal}'\n")
            program.chmod(0o755)

    def guard(self, *words: str) -> str:
        done = self.verbs(*words, cwd=self.desk, env={"HOME": str(self.folder)})
        assert done.code == 0, done.err
        return done.out

    def started(self) -> StdioServerParameters:
        """What the agent starts for the server, its variables filled in."""
        text = self.file.read_bytes().decode()
        node = (Toml() if self.file.suffix == ".toml" else Jsonc()).read(text, str(self.file))
        for name in (*self.case.table, self.case.server):
            node = node.members[name]
        text = re.sub(r"\$\{[^}]*:-([^}]*)\}", r"\1", json.dumps(node.plain()))
        entry: Any = json.loads(re.sub(r"\$\{[^}]*\}|\$[A-Z_]+", "filled in", text))
        env = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder), **entry.get("env", {})}
        return StdioServerParameters(command=entry["command"], args=entry["args"], env=env, cwd=self.folder)


SLOW = {
    *("dot-mcp.json", "vscode-settings.json", "vscode-mcp.json"),
    *("gemini-settings.json", "windsurf-mcp_config.json", "claude_desktop_config.json"),
}
"""Left to the long run: the same again, in what the files of others show already."""


@pytest.mark.parametrize(
    "case", [pytest.param(one, id=one.sample, marks=[pytest.mark.slow] * (one.sample in SLOW)) for one in CASES]
)
async def test_wrap_a_protected_call_and_unwrap(case: Case, tmp_path: Path, verbs: Verbs) -> None:
    laptop = Laptop(tmp_path, verbs, case)
    laptop.guard("wrap", case.agent)
    assert laptop.file.read_bytes() != laptop.before
    async with Client(laptop.started()) as agent:
        paused = await agent.call_tool("wipe", {"path": "everything"})
        assert paused.is_error
        assert "PAUSED, not executed: wipe" in paused.content[0].text  # type: ignore[union-attr]
        assert "wipe" not in laptop.journal.read_text()
    [waiting] = json.loads(laptop.guard("challenge", "ls", "--json"))
    assert waiting["principal"] == case.agent
    laptop.guard("unwrap", case.agent)
    assert laptop.file.read_bytes() == laptop.before


async def test_a_server_gets_what_its_agent_gives_it_and_no_key(tmp_path: Path, verbs: Verbs) -> None:
    case = next(case for case in CASES if case.agent == "gemini")
    laptop = Laptop(tmp_path, verbs, case)
    laptop.guard("wrap", "gemini", "--watch")
    async with Client(laptop.started()) as agent:
        told = await agent.call_tool("variables", {})
        variables = json.loads(told.content[0].text)  # type: ignore[union-attr]
    assert case.variables.items() <= variables.items()
    assert not [name for name in variables if name.startswith("GUARD_")]
    records = list(Reader(laptop.desk / "state").read())
    [started] = [entry for entry in records if entry.event == "guard.started"]
    assert started.fields["watched"] == ["pythonTools"]
    [decided] = [entry for entry in records if entry.text("tool") == "variables" and entry.text("decision")]
    assert (decided.text("decision"), decided.fields["watched"], decided.decision) == ("challenge", True, "permit")
    assert "if it were not only watched" in laptop.guard("why", decided.text("call_id"))
    laptop.guard("audit", "verify")
