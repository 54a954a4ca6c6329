"""`guard serve` and `guard run`: the two fronts."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from guard.cli import options
from guard.config import Config, load
from guard.errors import ConfigError, IdentityError

_VARIABLE = re.compile(r"(\$\{[^}]*\}|\$[A-Za-z_][A-Za-z0-9_]*)")


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
@click.argument("command", nargs=-1)
@click.option(
    "--key-file", type=click.Path(path_type=Path), help="File with the agent's key, for its owner only (0600)."
)
@options.config
def run(server: str, command: tuple[str, ...], key_file: Path | None, file: Path) -> None:
    """Put the guard in front of one stdio tool SERVER, speaking MCP on stdin and stdout.

    The agent's key is taken from GUARD_AGENT_KEY, or from --key-file. Exits with 2 before the tool server starts when
    the key is missing or unknown.

    COMMAND, after --, must be the command that guard.toml has for SERVER. `guard wrap` leaves it there so that
    the agent fills in its variables: only where guard.toml has ${NAME} or $NAME may something else stand.
    """
    from guard import runtime  # noqa: PLC0415 - as above
    from guard.clients.apply import read_key  # noqa: PLC0415 - as above

    key = os.environ.pop("GUARD_AGENT_KEY", "")
    try:
        config = load(file)
        if command:
            config = filled(config, server, command)
        code = runtime.run(config, server, read_key(key_file) if key_file else key)
    except IdentityError as error:
        click.echo(f"{error.public}; set GUARD_AGENT_KEY to a key that `guard agent add NAME` printed", err=True)
        sys.exit(2)
    _end(code)


def filled(config: Config, server: str, command: tuple[str, ...]) -> Config:
    """The configuration with the variables in a server's command filled in as its agent did.

    Raises:
        ConfigError: the command is another one than guard.toml has.
    """
    named = config.servers.get(server)
    if named is None or named.command is None:
        return config  # the front says what is wrong
    told = f"this is not the command of server {server}; guard wrap again, or correct [servers.{server}]"
    if len(named.command) != len(command):
        raise ConfigError(told, file=config.file)
    for place, (word, given) in enumerate(zip(named.command, command, strict=True)):
        pattern = "".join(".*" if part[:1] == "$" else re.escape(part) for part in _VARIABLE.split(word))
        if not re.fullmatch(pattern, given, re.DOTALL):
            raise ConfigError(f"{told} (word {place + 1})", file=config.file)
    return config.model_copy(
        update={"servers": {**config.servers, server: named.model_copy(update={"command": command})}}
    )


def _end(code: int) -> NoReturn:
    """Leave without tearing the interpreter down: all is sealed and closed, and that would take longest of all."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    os._exit(code)
