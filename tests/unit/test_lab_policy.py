"""`guard policy`: what owners learn before a policy takes effect."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.cli.policy import policy
from guard.config import load
from guard.errors import ConfigError
from guard.lab.check import Able, check
from guard.lab.impossible import always, never
from guard.lab.trail import trail, with_entry, written
from guard.policy.conditions import compile_condition, evaluate
from guard.policy.directory import PolicyDirectory
from guard.policy.expression import parse
from guard.policy.facts import Asked, Declared, Location
from tests.nouns import call

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
    report = check(
        home / "tool_policies", load(home / "guard.toml"), None if approvers is None else Able(people=approvers)
    )
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


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("1 == 2", "1 == 2 is false"),
        ('args.env == "a" && args.env == "b"', 'args.env cannot be both "a" and "b"'),
        ('args.env == "a" && (args.x || false) && !args.x', ""),
        ('args.env == "a" && args.env != "a"', "stands beside its own negation|cannot be and not be"),
        ('args.env == "a" && args.env in ["b", "c"]', 'args.env is "a", which is not in the list'),
        ("args.n > 5 && args.n < 3", "no number args.n is within the bounds 5 and 3"),
        ("args.n >= 5 && 5 > args.n", "no number args.n is within the bounds"),
        ("args.n == 7 && args.n < 3", "no number args.n is within the bounds"),
        ("args.x && !args.x", "stands beside its own negation"),
        ("args.x in []", "nothing is in an empty list"),
        ('(args.n > 2 && args.n < 1) || args.env == "a" && args.env == "b"', ", and "),
    ],
)
def test_a_condition_that_can_never_be_true_is_pointed_out(when: str, said: str) -> None:
    why = never(when)
    assert bool(why) is bool(said)
    assert not said or any(part in why for part in said.split("|"))


LEAVES = st.sampled_from(
    [
        *('args.a == "x"', 'args.a != "x"', 'args.a == "y"', "args.b"),
        *("args.n > 2", "args.n <= 2", "args.n == 3", "args.n in [1, 2]"),
    ]
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds("({}) && ({})".format, inner, inner),
        st.builds("({}) || ({})".format, inner, inner),
        st.builds("!({})".format, inner),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(CONDITIONS, st.sampled_from(["x", "y", "z"]), st.integers(1, 4), st.booleans())
def test_what_is_called_impossible_or_certain_is(when: str, a: str, n: int, b: bool) -> None:
    asked = Asked(call=call("refund", {"a": a, "n": n, "b": b}), now=0.0)
    holds = evaluate(compile_condition(when), asked, Declared())
    assert not (holds is True and never(when))
    assert not (holds is False and always(when))
    assert evaluate(compile_condition(written(parse(when))), asked, Declared()) == holds


def test_a_rule_that_repeats_or_contradicts_itself_is_pointed_out(home: Path) -> None:
    twice = "rules: [{when: args.x, sensitivity: public}, {when: args.x, sensitivity: critical}]"
    (line,) = warned(home, f"server: git\nmatch: first\ntools:\n  a: {{{twice}}}\n")
    assert "the sensitivity is always settled by rules[0] before, so this rule never counts" in line
    (line,) = warned(home, "server: git\ntools:\n  a: {rules: [{when: '!true', require: consent}]}\n")
    assert "can never be true" in line


def test_a_signature_that_no_key_can_give_is_pointed_out(home: Path) -> None:
    (home / "tool_policies/git.yaml").write_text("server: git\ntools:\n  a: {require: possession}\n")
    config = load(home / "guard.toml")
    (warning,) = check(home / "tool_policies", config, Able(people={}, keys=0)).warnings
    assert "no key is enrolled" in warning.message
    assert check(home / "tool_policies", config, Able(people={}, keys=1)).warnings == ()


def test_a_tag_below_the_default_without_a_reason_is_a_note(home: Path) -> None:
    done = CliRunner().invoke(policy, ["check", "--strict", "--notes"])
    assert done.exit_code == 0
    assert "note: internal is less than the default, sensitive, and no reason is given" in done.stdout


def test_findings_are_written_for_code_scanning_and_for_annotations(home: Path) -> None:
    (home / "tool_policies/git.yaml").write_text("server: git\ntools:\n  a,b: {sensitivty: critical}\n")
    log = json.loads(CliRunner().invoke(policy, ["check", "--format", "sarif"]).stdout)
    first, second = log["runs"][0]["results"]
    assert {first["level"], second["level"]} == {"error"}
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("tool_policies/git.yaml")
    assert place["region"] == {"startLine": 3, "startColumn": 3}
    lines = CliRunner().invoke(policy, ["check", "--format", "github"]).stdout.splitlines()
    assert lines[1].startswith("::error file=")
    assert lines[1].endswith('line=3,col=9::unknown key "sensitivty"; did you mean "sensitivity"?')


def test_only_the_files_that_a_commit_touches_are_told_about(home: Path) -> None:
    (home / "tool_policies/git.yaml").write_text("server: git\ntools:\n  a: {review: true}\n")
    assert "nobody has looked" in CliRunner().invoke(policy, ["check", "tool_policies/git.yaml"]).stdout
    (home / "tool_policies/notes.md").touch()
    assert CliRunner().invoke(policy, ["check", "tool_policies/notes.md"]).stdout == ""
    (home / "tool_policies/git.yaml").write_text("server: [")
    assert CliRunner().invoke(policy, ["check", "tool_policies/notes.md"]).exit_code == 2


SHOP = Path(__file__).resolve().parents[1] / "servers/shop_server.py"
SHOP_POLICY = """server: shop
tools:
  "list_*": {sensitivity: internal}
  "list*": {sensitivity: internal}
  delete_order: {sensitivity: internal}
  get_api_key: {sensitivity: critical}
  pay: {sensitivity: critical}
