"""`guard policy`: what owners learn before a policy takes effect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from guard.cli.policy import policy
from guard.config import load
from guard.errors import ConfigError
from guard.lab.check import check

GOOD = """server: git
owner: maintainers
tools:
  git_status: {sensitivity: internal}
  git_reset: {sensitivity: critical, effects: destroy, require: both, reason: staged work is lost}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tool_policies").mkdir()
    (tmp_path / "tool_policies/git.yaml").write_text(GOOD)
    (tmp_path / "guard.toml").write_text('[servers.git]\ncommand = ["mcp-server-git"]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def warned(home: Path, text: str, approvers: dict[str, int] | None = None) -> list[str]:
    (home / "tool_policies/git.yaml").write_text(text)
    report = check(home / "tool_policies", load(home / "guard.toml"), approvers)
    assert report.mistakes == ()
    return [str(warning).removeprefix(f"{home}/tool_policies/") for warning in report.warnings]


def test_good_policies_pass_even_strictly(home: Path) -> None:
    done = CliRunner().invoke(policy, ["check", "--strict"])
    assert (done.exit_code, done.stdout) == (0, "")


def test_a_mistake_is_one_line_and_exit_two(home: Path) -> None:
    (home / "tool_policies/git.yaml").write_text("server: git\ntools:\n  git_reset: {sensitvity: critical}\n")
    done = CliRunner().invoke(policy, ["check"])
    assert done.exit_code == 2
    assert done.stdout.rstrip().endswith('git.yaml:3:15: unknown key "sensitvity"; did you mean "sensitivity"?')
    (found,) = json.loads(CliRunner().invoke(policy, ["check", "--json"]).stdout)
    assert (found["severity"], found["line"], found["column"]) == ("mistake", 3, 15)


def test_a_warning_passes_unless_strict(home: Path) -> None:
    (home / "tool_policies/git.yaml").write_text("server: git\ntools:\n  git_reset: {review: true}\n")
    done = CliRunner().invoke(policy, ["check"])
    assert done.exit_code == 0
    assert "git.yaml:3:3: warning: nobody has looked at this tag yet" in done.stdout
    assert CliRunner().invoke(policy, ["check", "--strict"]).exit_code == 2


def test_an_explicit_configuration_must_exist(home: Path) -> None:
    assert CliRunner().invoke(policy, ["check", "--config", "other.toml"]).exit_code != 0
    (home / "guard.toml").unlink()
    assert CliRunner().invoke(policy, ["check"]).exit_code == 0


def test_rules_that_can_never_count_are_pointed_out(home: Path) -> None:
    rules = "rules: [{sensitivity: public}, {when: args.x, sensitivity: critical}, {when: args.y, require: consent}]"
    (line,) = warned(home, f"server: git\ntools:\n  a: {{{rules}}}\n")
    assert line.startswith("git.yaml:3:38: the sensitivity is always settled by rules[0] before")
    assert warned(home, f"server: git\nmatch: strictest\ntools:\n  a: {{{rules}}}\n") == []


def test_requirements_that_nobody_can_meet_are_pointed_out(home: Path) -> None:
    text = "server: git\ntools:\n  a: {require: two_people}\n  b: {sensitivity: critical, effects: destroy}\n"
    assert [line.split(":")[1] for line in warned(home, text, {})] == ["3", "4"]
    assert [line.split(":")[1] for line in warned(home, text, {"approvers": 1})] == ["3"]
    assert warned(home, text, {"approvers": 2}) == []


def test_files_and_servers_that_do_not_meet_are_pointed_out(home: Path) -> None:
    lines = warned(home, "server: gti\n")
    assert {line.split(": ", 1)[1] for line in lines} == {
        "call the file gti.yaml, so that people find it",
        'no server "gti" is configured; did you mean "git"?',
        'no policy describes the server "git", so everything on it needs a step-up',
    }


def test_explain_gives_the_tag_its_place_its_reasons_and_the_whole_table(home: Path) -> None:
    (home / "call.json").write_text('{"server": "git", "tool": "git_reset", "arguments": {}, "principal": "robot"}')
    done = CliRunner().invoke(policy, ["explain", "call.json", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["rule_id"] == "git.yaml#tools.git_reset"
    assert found["where"] == "git.yaml:5"
    assert found["sensitivity"] == "critical"
    assert found["requirement"] == "both"
    assert found["required"]["doubt about intent, alarming"] == "possession+two_people"
    assert {"tag_critical", "irreversible"} <= {reason["code"] for reason in found["reasons"]}
    text = CliRunner().invoke(policy, ["explain", "call.json"]).stdout
    assert "git.yaml#tools.git_reset at git.yaml:5" in text
    assert "staged work is lost" in text


def test_explain_takes_resources_and_prompts_and_a_principal_with_an_owner(home: Path) -> None:
    asked = {"server": "git", "resource": "repo://x", "principal": {"subject": "robot", "owner": "ann"}}
    done = CliRunner().invoke(policy, ["explain", "-", "--json"], input=json.dumps(asked))
    assert json.loads(done.stdout)["tagged"] is False
    assert json.loads(done.stdout)["requirement"] == "step_up"


@pytest.mark.parametrize(
    "raw",
    ["", "[]", "{}", '{"server": "git"}',
     '{"server": "git", "tool": "a", "tool": "b"}', '{"server": "git", "tol": "a"}',
     '{"server": "git", "tool": "a", "prompt": "b"}', '{"server": "git", "resource": "no scheme"}'],
)  # fmt: skip
def test_a_call_that_is_no_question_is_refused_with_what_was_expected(home: Path, raw: str) -> None:
    done = CliRunner().invoke(policy, ["explain", "-"], input=raw)
    assert isinstance(done.exception, ConfigError)
    assert done.stdout == ""


def test_the_schema_is_printed_as_json(home: Path) -> None:
    assert json.loads(CliRunner().invoke(policy, ["schema"]).stdout)["title"] == "guard tool policy"


def test_a_file_whose_rules_compete_has_to_say_which_of_them_counts(home: Path) -> None:
    text = (
        "server: git\n{match}tools:\n  a:\n    rules:\n      - {{when: args.x > 1, sensitivity: public}}\n"
        "      - {{when: args.x > 2, sensitivity: internal}}\n"
    )
    (said,) = warned(home, text.format(match=""))
    assert said.startswith("git.yaml:6:9: several rules may say the sensitivity")
    assert warned(home, text.format(match="match: strictest\n")) == []


def test_a_rule_for_one_environment_shadows_no_other(home: Path) -> None:
    text = """server: git
match: first
environment: {from: args.env, names: {staging: staging}}
tools:
  a: {rules: [{environments: staging, sensitivity: internal}, {when: args.x > 1, sensitivity: critical}]}
"""
    assert warned(home, text) == []


def test_explain_takes_what_is_known_of_the_caller_and_names_a_refusal(home: Path) -> None:
    rule = """{when: 'credential.age < duration("1h") && principal.claims.site == "x"', sensitivity: public}"""
    (home / "tool_policies/git.yaml").write_text(
        "server: git\nowner: us\ncallers: {groups: release}\n"
        f"tools:\n  a: {{sensitivity: critical, rules: [{rule}]}}\n"
    )
    who = {"subject": "robot", "groups": ["release"], "claims": {"site": "x"}, "key_age": 60}
    asked = {"server": "git", "tool": "a", "principal": who}
    found = json.loads(CliRunner().invoke(policy, ["explain", "-", "--json"], input=json.dumps(asked)).stdout)
    assert (found["sensitivity"], found["refused"]) == ("public", "")
    asked["principal"] = who | {"groups": []}
    lines = CliRunner().invoke(policy, ["explain", "-"], input=json.dumps(asked)).stdout
    assert "refused      the owner lets other agents call this, not this one (us)" in lines
