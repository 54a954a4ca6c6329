"""Wrapping and unwrapping as texts: nothing else changes, and taking away gives back every byte."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guard.clients.jsonc import Jsonc
from guard.clients.known import CLIENTS, Around, Tables, places
from guard.clients.toml import Toml
from guard.clients.wrapping import Document, Launch, lacks_args, unwrapped, wrapped
from guard.errors import ConfigError

SAMPLES = Path(__file__).parent.parent / "clients"
CONFIG = '/a "b"/guard.toml'
TABLES: Tables = (("mcpServers",), ("projects", "*", "mcpServers"), ("servers",), ("mcp", "servers"))
CODEX: Tables = (("mcp_servers",),)


def read(text: str, *, toml: bool = False) -> Document:
    return Document.read(text, "file", Toml() if toml else Jsonc(), CODEX if toml else TABLES)


def wrap(document: Document) -> tuple[str, frozenset[tuple[str, ...]]]:
    """The wrapped text, and the servers that had no arguments."""
    launches = {
        entry.path: Launch(guard="/opt/bin/guard", server=f"s{place}", config=CONFIG, key_file="/k")
        for place, entry in enumerate(document.entries)
        if entry.state == "open"
    }
    return wrapped(document, launches), frozenset(path for path in launches if lacks_args(document, path))


@pytest.mark.parametrize("sample", sorted(SAMPLES.iterdir()), ids=lambda file: file.name)
def test_a_real_file_comes_back_byte_for_byte(sample: Path) -> None:
    text = sample.read_bytes().decode()
    document = read(text, toml=sample.suffix == ".toml")
    changed, bare = wrap(document)
    again = document.again(changed)
    assert {entry.state for entry in again.entries} <= {"guarded", "remote"}
    assert [entry.command for entry in again.entries] == [entry.command for entry in document.entries]
    assert changed.count("\n") - text.count("\n") == changed.count("\n  args = ") + changed.count('\nargs = ["run"')
    assert unwrapped(again, CONFIG, bare)[0] == text


@pytest.mark.parametrize("sample", sorted(SAMPLES.iterdir()), ids=lambda file: file.name)
def test_only_lines_of_wrapped_servers_change(sample: Path) -> None:
    text = sample.read_bytes().decode()
    changed, _ = wrap(read(text, toml=sample.suffix == ".toml"))
    kept = set(text.splitlines()) - set(changed.splitlines())
    assert all(re.search(r"command|args|-y|mcp-server|mcp_server|@modelcontextprotocol", line) for line in kept), kept


# ------------------------------------------------------------------ generated files

GAP = st.sampled_from(["", "", " ", "\n", "\r\n\t", " /* , ] } */ ", "// it's \" {\n", " // [\r\n"])
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def spelt(text: str, escape: bool) -> str:
    return json.dumps(text, ensure_ascii=escape)


STRINGS = st.builds(spelt, WORDS, st.booleans())


@st.composite
def containers(draw: st.DrawFn, brackets: str, members: st.SearchStrategy[list[str]]) -> str:
    parts = draw(members)
    text = brackets[0] + draw(GAP)
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        text += part + draw(GAP) + ("" if last and draw(st.booleans()) else "," + draw(GAP))
    return text + brackets[1]


@st.composite
def pairs(draw: st.DrawFn, name: str, value: st.SearchStrategy[str]) -> str:
    return f"{json.dumps(name)}{draw(GAP)}:{draw(GAP)}{draw(value)}"


@st.composite
def servers(draw: st.DrawFn) -> str:
    lists = containers("[]", st.lists(STRINGS, max_size=3))
    members = [draw(pairs("command", STRINGS.filter(lambda text: text != '""')))]
    if draw(st.booleans()):
        members.append(draw(pairs("args", lists)))
    if draw(st.booleans()):
        members.append(draw(pairs("env", containers("{}", st.lists(pairs("TOKEN", STRINGS), max_size=1)))))
    if draw(st.booleans()):
        members.append(draw(pairs("disabled", st.sampled_from(["true", "false", "null", "-1.5e3"]))))
    order = draw(st.permutations(members))
    return draw(containers("{}", st.just(order)))


@st.composite
def configurations(draw: st.DrawFn) -> str:
    names = draw(st.lists(WORDS, max_size=3, unique=True))
    table = containers("{}", st.just([draw(pairs(name, servers())) for name in names]))
    members = [draw(pairs("mcpServers", table)), draw(pairs("other", STRINGS))]
    return (
        draw(st.sampled_from(["", "\ufeff"])) + draw(GAP) + draw(containers("{}", st.permutations(members))) + draw(GAP)
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configurations())
def test_whatever_was_wrapped_comes_back_byte_for_byte(text: str) -> None:
    document = read(text)
    changed, bare = wrap(document)
    again = document.again(changed)
    assert unwrapped(again, CONFIG, bare)[0] == text
    without_receipt = document.again(unwrapped(again, CONFIG)[0])
    assert [entry.command for entry in without_receipt.entries] == [entry.command for entry in document.entries]


# ------------------------------------------------------------------ files that people edited meanwhile


def test_in_a_file_that_was_edited_since_only_the_guards_words_go() -> None:
    changed, _ = wrap(read('{"mcpServers": {"a": {"command": "npx", "args": ["-y", "x"]}}}'))
    edited = changed.replace('"-y"', '"--yes"').replace("{", "{ // mine\n", 1)
    assert (
        unwrapped(read(edited), CONFIG)[0]
        == '{ // mine\n"mcpServers": {"a": {"command": "npx", "args": ["--yes", "x"]}}}'
    )


def test_a_formatter_between_the_two_does_no_harm() -> None:
    changed, _ = wrap(read('{"mcpServers": {"a": {"command": "npx", "args": []}}}'))
    formatted = json.dumps(json.loads(changed), indent=2).replace('"npx"\n      ]', '"npx",\n      ]')
    back = unwrapped(read(formatted), CONFIG)[0]
    assert json.loads(back) == {"mcpServers": {"a": {"command": "npx", "args": []}}}


@pytest.mark.parametrize(
    ("entry", "state"),
    [
        ('{"command": "guard", "args": ["run", "git", "--config", "/g.toml"]}', "by hand"),
        ('{"command": "/x/guard.exe", "args": ["run"]}', "by hand"),
        ('{"command": "C:\\\\bin\\\\guard.exe", "args": ["run", "git"]}', "by hand"),
        ('{"command": "guardian", "args": ["run", "git"]}', "open"),
        ('{"url": "https://x.example/mcp"}', "remote"),
        ('{"httpUrl": "https://x.example/mcp"}', "remote"),
        ('{"serverUrl": "https://x.example/mcp"}', "remote"),
        ('{"type": "http"}', "remote"),
        ('{"command": 1}', "odd"),
        ('{"command": ""}', "odd"),
        ('{"command": "x", "args": "-y"}', "odd"),
        ('{"command": "x", "args": [1]}', "odd"),
        ('{"gallery": true}', "odd"),
        ("[]", "odd"),
        ("null", "odd"),
    ],
)
def test_what_cannot_be_wrapped_is_told_apart_and_left(entry: str, state: str) -> None:
    text = f'{{"mcpServers": {{"a": {entry}}}}}'
    document = read(text)
    assert [one.state for one in document.entries] == [state]
    if state != "open":
        assert wrap(document)[0] == text


def test_a_table_of_servers_that_is_none_is_refused_at_its_place() -> None:
    with pytest.raises(ConfigError, match=r"file:2:17: mcpServers is not a table of servers"):
        read('{\n  "mcpServers": []}')


@pytest.mark.parametrize(
    "text",
    [
        'mcp_servers.x.command = "npx" # why\r\nmcp_servers.x.args = []\r\n',
        'mcp_servers.x.command = "npx"',
        '[mcp_servers]\nx.command = """np\\\nx"""\nx.env.A = "1"\n',
        'mcp_servers = { x = { command = "npx" }, y = { command = \'a\', args = ["b",] } }',
        '[mcp_servers.x]\r\n\tcommand = "npx"\r\n\r\n[mcp_servers.x.env]\r\nA = "1"\r\n',
        '[mcp_servers."a.b"]\nargs = [ # none\n]\ncommand = "npx"\n[mcp_servers.url]\nurl = "https://x.example"\n',
    ],
)
def test_every_way_to_write_a_server_in_toml_comes_back(text: str) -> None:
    document = read(text, toml=True)
    changed, bare = wrap(document)
    assert tomllib.loads(changed) != tomllib.loads(text)
    assert all(entry.state in {"guarded", "remote"} for entry in document.again(changed).entries)
    assert unwrapped(document.again(changed), CONFIG, bare)[0] == text


# ------------------------------------------------------------------ where agents keep their files


def around(platform: str, **variables: str) -> Around:
    return Around(platform=platform, home=Path("/home/oli"), variables=variables, folder=Path("/src/app"))


@pytest.mark.parametrize(
    ("here", "client", "file"),
    [
        (around("linux"), "claude-code", "/home/oli/.claude.json"),
        (around("linux", CLAUDE_CONFIG_DIR="/c"), "claude-code", "/c/.claude.json"),
        (around("linux"), "claude-code", "/src/app/.mcp.json"),
        (around("linux"), "claude-desktop", "/home/oli/.config/Claude/claude_desktop_config.json"),
        (
            around("darwin"),
            "claude-desktop",
            "/home/oli/Library/Application Support/Claude/claude_desktop_config.json",
        ),
        (around("win32", APPDATA="/roaming"), "claude-desktop", "/roaming/Claude/claude_desktop_config.json"),
        (around("win32"), "claude-desktop", "/home/oli/AppData/Roaming/Claude/claude_desktop_config.json"),
        (around("linux"), "cursor", "/home/oli/.cursor/mcp.json"),
        (around("linux"), "cursor", "/src/app/.cursor/mcp.json"),
        (around("linux", XDG_CONFIG_HOME="/xdg"), "vscode", "/xdg/Code/User/mcp.json"),
        (around("darwin"), "vscode", "/home/oli/Library/Application Support/Code/User/mcp.json"),
        (around("win32", APPDATA="/roaming"), "vscode", "/roaming/Code - Insiders/User/mcp.json"),
        (around("linux"), "vscode", "/src/app/.vscode/mcp.json"),
        (around("linux"), "vscode", "/home/oli/.copilot/mcp-config.json"),
        (around("linux"), "codex", "/home/oli/.codex/config.toml"),
        (around("linux", CODEX_HOME="/cx"), "codex", "/cx/config.toml"),
        (around("linux"), "codex", "/src/app/.codex/config.toml"),
        (around("linux"), "gemini", "/home/oli/.gemini/settings.json"),
        (around("linux"), "gemini", "/src/app/.gemini/settings.json"),
        (around("win32"), "windsurf", "/home/oli/.codeium/windsurf/mcp_config.json"),
    ],
)
def test_agents_keep_their_servers_where_their_makers_say(here: Around, client: str, file: str) -> None:
    assert Path(file) in [place.file for place in places((client,), here)]


def test_no_file_belongs_to_two_agents() -> None:
    found = [place.file for place in places((*CLIENTS, "claude"), around("linux"))]
    assert len(found) == len(set(found))
