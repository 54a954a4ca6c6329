"""`guard challenge`: see what waits for a person, and decide it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import click

from guard.app import Desk, desk
from guard.cli import emergency, options
from guard.cli.showing import challenge_of, check, shown
from guard.model import Challenge, Json, State
from guard.requirement import missing
from guard.stepup.binding import document, list_digest
from guard.stepup.view import render

_COLUMNS = ("id", "state", "short_digest", "principal", "server", "name", "requirement", "expires")
_WATCH_SECONDS = 0.2


@click.group()
def challenge() -> None:
    """See the calls that wait for proofs, and approve or deny them."""


for _verb in (emergency.break_glass, emergency.review, emergency.stats):
    challenge.add_command(_verb)


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
        found = challenge_of(services, id)
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
    check(found)


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
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--as", "name", required=True, help="Who you are.")
@click.option("--code", required=True, help="The six digits your authenticator app shows now.")
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--also", default="", metavar="COUNT", help="Allow so many further calls of the tool, too.")
@click.option("--also-for", default="", metavar="MINUTES", help="For how many minutes; without it, 10.")
@click.option("--also-when", default="", help="Condition in CEL over args; without it, the same arguments only.")
@options.config
@options.as_json
def approve(
    *, ids: tuple[str, ...], name: str, code: str, reason: str, also: str, also_for: str, also_when: str, file: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Approve the call behind challenge ID, exactly as `guard challenge show ID` prints it.

    With several IDs every call is printed, and the one code is spent on exactly this list: if you may not decide about
    one of them, none is approved. Where the policy has `grants`, --also allows further calls of the same agent and
    tool; `guard intent ls` shows them and `guard intent revoke` takes back what is left. Exits with 0 when your vote
    counts, also when more is required, and with 1 when it is refused.
    """
    if (also_for or also_when) and not also:
        raise click.UsageError("say with --also how many further calls you allow")
    if len(ids) > 1 and also:
        raise click.UsageError("--also goes with one call, not with a list")
    wish = {"also_uses": also, "also_minutes": also_for or "10", "also_when": also_when} if also else {}
    if len(ids) > 1:
        _approve_list(ids, name, code, reason, file, as_json=as_json)
        return
    with desk(file) as services:
        found = challenge_of(services, ids[0])
        evidence = {**_evidence(services, found, name, code), "note": reason, **wish}
        proven = anyio.run(partial(services.ceremony().prove, ids[0], "approval", evidence))
        _tell(proven, services.clock.now(), as_json=as_json)
    more = missing(proven.requirement, proven.proofs)
    options.note(f"counted; still required: {more}" if more else "approved; the call runs when the agent asks again")


def _approve_list(ids: Sequence[str], name: str, code: str, reason: str, file: Path, *, as_json: bool) -> None:
    """Show every call, bind the list, and spend one code on it."""
    with desk(file) as services:
        found = [challenge_of(services, one) for one in ids]
        views = []
        for number, one in enumerate(found, 1):
            options.note(f"--- {number} of {len(found)}")
            views.append(shown(services, one, name))
        bound = list_digest([(one.id, one.digest, view) for one, view in zip(found, views, strict=True)])
        evidence: Mapping[str, Json] = {
            "as": name,
            "code": code,
            "view_digests": views,
            "list_digest": bound,
            "note": reason,
        }
        ended = anyio.run(partial(services.ceremony().prove_list, ids, "approval", evidence))
        now = services.clock.now()
    rows = [
        _row(one, now) if isinstance(one, Challenge) else {"id": id, "error": one.public}
        for id, one in zip(ids, ended, strict=True)  # noqa: A001 - the user's word
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    failed = [f"{row['id']}: {row['error']}" for row in rows if "error" in row]
    for line in failed:
        options.note(line)
    options.note(f"{len(rows) - len(failed)} of {len(rows)} counted; list {bound[:12]}")
    if failed:
        sys.exit(1)


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
        found = challenge_of(services, id)
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
    return {"as": name, "code": code, "view_digest": shown(services, found, name)}


def _tell(decided: Challenge, now: float, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_row(decided, now), indent=1))


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
