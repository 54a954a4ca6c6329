"""The first minute and the check-up: what is asked where, and what is found with which remedy."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guard.app import desk
from guard.cli.machine_checks import machine_checks
from guard.config import load
from guard.policy.directory import PolicyDirectory
from tests.outside import Done, Verbs
from tests.world import GUARD

SAMPLES = Path(__file__).parent.parent / "clients"


@pytest.fixture(scope="module")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verbs]:
    with Verbs(tmp_path_factory.mktemp("verbs")) as running:
        yield running


class Home:
    """A home folder with Cursor and Claude Code in it."""

    def __init__(self, folder: Path, verbs: Verbs) -> None:
        self.folder, self.desk, self._verbs = folder, folder / "guard", verbs
        (folder / ".cursor").mkdir()
        self.cursor, self.claude = folder / ".cursor" / "mcp.json", folder / ".claude.json"
        self.cursor.write_bytes((SAMPLES / "cursor-mcp.json").read_bytes())
        self.claude.write_bytes((SAMPLES / "claude.json").read_bytes())
        self.desk.mkdir()

    def try_(self, *words: str) -> Done:
        return self._verbs(*words, cwd=self.desk, env={"HOME": str(self.folder)})

    def doctor(self) -> dict[str, dict[str, str]]:
        """Every check by what it says; folders are left out of the text."""
        done = self.try_("doctor", "--json")
        checks = json.loads(done.out)
        assert done.code == any(check["level"] == "problem" for check in checks)
        assert all(check["remedy"] for check in checks if check["level"] != "ok")
        return {check["what"].replace(f"{self.folder}/", ""): check for check in checks}


@pytest.fixture
def home(tmp_path: Path, verbs: Verbs) -> Home:
    return Home(tmp_path, verbs)


# ------------------------------------------------------------------ init


def test_without_a_terminal_init_does_what_its_options_say_and_asks_nothing(home: Home) -> None:
    before = home.claude.read_bytes()
    done = home.try_("init", "--wrap", "cursor", "--watch", "--approver", "ann", "--agent", "editor")
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("otpauth://totp/guard:ann?")
    config = load(home.desk / "guard.toml")
    assert (config.enforce, config.watched, config.approval.solo) == (False, {"filesystem"}, False)
    assert list(PolicyDirectory(config.policies).load().policies) == ["filesystem"]
    assert [one["name"] for one in json.loads(home.try_("agent", "ls", "--json").out)] == ["editor"]
    assert "--key-file" in home.cursor.read_text()
    assert home.claude.read_bytes() == before


def test_without_a_terminal_and_options_no_agent_is_touched(home: Home) -> None:
    before = home.cursor.read_bytes(), home.claude.read_bytes()
    assert home.try_("init").code == 0
    assert (home.cursor.read_bytes(), home.claude.read_bytes()) == before
    assert not (home.desk / "state").exists()


def test_who_approves_for_themselves_is_recorded_as_solo(home: Home) -> None:
    done = home.try_("init", "--no-wrap", "--approver", "oli")
    assert load(home.desk / "guard.toml").approval.solo
    assert "solo" in done.err


@pytest.mark.parametrize("name", ["an ann", "Cursor"])
def test_a_name_that_cannot_be_enrolled_is_refused_before_anything_is_made(home: Home, name: str) -> None:
    before = home.cursor.read_bytes()
    done = home.try_("init", "--wrap", "cursor", "--approver", name)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert (home.cursor.read_bytes(), list(home.desk.iterdir())) == (before, [])


def talk(home: Home, *answers: str) -> str:
    """Run `guard init` in a terminal and answer each question when it is asked; what the terminal showed."""
    ours, theirs = pty.openpty()
    env = {"PATH": os.environ["PATH"], "HOME": str(home.folder), "LOGNAME": "oli", "TERM": "dumb"}
    process = subprocess.Popen([GUARD, "init"], cwd=home.desk, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, left = "", list(answers)
    while True:
        try:
            piece = os.read(ours, 4096).decode()
        except OSError:  # the terminal is closed
            break
        shown += piece
        if left and shown.rstrip().endswith(("]:", "[y/N]:", "[Y/n]:")) and not piece.endswith("\n"):
            os.write(ours, (left.pop(0) + "\n").encode())
            shown += "\n"
    os.close(ours)
    assert process.wait(30) == 0, shown
    assert not left, shown
    return shown


def test_in_a_terminal_it_asks_which_agents_watch_and_who_approves(home: Home) -> None:
    before = home.claude.read_bytes()
    shown = talk(home, "n", "y", "", "")
    assert shown.count("Put the guard before the servers in") == 2
    config = load(home.desk / "guard.toml")
    assert (config.enforce, config.approval.solo) == (True, True)
    assert home.claude.read_bytes() == before
    assert "--key-file" in home.cursor.read_text()
    assert "otpauth://" in shown


# ------------------------------------------------------------------ doctor


def test_what_keeps_the_guard_from_starting_is_told_with_what_to_do(home: Home) -> None:
    assert home.doctor()["guard.toml does not exist"]["remedy"].startswith("`guard init` writes one")
    (home.desk / "guard.toml").write_text("statte = 'x'\n[proxxy]\n")
    [what] = home.doctor()
    assert "guard.toml:1:1: unknown setting `statte`" in what
    (home.desk / "guard.toml").write_text("state = 'state'\n")
    assert home.try_("agent", "ls").code == 0
    (home.desk / "state" / "guard.db").write_bytes(b"no database" * 999)
    [found] = [check for what, check in home.doctor().items() if "state database" in what]
    assert found["what"].endswith("cannot be opened (DatabaseError: file is not a database)")
    assert "`state`" in found["remedy"]


BROKEN = {
    "[proxy]\ntls_cert = 'no.pem'\ntls_key = 'no.pem'": "no.pem cannot be loaded",
    "[servers.web]\nurl = 'https://web.example/mcp'\nca_file = 'no.pem'": "servers.web.ca_file",
    "[geo]\ncountry = 'no.mmdb'": "no.mmdb cannot be read as a MaxMind database",
    "[proxy]\nlisten = '127.0.0.1:7001'": "[proxy] and [console] both listen on 127.0.0.1:7001",
    "[console.oidc]\nissuer = 'https://l.example'\nclient_id = 'x'\nclient_secret = {file = 'no'}": "the secret in",
}


@pytest.mark.parametrize("settings", BROKEN)
def test_what_a_guard_cannot_load_when_it_starts_is_a_problem(home: Home, settings: str) -> None:
    (home.desk / "guard.toml").write_text(settings)
    problems = [what for what, check in home.doctor().items() if check["level"] == "problem"]
    assert [what for what in problems if BROKEN[settings] in what], problems


def test_a_wrapped_agent_without_a_flaw_has_no_problem(home: Home) -> None:
    home.try_("wrap", "cursor")
    checks = home.doctor()
    assert not [what for what, check in checks.items() if check["level"] == "problem"]
    assert "cursor starts every server in .cursor/mcp.json that is a program through the guard" in checks


def test_what_gets_past_the_guard_is_named(home: Home) -> None:
    home.try_("wrap", "claude-code")
    more = home.claude.read_text().replace('"notion": {', '"fresh": {"command": "uvx"}, "notion": {')
    home.claude.write_text(more)
    settings = home.folder / ".claude" / "settings.json"
    settings.parent.mkdir()
    rules = {"allow": ["Bash(git push:*)", "Read(./src)"], "defaultMode": "bypassPermissions"}
    settings.write_text(json.dumps({"permissions": rules}))
    project = home.desk / ".mcp.json"
    project.write_text('{"mcpServers": {"side": {"command": "uvx"}}}')
    checks = home.doctor()
    unseen = "(.claude/settings.json); its own tools never meet the guard"
    for said in (
        "claude-code starts fresh without the guard",
        "claude-code reaches notion by URL, past the guard",
        "claude-code starts side without the guard",
        f"claude-code: Bash(git push:*) runs without a question {unseen}",
        f"claude-code: permissions.defaultMode is bypassPermissions {unseen}",
    ):
        assert checks[said]["level"] == "warning"
    assert not [what for what in checks if "Read(" in what]


def test_what_an_agent_cannot_start_any_more_is_a_problem(home: Home) -> None:
    home.try_("wrap", "cursor")
    home.cursor.write_text(
        home.cursor.read_text().replace(str(GUARD), "/gone/guard").replace('"npx", "-y"', '"npx", "-x"')
    )
    (home.desk / "state" / "clients" / "cursor.key").chmod(0o644)
    problems = {what for what, check in home.doctor().items() if check["level"] == "problem"}
    assert "cursor cannot start filesystem: /gone/guard is not there" in problems
    assert "filesystem of cursor has another command than guard.toml has" in problems
    assert [what for what in problems if "other users may read this key" in what]


def test_what_others_could_rewrite_is_a_problem(home: Home) -> None:
    home.try_("wrap", "cursor")
    for path in ("guard.toml", "tool_policies", "tool_policies/filesystem.yaml", ""):
        place = home.desk / path
        place.chmod(place.stat().st_mode | 0o022)
    checks = home.doctor()
    for named in ("guard/guard.toml", "guard/tool_policies", "guard/tool_policies/filesystem.yaml", "guard"):
        assert checks[f"{named} can be written by others"]["level"] == "problem"


def test_a_clock_behind_what_was_written_is_a_problem(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.try_("wrap", "cursor")
    now = time.time()
    with desk(home.desk / "guard.toml") as services:
        said = [check.what for check in machine_checks(services) if check.level == "problem"]
        assert not said
        monkeypatch.setattr(time, "time", lambda: now - 3600)
        said = [check.what for check in machine_checks(services) if check.level == "problem"]
    assert said[0] == "the clock is behind the configuration file"
    assert re.fullmatch(r"the clock is 3[56]\d\d s behind the last record of the ledger", said[1])


def test_servers_that_are_only_watched_are_a_warning(home: Home) -> None:
    home.try_("wrap", "cursor", "--watch")
    assert home.doctor()["filesystem: calls are only watched; nothing is held or refused"]["level"] == "warning"
    home.try_("wrap", "cursor", "--enforce")
    assert not [what for what in home.doctor() if "only watched" in what]
    assert home.try_("unwrap", "cursor").code == 0
    assert home.cursor.read_bytes() == (SAMPLES / "cursor-mcp.json").read_bytes()


def test_a_wrapped_file_that_is_gone_and_a_receipt_that_is_damaged_are_told(home: Home) -> None:
    home.try_("wrap", "cursor")
    home.cursor.unlink()
    assert home.doctor()[".cursor/mcp.json was wrapped and is gone"]["level"] == "warning"
    [receipt] = (home.desk / "state" / "clients").glob("*.json")
    receipt.write_text("[]")
    assert [what for what, check in home.doctor().items() if "is no receipt" in what and check["level"] == "problem"]
