"""`guard init`: the first minute. It asks in a terminal, and nowhere else; every question has an option."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from guard.app import desk
from guard.cli import options
from guard.cli.wrap import GuardSide, Report, around, put_in_front
from guard.clients import plan
from guard.clients.known import CLIENTS, Place, places
from guard.clients.settings import TEMPLATE
from guard.errors import GuardError
from guard.identity.lifecycle import Lifecycle, check_name

_SOLO = """
[approval]
solo = true  # the agent's owner approves its calls; every record says so
"""
_WATCH = """\
enforce = false                       # only watched: everything is recorded, nothing is held

[proxy]
"""
_POLICY = """\
# Editors complete and check this file with the JSON Schema that `guard policy schema` prints.
# What the tools of the server `example` can do. Rename this file to the name of your server in guard.toml.
# Whatever no entry names needs a step-up. Check with: guard policy check
server: example
owner: owner@example.com
default: {sensitivity: sensitive}
tools:
  search: {sensitivity: internal, effects: [read]}
  delete: {sensitivity: critical, effects: [destroy], reason: deleted data cannot be brought back}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the guard is to be set up for."""

    wrapped: Sequence[Place] = ()
    agent: str | None = None
    watch: bool = False
    approver: str = ""

    @property
    def solo(self) -> bool:
        """Whether the one who approves is the one the agents work for."""
        return bool(self.approver) and self.approver.casefold() == options.operator().casefold()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--wrap", "clients", multiple=True, type=click.Choice(list(CLIENTS)), help="Agent to wrap; repeatable.")
@click.option("--no-wrap", is_flag=True, help="Wrap no agent, and do not ask.")
@click.option("--agent", default=None, help="Name to enrol the wrapped agent under (default: that of the program).")
@click.option("--approver", default=None, help="Person who approves; their otpauth URI is printed. '' for none.")
@click.option("--watch/--enforce", default=None, help="Only record what would be held, or hold it (default).")
def init(
    *,
    folder: Path,
    clients: tuple[str, ...],
    no_wrap: bool,
    agent: str | None,
    approver: str | None,
    watch: bool | None,
) -> None:
    """Set a guard up in FOLDER (default: here): a commented guard.toml and a first policy. Overwrites nothing.

    In a terminal it asks which of the agents it found to put the guard before, whether only to watch at first, and
    who approves. Each question is answered by its option. Without a terminal nothing is asked, and what no option
    says is not done.
    """
    file = folder / "guard.toml"
    if file.exists():
        message = f"{file} exists already; nothing was written"
        raise GuardError(message)
    asks = sys.stdin.isatty()
    looked = () if no_wrap else clients or (tuple(CLIENTS) if asks else ())
    wish = Wish(wrapped=_found(looked), agent=agent, watch=bool(watch), approver=approver or "")
    if asks:
        wish = _asked(wish, chosen=bool(clients) or no_wrap, watch=watch, approver=approver)
    _check(wish)
    _write(folder, wish)
    code = _wrap(file, wish) if wish.wrapped else 0
    if wish.approver:
        _enrol(file, wish)
    options.note(
        f"next: guard doctor --config {file}"
        if wish.wrapped
        else "next: `guard wrap AGENT`, or name a server in guard.toml, then `guard agent add NAME`, "
        "`guard approver add NAME`, `guard factor enroll totp NAME`, `guard doctor`"
    )
    sys.exit(code)


def _check(wish: Wish) -> None:
    """Refuse names that would be refused halfway, when guard.toml is there and init is not done a second time.

    Raises:
        GuardError: one is not a name, or the agent and the person have the same.
    """
    for name in filter(None, (wish.agent, wish.approver)):
        check_name(name)
    agents = {(wish.agent or one.client).casefold() for one in wish.wrapped}
    if wish.approver.casefold() in agents:
        raise GuardError(f"{wish.approver} is the name of the agent; who approves is somebody else")


def _found(clients: tuple[str, ...]) -> list[Place]:
    """The files of these agents in which a server is started without the guard."""
    found: list[Place] = []
    for place in places(clients, around()):
        if not place.file.exists():
            continue
        try:
            _, document = plan.read(place)
        except GuardError as error:
            options.note(error.public)
            continue
        if any(entry.state == "open" for entry in document.entries):
            found.append(place)
    return found


def _asked(wish: Wish, *, chosen: bool, watch: bool | None, approver: str | None) -> Wish:
    """Ask what no option has said."""
    wrapped = list(wish.wrapped)
    if not chosen:
        wrapped = [one for one in wrapped if _yes(f"Put the guard before the servers in {one.file}?", default=True)]
    if watch is None and wrapped:
        watch = _yes("Only watch at first: record what would be held, and let it through?", default=False)
    if approver is None:
        asked = "Who approves calls that are held (a name; - for nobody yet)?"
        answer = str(click.prompt(asked, default=options.operator(), err=True)).strip()
        approver = "" if answer == "-" else answer
    return Wish(wrapped=wrapped, agent=wish.agent, watch=bool(watch), approver=approver)


def _yes(question: str, *, default: bool) -> bool:
    return click.confirm(question, default=default, err=True)


def _write(folder: Path, wish: Wish) -> None:
    """Write guard.toml, and an example of a policy where no agent brings policies along."""
    config, policy = folder / "guard.toml", folder / "tool_policies" / "example.yaml"
    text = TEMPLATE.replace("\n[proxy]\n", _WATCH, 1) if wish.watch else TEMPLATE
    try:
        policy.parent.mkdir(parents=True, exist_ok=True)
        with config.open("x", encoding="utf-8") as made:
            made.write(text + (_SOLO if wish.solo else ""))
            if wish.wrapped:  # what agents hand their servers as arguments may be for nobody else
                os.fchmod(made.fileno(), 0o600)
        click.echo(config)
        if not wish.wrapped and not any(policy.parent.iterdir()):
            policy.write_text(_POLICY, encoding="utf-8")
            click.echo(policy)
    except OSError as error:
        raise GuardError(f"{folder} cannot be written: {error.strerror or error}") from error


def _wrap(file: Path, wish: Wish) -> int:
    """Wrap every file that can be; the exit code."""
    with GuardSide(file) as side:
        report = Report(as_json=False, dry_run=False)
        for place in wish.wrapped:
            with report.failing():
                report.add(put_in_front(side, place, agent=wish.agent, watch=None, dry_run=False), side)
    return report.end("wrapped")


def _enrol(file: Path, wish: Wish) -> None:
    """Let the person approve with one-time codes; a passkey can follow."""
    with desk(file) as services:
        Lifecycle(services.store, services.ledger, services.clock).add_approver(wish.approver)
        uri = services.codes.enroll(wish.approver, issuer=services.config.deployment).uri
    click.echo(uri)
    options.note(f"put this into {wish.approver}'s authenticator app and nowhere else; it is not shown again")
    if wish.solo:
        options.note(
            "you approve what is done for you (solo): every record says so, and it does not help against an owner who "
            "is deceived; a second person is better: guard approver add NAME, then take solo out of guard.toml"
        )
