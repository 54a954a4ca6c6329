"""What the README shows exists: its commands, its targets, its log line and its policy."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from guard.audit.record import EVENTS
from guard.cli import cli
from guard.policy.reading import read
from guard.reasons import Code

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^\$ (.+?)(?:\s{2,}#.*)?$", README, re.MULTILINE)))


def block(language: str) -> str:
    """The first code block in this language."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("guard ")])
def test_every_guard_command_of_the_readme_is_one(command: str) -> None:
    words, verb = shlex.split(command)[1:], cli
    while isinstance(verb, click.Group):
        name = words.pop(0)
        found = verb.get_command(click.Context(verb), name)
        assert found is not None, f"{name} is no verb"
        verb = found  # type: ignore[assignment]  # a group or, at the end, a command
    verb.make_parser(click.Context(verb)).parse_args(list(words))


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("make ")])
def test_every_make_target_of_the_readme_is_one(command: str) -> None:
    target = shlex.split(command)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_log_line_of_the_readme_is_a_record() -> None:
    record = json.loads(block("json"))
    assert record["event"] in EVENTS
    assert {reason["code"] for reason in record["reasons"]} <= {str(code) for code in Code}
    assert f"guard why {record['challenge_id']}" in README


def test_the_policy_of_the_readme_has_no_mistake() -> None:
    policy, mistakes = read(block("yaml").encode(), "README.md")
    assert policy is not None
    assert not mistakes
