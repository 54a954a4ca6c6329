"""`guard policy check`: mistakes and what is hardly meant, for people, CI and code scanning."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click

from guard.app import desk
from guard.cli import policy_options as options
from guard.config import Config, Server
from guard.errors import ConfigError, GuardError
from guard.factors import break_glass
from guard.lab import formats
from guard.lab.check import Able, Report, below
from guard.lab.check import check as check_folder
from guard.lab.formats import Found
from guard.lab.live import compare
from guard.model import ProofClass
from guard.policy.directory import survey, understand
from guard.policy.tree import Mistake
from guard.quorum import KINDS


@click.command()
@options.config
@options.as_json
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif", "github"]),
    default="text",
    show_default=True,
    help="How findings are written; sarif is for code scanning, github for annotations in a workflow.",
)
@click.option("--live", is_flag=True, help="Ask every configured server for its tools, and compare.")
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.option("--notes", is_flag=True, help="Tell notes too: what is allowed, meant, and worth a second look.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(
    *, file: Path, as_json: bool, form: str, live: bool, strict: bool, notes: bool, files: tuple[Path, ...]
) -> None:
    """Check every policy file; of warnings, tell only those about FILES when some are given.

    Prints FILE:LINE:COLUMN: MESSAGE, one a line. Exits with 0 when all is well, 1 when a server cannot be asked
    (--live), 2 on a mistake (with --strict on a warning, too).
    """
    folder, config = options.settings(file)
    report = check_folder(folder, config, _able(config, file))
    failed: dict[str, GuardError] = {}
    warnings = list(report.warnings)
    if live and not report.mistakes:
        found, failed = _live(folder, config, file)
        warnings = sorted({*warnings, *found})
    told: list[Found] = [("mistake", one) for one in report.mistakes]
    told += [("warning", one) for one in warnings]
    form = "json" if as_json else form
    if notes:
        told += [("note", one) for one in report.notes]
    if files:
        wanted = _named(files)
        told = [one for one in told if one[0] == "mistake" or Path(one[1].place.file).resolve() in wanted]
    _print(told, form)
    for error in failed.values():
        click.echo(error.public, err=True)
    click.echo(_counts(report, told), err=True)
    severities = {severity for severity, _ in told}
    wrong = "mistake" in severities or (strict and "warning" in severities)
    sys.exit(2 if wrong else int(bool(failed)))


def _named(files: tuple[Path, ...]) -> set[Path]:
    """The files that warnings are told about.

    Raises:
        ConfigError: one is not there, and nobody would notice that its warnings are not told.
    """
    for path in files:
        if not path.is_file():
            raise ConfigError("there is no such file", file=path)
    return {path.resolve() for path in files}


def _counts(report: Report, told: list[Found]) -> str:
    counted = Counter(severity for severity, _ in told)
    return f"{report.read} read, {counted['mistake']} mistakes, {counted['warning']} warnings"


def _print(told: list[Found], form: str) -> None:
    match form:
        case "json":
            click.echo(formats.data(told))
        case "sarif":
            click.echo(formats.sarif(told, version("mcp-step-up-guard")))
        case "github":
            for line in formats.github(told):
                click.echo(line)
        case _:
            for line in formats.text(told):
                click.echo(line)


def _able(config: Config | None, file: Path) -> Able | None:
    """Who can prove something now; None where there is no state yet, for a check makes none."""
    if config is None or not config.state.is_dir():
        return None
    with desk(file) as services:
        live = [one for one in services.store.factors.of("") if not one.revoked and not one.locked]
        able = {one.subject for one in live if one.kind != break_glass.KIND}
        people = [one for one in services.store.approvers.all() if not one.removed and one.name in able]
    keys = sum(one.kind in KINDS[ProofClass.POSSESSION] for one in live)
    return Able(people=Counter(group for one in people for group in one.groups), keys=keys)


def _live(folder: Path, config: Config | None, file: Path) -> tuple[list[Mistake], dict[str, GuardError]]:
    """What the configured servers list, compared with their files."""
    policies, _ = understand(survey(folder), folder)
    described = {policy.server: policy for policy in policies}
    servers: dict[str, Server] = dict(config.servers) if config is not None else {}
    heard, failed = options.live(servers, file.absolute().parent)
    known = {name: [tool.name for tool in tools] for name, tools in heard.items()}
    texts = dict(_texts(config, file, list(heard)))
    found: list[Mistake] = []
    for name, tools in heard.items():
        policy = described.get(name)
        if policy is not None:
            others = options.elsewhere(name, known[name], known)
            found += [below(folder, one) for one in compare(policy, tools, elsewhere=others, texts=texts)]
    return found, failed


def _texts(config: Config | None, file: Path, servers: list[str]) -> Iterator[tuple[str, str]]:
    """The texts of definitions that the state kept, by digest; none where there is no state yet."""
    if config is None or not config.state.is_dir():
        return
    with desk(file) as services:
        for name in servers:
            for pin in services.store.pins.all(name):
                yield from ((pin.pinned, pin.pinned_text), (pin.seen, pin.seen_text))
