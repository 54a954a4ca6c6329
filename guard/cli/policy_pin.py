"""`guard policy pin`: look at what a server changed about its tools, word by word, and accept it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from guard.app import desk
from guard.cli import policy_options as options
from guard.errors import ConfigError, NotFoundError
from guard.lab.definitions import definitions, oddities
from guard.policy.directory import survey, understand
from guard.policy.document import Policy
from guard.policy.vocabulary import nearest
from guard.ports import Pin
from guard.stepup.visible import visible
from guard.stepup.wording import wording


@click.command()
@click.argument("server")
@click.argument("tool", default="")
@click.option("--show", is_flag=True, help="Show what changed and accept nothing.")
@click.option("--write", is_flag=True, help="Put the accepted definitions into the policy file, where it pins the old.")
@options.as_json
@options.config
def pin(*, server: str, tool: str, show: bool, write: bool, as_json: bool, file: Path) -> None:
    """Accept the tool definitions seen last from SERVER, for one TOOL or for all of them.

    A tool whose definition changed since it was pinned needs a person's consent until this is done. Shows every
    change word by word: [-removed-] {+added+}.
    """
    folder, _ = options.settings(file)
    with desk(file) as services:
        known = services.store.pins.all(server)
        if not known:
            options.configured(services.config, server)
            raise NotFoundError(f"{server} has not listed its tools through the guard yet; let an agent ask for them")
        if tool and all(one.tool != tool for one in known):
            raise NotFoundError(f"{server} never listed a tool {tool}{nearest(tool, [one.tool for one in known])}")
        changed = [one for one in known if one.pinned != one.seen and tool in {"", one.tool}]
        stale = _stale(folder, server, known if not tool else [one for one in known if one.tool == tool])
        if not changed and not stale:
            message = f"no tool of {server} differs from its pin" if not tool else f"{tool} of {server} is as pinned"
            raise NotFoundError(message)
        if as_json:
            click.echo(json.dumps([_json(one) for one in changed], indent=1))
        else:
            click.echo("\n".join(line for one in changed for line in _lines(one)))
        if show:
            return
        for one in changed:
            services.ledger.append(
                "tool.pinned", {"server": server, "tool": one.tool, "pinned": one.seen, "before": one.pinned}
            )
        services.store.pins.accept(server, tool)
    _in_file(folder, stale, write=write)


def _lines(one: Pin) -> Iterator[str]:
    """One changed tool: its name, then what changed and what is odd about it now."""
    yield visible(one.tool)
    yield from (f"  {line}" for line in wording(one.pinned_text, one.seen_text) or ("the earlier text was not kept",))
    yield from (f"  ! {said}" for said in _odd(one))


def _json(one: Pin) -> dict[str, object]:
    return {
        "tool": one.tool,
        "pinned": one.pinned,
        "seen": one.seen,
        "changes": list(wording(one.pinned_text, one.seen_text)),
        "findings": list(_odd(one)),
    }


def _odd(one: Pin) -> Iterator[str]:
    if one.seen_text:
        yield from (said for _, said in oddities(definitions([json.loads(one.seen_text)]), {}))


def _stale(folder: Path, server: str, known: Sequence[Pin]) -> list[tuple[Policy, Pin, str]]:
    """Tools that the policy file pins to another definition than was seen last: file, pin, and the digest in it."""
    policies, _ = understand(survey(folder), folder)
    found = next((one for one in policies if one.server == server), None)
    if found is None:
        return []
    return [(found, one, old) for one in known if (old := found.pins.get(one.tool)) and old != one.seen]


def _in_file(folder: Path, stale: Sequence[tuple[Policy, Pin, str]], *, write: bool) -> None:
    """Bring the pins of the policy file up to date, or say what is to be written there.

    Raises:
        ConfigError: the file cannot be written.
    """
    for policy, one, old in stale:
        path = folder / policy.file
        if not write:
            click.echo(
                f"{path} pins {one.tool} to {old[:12]}...; write definition: {one.seen}, or use --write", err=True
            )
            continue
        try:
            text = path.read_text(encoding="utf-8")
            if text.count(old) != 1:
                raise ConfigError(f"{old[:12]}... stands more than once in {path}; write definition: {one.seen}")
            path.write_text(text.replace(old, one.seen), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        click.echo(f"{path}: {one.tool} is pinned to {one.seen}", err=True)
