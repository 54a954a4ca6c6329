"""`guard approver`: the people who may consent."""

from __future__ import annotations

from pathlib import Path

import click

from guard.app import desk
from guard.cli import options
from guard.errors import GuardError
from guard.factors import break_glass, webauthn
from guard.factors.passkeys import INVITATION
from guard.identity.lifecycle import Lifecycle
from guard.ports import Factor
from guard.reasons import Code


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
        options.note(f"next: guard approver invite {name} (a passkey), or guard factor enroll totp {name} (codes)")


@approver.command()
@click.argument("name")
@click.option("--lost", is_flag=True, help="Also revoke every factor NAME has, and end their logins, at once.")
@options.config
@options.as_json
def invite(*, name: str, lost: bool, file: Path, as_json: bool) -> None:
    """Print a link with which the person NAME enrols a passkey, once and within 15 minutes.

    Whoever opens the link becomes NAME: hand it over in person or where you know who reads. Somebody whose
    passkey is lost is invited by another admin, not by themselves.
    """
    by = options.operator()
    with desk(file) as services:
        had = any(one.kind == webauthn.KIND for one in services.store.factors.of(name))
        if had and by.casefold() == name.casefold() and not services.config.approval.solo:
            message = f"{name} had a passkey before; another admin invites them again"
            raise GuardError(message, reason=Code.PROOF_WRONG_APPROVER)
        secret = services.passkeys.invite(name, by=by, lost=lost)
        url = f"{services.config.console.public_url}/enrol#{secret}"
    options.only(url, {"subject": name, "url": url, "seconds": int(INVITATION)}, as_json=as_json)
    options.note(f"{name} opens this within 15 minutes, while guard serve runs; it works once and is not shown again")


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
