"""`guard policy test`, `replay` and `diff`: what policies do to written-down and to recorded calls."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from guard.app import Desk
from guard.audit.record import Entry
from guard.cli import policy_options as options
from guard.config import IRREVERSIBLE, Config
from guard.errors import ConfigError, LedgerUnavailableError
from guard.lab import cases, recorded
from guard.lab.cases import Outcome, Run
from guard.lab.recorded import Recorded, Traffic
from guard.lab.replay import Comparison, Judge, Judged, as_recorded
from guard.lab.summary import Report, suggestions
from guard.lab.unknown import Digest
from guard.model import Json
from guard.policy.classify import PolicySet


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--cover", type=click.IntRange(0, 100), default=0, help="Fail below this percentage of entries and rules."
)
@click.option("--missed", is_flag=True, help="List the entries and rules that no test meets.")
@options.as_json
@options.config
def test(*, files: tuple[Path, ...], cover: int, missed: bool, as_json: bool, file: Path) -> None:
    """Run the tests that stand beside the policies: tests/*.yaml in their folder, or FILES.

    Every case also looks for a tag or finding that lowers what is required. Exits with 1 when a case fails or
    fewer entries and rules are met than --cover, with 2 on a mistake in policies or cases.
    """
    folder, config = options.settings(file)
    policies = options.directory(folder, config).load()
    irreversible = config.irreversible if config is not None else frozenset(IRREVERSIBLE)
    found, mistakes = cases.load(folder, files)
    run = cases.run(policies, found, mistakes, irreversible=irreversible, now=time.time())
    if as_json:
        click.echo(json.dumps(_json(run), indent=2))
    else:
        _print(run, folder, missed=missed)
    percent = int(run.coverage.share * 100)
    passed = len(run.outcomes) - len(run.failed)
    met = f"{run.coverage.met} of {run.coverage.total} entries and rules met ({percent} %)"
    click.echo(f"{passed} passed, {len(run.failed)} failed; {met}", err=True)
    if not run.outcomes and not mistakes:
        click.echo(f"there are no tests; write {folder / 'tests'}/NAME.yaml", err=True)
    sys.exit(2 if mistakes else int(bool(run.failed) or percent < cover or not run.outcomes))


def _print(run: Run, folder: Path, *, missed: bool) -> None:
    for mistake in run.mistakes:
        click.echo(mistake)
    for outcome in run.failed:
        for wrong in outcome.wrong:
            click.echo(f"{_where(outcome)}: {outcome.case.name}: {wrong}")
    for place, name in run.coverage.missed if missed else ():
        click.echo(f"{folder / place.file}:{place.line}:{place.column}: note: no test meets {name}")
    for name, count in sorted(Counter(place.file for place, _ in run.coverage.missed).items()) if not missed else ():
        click.echo(f"{folder / name}: note: no test meets {count} entries and rules; --missed lists them")


def _where(outcome: Outcome) -> str:
    place = outcome.case.place
    return f"{place.file}:{place.line}:{place.column}"


def _json(run: Run) -> dict[str, object]:
    return {
        "mistakes": [str(one) for one in run.mistakes],
        "cases": [
            {"name": one.case.name, "where": _where(one), "passed": not one.wrong, "wrong": list(one.wrong)}
            for one in run.outcomes
        ],
        "coverage": {
            "total": run.coverage.total,
            "met": run.coverage.met,
            "missed": [{"where": f"{place.file}:{place.line}", "name": name} for place, name in run.coverage.missed],
        },
    }


# ------------------------------------------------------------------ recorded calls

_PROGRESS = 4 * 1024 * 1024

_ledger = click.option(
    "--ledger",
    type=click.Path(exists=True, path_type=Path),
    help="A state directory, a lane's records.jsonl, or what `guard audit export` printed; without it, this one's.",
)
_markdown = click.option("--markdown", is_flag=True, help="A summary for a pull request.")
_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--against", type=_folder, help="Candidate policies; without it, the configured ones.")
@_ledger
@_markdown
@options.as_json
@options.config
def replay(*, against: Path | None, ledger: Path | None, markdown: bool, as_json: bool, file: Path) -> None:
    """Judge recorded calls under candidate policies, and compare with what was demanded at the time.

    Tells new and removed challenges by tool and agent, and the minutes of approvers they cost. A condition that a
    record cannot answer counts as its stricter branch, and is named.
    """
    folder, config = options.settings(file)
    candidate = against or folder
    policies, digest = options.directory(candidate, config).load(), _digest(config, ledger)
    traffic = _traffic(config, ledger)
    judge = Judge(policies, _irreversible(config), digest)
    words = ("recorded", str(candidate))
    report = _compared(traffic, as_recorded, judge.judge, words, policies=policies, config=config)
    _show(report, markdown=markdown, as_json=as_json)


@click.command()
@click.argument("before", type=_folder)
@click.argument("after", type=_folder)
@_ledger
@_markdown
@options.as_json
@options.config
def diff(*, before: Path, after: Path, ledger: Path | None, markdown: bool, as_json: bool, file: Path) -> None:
    """Judge recorded calls under two folders of policies, and tell what the second changes."""
    _, config = options.settings(file)
    old, new = (options.directory(folder, config).load() for folder in (before, after))
    digest, traffic, irreversible = _digest(config, ledger), _traffic(config, ledger), _irreversible(config)
    was, is_ = Judge(old, irreversible, digest), Judge(new, irreversible, digest)
    report = _compared(traffic, was.judge, is_.after(was), (str(before), str(after)), policies=new, config=config)
    _show(report, markdown=markdown, as_json=as_json)


def _irreversible(config: Config | None) -> frozenset[str]:
    return config.irreversible if config is not None else frozenset(IRREVERSIBLE)


def _own(config: Config | None, ledger: Path | None) -> Path:
    """Where to read: what was given, else this deployment's state.

    Raises:
        ConfigError: neither is there.
    """
    if ledger is not None:
        return ledger
    if config is None or not config.state.is_dir():
        raise ConfigError("there is no ledger here; name one with --ledger")
    return config.state


def _digest(config: Config | None, ledger: Path | None) -> Digest | None:
    """The keyed digest of this deployment, for a ledger below its own state: another's digests have another key."""
    place = _own(config, ledger).resolve()
    if config is None or not config.state.is_dir() or not place.is_relative_to(config.state.resolve()):
        return None
    redactor = Desk(config).redactor

    def hmac(value: Json) -> str:
        found = redactor.arguments({"value": value}, frozenset())
        assert isinstance(found, dict)
        digested = found["value"]
        assert isinstance(digested, dict)
        return str(digested["hmac"])

    return hmac


def _traffic(config: Config | None, ledger: Path | None) -> Traffic:
    """The recorded traffic, with a bar on a terminal when there is much to read.

    Raises:
        ConfigError: it cannot be read.
    """
    place = _own(config, ledger)
    try:
        total = recorded.size(place)
        with click.progressbar(
            length=total, label="reading", file=sys.stderr, hidden=total < _PROGRESS or not sys.stderr.isatty()
        ) as bar:

            def records() -> Iterator[Entry | None]:
                for entry, length in recorded.entries(place):
                    bar.update(length)
                    yield entry

            traffic = recorded.read(records())
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {error.strerror or error}") from error
    except LedgerUnavailableError as error:
        raise ConfigError(f"{place} cannot be read: {error.detail}") from error
    if traffic.skipped and not traffic.records:
        raise ConfigError(f"{place} holds no record; name what `guard audit export` printed")
    return traffic


def _compared(
    traffic: Traffic,
    before: Callable[[Recorded], Judged],
    after: Callable[[Recorded], Judged],
    words: tuple[str, str],
    *,
    policies: PolicySet,
    config: Config | None,
) -> Report:
    comparison = Comparison()
    hidden = len(traffic.calls) < _PROGRESS // 100 or not sys.stderr.isatty()
    with click.progressbar(traffic.calls, label="judging", file=sys.stderr, hidden=hidden) as calls:
        for one in calls:
            comparison.add(one, before(one), after(one), one.call.principal.subject in traffic.signing)
    return Report(words, comparison, traffic, tuple(suggestions(traffic, comparison, policies, _irreversible(config))))


def _show(report: Report, *, markdown: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.json(), indent=2))
    else:
        click.echo("\n".join(report.markdown() if markdown else report.lines()))
