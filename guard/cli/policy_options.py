"""What the verbs of `guard policy` share: which folder, which configuration, and the tools a server lists now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import anyio
import click

from guard.config import Config, Server, load
from guard.errors import GuardError, NotFoundError, UpstreamError
from guard.geo import locator
from guard.lab.definitions import Definition, definitions
from guard.policy.directory import PolicyDirectory
from guard.policy.vocabulary import nearest

config = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=Path("guard.toml"),
    show_default=True,
    help="guard.toml; without one, ./tool_policies is read",
)
"""Passes the path as `file`."""

as_json = click.option("--json", "as_json", is_flag=True, help="print JSON")
"""Passes the choice as `as_json`."""


def settings(file: Path) -> tuple[Path, Config | None]:
    """The folder of policies and the configuration; only the default file may be absent."""
    if not file.exists() and click.get_current_context().get_parameter_source("file") is not (
        click.core.ParameterSource.COMMANDLINE
    ):
        click.echo(f"{file} does not exist; reading ./tool_policies", err=True)
        return Path("tool_policies"), None
    found = load(file)
    return found.policies, found


def directory(folder: Path, config: Config | None) -> PolicyDirectory:
    """The policies of a folder, with what guard.toml says of environments and of where addresses are."""
    if config is None:
        return PolicyDirectory(folder)
    return PolicyDirectory(folder, environments=config.environments, locate=locator(config))


def configured(found: Config | None, server: str) -> Server:
    """The settings of one server.

    Raises:
        NotFoundError: it is not configured.
    """
    servers = found.servers if found is not None else {}
    if server not in servers:
        message = f'no server "{server}" is configured{nearest(server, servers)}'
        raise NotFoundError(message)
    return servers[server]


def live(servers: Mapping[str, Server], base: Path) -> tuple[dict[str, tuple[Definition, ...]], dict[str, GuardError]]:
    """What each server lists now, and why those that listed nothing did not."""
    from guard.proxy.listing import listed  # noqa: PLC0415 - the SDK takes half a second that other verbs need not wait

    heard: dict[str, tuple[Definition, ...]] = {}
    failed: dict[str, GuardError] = {}

    async def ask(name: str, server: Server) -> None:
        try:
            heard[name] = definitions(await listed(name, server, base=base))
        except GuardError as error:
            failed[name] = error

    async def everyone() -> None:
        for name, server in servers.items():
            await ask(name, server)

    anyio.run(everyone)
    return heard, failed


def elsewhere(server: str, tools: Iterable[str], known: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """For each of these tools of `server`, the other servers that are known to have a tool of that name."""
    others = {name: set(names) for name, names in known.items() if name != server}
    found = {tool: tuple(sorted(name for name, names in others.items() if tool in names)) for tool in tools}
    return {tool: names for tool, names in found.items() if names}


def only(
    heard: Mapping[str, tuple[Definition, ...]], failed: Mapping[str, GuardError], name: str
) -> tuple[Definition, ...]:
    """What this one server lists.

    Raises:
        GuardError: why it does not.
    """
    if name in heard:
        return heard[name]
    raise failed.get(name) or UpstreamError(f"server {name} was not asked", sent=False)
