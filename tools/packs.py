"""The shipped tag packs, judged from outside: `live` against the real servers, `labels` against vendors.

live     installs public tool servers from PyPI and npm into .packs/, starts each, and runs
         `guard policy check --live`: no tool may be untagged, and no tag may name nothing.
labels   compares the packs for AWS, Azure and GitHub with the flags that vendors write, where these are at hand
         (../shared/drift/sensitivity), and prints recall and precision by class; --record writes the table
         into docs/explanation/tag-packs.md.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from guard.model import Call, Classification, Principal, Source
from guard.policy.classify import PolicySet, classify
from guard.policy.directory import PolicyDirectory

ROOT = Path(__file__).resolve().parent.parent
PACKS = ROOT / ".packs"
LABELS = ROOT.parent / "shared" / "drift" / "sensitivity"
PAGE = ROOT / "docs" / "explanation" / "tag-packs.md"

PYPI = {
    "fetch": (["mcp-server-fetch==2026.10.24"], ["mcp-server-fetch"]),
    "git": (["mcp-server-git==2026.10.19"], ["mcp-server-git"]),
    "sqlite": (["mcp-server-sqlite==2025.4.25", "mcp<2"], ["mcp-server-sqlite", "--db-path", "{packs}/sqlite.db"]),
    "time": (["mcp-server-time==2026.10.19"], ["mcp-server-time"]),
}
NPM = {
    "context7": ("@upstash/context7-mcp@4.1.1", ["context7-mcp"]),
    "everything": ("@modelcontextprotocol/server-everything@2026.8.31", ["mcp-server-everything"]),
    "filesystem": ("@modelcontextprotocol/server-filesystem@2026.8.31", ["mcp-server-filesystem", "{packs}"]),
    "memory": ("@modelcontextprotocol/server-memory@2026.8.31", ["mcp-server-memory"]),
    "playwright": ("@playwright/mcp@0.0.83", ["playwright-mcp"]),
    "sequential-thinking": (
        "@modelcontextprotocol/server-sequential-thinking@2026.8.31",
        ["mcp-server-sequential-thinking"],
    ),
}
"""What is installed, and how each server starts."""

_BAD = re.compile(r"no entry names the tool|tags nothing")


def live() -> int:
    """Install, start and compare every server; 0 when no tool is untagged and no tag is in vain."""
    if not shutil.which("npm"):
        print("npm is not installed", file=sys.stderr)
        return 1
    commands = dict(installed())
    config = PACKS / "guard.toml"
    lines = [f'policies = "{ROOT / "tool_policies"}"']
    lines += [f"[servers.{name}]\ncommand = {json.dumps(command)}" for name, command in sorted(commands.items())]
    config.write_text("\n".join(lines) + "\n")
    guard = Path(sys.executable).with_name("guard")
    words = [str(guard), "policy", "check", "--live", "--config", str(config)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    told = [line for line in done.stdout.splitlines() if 'server "' not in line or "is configured" not in line]
    print("\n".join(told))
    print(done.stderr, file=sys.stderr, end="")
    bad = [line for line in told if _BAD.search(line)]
    print(f"{len(commands)} servers; {len(bad)} untagged tools or tags in vain")
    return int(bool(bad) or done.returncode != 0)


def installed() -> Iterator[tuple[str, list[str]]]:
    """The start command of every server, installed when it is not there yet."""
    PACKS.mkdir(exist_ok=True)
    wanted = [package for package, _ in NPM.values()]
    stamp = PACKS / "npm.txt"
    if not stamp.exists() or stamp.read_text() != "\n".join(wanted):
        words = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(PACKS), *wanted]
        subprocess.run(words, check=True, timeout=600)
        stamp.write_text("\n".join(wanted))
    for name, (_, command) in NPM.items():
        yield name, [str(PACKS / "node_modules" / ".bin" / command[0]), *filled(command[1:])]
    for name, (packages, command) in PYPI.items():
        place, stamp = PACKS / name, PACKS / f"{name}.txt"
        if not stamp.exists() or stamp.read_text() != "\n".join(packages):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True, timeout=120)
            pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--quiet", *packages]
            subprocess.run(pip, check=True, timeout=600, stderr=subprocess.DEVNULL)
            stamp.write_text("\n".join(packages))
        yield name, [str(place / "bin" / command[0]), *filled(command[1:])]


def filled(words: Iterable[str]) -> list[str]:
    """Arguments with the folder put in."""
    return [word.format(packs=PACKS) for word in words]


# ------------------------------------------------------------------ vendors' labels

Row = dict[str, object]


def rows(name: str) -> list[Row]:
    """One vendor's labels."""
    with gzip.open(LABELS / f"{name}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def tags(policies: PolicySet, server: str, tool: str) -> Classification:
    """What the pack says about a tool."""
    call = Call(
        id="k_pack",
        principal=Principal(subject="pack", credential=""),
        source=Source(transport="stdio"),
        server=server,
        method="tools/call",
        kind="tool",
        name=tool,
        arguments={},
        canonical="{}",
        definition="",
        digest="",
        received=0.0,
    )
    return classify(policies, call, now=0.0)


def score(found: Iterable[tuple[bool, bool]]) -> str:
    """Recall and precision of (label, tag) pairs."""
    pairs = list(found)
    hits = sum(label and tag for label, tag in pairs)
    labels, tagged = sum(label for label, _ in pairs), sum(tag for _, tag in pairs)
    recall = f"{hits / labels:.3f}" if labels else "-"
    precision = f"{hits / tagged:.3f}" if tagged else "-"
    return f"{labels} | {tagged} | {recall} | {precision}"


def table() -> str:
    """The measured table as Markdown."""
    policies = PolicyDirectory(ROOT / "tool_policies").load()
    aws = rows("aws_iam_actions")
    half: Callable[[Row, bool], bool] = lambda row, seen: (str(row["server"])[4] < "m") is seen  # noqa: E731
    sets = [
        ("GitHub", "github", rows("github_mcp"), lambda row: str(row["tool"])),
        ("Azure", "azure", rows("azure_mcp"), lambda row: str(row["tool"])),
        ("AWS, services A-L", "aws", [row for row in aws if half(row, True)], aws_name),
        ("AWS, services M-Z (held out)", "aws", [row for row in aws if half(row, False)], aws_name),
    ]
    lines = ["| pack | class | labelled | tagged | recall | precision |", "|---|---|--:|--:|--:|--:|"]
    for title, server, labelled, name in sets:
        said = [(row, tags(policies, server, name(row))) for row in labelled]
        for label, truth, effects in classes(server):
            pairs = ((truth(row), bool(found.effects & effects)) for row, found in said)
            lines.append(f"| {title} ({len(said)}) | {label} | {score(pairs)} |")
        lowest = min(found.sensitivity for row, found in said if not row["read_only"])
        lines.append(f"| {title} ({len(said)}) | least tag of a change | {lowest.label} | | | |")
    return "\n".join(lines)


CHANGES = frozenset(
    "create update write notify destroy execute move_money grant_privilege change_policy".split()  # noqa: SIM905
)


def classes(server: str) -> list[tuple[str, Callable[[Row], bool], frozenset[str]]]:
    """The classes a vendor labels: name, label, and the effects that stand for it."""
    found: list[tuple[str, Callable[[Row], bool], frozenset[str]]] = [
        ("changes something", lambda row: not row["read_only"], CHANGES)
    ]
    if server != "aws":
        found.append(("destructive", lambda row: bool(row["destructive"]), frozenset({"destroy"})))
    if server == "azure":
        found.append(("secret", lambda row: bool(row["secret"]), frozenset({"export_secret"})))
    if server == "aws":
        granting: Callable[[Row], bool] = lambda row: row["access_level"] == "Permissions management"  # noqa: E731
        found.append(("grants privilege", granting, frozenset({"grant_privilege"})))
    return found


def aws_name(row: Row) -> str:
    """An IAM action as the pack names the tool for it."""
    return f"{str(row['server']).removeprefix('aws:')}.{row['tool']}"


def labels(*, record: bool) -> int:
    """Print the table; with `record`, write it into the page."""
    if not LABELS.is_dir():
        print(f"{LABELS} is not here, so nothing can be measured", file=sys.stderr)
        return 0
    found = table()
    print(found)
    if record:
        text = PAGE.read_text(encoding="utf-8")
        start, end = "<!-- measured by tools/packs.py labels -->\n", "\n<!-- end -->"
        head, tail = text.index(start) + len(start), text.index(end)
        PAGE.write_text(text[:head] + "\n" + found + "\n" + text[tail:], encoding="utf-8")
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["live"]:
            sys.exit(live())
        case ["labels", *more] if set(more) <= {"--record"}:
            sys.exit(labels(record=bool(more)))
        case _:
            print(__doc__)
            sys.exit(2)
