"""`guard policy`: what owners do with policies before they take effect."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import click

from guard.app import desk
from guard.config import IRREVERSIBLE, Config, load
from guard.errors import NotFoundError
from guard.factors import break_glass
from guard.geo import locator
from guard.lab.check import check as check_folder
from guard.lab.explain import explain as explain_call
from guard.policy.directory import PolicyDirectory
from guard.policy.schema import schema as policy_schema
from guard.policy.tree import Mistake

_config = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=Path("guard.toml"),
    show_default=True,
    help="guard.toml; without one, ./tool_policies is read",
)
_json = click.option("--json", "as_json", is_flag=True, help="print JSON")


def _settings(file: Path) -> tuple[Path, Config | None]:
    """The folder of policies and the configuration; only the default file may be absent."""
    if not file.exists() and click.get_current_context().get_parameter_source("file") is not (
        click.core.ParameterSource.COMMANDLINE
    ):
        click.echo(f"{file} does not exist; reading ./tool_policies", err=True)
        return Path("tool_policies"), None
    config = load(file)
    return config.policies, config


@click.group()
def policy() -> None:
    """Check and explain the policies of tool owners."""


@policy.command()
@_config
@_json
@click.option("--strict", is_flag=True, help="fail on warnings too")
def check(file: Path, as_json: bool, strict: bool) -> None:
    """Check every policy file.

    Prints FILE:LINE:COLUMN: MESSAGE, one a line. Exits with 2 on a mistake (with --strict on a warning, too).
    """
    folder, config = _settings(file)
    report = check_folder(folder, config, _able(config, file))
    if as_json:
        found = [_data("mistake", one) for one in report.mistakes] + [_data("warning", one) for one in report.warnings]
        click.echo(json.dumps(found, indent=2))
    else:
        for mistake in report.mistakes:
            click.echo(mistake)
        for warning in report.warnings:
            click.echo(Mistake(warning.place, f"warning: {warning.message}"))
    failed = bool(report.mistakes or (strict and report.warnings))
    said = f"{report.read} read, {len(report.mistakes)} mistakes, {len(report.warnings)} warnings"
    click.echo(said, err=True)
    sys.exit(2 if failed else 0)


def _able(config: Config | None, file: Path) -> Mapping[str, int] | None:
    """How many people of each group can consent now; None where there is no state yet, for a check makes none."""
    if config is None or not config.state.is_dir():
        return None
    with desk(file) as services:
        live = [one for one in services.store.factors.of("") if not one.revoked and not one.locked]
        able = {one.subject for one in live if one.kind != break_glass.KIND}
        people = [one for one in services.store.approvers.all() if not one.removed and one.name in able]
    return Counter(group for one in people for group in one.groups)


def _data(severity: str, found: Mistake) -> dict[str, str | int]:
    place = found.place
    return {
        "severity": severity,
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "message": found.message,
    }


@policy.command()
@click.argument("call", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@_config
@_json
def explain(call: Path, file: Path, as_json: bool) -> None:
    """Explain what a call would have to prove, and why.

    CALL is a JSON file (or - for stdin): {"server": "git", "tool": "git_reset", "arguments": {}, "principal": "robot"}.
    """
    folder, config = _settings(file)
    found_at = locator(config) if config else None
    policies = PolicyDirectory(folder, environments=config.environments if config else None, locate=found_at).load()
    irreversible = config.irreversible if config is not None else frozenset(IRREVERSIBLE)
    raw = sys.stdin.buffer.read() if str(call) == "-" else call.read_bytes()
    found = explain_call(policies, raw, file=str(call), irreversible=irreversible, now=time.time())
    click.echo(json.dumps(found.data(), indent=2) if as_json else "\n".join(found.lines()))


@policy.command()
@click.argument("server")
@click.argument("tool", default="")
@_config
def pin(server: str, tool: str, file: Path) -> None:
    """Accept the tool definitions seen last from SERVER, for one TOOL or for all of them.

    A tool whose definition changed since it was pinned needs a person's consent until this is done.
    """
    with desk(file) as services:
        changed = [pin for pin in services.store.pins.all(server) if pin.pinned != pin.seen and tool in {"", pin.tool}]
        if not changed:
            message = f"no tool of {server} differs from its pin" if not tool else f"{tool} of {server} is as pinned"
            raise NotFoundError(message)
        for one in changed:
            services.ledger.append(
                "tool.pinned", {"server": server, "tool": one.tool, "pinned": one.seen, "before": one.pinned}
            )
        services.store.pins.accept(server, tool)
    for one in changed:
        click.echo(one.tool)


@policy.command()
@_config
def schema(file: Path) -> None:
    """Print the JSON Schema of policy files, for editors."""
    del file
    click.echo(json.dumps(policy_schema(), indent=2))
