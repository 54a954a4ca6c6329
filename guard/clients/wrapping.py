"""Putting the guard before the servers of a configuration file, and taking it away again. Text in, text out.

The guard is put literally in front. `"command": "npx", "args": ["-y", "x"]` becomes

    "command": "/usr/bin/guard", "args": ["run", "NAME", "--config", C, "--key-file", K, "--", "npx", "-y", "x"]

so a file says by itself what it was, and variables in arguments are still filled in by the client. The literal of
the old command is moved, never written anew, and the two edits of an entry have an exact inverse.

Every result is read again and compared: nothing but the named entries may mean something else than before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from typing import Final, Literal

from guard.clients.source import Edit, Format, Node, Plain, comparable, edited, fail

ANY: Final = "*"
"""Stands for every key in the path to a table of servers."""

_OPTIONS: Final = ("--config", "--key-file")
_TAIL: Final = 7  # run NAME --config C --key-file K -- COMMAND
_COMMA: Final = re.compile(r"\s*,")

State = Literal["open", "guarded", "by hand", "remote", "odd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One server of a client: where it stands in the file, and what the client starts for it.

    `state`: started without the guard (`open`), by a wrapped command (`guarded`), by a `guard run` that somebody wrote
    (`by hand`), reached by URL (`remote`), or nothing that can be understood (`odd`; `why` says it).
    `command` and `environment` (names) are those of the tool server itself, also when the entry is guarded; `server` is
    its name in the guard.toml at `config` then.
    """

    path: tuple[str, ...]
    node: Node
    state: State
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    server: str = ""
    config: str = ""
    url: str = ""
    why: str = ""

    @property
    def name(self) -> str:
        """What the client calls the server."""
        return self.path[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What starts the guard for one server: absolute paths, and the server's name in guard.toml."""

    guard: str
    server: str
    config: str
    key_file: str

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments in front of the server's own command."""
        return ("run", self.server, "--config", self.config, "--key-file", self.key_file, "--")


def entries(root: Node, tables: Sequence[tuple[str, ...]]) -> Iterator[Entry]:
    """The servers in these tables, in the order of the file; a path may hold `ANY`."""
    for table in tables:
        for path, node in _tables(root, table, ()):
            for name, member in node.members.items():
                yield _understood((*path, name), member)


def _tables(node: Node, rest: tuple[str, ...], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Node]]:
    if not rest:
        yield path, node
        return
    for name in node.members if rest[0] == ANY else (rest[0],):
        if name in node.members:
            yield from _tables(node.members[name], rest[1:], (*path, name))


def _understood(path: tuple[str, ...], node: Node) -> Entry:
    """What an entry is."""
    if node.kind != "table":
        return Entry(path=path, node=node, state="odd", why="it is not a table of settings")
    url = next((node.members[key].text or "" for key in ("url", "httpUrl", "serverUrl") if key in node.members), "")
    if "command" not in node.members:
        known = url or (_text(node, "type") in {"http", "sse", "streamable-http", "ws"})
        return Entry(path=path, node=node, state="remote" if known else "odd", url=url, why="it has no command")
    command, args = node.members["command"].text, node.members.get("args")
    given = args.strings() if args else []
    if not command or given is None:
        return Entry(path=path, node=node, state="odd", why="command must be text, and args a list of texts")
    words, variables = (command, *given), _environment(node)
    if _is_guard(command) and given[:1] == ["run"]:
        if len(given) > _TAIL and (given[2], given[4], given[6]) == (*_OPTIONS, "--"):
            return Entry(
                path=path,
                node=node,
                state="guarded",
                command=tuple(given[_TAIL:]),
                environment=variables,
                server=given[1],
                config=given[3],
            )
        return Entry(path=path, node=node, state="by hand", command=words, server="".join(given[1:2]))
    return Entry(path=path, node=node, state="open", command=words, environment=variables)


def _text(node: Node, key: str) -> str:
    member = node.members.get(key)
    return (member.text if member else None) or ""


def _environment(node: Node) -> tuple[str, ...]:
    """Names of the variables that the client sets for its server, or lets it have (`env_vars` of Codex)."""
    table, passed = node.members.get("env"), node.members.get("env_vars")
    names = list(table.members) if table else []
    return tuple(dict.fromkeys([*names, *((passed.strings() if passed else None) or [])]))


def _is_guard(command: str) -> bool:
    return (PureWindowsPath(command) if "\\" in command else PurePath(command)).stem.casefold() == "guard"


# ------------------------------------------------------------------ the two directions


@dataclass(frozen=True, slots=True)
class Document:
    """A file as read: its text, its language, its tree, and the servers in it."""

    file: str
    text: str
    format: Format
    tables: tuple[tuple[str, ...], ...]
    root: Node
    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, text: str, file: str, format: Format, tables: tuple[tuple[str, ...], ...]) -> Document:  # noqa: A002
        """Read a text.

        Raises:
            ConfigError: it is broken or ambiguous, or a table of servers is no table.
        """
        root = format.read(text, file)
        for table in tables:
            for path, node in _tables(root, table, ()):
                if node.kind != "table":
                    fail(f"{'.'.join(path)} is not a table of servers", text, node.start, file)
        return cls(file, text, format, tables, root, tuple(entries(root, tables)))

    def again(self, text: str) -> Document:
        """The same file with another text."""
        return self.read(text, self.file, self.format, self.tables)


