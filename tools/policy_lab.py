"""What owners do with policies, on the shipped packs: `policy_lab.py` runs check, test, explain, replay and diff.

The recorded traffic is examples/policy-lab/ledger.jsonl, which `policy_lab.py record` made: an agent works on a
real git server behind `guard run`, under the policy in examples/policy-lab/before, and people approve. Exits with
1 when a step does not end as it should.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio
import pyotp
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "examples" / "policy-lab"
LEDGER = LAB / "ledger.jsonl"
GUARD = Path(sys.executable).with_name("guard")
SERVER = Path(sys.executable).with_name("mcp-server-git")


def guard(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a verb of the guard to its end."""
    return subprocess.run([GUARD, *words], cwd=folder, text=True, capture_output=True, check=False, timeout=120)


def step(*words: str, says: str, code: int = 0) -> bool:
    """Run one step and show it; whether it ended as it should and said what it must."""
    print("\n$ guard " + " ".join(words))
    done = guard(*words)
    print(done.stdout + done.stderr, end="")
    good = done.returncode == code and re.search(says, done.stdout + done.stderr) is not None
    if not good:
        print(f"expected exit code {code} and {says!r}, got {done.returncode}", file=sys.stderr)
    return good


def lab() -> int:
    """The whole laboratory."""
    packs, before, ledger = "tool_policies", "examples/policy-lab/before", ("--ledger", str(LEDGER.relative_to(ROOT)))
    good = [
        step("policy", "check", "--strict", says=r" 0 mistakes, 0 warnings"),
        step("policy", "test", says=r" 0 failed"),
        step("policy", "explain", "examples/policy-lab/calls/reset.json", says=r"nothing unusual +both"),
        step("policy", "explain", "examples/policy-lab/calls/read-a-key.json", says=r"nothing unusual +consent"),
        step("policy", "replay", *ledger, "--against", packs, says=r"new challenges"),
        step("policy", "diff", before, packs, *ledger, "--markdown", says=r"### Policy replay"),
    ]
    print(f"\n{sum(good)} of {len(good)} steps ended as they should")
    return int(not all(good))


# ------------------------------------------------------------------ recording


def record() -> int:
    """Record the traffic anew."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tool_policies").mkdir()
        (folder / "tool_policies" / "git.yaml").write_text((LAB / "before" / "git.yaml").read_text())
        (folder / "repo").mkdir()
        for words in (
            ("init", "--quiet", "--initial-branch", "main"),
            ("config", "user.email", "robot@example.com"),
            ("config", "user.name", "robot"),
            ("commit", "--quiet", "--allow-empty", "--message", "start"),
        ):
            subprocess.run(["git", *words], cwd=folder / "repo", check=True)
        command = json.dumps([str(SERVER), "--repository", str(folder / "repo")])
        (folder / "guard.toml").write_text(f"[servers.git]\ncommand = {command}\n[agents.robot]\nhold = 45\n")
        key = guard("agent", "add", "robot", folder=folder).stdout.strip()
        secrets: dict[str, str] = {}
        for person in ("ann", "bob", "cy", "dee", "eve", "fay", "gil"):
            guard("approver", "add", person, folder=folder)
            secrets[person] = guard("factor", "enroll", "totp", person, folder=folder).stdout.strip()
        anyio.run(work, folder, key, secrets)
        done = guard("audit", "export", folder=folder)
        LEDGER.write_text(done.stdout)
    print(f"{LEDGER}: {len(done.stdout.splitlines())} records")
    return 0


async def work(folder: Path, key: str, secrets: dict[str, str]) -> None:
    """What the agent does; what waits is approved by one person after the other."""
    params = StdioServerParameters(command=str(GUARD), args=["run", "git"], env={"GUARD_AGENT_KEY": key}, cwd=folder)
    repo = str(folder / "repo")
    async with Client(stdio_client(params)) as client, anyio.create_task_group() as group:
        await client.list_tools()
        group.start_soon(approve, folder, secrets)
        for number in range(6):
            (folder / "repo" / f"{number}.txt").write_text(f"{number}\n")
            branch = f"fix-{number}"
            for tool, arguments in (
                ("git_status", {}),
                ("git_create_branch", {"branch_name": branch}),
                ("git_checkout", {"branch_name": branch}),
                ("git_add", {"files": [f"{number}.txt"]}),
                ("git_diff_staged", {}),
                ("git_commit", {"message": f"Add {number}"}),
                ("git_log", {"max_count": 3}),
            ):
                await client.call_tool(tool, {"repo_path": repo, **arguments})
        await client.call_tool("git_reset", {"repo_path": repo})
        group.cancel_scope.cancel()


async def approve(folder: Path, secrets: dict[str, str]) -> None:
    """Approve what waits, each person once: a one-time code counts once."""
    people = list(secrets)
    while people:
        await anyio.sleep(1.5)
        listed = await anyio.to_thread.run_sync(partial(guard, "challenge", "ls", "--json", folder=folder))
        for one in json.loads(listed.stdout or "[]"):
            name = people.pop()
            code = pyotp.parse_uri(secrets[name])
            assert isinstance(code, pyotp.TOTP)
            words = ("challenge", "approve", one["id"], "--as", name, "--code", code.now())
            done = await anyio.to_thread.run_sync(partial(guard, *words, folder=folder))
            print(done.stdout + done.stderr, end="")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            sys.exit(lab())
        case ["record"]:
            sys.exit(record())
        case _:
            print(__doc__)
            sys.exit(2)
