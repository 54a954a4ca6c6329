"""`guard challenge`: see what waits for a person, and decide it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import click

from guard.app import Desk, desk
from guard.cli import options
from guard.errors import NotFoundError, ProofWrongCallError
from guard.model import Challenge, Json, State
from guard.requirement import missing
from guard.stepup.binding import document
from guard.stepup.view import render
from guard.wire.canonical import call_digest

_COLUMNS = ("id", "state", "short_digest", "principal", "server", "name", "requirement", "expires")
_WATCH_SECONDS = 0.2


@click.group()
def challenge() -> None:
    """See the calls that wait for proofs, and approve or deny them."""


@challenge.command("ls")
@click.option("--all", "everything", is_flag=True, help="Also those that have ended.")
@click.option("--principal", default="", help="Only those of one agent.")
@options.config
@options.as_json
def list_(everything: bool, principal: str, file: Path, as_json: bool) -> None:
    """List what waits, oldest first."""
    with desk(file) as services:
        states = frozenset[State]() if everything else frozenset({State.PENDING, State.SATISFIED})
        now = services.clock.now()
        found = services.store.challenges.find(states=states, principal=principal)
    rows = [row for one in found if (row := _row(one, now))["state"] != State.EXPIRED or everything]
    options.show(rows, columns=_COLUMNS, as_json=as_json)


@challenge.command()
@click.argument("id")
@options.config
@options.as_json
def show(id: str, file: Path, as_json: bool) -> None:
    """Show the whole call behind challenge ID, why it waits, and the digests that bind it."""
    with desk(file) as services:
        found = _found(services, id)
        audience, now = services.config.deployment, services.clock.now()
    view = render(found)
    if as_json:
        whole = {
            **_row(found, now),
            "arguments": json.loads(found.arguments) if found.arguments else None,
            "view_digest": view.digest,
            "document": document(found, audience=audience) if found.state.open else None,
        }
        click.echo(json.dumps(whole, indent=1))
        return
    click.echo(view.text, nl=False)
    click.echo(f"\ncall {found.digest}\nview {view.digest}")
    _check(found)


@challenge.command()
@options.config
@options.as_json
def watch(file: Path, as_json: bool) -> None:
    """Print a line for every change of a challenge, until interrupted."""
    with desk(file) as services, suppress(KeyboardInterrupt):
        seen = {one.id: one.version for one in services.store.challenges.find() if not one.state.open}
        counter = -1
        while True:
            if (moved := services.store.changed()) != counter:
                counter = moved
                for one in services.store.challenges.find():
                    if seen.get(one.id) != one.version:
                        row = _row(one, services.clock.now())
                        click.echo(json.dumps(row) if as_json else "  ".join(str(row[name]) for name in _COLUMNS))
                    seen[one.id] = one.version
            time.sleep(_WATCH_SECONDS)


@challenge.command()
@click.argument("id")
@click.option("--as", "name", required=True, help="Who you are.")
@click.option("--code", required=True, help="The six digits your authenticator app shows now.")
@click.option("--reason", default="", help="Why, for the record.")
@options.config
@options.as_json
def approve(*, id: str, name: str, code: str, reason: str, file: Path, as_json: bool) -> None:
    """Approve the call behind challenge ID, exactly as `guard challenge show ID` prints it.

    Exits with 0 when your vote counts, also when more is required, and with 1 when it is refused.
    """
    with desk(file) as services:
        found = _found(services, id)
        evidence = {**_evidence(services, found, name, code), "note": reason}
        proven = anyio.run(partial(services.ceremony().prove, id, "approval", evidence))
        _tell(proven, services.clock.now(), as_json=as_json)
    more = missing(proven.requirement, proven.proofs)
    options.note(f"counted; still required: {more}" if more else "approved; the call runs when the agent asks again")


@challenge.command()
@click.argument("id")
@click.option("--as", "name", required=True, help="Who you are.")
@click.option("--code", required=True, help="The six digits your authenticator app shows now.")
@click.option("--reason", default="", help="Why, in words the agent may see.")
@options.config
@options.as_json
def deny(*, id: str, name: str, code: str, reason: str, file: Path, as_json: bool) -> None:
    """Refuse the call behind challenge ID for good."""
    with desk(file) as services:
        found = _found(services, id)
        evidence = {**_evidence(services, found, name, code), "decision": "deny"}
        denied = anyio.run(partial(services.ceremony().deny, id, "approval", evidence, reason))
        _tell(denied, services.clock.now(), as_json=as_json)
    options.note("denied")


@challenge.command()
@click.argument("id")
@click.option("--reason", default="", help="Why, for the record.")
@options.config
@options.as_json
def cancel(*, id: str, reason: str, file: Path, as_json: bool) -> None:
    """Close challenge ID undecided; unlike a refusal, the agent may ask again at once."""
    with desk(file) as services:
        closed = anyio.run(partial(services.ceremony().cancel, id, by=options.operator(), because=reason))
        _tell(closed, services.clock.now(), as_json=as_json)
    options.note("cancelled")


def _evidence(services: Desk, found: Challenge, name: str, code: str) -> Mapping[str, Json]:
    """What a person's decision rests on: the view printed here, whose digest is computed here.

    Raises:
        NotFoundError: there is no such person; no code is spent.
        ProofWrongCallError: the digest of the challenge is not that of the call shown.
    """
    person = services.store.approvers.get(name)
    if person is None or person.removed:
        raise NotFoundError(f"there is no approver {name}; guard approver add {name}")
    view = render(found)
    options.note(view.text)
    if found.state.open:
        _check(found)
    return {"as": name, "code": code, "view_digest": view.digest}


def _check(found: Challenge) -> None:
    """Recompute the digest of the call from what is shown.

    Raises:
        ProofWrongCallError: it is not the digest that would be approved.
    """
    if not found.arguments:
        return
    computed = call_digest(
        principal=found.principal.subject,
        server=found.server,
        kind=found.kind,
        name=found.name,
        definition=found.definition,
        canonical_arguments=found.arguments,
    )
    if computed != found.digest:
        raise ProofWrongCallError("the digest of the challenge is not that of the call it shows; do not approve it")


def _tell(decided: Challenge, now: float, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_row(decided, now), indent=1))


def _found(services: Desk, identifier: str) -> Challenge:
    found = services.store.challenges.get(identifier)
    if found is None:
        raise NotFoundError(f"there is no challenge {identifier}")
    return found


def _row(one: Challenge, now: float) -> dict[str, Json]:
    state = State.EXPIRED if one.state.open and not one.timely(now) else one.state
    proofs: Sequence[Json] = [
        {"class": proof.proof_class.value, "kind": proof.kind, "subject": proof.subject, "at": proof.at}
        for proof in one.proofs
    ]
    return {
        "id": one.id,
        "state": state.value,
        "short_digest": one.short_digest,
        "digest": one.digest,
        "principal": one.principal.subject,
        "server": one.server,
        "kind": one.kind,
        "name": one.name,
        "sensitivity": one.sensitivity.label,
        "requirement": one.requirement.label,
        "missing": missing(one.requirement, one.proofs) if state is State.PENDING else "",
        "reasons": [reason.code.value for reason in one.reasons],
        "proofs": proofs,
        "opened": options.moment(one.opened),
        "expires": options.moment(one.expires),
        "ended_by": one.ended_by,
        "ended_because": one.ended_because,
    }
