"""`guard doctor`: what commonly breaks a guard, and what silently weakens it."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guard.cli import options
from guard.cli.checks import Check
from guard.errors import ConfigError, GuardError, PolicyError

if TYPE_CHECKING:
    from guard.app import Desk


@click.command()
@options.config
@options.as_json
def doctor(file: Path, as_json: bool) -> None:
    """Check what commonly breaks or silently weakens a guard; exit 1 when something is broken."""
    checks = list(_examine(file))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=1))
    for check in () if as_json else checks:
        click.echo(f"{check.level:8} {check.what}" + (f" -> {check.remedy}" if check.remedy else ""))
    sys.exit(any(check.level == "problem" for check in checks))


def _examine(file: Path) -> Iterator[Check]:
    """Every check, from the configuration outwards."""
    from guard.app import desk  # noqa: PLC0415 - `--help` needs none of it
    from guard.cli.agent_checks import agent_checks  # noqa: PLC0415 - as above
    from guard.cli.consent_checks import consent_checks  # noqa: PLC0415 - as above
    from guard.cli.machine_checks import machine_checks  # noqa: PLC0415 - as above
    from guard.cli.start_checks import start_checks  # noqa: PLC0415 - as above

    try:
        with desk(file) as services:
            yield Check("ok", f"{file} is well-formed")
            yield from start_checks(services)
            yield from _policies(services)
            yield from _state(services)
            yield from _people(services)
            yield from _layout(services)
            yield from consent_checks(services)
            yield from machine_checks(services)
            yield from agent_checks(services)
    except ConfigError as error:
        yield _mistaken(error)
    except GuardError as error:
        said = f"{error.public} ({error.detail})" if error.detail else error.public
        yield Check(
            "problem", said, "see that all of `state` is whole, and the guard's own to write, and that no disk is full"
        )


def _mistaken(error: ConfigError) -> Check:
    """What must be put right before anything else can be looked at. Most mistakes end with what to do about them."""
    what, _, remedy = error.public.rpartition("; ")
    if "\n" in error.public or not what:
        return Check("problem", error.public, "correct it, then run guard doctor again")
    return Check("problem", what, remedy)


def _policies(services: Desk) -> Iterator[Check]:
    from guard.policy.directory import PolicyDirectory  # noqa: PLC0415 - as above

    try:
        policies = PolicyDirectory(services.config.policies).load()
    except PolicyError as error:
        yield Check("problem", error.public, "guard policy check")
        return
    yield Check("ok", f"policies in {services.config.policies} load")
    for server in services.config.servers:
        if server not in policies.policies:
            yield Check(
                "warning",
                f"no policy describes {server}",
                f"write {services.config.policies / server}.yaml; until then all of it needs a step-up",
            )


def _state(services: Desk) -> Iterator[Check]:
    services.store.changed()  # the first look creates the state, like any other verb
    state = services.config.state
    loose = [path for path in (state, *state.rglob("*")) if _mode(path) & 0o077]
    for path in loose[:5]:
        yield Check("problem", f"{path} is open to other users", f"chmod go-rwx {path}")
    if not loose:
        yield Check("ok", f"{state} is closed to other users")


def _mode(path: Path) -> int:
    """Permissions of a file; 0 for links and for what has gone, such as the socket of a guard that ended."""
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        return 0
    return 0 if stat.S_ISLNK(found) else stat.S_IMODE(found)


def _people(services: Desk) -> Iterator[Check]:
    from guard.factors import break_glass  # noqa: PLC0415 - as above

    approvers = [person for person in services.store.approvers.all() if not person.removed]
    live = [factor for factor in services.store.factors.of("") if not factor.revoked and not factor.locked]
    able = {factor.subject for factor in live if factor.kind != break_glass.KIND}
    if not approvers:
        yield Check("warning", "nobody can consent", "guard approver add NAME; guard approver invite NAME")
    for person in approvers:
        if person.name not in able:
            yield Check(
                "warning", f"approver {person.name} has no working factor", f"guard approver invite {person.name}"
            )
    if services.passkeys.site is None:
        yield Check(
            "warning",
            f"browsers have no passkeys at {services.config.console.public_url}",
            "give [console] public_url a name, with https unless it is localhost; until then approvers use codes",
        )
    agents = [agent for agent in services.store.agents.all() if not agent.revoked]
    if not agents:
        yield Check("warning", "no agent is enrolled", "guard agent add NAME")
    for agent in agents:
        if agent.name not in able:
            yield Check(
                "warning",
                f"agent {agent.name} cannot prove possession",
                f"guard factor enroll signature {agent.name} --module LIB ...",
            )
    if services.config.approval.solo:
        yield Check(
            "warning",
            "solo mode: an agent's owner may approve its calls. It does not protect against an owner who is deceived, "
            "or whose account is taken over, nor against what nobody else ever sees; every record says solo",
            "enrol a second person: guard approver add NAME; then remove solo from [approval]",
        )


def _layout(services: Desk) -> Iterator[Check]:
    stdio = [name for name, server in services.config.servers.items() if server.command]
    if stdio:
        yield Check(
            "warning",
            f"{', '.join(stdio)}: tool server and agent run as the guard's user {os.getuid()} and can reach its keys",
            "run the guard as another user and serve by URL, or set [proxy] refuse_same_uid = true",
        )
    if not services.config.servers:
        yield Check("warning", "no server is configured", "add a [servers.NAME] table")
