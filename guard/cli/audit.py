"""`guard audit`: verify, watch and export the ledger."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import click

from guard.app import desk
from guard.audit.ecs import ecs
from guard.audit.export import Reader, jsonl, summary
from guard.audit.ocsf import ocsf
from guard.audit.record import Entry
from guard.audit.trace import trace
from guard.audit.verify import Report, verify
from guard.cli import options
from guard.errors import LedgerUnavailableError
from guard.model import Json

_POLL = 0.2


@click.group()
def audit() -> None:
    """Verify, watch and export what happened."""


@audit.command("verify")
@options.as_json
@options.config
def verify_(as_json: bool, file: Path) -> None:
    """Prove that no record was changed, removed, added or moved.

    Exits with 1 and names the first bad record when one was. Sizes and roots come from the store, never
    from the files that are being verified.
    """
    report = _verified(file)
    click.echo(json.dumps(report.json()) if as_json else report.text())
    if not report.ok:
        sys.exit(1)


def _verified(file: Path) -> Report:
    with desk(file) as services:
        state, lanes = services.config.state, services.store.lanes
        try:
            report = verify(state, lanes.all())
            # A process that took its first lane in between is not known to what was read before; look once more.
            return report if report.ok else verify(state, lanes.all())
        except OSError as error:
            raise LedgerUnavailableError("the ledger cannot be read", detail=str(error)) from error


@audit.command()
@click.option("-n", "count", type=click.IntRange(0, 100_000), default=20, show_default=True, help="How many records.")
@click.option("--follow", is_flag=True, help="Go on with every new record until interrupted.")
@options.as_json
@options.config
def tail(count: int, follow: bool, as_json: bool, file: Path) -> None:
    """Show the last records of all lanes, oldest first."""
    reader = _reader(file)
    try:
        for entry in deque(reader.read(), maxlen=count):
            _show(entry, as_json=as_json)
        while follow:
            time.sleep(_POLL)
            for entry in reader.read():
                _show(entry, as_json=as_json)
    except KeyboardInterrupt:
        return
    finally:
        _note_skipped(reader)


@audit.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "ocsf", "ecs", "agentack"]),
    default="jsonl",
    show_default=True,
    help="How records are written.",
)
@options.config
def export(form: str, file: Path) -> None:
    """Print every record as one JSON object a line, over all lanes by time.

    `ocsf` writes them in the Open Cybersecurity Schema Framework 1.6, `ecs` in the Elastic Common Schema 8.17.
    `agentack` prints the story of every call that has ended instead, as a trace that `agentack check` judges: was
    it approved before it ran, once, unchanged and in time?
    """
    reader = _reader(file)
    if form == "agentack":
        lines, left_out = trace(reader.read())
        for line in lines:
            click.echo(json.dumps(line, separators=(",", ":")))
        if left_out:
            options.note(f"{left_out} calls are not decided yet and were left out")
        _note_skipped(reader)
        return
    forms: Mapping[str, Callable[[Entry], str]] = {
        "jsonl": jsonl,
        "ocsf": partial(_written, ocsf),
        "ecs": partial(_written, ecs),
    }
    for entry in reader.read():
        click.echo(forms[form](entry))
    _note_skipped(reader)


def _written(form: Callable[[Entry], Mapping[str, Json]], entry: Entry) -> str:
    return json.dumps(form(entry), separators=(",", ":"))


def _reader(file: Path) -> Reader:
    with desk(file) as services:
        return Reader(services.config.state)


def _show(entry: Entry, *, as_json: bool) -> None:
    click.echo(jsonl(entry) if as_json else summary(entry))


def _note_skipped(reader: Reader) -> None:
    if reader.skipped:
        options.note(f"{reader.skipped} lines are no records; run `guard audit verify`")
