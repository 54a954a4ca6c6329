"""The command line as people and scripts use it: exit codes, data on stdout, notes and sentences on stderr."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from guard.app import desk
from guard.cli import cli
from guard.cli.examples import EXAMPLES
from guard.ports import Factor
from tests.outside import Done, Site, Verbs
from tests.world import GUARD

POLICY = "server: git\nowner: maintainers\ndefault: {sensitivity: internal}\n"
KEY = re.compile(r"grd_[0-9A-Za-z]{30,}\n")


@pytest.fixture(scope="module")
def verbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verbs]:
    with Verbs(tmp_path_factory.mktemp("verbs")) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, verbs: Verbs) -> Site:
    made = Site(tmp_path, verbs)
    made.write("[servers.git]\ncommand = ['/bin/sh', '-c', 'touch started']\n", git=POLICY)
    return made


def sentence(done: Done, code: int) -> str:
    """The one sentence of a refusal: nothing on stdout, no traceback."""
    assert (done.code, done.out) == (code, "")
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1, done.err
    return done.err


# ------------------------------------------------------------------ state, output, help


def test_no_verb_needs_init_and_state_is_created_for_its_owner_only(site: Site) -> None:
    assert site.guard("agent", "ls") == ""
    assert (site.folder / "state").stat().st_mode & 0o077 == 0


LISTS = [
    "agent ls",
    "intent ls",
    "approver ls",
    "factor ls",
    "challenge ls",
    "challenge review",
    "grant ls",
    "notify ls",
]


@pytest.mark.parametrize("words", LISTS)
def test_an_empty_list_is_an_empty_json_array(site: Site, words: str) -> None:
    assert json.loads(site.guard(*words.split(), "--json")) == []


def test_help_names_every_verb_and_needs_no_configuration(verbs: Verbs, tmp_path: Path) -> None:
    done = verbs("--help", cwd=tmp_path)
    assert done.code == 0
    for verb in ("init", "serve", "run", "doctor", "policy", "agent", "approver", "factor", "signer", "challenge"):
        assert f"\n  {verb} " in done.out, verb


LEAVES = [
    *("serve", "run", "doctor", "why", "policy check", "policy explain", "policy pin"),
    *("agent add", "agent describe", "agent rotate", "agent revoke", "agent ls", "agent show"),
    *("approver add", "approver invite", "approver ls", "approver remove"),
    *("factor enroll totp", "factor enroll signature", "factor ls", "factor lock", "factor revoke"),
    *("signer run", "signer test", "grant ls", "grant revoke"),
    *("challenge ls", "challenge show", "challenge watch", "challenge approve", "challenge deny"),
    *("challenge break-glass", "challenge review", "challenge stats", "factor enroll break-glass"),
    *("notify ls", "notify test", "audit verify", "audit tail", "audit export"),
]


@pytest.mark.parametrize("words", LEAVES)
def test_every_verb_takes_the_configuration_by_option(site: Site, words: str) -> None:
    assert "--config" in site.guard(*words.split(), "--help")


DATA = [
    *("doctor", "why", "policy check", "policy explain", "agent add", "agent rotate", "agent ls", "agent show"),
    *("approver ls", "factor enroll totp", "factor enroll signature", "factor ls", "grant ls"),
    *("challenge ls", "challenge show", "challenge watch", "challenge approve", "challenge deny"),
    *("challenge break-glass", "challenge review", "challenge stats", "factor enroll break-glass"),
    *("notify ls", "notify test", "audit verify", "audit tail"),
]


@pytest.mark.parametrize("words", DATA)
def test_every_verb_that_prints_data_prints_it_as_json_when_asked(site: Site, words: str) -> None:
    assert "--json" in site.guard(*words.split(), "--help")


# ------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('stat = "x"\n', "guard.toml:1:1: unknown setting `stat`"),
        ('state = "s"\n[proxy]\nhold = 51\n', "guard.toml:3:1: `proxy.hold`"),
        ("[proxy\n", "guard.toml:1:7: "),
        ("[servers.x]\nurl='http://a/'\ncommand=['b']\n", "guard.toml:1:1: `servers.x`: give either"),
        ('[proxy]\nlisten = "0.0.0.0:7000"\n', "is not loopback and has no TLS"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_sentence_with_its_place(site: Site, text: str, said: str) -> None:
    site.file.write_text(text)
    assert said in sentence(site.try_("agent", "ls"), 2)


def test_a_configuration_that_is_not_there_is_named_with_the_way_out(site: Site) -> None:
    assert "nope.toml does not exist; `guard init`" in sentence(site.try_("agent", "ls", "--config", "nope.toml"), 2)


def test_paths_are_relative_to_the_configuration_not_to_the_caller(site: Site, verbs: Verbs, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert verbs("agent", "ls", "--config", "../guard.toml", cwd=tmp_path / "elsewhere").code == 0
    assert (site.folder / "state").is_dir()
    assert not (tmp_path / "elsewhere" / "state").exists()


def test_a_fault_is_refused_outside_tests(site: Site, verbs: Verbs) -> None:
    done = verbs("agent", "ls", cwd=site.folder, env={"GUARD_FAULT": "call.received:kill"})
    assert "GUARD_TESTING=1" in sentence(done, 2)


def test_an_unknown_verb_is_a_usage_mistake(site: Site) -> None:
    done = site.try_("frobnicate")
    assert (done.code, done.out) == (2, "")
    assert "No such command" in done.err


# ------------------------------------------------------------------ init and doctor


def test_init_writes_a_configuration_and_a_policy_that_check_accepts(verbs: Verbs, tmp_path: Path) -> None:
    done = verbs("init", "here", cwd=tmp_path)
    assert (done.code, done.out.split()) == (0, ["here/guard.toml", "here/tool_policies/example.yaml"])
    assert verbs("policy", "check", cwd=tmp_path / "here").code == 0


def test_init_overwrites_nothing(site: Site) -> None:
    before = site.file.read_text()
    assert "exists already" in sentence(site.try_("init"), 1)
    assert site.file.read_text() == before


def test_init_says_where_it_may_not_write(verbs: Verbs, tmp_path: Path) -> None:
    assert "/proc/nowhere" in sentence(verbs("init", "/proc/nowhere", cwd=tmp_path), 1)


def test_doctor_tells_what_is_missing_on_the_first_day_and_how_to_get_it(site: Site) -> None:
    done = site.try_("doctor", "--json")
    checks = json.loads(done.out)
    assert done.code == 0
    assert {"nobody can consent", "no agent is enrolled"} <= {check["what"] for check in checks}
    assert all(check["remedy"] for check in checks if check["level"] != "ok")


def test_doctor_reports_a_missing_policy_folder_instead_of_failing_on_it(site: Site) -> None:
    (site.folder / "tool_policies" / "git.yaml").unlink()
    (site.folder / "tool_policies").rmdir()
    done = site.try_("doctor")
    assert done.code == 1
    assert "problem" in done.out
    assert "Traceback" not in done.err


# ------------------------------------------------------------------ agents


def test_agent_add_prints_the_key_and_nothing_else(site: Site) -> None:
    done = site.try_("agent", "add", "robot")
    assert done.code == 0
    assert KEY.fullmatch(done.out)
    assert done.out.strip() not in done.err


def test_a_key_that_could_not_be_shown_is_said_to_be_lost(site: Site) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [GUARD, "agent", "add", "robot"],
            cwd=site.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    said = sentence(Done(done.returncode, "", done.stderr), 1)
    assert "No space left" in said
    assert "lost" in said


def test_a_key_is_shown_once_and_stored_nowhere(site: Site) -> None:
    key = site.agent("robot").encode()
    assert not [path for path in site.folder.rglob("*") if path.is_file() and key in path.read_bytes()]


def test_rotate_prints_another_key_and_the_old_one_ends_after_the_overlap(site: Site) -> None:
    first = site.agent("robot")
    done = site.try_("agent", "rotate", "robot", "--overlap", "60s")
    assert KEY.fullmatch(done.out)
    assert done.out.strip() != first
    keys = [one for one in json.loads(site.guard("agent", "show", "robot", "--json")) if one["what"] == "key"]
    assert sorted(bool(one["expires"]) for one in keys) == [False, True]


def test_what_policies_ask_about_an_agent_can_be_said_and_changed(site: Site) -> None:
    site.guard("agent", "add", "robot", "--group", "ci", "--group", "release", "--claim", "posture=managed")
    site.guard("agent", "describe", "robot", "--no-group", "ci", "--claim", "site=basel", "--no-claim", "posture")
    [row] = json.loads(site.guard("agent", "ls", "--json"))
    assert row["groups"] == "release"
    shown = json.loads(site.guard("agent", "show", "robot", "--json"))
    assert [(one["id"], one["state"]) for one in shown if one["what"] == "claim"] == [("site", "basel")]
    assert site.try_("agent", "describe", "robot", "--claim", "posture").code == 2


@pytest.mark.parametrize("words", ["agent show", "agent rotate", "agent revoke", "agent describe"])
def test_an_agent_that_is_not_there_is_not_found(site: Site, words: str) -> None:
    assert "nobody" in sentence(site.try_(*words.split(), "nobody"), 1)


@pytest.mark.parametrize("name", ["robot", "ROBOT"])
def test_a_name_is_given_once(site: Site, name: str) -> None:
    site.agent("robot")
    assert "already" in sentence(site.try_("agent", "add", name), 1)


def test_a_revoked_agent_keeps_its_name_and_has_no_key_left(site: Site) -> None:
    site.agent("robot")
    site.guard("agent", "revoke", "robot")
    assert "already" in sentence(site.try_("agent", "add", "robot"), 1)
    [row] = json.loads(site.guard("agent", "ls", "--json"))
    assert (row["state"], row["keys"]) == ("revoked", 0)


def test_a_length_of_time_that_is_none_is_a_usage_mistake(site: Site) -> None:
    site.agent("robot")
    assert site.try_("agent", "rotate", "robot", "--overlap", "soon").code == 2


# ------------------------------------------------------------------ people and factors


def test_enroll_totp_prints_the_uri_and_nothing_else(site: Site) -> None:
    site.guard("approver", "add", "ann")
    done = site.try_("factor", "enroll", "totp", "ann")
    assert done.code == 0
    assert re.fullmatch(r"otpauth://totp/\S+\n", done.out)
    assert "otpauth" not in done.err


def test_an_invitation_prints_one_link_to_the_console_and_is_on_record(site: Site) -> None:
    site.guard("approver", "add", "ann")
    link = site.guard("approver", "invite", "ann")
    assert re.fullmatch(rf"http://localhost:{site.console}/enrol#[0-9A-Za-z_-]{{43}}\n", link)
    assert json.loads(site.guard("approver", "invite", "ann", "--json"))["url"].startswith("http://localhost:")
    [first, _] = site.records("approver.invited")
    assert (first["approver"], first["by"], first["lost"]) == ("ann", "oli", False)
    assert link.split("#")[1].strip() not in json.dumps(first)
    assert "there is no approver eve" in sentence(site.try_("approver", "invite", "eve"), 1)


def test_nobody_renews_their_own_lost_passkey(site: Site) -> None:
    site.guard("approver", "add", "oli")
    assert site.guard("approver", "invite", "oli")  # the first one of a person may be their own
    with desk(site.file) as services:
        known = {"credential": "AAAA", "key": "AAAA"}
        factor = Factor(id="f_1", kind="webauthn", subject="oli", created=1.0, public=known, revoked=2.0)
        services.store.factors.add(factor)
    assert "another admin" in sentence(site.try_("approver", "invite", "oli", "--lost"), 1)


def test_passkeys_need_a_name_in_the_consoles_address(site: Site) -> None:
    site.file.write_text(site.file.read_text().replace("http://localhost", "http://127.0.0.1"))
    site.guard("approver", "add", "ann")
    assert "public_url" in sentence(site.try_("approver", "invite", "ann"), 1)
    assert "no passkeys at http://127.0.0.1" in site.try_("doctor").out


def test_an_approver_without_a_group_joins_the_group_approvers(site: Site) -> None:
    site.guard("approver", "add", "ann")
    site.guard("approver", "add", "ben", "--group", "oncall")
    groups = {one["name"]: one["groups"] for one in json.loads(site.guard("approver", "ls", "--json"))}
    assert groups == {"ann": ["approvers"], "ben": ["oncall"]}


def test_an_agent_cannot_become_an_approver(site: Site) -> None:
    site.agent("robot")
    assert "agent" in sentence(site.try_("approver", "add", "robot"), 1)


def test_an_agent_gets_no_code_generator(site: Site) -> None:
    site.agent("robot")
    assert "agent" in sentence(site.try_("factor", "enroll", "totp", "robot"), 1)


@pytest.mark.parametrize("words", ["approver remove", "factor lock", "factor revoke"])
def test_a_person_or_factor_that_is_not_there_is_not_found(site: Site, words: str) -> None:
    assert "nobody" in sentence(site.try_(*words.split(), "nobody"), 1)


def test_a_locked_factor_is_shown_as_locked(site: Site) -> None:
    site.person("ann")
    site.guard("factor", "lock", "ann")
    assert [one["state"] for one in json.loads(site.guard("factor", "ls", "--json"))] == ["locked"]


# ------------------------------------------------------------------ challenges, grants, why


@pytest.mark.parametrize("words", ["show", "approve --as ann --code 123456", "deny --as ann --code 123456"])
def test_a_challenge_that_is_not_there_is_not_found(site: Site, words: str) -> None:
    verb, *more = words.split()
    assert "c_nothing" in sentence(site.try_("challenge", verb, "c_nothing", *more), 1)


def test_a_grant_that_is_not_there_is_not_found_under_its_own_name(site: Site) -> None:
    assert "grant g_nothing" in sentence(site.try_("grant", "revoke", "g_nothing"), 1)


def test_why_says_that_no_record_names_an_id(site: Site) -> None:
    assert "k_nothing" in sentence(site.try_("why", "k_nothing"), 1)


def test_approve_asks_for_nothing_it_was_not_given(site: Site) -> None:
    done = site.try_("challenge", "approve", "c_nothing", "--as", "ann")
    assert (done.code, done.out) == (2, "")
    assert "--code" in done.err


# ------------------------------------------------------------------ audit


def test_verify_passes_what_the_verbs_wrote(site: Site) -> None:
    site.agent("robot")
    assert json.loads(site.guard("audit", "verify", "--json"))["ok"] is True


def test_verify_exits_1_and_names_the_first_bad_record(site: Site) -> None:
    site.agent("robot")
    [file] = [path for path in (site.folder / "state" / "ledger").rglob("*.jsonl") if b"robot" in path.read_bytes()]
    file.write_bytes(file.read_bytes().replace(b"robot", b"rabot"))
    done = site.try_("audit", "verify")
    assert done.code == 1
    assert "0001/0" in done.out or "record 0" in done.out, done.out


def test_export_prints_one_json_object_a_line(site: Site) -> None:
    site.agent("robot")
    events = [json.loads(line)["event"] for line in site.guard("audit", "export", "--format", "jsonl").splitlines()]
    assert "agent.added" in events


def verbs_below(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from verbs_below(inner, f"{path} {name}".strip())


def test_every_verb_teaches_with_an_example_that_it_understands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tool_policies", "candidate"):
        (tmp_path / name).mkdir()
    for name in ("call.json", "traffic.jsonl", "envelope.json", "normal.jsonl", "today.jsonl", "releases.pem"):
        (tmp_path / name).touch()
    found = dict(verbs_below(cli, ""))
    assert found.keys() == EXAMPLES.keys()
    for path, command in found.items():
        words = shlex.split(EXAMPLES[path].partition(" > ")[0].removeprefix("GUARD_AGENT_KEY=grd_... "))
        assert words[: len(path.split()) + 1] == ["guard", *path.split()]
        command.make_context(path, words[len(path.split()) + 1 :])
        assert (command.epilog or "").endswith(f"Example: {EXAMPLES[path]}")


LEDGER = ["audit tail", "audit export", "challenge stats", "policy replay", "why k_1", "doctor"]


@pytest.mark.parametrize("words", LEDGER)
def test_a_part_of_the_ledger_that_cannot_be_read_is_never_left_out(site: Site, words: str) -> None:
    site.agent("robot")
    lane = site.folder / "state" / "ledger" / "0002"
    lane.symlink_to(lane)  # what the system refuses to follow, as it would a folder of another user
    done = site.try_(*words.split())
    assert done.code > 0
    assert "Traceback" not in done.err
    assert "the ledger cannot be read" in done.out + done.err or "0002" in done.out + done.err


def test_what_is_printed_and_cannot_be_written_is_one_sentence(site: Site) -> None:
    site.agent("robot")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [GUARD, "audit", "export"], cwd=site.folder, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"what was asked for cannot be written: No space left on device\n")


def test_tail_shows_no_more_than_asked(site: Site) -> None:
    site.agent("robot")
    site.person("ann")
    assert len(site.guard("audit", "tail", "-n", "2").splitlines()) == 2


# ------------------------------------------------------------------ policy


def test_check_prints_file_line_and_column_of_a_mistake_and_exits_2(site: Site) -> None:
    site.write("[servers.git]\ncommand = ['x']\n", git="server: git\nowner: me\ntools:\n  a: {sensitivity: secret}\n")
    done = site.try_("policy", "check")
    assert done.code == 2
    assert re.match(rf"{re.escape(str(site.folder))}/tool_policies/git\.yaml:4:\d+: .*secret", done.out)


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 2)])
def test_a_warning_fails_only_a_strict_check(site: Site, strict: tuple[str, ...], code: int) -> None:
    site.write("[servers.git]\ncommand = ['x']\n[servers.more]\ncommand = ['x']\n", git=POLICY)
    done = site.try_("policy", "check", *strict)
    assert done.code == code
    assert "more.yaml:1:1: warning: " in done.out


@pytest.mark.parametrize("word", ["no", "017"])
def test_a_plain_word_that_readers_of_yaml_disagree_on_has_to_be_quoted(site: Site, word: str) -> None:
    site.write("[servers.git]\ncommand = ['x']\n", git=POLICY.replace("maintainers", word))
    done = site.try_("policy", "check")
    assert done.code == 2
    assert "quote" in done.out


def test_check_warns_of_a_requirement_that_nobody_can_meet_yet(site: Site) -> None:
    site.write("[servers.git]\ncommand = ['x']\n", git=POLICY + "tools:\n  a: {require: consent}\n")
    site.guard("agent", "ls")  # there is a state to look into now
    assert "this needs somebody" in site.try_("policy", "check").out
    site.person("ann")
    assert "this needs somebody" not in site.try_("policy", "check").out


def test_a_file_that_is_not_there_is_not_well(site: Site) -> None:
    assert "gti.yaml: there is no such file" in sentence(site.try_("policy", "check", "tool_policies/gti.yaml"), 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [(("gti",), 'no server "gti" is configured; did you mean "git"?'), (("git",), "has not listed its tools")],
)
def test_nothing_to_pin_is_told_from_nothing_known(site: Site, words: tuple[str, ...], said: str) -> None:
    assert said in sentence(site.try_("policy", "pin", *words), 1)


def test_a_recording_with_a_flaw_is_named_with_its_line(site: Site) -> None:
    calls = site.folder / "calls.jsonl"
    calls.write_text("{}\n")
    words = ("--history", str(calls), "--sessions", str(calls), "--out", str(site.folder / "out"))
    assert f"{calls}:1: expected an object with session" in sentence(site.try_("drift", "score", *words), 2)


def test_check_needs_no_state_and_makes_none(site: Site) -> None:
    assert site.try_("policy", "check").code == 0
    assert not (site.folder / "state").exists()


def test_explain_reads_a_call_from_stdin_and_says_what_it_must_prove(site: Site, verbs: Verbs) -> None:
    asked = json.dumps({"server": "git", "tool": "git_log", "arguments": {}, "principal": "robot"})
    done = verbs("policy", "explain", "-", "--json", cwd=site.folder, stdin=asked)
    assert done.code == 0
    assert json.loads(done.out)["name"] == "git_log"


def test_explain_says_what_a_question_looks_like(site: Site, verbs: Verbs) -> None:
    done = verbs("policy", "explain", "-", cwd=site.folder, stdin='{"server": 1}')
    assert "{server, tool, arguments, principal}" in sentence(done, 2)


def test_pin_finds_nothing_where_nothing_changed(site: Site) -> None:
    assert "git" in sentence(site.try_("policy", "pin", "git"), 1)


# ------------------------------------------------------------------ run and serve


@pytest.mark.parametrize("key", ["", "grd_wrong", "Bearer x"])
def test_run_with_a_bad_key_exits_2_before_the_tool_server_starts(site: Site, verbs: Verbs, key: str) -> None:
    done = verbs("run", "git", cwd=site.folder, env={"GUARD_AGENT_KEY": key})
    assert "GUARD_AGENT_KEY" in sentence(done, 2)
    assert not (site.folder / "started").exists()


def test_run_with_the_key_of_a_revoked_agent_exits_2_before_the_tool_server_starts(site: Site, verbs: Verbs) -> None:
    key = site.agent("robot")
    site.guard("agent", "revoke", "robot")
    sentence(verbs("run", "git", cwd=site.folder, env={"GUARD_AGENT_KEY": key}), 2)
    assert not (site.folder / "started").exists()


def test_run_names_the_servers_there_are_when_asked_for_another(site: Site) -> None:
    said = sentence(site.try_("run", "gti"), 2)
    assert "gti" in said
    assert "git" in said.replace("gti", "")


def test_run_refuses_a_server_with_a_url_and_says_how_it_is_served(site: Site) -> None:
    site.write("[servers.web]\nurl = 'http://127.0.0.1:9/mcp'\n")
    assert "guard serve" in sentence(site.try_("run", "web"), 2)


def test_a_tool_server_that_cannot_be_started_is_one_sentence(site: Site, verbs: Verbs) -> None:
    site.write("[servers.git]\ncommand = ['/no/such/program']\n", git=POLICY)
    done = verbs("run", "git", cwd=site.folder, env={"GUARD_AGENT_KEY": site.agent("robot")})
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert "/no/such/program cannot be started" in done.err.splitlines()[-1]


def test_run_with_a_broken_policy_exits_2_with_its_place(site: Site, verbs: Verbs) -> None:
    key = site.agent("robot")
    (site.folder / "tool_policies" / "git.yaml").write_text("server: [\n")
    done = verbs("run", "git", cwd=site.folder, env={"GUARD_AGENT_KEY": key})
    assert re.search(r"git\.yaml:\d+:\d+: ", sentence(done, 2))
    assert not (site.folder / "started").exists()


def test_serve_without_a_server_exits_2_and_says_how_to_add_one(site: Site) -> None:
    site.write("")
    assert "[servers.NAME]" in sentence(site.try_("serve"), 2)


def test_serve_on_an_address_that_is_taken_is_one_sentence(site: Site) -> None:
    site.write("[servers.web]\nurl = 'http://127.0.0.1:9/mcp'\n", web=POLICY.replace("git", "web"))
    with socket.create_server(("127.0.0.1", site.proxy)):
        done = site.try_("serve")
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert str(site.proxy) in done.err


def test_state_that_cannot_be_used_is_one_sentence(site: Site) -> None:
    (site.folder / "state").write_text("in the way")
    assert "state" in sentence(site.try_("agent", "ls"), 1)
