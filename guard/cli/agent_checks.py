"""The checks of `guard doctor` about wrapped agents: what of them still gets past the guard.

Only agents are looked at that were wrapped from this guard.toml, and only files that are on this computer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from guard.app import Desk
from guard.cli.checks import Check
from guard.cli.wrap import around
from guard.clients import plan
from guard.clients.apply import read_key
from guard.clients.jsonc import Jsonc
from guard.clients.known import Around, Place, described, places
from guard.clients.receipts import Receipt, Receipts
from guard.clients.source import Format, Node
from guard.clients.toml import Toml
from guard.clients.wrapping import Entry, foreign
from guard.config import Config
from guard.errors import ConfigError, GuardError

_LIMIT: Final = 1024 * 1024
_POWERFUL: Final = ("Bash", "PowerShell", "Write", "Edit", "MultiEdit", "NotebookEdit", "WebFetch")


def agent_checks(services: Desk) -> Iterator[Check]:
    """Every check, for every wrapped agent."""
    here = around()
    try:
        receipts = list(Receipts(services.config.state).all())
    except ConfigError as error:
        yield Check("problem", error.public, "without it a file can be unwrapped, and not restored")
        return
    for receipt in receipts:
        yield from _wrapped(receipt, services.config, here)
    for client in sorted({receipt.client for receipt in receipts}):
        known = {receipt.file for receipt in receipts}
        for place in places((client,), here) if client != "agent" else ():
            if place.file.exists() and place.file.resolve() not in known:
                yield from _beside(place)
        yield from _native(client, here)


def _wrapped(receipt: Receipt, config: Config, here: Around) -> Iterator[Check]:
    """A file that was wrapped: is it still, and does what it starts work."""
    if not receipt.file.exists():
        yield Check("warning", f"{receipt.file} was wrapped and is gone", f"rm {_kept(config, receipt)}, or restore it")
        return
    found = described(receipt.file, here)
    try:
        _, document = plan.read(found)
    except GuardError as error:
        yield Check("problem", error.public, "correct the file; the agent cannot read it either")
        return
    bypass = [entry for entry in document.entries if entry.state == "open"]
    yield from _passed(receipt.client, receipt.file, bypass, document.entries)
    for entry in document.entries:
        if entry.state == "guarded" and not foreign(entry, str(config.file.absolute())):
            yield from _starts(entry, receipt, config)
    if not bypass:
        yield Check("ok", f"{receipt.client} starts every server in {receipt.file} that is a program through the guard")


def _kept(config: Config, receipt: Receipt) -> Path:
    return Receipts(config.state).place(receipt.file)


def _starts(entry: Entry, receipt: Receipt, config: Config) -> Iterator[Check]:
    """What an agent starts for one server."""
    remedy = f"guard wrap {receipt.file}"
    program = entry.node.members["command"].text or ""
    server = config.servers.get(entry.server)
    if not Path(program).exists():
        yield Check("problem", f"{receipt.client} cannot start {entry.name}: {program} is not there", remedy)
    if server is None:
        yield Check("problem", f"{receipt.client} starts {entry.server}, which guard.toml does not have", remedy)
    elif server.command != entry.command:
        yield Check("problem", f"{entry.name} of {receipt.client} has another command than guard.toml has", remedy)
    try:
        read_key(receipt.key_file)
    except ConfigError as error:
        yield Check(
            "problem", error.public, f"chmod 600 it, or guard agent rotate {receipt.agent} > {receipt.key_file}"
        )


def _passed(client: str, file: Path, open_: Sequence[Entry], entries: Sequence[Entry]) -> Iterator[Check]:
    """Servers in a file that the guard never sees."""
    for entry in open_:
        yield Check("warning", f"{client} starts {entry.name} without the guard", f"guard wrap {file}")
    for entry in entries:
        if entry.state == "remote" and not _local(entry.url):
            yield Check(
                "warning",
                f"{client} reaches {entry.name} by URL, past the guard",
                f"serve it: [servers.NAME] with its url, guard serve, and the guard's URL in {file}",
            )


def _local(url: str) -> bool:
    return "/mcp/" in url and url.startswith(("http://127.0.0.1:", "http://localhost:"))


def _beside(place: Place) -> Iterator[Check]:
    """Another file of an agent that is wrapped."""
    try:
        _, document = plan.read(place)
    except GuardError:
        return  # it is not ours to judge
    yield from _passed(
        place.client, place.file, [entry for entry in document.entries if entry.state == "open"], document.entries
    )


# ------------------------------------------------------------------ tools that are no MCP


def _native(client: str, here: Around) -> Iterator[Check]:
    """What an agent may do with tools of its own, which never meet the guard."""
    if client in _UNKNOWN:
        said = f"{client} runs commands and edits files with tools of its own, which the guard never sees"
        yield Check("warning", said, "look at what it may run without asking, in its settings")
    if client not in _SETTINGS:
        return
    told = False
    for file, language, judge in _SETTINGS[client](here):
        node = _read(file, language)
        for what, remedy in judge(node) if node else ():
            told = True
            yield Check("warning", f"{client}: {what} ({file}); its own tools never meet the guard", remedy)
    if not told:
        yield Check("ok", f"{client} asks before it uses tools of its own (shell, files), which the guard never sees")


def _read(file: Path, format_: Format) -> Node | None:
    try:
        if not file.is_file() or file.stat().st_size > _LIMIT:
            return None
        return format_.read(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError, ConfigError):
        return None


Judge = Callable[[Node], Iterator[tuple[str, str]]]


def _claude(node: Node) -> Iterator[tuple[str, str]]:
    """https://docs.claude.com/en/docs/claude-code/settings: rules that let a tool run without a question."""
    rules = node.members.get("permissions")
    if rules is None:
        return
    allow = rules.members.get("allow")
    listed = [item.text for item in allow.items if item.text] if allow else []
    for rule in listed:
        if rule.partition("(")[0] in _POWERFUL:
            yield f"{rule} runs without a question", "move the rule from permissions.allow to permissions.ask"
    mode = rules.members.get("defaultMode")
    if mode is not None and mode.text in {"bypassPermissions", "acceptEdits", "dontAsk"}:
        yield f"permissions.defaultMode is {mode.text}", 'set it to "default"'


