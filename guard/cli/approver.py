"""`guard approver`: the people who may consent."""

from __future__ import annotations

from pathlib import Path

import click

from guard.app import desk
from guard.cli import options
from guard.factors import break_glass
from guard.identity.lifecycle import Lifecycle
from guard.ports import Factor


@click.group()
def approver() -> None:
    """Say which people may approve, and in which groups."""


def _approves(factor: Factor) -> bool:
    """Whether its holder can approve with it now; a generator that breaks glass approves nothing."""
    return not factor.revoked and not factor.locked and factor.kind != break_glass.KIND


@approver.command()
@click.argument("name")
@click.option("--group", "groups", multiple=True, help="Group to join; repeat for several (default: approvers).")
@options.config
def add(name: str, groups: tuple[str, ...], file: Path) -> None:
    """Let the person NAME approve; known people gain the groups."""
    with desk(file) as services:
        person = Lifecycle(services.store, services.ledger, services.clock).add_approver(name, groups=groups)
        able = any(_approves(one) for one in services.store.factors.of(name))
    options.note(f"{name} may approve for {', '.join(sorted(person.groups))}")
    if not able:
        options.note(f"next: guard factor enroll totp {name}")


@approver.command()
@click.argument("name")
@options.config
def remove(name: str, file: Path) -> None:
    """Take the right to approve from NAME, and revoke their factors."""
    with desk(file) as services:
        Lifecycle(services.store, services.ledger, services.clock).remove_approver(name)
    options.note(f"{name} may no longer approve")


@approver.command("ls")
@options.config
@options.as_json
def list_(file: Path, as_json: bool) -> None:
    """List the people, removed ones too."""
    with desk(file) as services:
        able = {one.subject for one in services.store.factors.of("") if _approves(one)}
        people = services.store.approvers.all()
    options.show(
        (
            {
                "name": one.name,
                "state": "removed" if one.removed else "able" if one.name in able else "no factor",
                "groups": sorted(one.groups),
                "created": options.moment(one.created),
            }
            for one in people
        ),
        columns=("name", "state", "groups", "created"),
        as_json=as_json,
    )
