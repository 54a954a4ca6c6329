"""`guard policy`: what owners do with policies before they take effect."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from guard.cli import policy_options as options
from guard.cli.policy_check import check
from guard.cli.policy_pin import pin
from guard.cli.policy_start import scaffold
from guard.cli.policy_try import diff, replay, test
from guard.config import IRREVERSIBLE
from guard.lab.explain import explain as explain_call
from guard.policy.schema import schema as policy_schema


@click.group()
def policy() -> None:
    """Check and explain the policies of tool owners."""


@policy.command()
@click.argument("call", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@options.config
@options.as_json
def explain(call: Path, file: Path, as_json: bool) -> None:
    """Explain what a call would have to prove, and why.

    CALL is a JSON file (or - for stdin): {"server": "git", "tool": "git_reset", "arguments": {}, "principal": "robot"}.
    """
    folder, config = options.settings(file)
    policies = options.directory(folder, config).load()
    irreversible = config.irreversible if config is not None else frozenset(IRREVERSIBLE)
    raw = sys.stdin.buffer.read() if str(call) == "-" else call.read_bytes()
    found = explain_call(policies, raw, file=str(call), irreversible=irreversible, now=time.time())
    click.echo(json.dumps(found.data(), indent=2) if as_json else "\n".join(found.lines()))


@policy.command()
@options.config
def schema(file: Path) -> None:
    """Print the JSON Schema of policy files, for editors."""
    del file
    click.echo(json.dumps(policy_schema(), indent=2))


for _verb in (check, scaffold, pin, test, replay, diff):
    policy.add_command(_verb)