"""


def test_a_live_server_shows_what_is_untagged_what_tags_nothing_and_what_is_odd(home: Path) -> None:
    (home / "tool_policies/git.yaml").unlink()
    (home / "tool_policies/shop.yaml").write_text(SHOP_POLICY)
    command = json.dumps([sys.executable, str(SHOP)])
    (home / "guard.toml").write_text(f"[servers.shop]\ncommand = {command}\n[servers.gone]\ncommand = ['/nowhere']\n")
    done = CliRunner().invoke(policy, ["check", "--live"])
    assert done.exit_code == 1
    assert "server gone cannot list its tools" in done.stderr
    told = done.stdout
    for said in (
        'no entry names the tool "refund"',
        '"list*" tags nothing: every tool it matches has a more specific entry',
        '"pay" tags nothing: the server lists no such tool',
        'calls "delete_order" destructive, and the tag says internal without a reason',
        'tool "get_api_key": description: tells the agent when to call it',
        'tool "no/such call": no call can carry this name',
    ):
        assert said in told, said


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


TREE = """server: payments
tools:
  refund:
    sensitivity: critical
    rules:
      - {when: 'args.environment == "staging" && !has(args.live)', sensitivity: internal}
      - {when: args.amount > 100, require: both, reason: large}
      - {when: args.memo == "x", require: two_people}
"""


def test_an_explanation_is_a_tree_with_every_condition_and_what_would_change_it(home: Path) -> None:
    (home / "tool_policies/git.yaml").unlink()
    (home / "tool_policies/payments.yaml").write_text(TREE)
    (home / "guard.toml").write_text("")
    asked = json.dumps(
        {"server": "payments", "tool": "refund", "arguments": {"environment": "live", "amount": 200}, "principal": "a"}
    )
    told = CliRunner().invoke(policy, ["explain", "-"], input=asked).stdout
    for line in (
        "    rules[0] at payments.yaml:6: does not hold, internal",
        '        does not hold: args.environment == "staging"',
        "        holds: !has(args.live)",
        '        with args.environment = "live"',
        "    rules[1] at payments.yaml:7: holds, require consent, require possession",
        "    rules[2] at payments.yaml:8: fails, an argument it names is missing or of another type, require two_",
        '  if rules[2] did not fail and did not hold (args.memo == "x"): would need both',
    ):
        assert line in told, (line, told)
    found = json.loads(CliRunner().invoke(policy, ["explain", "-", "--json"], input=asked).stdout)
    assert [rule["holds"].split(",")[0] for rule in found["tree"][0]["rules"]] == ["does not hold", "holds", "fails"]
    assert any(line.startswith("if rules[2]") for line in found["otherwise"])


def test_an_explanation_knows_where_a_call_came_from(home: Path) -> None:
    (home / "tool_policies/payments.yaml").write_text(
        "server: payments\ntools:\n  refund: {rules: [{when: 'source.country == \"DE\"', sensitivity: internal}]}\n"
    )
    policies = PolicyDirectory(home / "tool_policies", locate=lambda _: Location(country="DE")).load()
    asked = call("refund")
    (named,) = trail(policies, asked, now=0.0)
    assert [step.holds for step in named.steps] == [True]
    (again,) = trail(with_entry(policies, asked, named.entry, named.entry), asked, now=0.0)
    assert [step.holds for step in again.steps] == [True]