def _codex(node: Node) -> Iterator[tuple[str, str]]:
    """https://developers.openai.com/codex/config: who is asked before a command runs, and what it can reach."""
    approval, sandbox = node.members.get("approval_policy"), node.members.get("sandbox_mode")
    if approval is not None and approval.text == "never":
        yield "approval_policy is never", 'set it to "on-request"'
    if sandbox is not None and sandbox.text == "danger-full-access":
        yield "sandbox_mode is danger-full-access", 'set it to "workspace-write"'


def _vscode(node: Node) -> Iterator[tuple[str, str]]:
    """https://code.visualstudio.com/docs/copilot/chat/chat-agent-mode: tools that run without a question."""
    for key in ("chat.tools.global.autoApprove", "chat.tools.autoApprove"):
        found = node.members.get(key)
        if found is not None and found.value is True:
            yield f"{key} is true", "set it to false"


def _gemini(node: Node) -> Iterator[tuple[str, str]]:
    """https://github.com/google-gemini/gemini-cli/blob/main/docs/get-started/configuration.md: what runs unasked."""
    tools = node.members.get("tools")
    allowed = (tools.members.get("allowed") if tools else None) or node.members.get("allowedTools")
    for item in allowed.items if allowed else ():
        if item.text and item.text.partition("(")[0] in {"run_shell_command", "ShellTool", "write_file", "replace"}:
            yield f"{item.text} runs without a question", "take it out of tools.allowed"


_UNKNOWN: Final = frozenset({"cursor", "windsurf"})
"""Agents with a shell of their own, whose settings about it are not in a file that is documented."""

_Found = tuple[Path, Format, Judge]


def _claude_files(here: Around) -> Sequence[_Found]:
    own = here.own("CLAUDE_CONFIG_DIR", ".claude")
    folders = (own, here.folder / ".claude") if own != here.folder / ".claude" else (own,)
    names = ("settings.json", "settings.local.json")
    return [(folder / name, Jsonc(), _claude) for folder in folders for name in names]


def _codex_files(here: Around) -> Sequence[_Found]:
    return [(here.own("CODEX_HOME", ".codex") / "config.toml", Toml(), _codex)]


def _vscode_files(here: Around) -> Sequence[_Found]:
    own = here.settings("Code") / "User" / "settings.json"
    return [(file, Jsonc(), _vscode) for file in (own, here.folder / ".vscode" / "settings.json")]


def _gemini_files(here: Around) -> Sequence[_Found]:
    folders = {here.home / ".gemini": None, here.folder / ".gemini": None}
    return [(folder / "settings.json", Jsonc(), _gemini) for folder in folders]


_SETTINGS: Final[Mapping[str, Callable[[Around], Sequence[_Found]]]] = {
    "claude-code": _claude_files,
    "codex": _codex_files,
    "vscode": _vscode_files,
    "gemini": _gemini_files,
}
