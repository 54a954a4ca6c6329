"""Shipped tag packs: found by the name of the package that is started, and by nothing that only looks like it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from guard.clients import packs
from guard.policy.directory import PolicyDirectory

COMMANDS = [
    ("npx -y @modelcontextprotocol/server-filesystem /tmp", "filesystem"),
    ("npx @modelcontextprotocol/server-filesystem@2025.8.21 /tmp", "filesystem"),
    ("npx -y --package @modelcontextprotocol/server-filesystem mcp-server-filesystem", "filesystem"),
    ("/opt/homebrew/bin/npx -y @modelcontextprotocol/server-filesystem", "filesystem"),
    ("cmd /c npx -y @modelcontextprotocol/server-filesystem C:/", "filesystem"),
    ("C:\\node\\npx.cmd -y @modelcontextprotocol/server-filesystem", "filesystem"),
    ("bunx @modelcontextprotocol/server-filesystem", "filesystem"),
    ("docker run -i --rm -v /src:/src mcp/filesystem:latest /src", "filesystem"),
    ("mcp-server-git --repository .", "git"),
    ("/home/oli/.venv/bin/mcp-server-git", "git"),
    ("uvx mcp-server-git", "git"),
    ("uvx mcp-server-git==2026.1.14 --repository .", "git"),
    ("uvx --from mcp-server-git mcp-server-git", "git"),
    ("uv tool run mcp-server-git[all]@latest", "git"),
    ("uv run --directory /src mcp-server-git", "git"),
    ("python3.12 -m mcp_server_git", "git"),
    ("docker run --mount type=bind,src=/a,dst=/b mcp/git", "git"),
    ("npx -y @someone/server-filesystem", ""),
    ("npx -y evil-server @modelcontextprotocol/server-filesystem", ""),
    ("node server.js mcp-server-git", ""),
    ("docker run -i someone/git", ""),
    ("python -c import mcp_server_git", ""),
    ("npx", ""),
    ("uvx --from", ""),
    ("mcp-server-gitt", ""),
]


@pytest.mark.parametrize(("command", "pack"), COMMANDS)
def test_a_pack_is_found_by_the_package_that_is_started(command: str, pack: str) -> None:
    found = packs.pack(command.split())
    assert (found.stem if found else "") == pack


@pytest.mark.parametrize("name", ["git", "git-cursor", "no", "017", "a.b", "True"])
@pytest.mark.parametrize("command", ["uvx mcp-server-git", "uvx unheard-of"])
def test_what_is_written_for_a_server_is_a_policy_of_that_name(name: str, command: str, tmp_path: Path) -> None:
    text, pack = packs.policy(name, command.split(), owner="no")
    assert bool(pack) == (command == "uvx mcp-server-git")
    (tmp_path / f"{name}.yaml").write_text(text)
    assert list(PolicyDirectory(tmp_path).load().policies) == [name]


@pytest.mark.slow
def test_packs_are_in_the_wheel_and_found_there(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    built = subprocess.run(
        [root / "tools" / "uv", "build", "--wheel", "--out-dir", tmp_path],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr[-300:]}")
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    program = "from guard.clients import packs; print(packs.pack(['uvx', 'mcp-server-git']))"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "installed", check=True, capture_output=True, text=True
    ).stdout.strip()
    assert Path(found) == tmp_path / "installed" / "guard" / "tool_policies" / "git.yaml"
