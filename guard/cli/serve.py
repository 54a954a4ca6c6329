"""`guard serve` and `guard run`: the two fronts."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from guard.cli import options
from guard.config import load
from guard.errors import IdentityError


@click.command()
@options.config
def serve(file: Path) -> None:
    """Serve the MCP endpoint, the console and the API until stopped.

    Agents connect to http://<proxy.listen>/mcp/<server> with `Authorization: Bearer KEY`.
    """
    from guard import runtime  # noqa: PLC0415 - the fronts are heavy; `guard --help` need not pay

    _end(runtime.serve(load(file)))


@click.command()
@click.argument("server")
@options.config
def run(server: str, file: Path) -> None:
    """Put the guard in front of one stdio tool SERVER, speaking MCP on stdin and stdout.

    The agent's key is taken from GUARD_AGENT_KEY. Exits with 2 before the tool server starts when the
    key is missing or unknown.
    """
    from guard import runtime  # noqa: PLC0415 - as above

    key = os.environ.pop("GUARD_AGENT_KEY", "")
    try:
        code = runtime.run(load(file), server, key)
    except IdentityError as error:
        click.echo(f"{error.public}; set GUARD_AGENT_KEY to a key that `guard agent add NAME` printed", err=True)
        sys.exit(2)
    _end(code)


def _end(code: int) -> NoReturn:
    """Leave without tearing the interpreter down: all is sealed and closed, and that would take longest of all."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    os._exit(code)
