"""`guard wrap` and `guard unwrap` as people use them: what is written where, and what is refused without a trace."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from guard.app import desk
from guard.audit.export import Reader
from guard.cli.serve import filled
from guard.clients.apply import read_key
from guard.config import Config, load, parse
from guard.errors import ConfigError
from tests.outside import Done, Verbs

SAMPLES = Path(__file__).parent.parent / "clients"
PLAIN = '{"mcpServers": {"files": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "/x"]}}}'
TOKEN = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
"""Stands in a sample."""


@pytest.fixture(scope="module")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verbs]:
    with Verbs(tmp_path_factory.mktemp("verbs")) as running:
        yield running


@dataclass
class Home:
    """A person's home folder, and the folder they keep the guard in."""

    verbs: Verbs
    folder: Path

    @property
    def desk(self) -> Path:
        return self.folder / "guard"

    def put(self, place: str, text: str | bytes) -> Path:
        file = self.folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def try_(self, *words: str) -> Done:
        return self.verbs(*words, cwd=self.desk, env={"HOME": str(self.folder)})

    def guard(self, *words: str) -> str:
        done = self.try_(*words)
        assert done.code == 0, done.err
        return done.out

    def everything(self) -> Mapping[str, tuple[bytes, int]]:
        """Every file with its content and permissions."""
        return {
            str(path.relative_to(self.folder)): (path.read_bytes(), path.stat().st_mode)
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def home(tmp_path: Path, verbs: Verbs) -> Home:
    made = Home(verbs, tmp_path)
    made.desk.mkdir()
    return made


def test_wrapping_needs_nothing_but_the_agent(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    file.chmod(0o640)
    [row] = json.loads(home.guard("wrap", "cursor", "--json"))
    assert (row["outcome"], row["server"], row["pack"]) == ("wrapped", "files", "filesystem")
    entry = json.loads(file.read_text())["mcpServers"]["files"]
    key = home.desk / "state" / "clients" / "cursor.key"
    options = ["--config", str(home.desk / "guard.toml"), "--key-file", str(key)]
    old = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "/x"]
    assert entry["args"] == ["run", "files", *options, "--", *old]
    assert Path(entry["command"]).is_absolute()
    assert Path(entry["command"]).name == "guard"
    assert list(load(home.desk / "guard.toml").servers["files"].command or ()) == old
    assert (home.desk / "tool_policies" / "files.yaml").read_text().count("write_file") == 1
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert key.read_text().strip() not in file.read_text()
    assert [one["name"] for one in json.loads(home.guard("agent", "ls", "--json"))] == ["cursor"]
    home.guard("policy", "check")


def test_both_directions_are_recorded(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    home.guard("unwrap", "cursor")
    entries = [entry for entry in Reader(home.desk / "state").read() if entry.event.startswith("client.")]
    assert [(entry.event, entry.text("file"), entry.fields["servers"]) for entry in entries] == [
        ("client.wrapped", str(file), ["files"]),
        ("client.unwrapped", str(file), ["files"]),
    ]


def test_wrapping_twice_is_wrapping_once(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    before = {name: one for name, one in home.everything().items() if "/state/" not in name}
    assert json.loads(home.guard("wrap", "cursor", "--json"))[0]["outcome"] == "kept"
    assert {name: one for name, one in home.everything().items() if "/state/" not in name} == before
    home.guard("unwrap", "cursor")
    assert file.read_text() == PLAIN


def test_a_dry_run_shows_every_change_and_no_secret_and_changes_nothing(home: Home) -> None:
    shutil.copy(SAMPLES / "claude.json", home.folder / ".claude.json")
    before = home.everything()
    done = home.try_("wrap", "claude", "--dry-run")
    assert done.code == 0
    assert '+      "command": "' in done.out
    assert "+[servers.github]" in done.out
    assert TOKEN not in done.out + done.err
    assert home.everything() == before


def test_a_server_that_was_added_later_is_wrapped_by_the_next_run(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    more = file.read_text().replace('{"files"', '{"time": {"command": "uvx"}, "files"')
    file.write_text(more)
    home.guard("wrap", "cursor")
    assert set(load(home.desk / "guard.toml").servers) == {"files", "time"}
    home.guard("unwrap", "cursor")
    assert file.read_text() == PLAIN.replace('{"files"', '{"time": {"command": "uvx"}, "files"')
    assert not load(home.desk / "guard.toml").servers


def test_an_edited_file_keeps_the_edits_when_it_is_unwrapped(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    file.write_text(file.read_text().replace("{", "{ /* mine */ ", 1))
    done = home.try_("unwrap", "cursor")
    assert (done.code, "edited since" in done.err) == (0, True)
    assert file.read_text() == PLAIN.replace("{", "{ /* mine */ ", 1)


def test_changed_arguments_are_taken_over_by_wrapping_again(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    file.write_text(file.read_text().replace('"/x"', '"/y"'))
    home.guard("wrap", "cursor")
    servers = load(home.desk / "guard.toml").servers
    assert [server.command and server.command[-1] for server in servers.values()] == ["/y"]


def test_two_agents_with_the_same_server_share_its_table_until_the_last_one_is_unwrapped(home: Home) -> None:
    home.put(".cursor/mcp.json", PLAIN)
    home.put(".gemini/settings.json", PLAIN)
    other = PLAIN.replace("/x", "/z")
    home.put(".codeium/windsurf/mcp_config.json", other)
    home.guard("wrap", "--all")
    assert set(load(home.desk / "guard.toml").servers) == {"files", "files-windsurf"}
    assert (home.desk / "tool_policies" / "files-windsurf.yaml").exists()
    home.guard("unwrap", "cursor")
    assert set(load(home.desk / "guard.toml").servers) == {"files", "files-windsurf"}
    home.guard("unwrap", "--all")
    assert (home.folder / ".gemini/settings.json").read_text() == PLAIN
    assert (home.folder / ".codeium/windsurf/mcp_config.json").read_text() == other


def test_the_owners_tags_and_settings_stay(home: Home) -> None:
    home.put(".cursor/mcp.json", PLAIN)
    mine = "# mine\r\n[approval]\r\nsolo = true # alone\r\n"
    home.put("guard/guard.toml", mine)
    tags = home.put("guard/tool_policies/files.yaml", "server: files\nowner: me\ndefault: {sensitivity: critical}\n")
    before = tags.read_text()
    home.guard("wrap", "cursor")
    assert (home.desk / "guard.toml").read_bytes().startswith(mine.encode())
    assert tags.read_text() == before
    home.guard("unwrap", "cursor")
    assert (home.desk / "guard.toml").read_bytes() == mine.encode()
    assert tags.read_text() == before


def test_a_file_in_a_repository_holds_no_key_and_is_not_to_be_committed(home: Home) -> None:
    (home.desk / ".git").mkdir()
    file = home.put("guard/.mcp.json", PLAIN)
    done = home.try_("wrap", ".mcp.json")
    assert done.code == 0
    assert "do not commit it wrapped" in done.err
    assert "grd_" not in file.read_text()
    assert (home.desk / "state" / "clients" / ".gitignore").read_text() == "*\n"


def test_a_person_s_link_is_followed_and_stays_a_link(home: Home) -> None:
    real = home.put("dotfiles/cursor.json", PLAIN)
    (home.folder / ".cursor").mkdir()
    (home.folder / ".cursor" / "mcp.json").symlink_to(real)
    home.guard("wrap", "cursor")
    assert (home.folder / ".cursor" / "mcp.json").is_symlink()
    assert "--key-file" in real.read_text()
    home.guard("unwrap", "cursor")
    assert real.read_text() == PLAIN


REFUSED = [
    (".cursor/mcp.json", '{"mcpServers": {"a": {"command": "x", "command": "y"}}}', "mcp.json:1:39: the key"),
    (".cursor/mcp.json", '{\n"mcpServers": {\n', "mcp.json:3:1: expected a key"),
    (".cursor/mcp.json", '{"mcpServers": "x"}', "is not a table of servers"),
    (".cursor/mcp.json", b'{"a": "\xff"}', "is not UTF-8"),
    (".cursor/mcp.json", b"\xff\xfe{\x00", "is not UTF-8"),
    (".cursor/mcp.json", b"{" + b" " * 1024 * 1024 + b"}", "more than the 1048576"),
    (".cursor/mcp.json", b"{" * 500_000, "expected a key"),
    (".codex/config.toml", "[mcp_servers.x]\ncommand = 'a'\ncommand = 'b'\n", "config.toml:3:"),
    (".codex/config.toml", "a = [\n", "config.toml:2:"),
]


@pytest.mark.parametrize(("place", "text", "said"), REFUSED)
def test_a_broken_file_is_named_with_its_line_and_nothing_changes(
    home: Home, place: str, text: str | bytes, said: str
) -> None:
    home.put(place, text)
    before = home.everything()
    for direction in ("wrap", "unwrap"):
        done = home.try_(direction, "cursor", "codex")
        assert (done.code, "Traceback" in done.err) == (2, False)
        assert said in done.err
    assert home.everything() == before


def test_a_broken_file_does_not_keep_the_others_from_being_wrapped(home: Home) -> None:
    home.put(".cursor/mcp.json", "{")
    home.put(".gemini/settings.json", PLAIN)
    done = home.try_("wrap", "--all", "--json")
    assert done.code == 2
    assert [(row["client"], row["outcome"]) for row in json.loads(done.out)] == [("gemini", "wrapped")]


def test_a_project_s_link_is_refused_by_its_own_name(home: Home) -> None:
    outside = home.put("elsewhere.json", PLAIN)
    (home.desk / ".mcp.json").symlink_to(outside)
    done = home.try_("wrap", ".mcp.json")
    assert (done.code, "is a link; name the file it leads to" in done.err) == (2, True)
    assert outside.read_text() == PLAIN


@pytest.mark.parametrize("kind", ["fifo", "folder", "hard link"])
def test_what_is_no_plain_file_is_refused_at_once(home: Home, kind: str) -> None:
    (home.folder / ".cursor").mkdir()
    file = home.folder / ".cursor" / "mcp.json"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        home.put("other.json", PLAIN)
        file.hardlink_to(home.folder / "other.json")
    assert home.try_("wrap", "cursor").code == 2


def test_a_file_that_may_not_be_written_is_refused_with_the_remedy(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    file.chmod(0o400)
    before = home.everything()
    done = home.try_("wrap", "cursor")
    assert (done.code, "chmod u+w" in done.err) == (2, True)
    assert home.everything() == before


def test_a_guard_toml_into_which_nothing_fits_is_left_as_it_is(home: Home) -> None:
    home.put(".cursor/mcp.json", PLAIN)
    own = home.put("guard/guard.toml", "servers = {}\n")
    done = home.try_("wrap", "cursor")
    assert (done.code, "nothing was changed" in done.err) == (2, True)
    assert own.read_text() == "servers = {}\n"
    assert not (home.desk / "state").exists()


def test_a_key_that_ended_is_named_before_anything_is_changed(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    home.guard("unwrap", "cursor")
    home.guard("agent", "revoke", "cursor")
    done = home.try_("wrap", "cursor")
    assert (done.code, "is not valid any more" in done.err) == (2, True)
    assert file.read_text() == PLAIN
    home.guard("wrap", "cursor", "--agent", "cursor2")
    with desk(home.desk / "guard.toml") as services:
        assert services.store.agents.get("cursor2") is not None


@pytest.mark.parametrize("words", [("wrap",), ("wrap", "nobody"), ("unwrap",), ("unwrap", "nobody")])
def test_what_is_meant_has_to_be_named(home: Home, words: tuple[str, ...]) -> None:
    assert home.try_(*words).code == 2


def test_an_agent_that_is_not_here_is_not_found(home: Home) -> None:
    done = home.try_("wrap", "windsurf")
    assert (done.code, done.out) == (1, "")


def test_unwrapping_what_was_never_wrapped_says_so(home: Home) -> None:
    assert "none of these was wrapped from here" in home.try_("unwrap", "cursor").err
    home.put(".cursor/mcp.json", PLAIN)
    done = home.try_("unwrap", "cursor")
    assert (done.code, "no tool server that the guard stands before" in done.err) == (0, True)


def test_a_damaged_receipt_is_named_and_nothing_is_touched(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    [receipt] = (home.desk / "state" / "clients").glob("*.json")
    receipt.write_text("{}")
    wrapped = file.read_text()
    done = home.try_("unwrap", "cursor")
    assert (done.code, "is no receipt" in done.err) == (2, True)
    assert file.read_text() == wrapped


def test_without_its_receipt_a_file_is_unwrapped_by_what_stands_in_it(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    shutil.rmtree(home.desk / "state")
    done = home.try_("unwrap", "cursor")
    assert (done.code, "has no receipt here" in done.err) == (0, True)
    assert file.read_text() == PLAIN


def test_a_file_is_unwrapped_where_nothing_of_the_guard_is_left(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    shutil.rmtree(home.desk)
    home.desk.mkdir()
    home.guard("unwrap", "cursor")
    assert file.read_text() == PLAIN
    assert not list(home.desk.iterdir())


def test_one_guard_leaves_what_another_guards(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    wrapped = file.read_text()
    other = ("--config", str(home.folder / "other" / "guard.toml"))
    (home.folder / "other").mkdir()
    assert "unwrap it there first" in home.try_("wrap", "cursor", *other).err
    assert "it belongs to" in home.try_("unwrap", "cursor", *other).err
    assert file.read_text() == wrapped


def test_a_guard_that_was_moved_takes_its_own_up_again(home: Home) -> None:
    file = home.put(".cursor/mcp.json", PLAIN)
    home.guard("wrap", "cursor")
    moved = home.folder / "moved"
    home.desk.rename(moved)
    home.desk.mkdir()
    other = ("--config", str(moved / "guard.toml"))
    home.guard("wrap", "cursor", *other)
    assert str(moved / "state" / "clients" / "cursor.key") in file.read_text()
    home.guard("unwrap", "cursor", *other)
    assert file.read_text() == PLAIN


# ------------------------------------------------------------------ the command that an agent hands to `guard run`

TEMPLATED = 'command = ["npx", "-y", "x@1", "${workspaceFolder}/src", "--env=$HOME", "^a$"]'


def configured(tmp_path: Path) -> Config:
    return parse(f"[servers.files]\n{TEMPLATED}\n", tmp_path / "guard.toml")


def test_an_agent_fills_in_variables_and_nothing_else(tmp_path: Path) -> None:
    words = ("npx", "-y", "x@1", "/home/oli/my src/src", "--env=/home/oli", "^a$")
    assert filled(configured(tmp_path), "files", words).servers["files"].command == words
    untouched = ("npx", "-y", "x@1", "${workspaceFolder}/src", "--env=$HOME", "^a$")
    assert filled(configured(tmp_path), "files", untouched).servers["files"].command == untouched


@pytest.mark.parametrize(
    "words",
    [
        ("npx", "-y", "x@1", "/s/src", "--env=", "^a$", "more"),
        ("npx", "-y", "x@1", "/s/src", "--env="),
        ("sh", "-y", "x@1", "/s/src", "--env=", "^a$"),
        ("npx", "-y", "x@2", "/s/src", "--env=", "^a$"),
        ("npx", "-y", "x@1", "/s/source", "--env=", "^a$"),
        ("npx", "-y", "x@1", "/s/src", "--evil", "^a$"),
        ("npx", "-y", "x@1", "/s/src", "--env=", "^ab"),
    ],
)
def test_another_command_than_that_of_guard_toml_is_not_started(words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is not the command of server files"):
        filled(configured(tmp_path), "files", words)


@pytest.mark.parametrize(
    ("text", "mode", "said"), [("grd_x", 0o600, "no agent's key"), ("", 0o644, "other users"), (None, 0, "read")]
)
def test_a_key_file_is_its_owner_s_alone_and_holds_a_key(
    tmp_path: Path, text: str | None, mode: int, said: str
) -> None:
    file = tmp_path / "agent.key"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=said):
        read_key(file)
