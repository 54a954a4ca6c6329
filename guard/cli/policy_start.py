"""`guard policy scaffold`: a starter policy from a real server."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from guard.cli import policy_options as options
from guard.config import Config, Server
from guard.errors import ConfigError
from guard.lab.scaffold import scaffold as draft
from guard.policy.directory import survey, understand
from guard.policy.reading import SERVER


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("server")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--url", help="Streamable HTTP endpoint of a server that is not configured.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write a new file; never overwrites.")
@click.option("--stdout", is_flag=True, help="Print the file, which is also what happens without --output.")
@options.config
def scaffold(
    *, server: str, command: tuple[str, ...], url: str | None, output: Path | None, stdout: bool, file: Path
) -> None:
    """Draw up a starter policy for SERVER from what it says about its tools.

    SERVER is started or reached as guard.toml says; a server that is not configured is given as a COMMAND after
    `--`, or with --url. Suggestions stand beside their evidence; what rests on one kind of evidence is marked
    `review: true`, and nothing is suggested below `sensitive`.
    """
    if not SERVER.fullmatch(server):
        raise click.BadParameter("letters, digits, dots, dashes and underscores, at most 64", param_hint="SERVER")
    if output is not None and (stdout or output.exists() or output.is_symlink()):
        why = "--output and --stdout exclude each other" if stdout else f"{output} exists and is not overwritten"
        raise click.UsageError(why)
    config, asked = _asked(server, command, url, file)
    base = file.absolute().parent
    tools = options.only(*options.live({server: asked}, base), server)
    text = draft(server, tools, elsewhere=options.elsewhere(server, (one.name for one in tools), _known(config)))
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)
    marked = len(re.findall(r"^ {4}review: true$", text, re.MULTILINE))
    click.echo(
        f"{server}: {len(tools)} tools, {marked} of their tags to be looked at before they are settled", err=True
    )


def _asked(server: str, command: tuple[str, ...], url: str | None, file: Path) -> tuple[Config | None, Server]:
    """The configuration, if there is one, and the server to ask."""
    if command and url:
        raise click.UsageError("give a command or --url, not both")
    config = None
    if not (command or url) or file.exists():
        config = options.settings(file)[1]
    if command or url:
        return config, Server.model_validate({"command": command} if command else {"url": url})
    return config, options.configured(config, server)


def _known(config: Config | None) -> dict[str, tuple[str, ...]]:
    """The tools that the policies name, by server; broken policies name none here, `check` is for them."""
    folder = config.policies if config is not None else Path("tool_policies")
    if not folder.is_dir():
        return {}
    policies, _ = understand(survey(folder), folder)
    return {one.server: tuple(entry.pattern for entry in one.entries.get("tool", ())) for one in policies}


def _write(output: Path, text: str) -> None:
    """Write a file that was not there.

    Raises:
        ConfigError: it is there, or cannot be written.
    """
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{output} exists and is not overwritten") from None
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from error
