"""Which agents there are, where they keep their servers, and in which language.

Places and keys as their makers document them (November 2026):

- Claude Code: https://docs.claude.com/en/docs/claude-code/mcp (`~/.claude.json`, top level and by project; `.mcp.json`)
- Claude Desktop: https://modelcontextprotocol.io/quickstart/user (`claude_desktop_config.json`)
- Cursor: https://cursor.com/docs/mcp (`~/.cursor/mcp.json`, `.cursor/mcp.json`)
- VS Code: https://code.visualstudio.com/docs/agents/reference/mcp-configuration (`mcp.json` of the user profile,
  `.vscode/mcp.json`, and the portable `.mcp.json` and `~/.copilot/mcp-config.json`); before 1.102 in `settings.json`
- Codex: https://developers.openai.com/codex/mcp (`~/.codex/config.toml`, `.codex/config.toml`)
- Gemini CLI: https://github.com/google-gemini/gemini-cli/blob/main/docs/tools/mcp-server.md (`settings.json`)
- Windsurf: https://docs.windsurf.com/windsurf/cascade/mcp (`~/.codeium/windsurf/mcp_config.json`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from guard.clients.wrapping import ANY

Tables: TypeAlias = tuple[tuple[str, ...], ...]

MEGABYTE: Final = 1024 * 1024

_SERVERS: Final[Tables] = (("mcpServers",),)
_CLAUDE_CODE: Final[Tables] = (("mcpServers",), ("projects", ANY, "mcpServers"))
_VSCODE: Final[Tables] = (("servers",), ("mcpServers",))
_VSCODE_SETTINGS: Final[Tables] = (("mcp", "servers"),)
_CODEX: Final[Tables] = (("mcp_servers",),)
_ANY_JSON: Final[Tables] = (*_CLAUDE_CODE, ("servers",), ("mcp", "servers"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """The machine as far as places depend on it: `sys.platform`, the home folder, variables, and the working folder."""

    platform: str
    home: Path
    variables: Mapping[str, str]
    folder: Path

    def settings(self, application: str) -> Path:
        """Where an application keeps its own files."""
        match self.platform:
            case "darwin":
                base = self.home / "Library" / "Application Support"
            case "win32":
                base = Path(self.variables.get("APPDATA") or self.home / "AppData" / "Roaming")
            case _:
                base = Path(self.variables.get("XDG_CONFIG_HOME") or self.home / ".config")
        return base / application

    def own(self, variable: str, default: str) -> Path:
        """A folder that a variable may name, else below the home folder."""
        return Path(self.variables.get(variable) or self.home / default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file that may hold servers: in which tables, and whether it belongs to a project, which others may share.

    Files over `limit` bytes are refused.
    """

    client: str
    file: Path
    tables: Tables
    project: bool = False
    limit: int = MEGABYTE

    @property
    def toml(self) -> bool:
        """Whether it is TOML; else JSON, with comments or without."""
        return self.file.suffix == ".toml"


def _claude_code(around: Around) -> Iterator[Place]:
    named = around.variables.get("CLAUDE_CONFIG_DIR")
    own = Path(named) / ".claude.json" if named else around.home / ".claude.json"
    # It keeps the history of every project in this file, too.
    yield Place(client="claude-code", file=own, tables=_CLAUDE_CODE, limit=16 * MEGABYTE)
    yield Place(client="claude-code", file=around.folder / ".mcp.json", tables=_SERVERS, project=True)


def _claude_desktop(around: Around) -> Iterator[Place]:
    file = around.settings("Claude") / "claude_desktop_config.json"
    yield Place(client="claude-desktop", file=file, tables=_SERVERS)


def _cursor(around: Around) -> Iterator[Place]:
    yield Place(client="cursor", file=around.home / ".cursor" / "mcp.json", tables=_SERVERS)
    yield Place(client="cursor", file=around.folder / ".cursor" / "mcp.json", tables=_SERVERS, project=True)


def _vscode(around: Around) -> Iterator[Place]:
    for application in ("Code", "Code - Insiders", "VSCodium"):
        user = around.settings(application) / "User"
        profiles = sorted((user / "profiles").glob("*/mcp.json")) if (user / "profiles").is_dir() else []
        for file in (user / "mcp.json", *profiles):
            yield Place(client="vscode", file=file, tables=_VSCODE)
        yield Place(client="vscode", file=user / "settings.json", tables=_VSCODE_SETTINGS)
    portable = around.own("COPILOT_HOME", ".copilot") / "mcp-config.json"
    yield Place(client="vscode", file=portable, tables=_SERVERS)
    for name, tables in ((".vscode/mcp.json", _VSCODE), (".vscode/settings.json", _VSCODE_SETTINGS)):
        yield Place(client="vscode", file=around.folder / name, tables=tables, project=True)


def _codex(around: Around) -> Iterator[Place]:
    yield Place(client="codex", file=around.own("CODEX_HOME", ".codex") / "config.toml", tables=_CODEX)
    yield Place(client="codex", file=around.folder / ".codex" / "config.toml", tables=_CODEX, project=True)


def _gemini(around: Around) -> Iterator[Place]:
    yield Place(client="gemini", file=around.home / ".gemini" / "settings.json", tables=_SERVERS)
    yield Place(client="gemini", file=around.folder / ".gemini" / "settings.json", tables=_SERVERS, project=True)


def _windsurf(around: Around) -> Iterator[Place]:
    file = around.home / ".codeium" / "windsurf" / "mcp_config.json"
    yield Place(client="windsurf", file=file, tables=_SERVERS)


CLIENTS: Final[Mapping[str, Callable[[Around], Iterator[Place]]]] = {
    "claude-code": _claude_code,
    "claude-desktop": _claude_desktop,
    "cursor": _cursor,
    "vscode": _vscode,
    "codex": _codex,
    "gemini": _gemini,
    "windsurf": _windsurf,
}
"""Every known agent by the name the command line has for it."""

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {"claude": ("claude-code", "claude-desktop")}
"""Names for several of them."""


def places(names: tuple[str, ...], around: Around) -> list[Place]:
    """Where these agents may keep servers, each file once; whether the files exist is another question."""
    wanted = [one for name in names for one in ALIASES.get(name, (name,))]
    found: dict[Path, Place] = {}
    for name in wanted:
        for place in CLIENTS[name](around):
            found.setdefault(place.file, place)
    return list(found.values())


def described(file: Path, around: Around) -> Place:
    """A file that was named: as a known agent keeps it if it is one of its files, else judged by what is in it."""
    for place in places(tuple(CLIENTS), around):
        if place.file == file or (place.file.is_symlink() and place.file.resolve() == file.resolve()):
            return place
    names = {".mcp.json": "claude-code", "claude_desktop_config.json": "claude-desktop", "mcp_config.json": "windsurf"}
    folders = {".cursor": "cursor", ".vscode": "vscode", ".codex": "codex", ".gemini": "gemini"}
    client = names.get(file.name) or folders.get(file.parent.name) or "agent"
    tables = _CODEX if file.suffix == ".toml" else _ANY_JSON
    return Place(client=client, file=file, tables=tables, project=True)
