"""`guard policy test`: tests that owners keep beside their policies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings

from guard.cli.policy import policy
from guard.lab.cases import at_least, read
from guard.model import Classification, Finding
from guard.requirement import required
from tests.nouns import IRREVERSIBLE, classifications, findings

POLICY = """server: payments
windows: {office: {zone: Europe/Berlin, days: mon-fri, hours: "08:00-18:00"}}
tools:
  list: {sensitivity: internal}
  refund:
    sensitivity: critical
    effects: move_money
    rules:
      - {when: 'args.environment == "staging"', sensitivity: internal}
      - {when: '!windows.office', require: both}
"""
GOOD = """server: payments
cases:
  - name: staging moves no money
    tool: refund
    arguments: {environment: staging}
    time: "2026-11-25T10:00:00+01:00"
    expect: {decision: permit, sensitivity: internal, rule: "refund.rules[0]"}
  - name: nobody watches at night
    tool: refund
    arguments: '{"environment": "production", "memo": null}'
    time: "2026-11-25T23:00:00+01:00"
    expect: {requirement: both}
  - {tool: list, findings: alarming intent, expect: {requirement: consent}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tests = tmp_path / "tool_policies/tests"
    tests.mkdir(parents=True)
    (tests.parent / "payments.yaml").write_text(POLICY)
    (tests / "payments.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    return tests


def run(*words: str) -> Result:
    return CliRunner().invoke(policy, ["test", *words])


def test_cases_that_hold_pass_and_the_rules_they_met_are_counted(folder: Path) -> None:
    done = run("--cover", "100")
    assert done.exit_code == 0, done.output
    assert "3 passed, 0 failed; 4 of 4 entries and rules met (100 %)" in done.stderr
    assert CliRunner().invoke(policy, ["check", "--strict"]).exit_code == 0


def test_a_case_that_does_not_hold_fails_and_says_what_decided(folder: Path) -> None:
    (folder / "payments.yaml").write_text(GOOD.replace("requirement: both", "requirement: step_up"))
    done = run()
    assert done.exit_code == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith("tool_policies/tests/payments.yaml:8:5: nobody watches at night: requirement is both")
    assert line.endswith("(payments.yaml#tools.refund.rules[1] at payments.yaml:10)")


def test_a_rule_that_no_case_meets_is_named_and_can_fail_the_run(folder: Path) -> None:
    (folder / "payments.yaml").write_text(GOOD[: GOOD.index("  - name: nobody")])
    done = run("--cover", "90", "--missed")
    assert done.exit_code == 1
    assert "tool_policies/payments.yaml:10:9: note: no test meets payments.yaml#tools.refund.rules[1]" in done.stdout
    found = json.loads(run("--json").stdout)
    assert found["coverage"]["met"] == 2


def test_no_tests_are_no_pass(folder: Path) -> None:
    (folder / "payments.yaml").unlink()
    assert run().exit_code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cases: [{tool: a, server: b}]", "expect"),
        ("cases: [{tool: a, server: b, expect: {}}]", "expects nothing"),
        ("cases: [{tool: a, server: b, expect: {sensitivty: public}}]", "sensitivty"),
        ("cases: [{tool: a, server: b, colour: red, expect: {tagged: true}}]", "colour"),
        ("cases: [{tool: a, server: b, time: noon, expect: {tagged: true}}]", "2026-11-25T10:00:00+01:00"),
        ("cases: [{tool: a, server: b, findings: odd, expect: {tagged: true}}]", "unusual identity"),
        ("cases: [{tool: a, server: b, arguments: '[1]', expect: {tagged: true}}]", "JSON object"),
        ("- a", "a list"),
        ("cases: [1, 2", "not YAML"),
    ],
)
def test_a_mistake_in_a_case_is_placed_and_said(text: str, said: str) -> None:
    cases, mistakes = read(text.encode(), "t.yaml")
    assert cases == ()
    assert any(said in mistake.message for mistake in mistakes)


@settings(deadline=None)
@given(classifications, findings, findings)
def test_no_finding_lowers_what_is_required(tags: Classification, one: Finding, other: Finding) -> None:
    calm, _ = required(tags, (), irreversible=IRREVERSIBLE)
    first, _ = required(tags, (one,), irreversible=IRREVERSIBLE)
    both, _ = required(tags, (one, other), irreversible=IRREVERSIBLE)
    assert at_least(both, first)
    assert at_least(first, calm)


ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_packs_pass_their_check_and_their_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    checked = CliRunner().invoke(policy, ["check", "--strict"])
    assert checked.exit_code == 0, checked.output
    done = run()
    assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_tool_of_the_real_servers_is_untagged_by_the_shipped_packs() -> None:
    words = [sys.executable, "tools/packs.py", "live"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_laboratory_runs_on_the_recorded_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = [
        "diff",
        "examples/policy-lab/before",
        "tool_policies",
        "--ledger",
        "examples/policy-lab/ledger.jsonl",
        "--json",
    ]
    found = json.loads(CliRunner().invoke(policy, words).stdout)
    assert (found["calls"], found["new"], found["removed"], found["otherwise"]) == (43, 6, 6, 1)


def act(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """What the action runs, in the folder of a repository."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **{f"INPUT_{name.upper()}": value for name, value in inputs.items()}}
    script = ["bash", str(ROOT / "tools/policy_action.sh")]
    return subprocess.run(script, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_action_annotates_a_mistake_and_fails(folder: Path) -> None:
    (folder.parent / "payments.yaml").write_text("server: [\n")
    done = act(folder.parents[1])
    assert done.returncode == 2
    assert "::error file=tool_policies/payments.yaml,line=" in done.stdout


@pytest.mark.slow
def test_the_action_summarises_what_changes_for_recorded_traffic(folder: Path) -> None:
    lab = ROOT / "examples/policy-lab"
    done = act(folder.parents[1], ledger=str(lab / "ledger.jsonl"), before=str(lab / "before"), cover="100")
    assert done.returncode == 0, done.stderr
    assert "### Policy replay" in done.stdout


def test_the_hooks_and_the_action_run_verbs_that_exist() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert [hook["entry"].split()[:3] for hook in hooks] == [["guard", "policy", verb] for verb in ("check", "test")]
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = [one for one in action["runs"]["steps"] if "policy_action.sh" in one.get("run", "")]
    assert {name.removeprefix("INPUT_").lower() for name in step["env"] if name != "ACTION"} == {
        name for name in action["inputs"] if name != "python"
    }
    assert not any("${{" in one.get("run", "") for one in action["runs"]["steps"])