def wrapped(document: Document, launches: Mapping[tuple[str, ...], Launch]) -> str:
    """The text with the guard before these servers, which are `open`.

    Raises:
        ConfigError: the result would not mean exactly that.
    """
    edits: list[Edit] = []
    expected: dict[tuple[str, ...], dict[str, Plain]] = {}
    for entry in document.entries:
        if launch := launches.get(entry.path):
            edits += _put(document, entry.node, launch)
            expected[entry.path] = {"command": launch.guard, "args": [*launch.words, *entry.command]}
    return _checked(document, edits, expected)


def unwrapped(
    document: Document, config: str, without_args: frozenset[tuple[str, ...]] = frozenset()
) -> tuple[str, list[Entry]]:
    """The text with the guard of `config` taken away from its servers and nothing else changed; and which they are.

    What another one guards stays, unless that file is gone: then it was moved, and this is it.
    `without_args` are the servers that had no `args` before they were wrapped.

    Raises:
        ConfigError: the result would not mean exactly that.
    """
    edits: list[Edit] = []
    expected: dict[tuple[str, ...], dict[str, Plain]] = {}
    taken = [entry for entry in document.entries if entry.state == "guarded" and not foreign(entry, config)]
    for entry in taken:
        bare = entry.path in without_args and len(entry.command) == 1
        added = _added(document, entry.node) if bare else None
        edits += _take(document, entry.node, added)
        rest: dict[str, Plain] = {} if added else {"args": list(entry.command[1:])}
        expected[entry.path] = {"command": entry.command[0], **rest}
    return _checked(document, edits, expected), taken


def foreign(entry: Entry, config: str) -> bool:
    """Whether a guarded server belongs to another guard than that of `config`."""
    return entry.config != config and Path(entry.config).exists()


def lacks_args(document: Document, path: tuple[str, ...]) -> bool:
    """Whether the server has no `args` of its own."""
    return any(entry.path == path and "args" not in entry.node.members for entry in document.entries)


def _put(document: Document, node: Node, launch: Launch) -> list[Edit]:
    """The edits that put the guard in front of one server."""
    text, quote = document.text, document.format.quote
    command, args = node.members["command"], node.members.get("args")
    literal = ", ".join([*map(quote, launch.words), text[command.start : command.end]])
    edits = [Edit(command.start, command.end, quote(launch.guard))]
    if args is None:
        at, lead = _behind(text, command)
        return [*edits, Edit(at, at, lead + document.format.pair(f"{command.prefix}args", f"[{literal}]"))]
    if args.items:
        return [*edits, Edit(args.items[0].start, args.items[0].start, f"{literal}, ")]
    return [*edits, Edit(args.start + 1, args.start + 1, literal)]


def _behind(text: str, node: Node) -> tuple[int, str]:
    """Where a further key goes behind this value, and what stands before it."""
    if not node.own_line:
        return node.end, ", "
    end = re.compile(r"[^\r\n]*").match(text, node.end)
    start = text.rfind("\n", 0, node.at) + 1
    at = end.end() if end else node.end
    newline = "\r\n" if text.startswith("\r\n", at) or (at == len(text) and "\r\n" in text) else "\n"
    return at, newline + text[start : node.at]


def _added(document: Document, node: Node) -> Edit | None:
    """The edit that removes `args` as a whole, if it still stands as `_put` adds it."""
    text, command, args = document.text, node.members["command"], node.members["args"]
    at, lead = _behind(text, command)
    head = lead + document.format.pair(f"{command.prefix}args", "[")
    return Edit(at, args.end, "") if text.startswith(head, at) and args.start == at + len(head) - 1 else None


def _take(document: Document, node: Node, added: Edit | None) -> list[Edit]:
    """The edits that take the guard away from one server, with all of `args` if it was `added`."""
    text, command, args = document.text, node.members["command"], node.members["args"].items
    old = args[_TAIL]
    back = Edit(command.start, command.end, text[old.start : old.end])
    if added:
        return [back, added]
    if len(args) > _TAIL + 1:
        return [back, Edit(args[0].start, args[_TAIL + 1].start, "")]
    comma = _COMMA.match(text, old.end)
    return [back, Edit(args[0].start, comma.end() if comma else old.end, "")]


def _checked(document: Document, edits: Sequence[Edit], expected: Mapping[tuple[str, ...], Mapping[str, Plain]]) -> str:
    """The edited text, once it was read and means what is expected.

    Raises:
        ConfigError: it does not; the file is written in a way that is not understood well enough.
    """
    text = edited(document.text, edits)
    meant = document.root.plain()
    for path, change in expected.items():
        entry = meant
        for name in path:
            entry = entry[name]  # type: ignore[index, call-overload]  # the path of an entry leads through tables
        entry.update(change)  # type: ignore[union-attr]
        if "args" not in change:
            entry.pop("args")  # type: ignore[union-attr]
    if comparable(document.again(text).root.plain()) != comparable(meant):
        fail("this file cannot be changed without changing more than its servers", document.text, 0, document.file)
    return text
