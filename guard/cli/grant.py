"""`guard grant`: permissions that were given and not used yet."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import click

from guard.app import desk
from guard.cli import options
from guard.model import State


@click.group()
def grant() -> None:
    """See and withdraw unspent grants."""


@grant.command("ls")
@options.config
@options.as_json
def list_(file: Path, as_json: bool) -> None:
    """List the unspent grants."""
    with desk(file) as services:
        now = services.clock.now()
        found = services.store.challenges.find(states=frozenset({State.SATISFIED}))
    options.show(
        (
            {
                "id": given.id,
                "challenge": one.id,
                "short_digest": one.short_digest,
                "principal": one.principal.subject,
                "server": one.server,
                "name": one.name,
                "expires": options.moment(given.expires),
            }
            for one in found
            if (given := one.grant) is not None and one.timely(now)
        ),
        columns=("id", "short_digest", "principal", "server", "name", "expires"),
        as_json=as_json,
    )


@grant.command()
@click.argument("id")
@options.config
def revoke(id: str, file: Path) -> None:
    """Withdraw the unspent grant ID (g_...)."""
    with desk(file) as services:
        anyio.run(partial(services.ceremony().revoke, id, by=options.operator()))
    options.note(f"{id} is revoked")
