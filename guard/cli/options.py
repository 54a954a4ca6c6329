"""Options and output that verbs share: where the configuration is, and data as JSON or as lines."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from guard.errors import GuardError
from guard.model import Json

config = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=Path("guard.toml"),
    show_default=True,
    help="guard.toml",
)
"""Passes the path as `file`."""

as_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of lines.")
"""Passes the choice as `as_json`."""


def show(rows: Iterable[Mapping[str, Json]], *, columns: Iterable[str], as_json: bool) -> None:
    """Print rows on stdout: one JSON array, or one aligned line each with the given columns."""
    rows, columns = list(rows), list(columns)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    table = [[_word(row[column]) for column in columns] for row in rows]
    widths = [max((len(line[index]) for line in table), default=0) for index in range(len(columns))]
    for line in table:
        click.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())


def only(line: str, data: Mapping[str, Json], *, as_json: bool) -> None:
    """Print the one thing a verb is asked for: alone on one line, or as a JSON object.

    Raises:
        GuardError: it cannot be printed, and will not be shown again.
    """
    try:
        click.echo(json.dumps(data) if as_json else line)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not fail as well
        message = f"what was made is lost, for stdout cannot be written: {error.strerror or error}; make another"
        raise GuardError(message) from error


def moment(at: float) -> str:
    """Unix seconds as UTC text; "" for never (0)."""
    return datetime.fromtimestamp(int(at), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else ""


def operator() -> str:
    """Who runs the command, as the system knows them; behind sudo, who called it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def note(text: str) -> None:
    """Say something to the person on stderr."""
    click.echo(text, err=True)


def _word(value: Json) -> str:
    if isinstance(value, str):
        return value or "-"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return str(value)
