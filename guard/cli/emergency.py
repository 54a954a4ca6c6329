"""`guard challenge break-glass|review|stats`: emergencies, their reviews, and how much is asked of people."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import anyio
import click

from guard.app import desk
from guard.audit.export import Reader
from guard.audit.stats import measure
from guard.cli import options
from guard.cli.showing import challenge_of, shown
from guard.factors import break_glass as factor
from guard.model import Json


@click.command("break-glass")
@click.argument("id")
@click.option("--as", "name", required=True, help="Who you are.")
@click.option("--code", required=True, help="The six digits of your break-glass generator.")
@click.option("--reason", required=True, help="Why this cannot wait for its proofs.")
@click.option("--ticket", required=True, help="The incident it belongs to.")
@options.config
@options.as_json
def break_glass(*, id: str, name: str, code: str, reason: str, ticket: str, file: Path, as_json: bool) -> None:
    """Let the call behind challenge ID run without the proofs it needs, once, within 15 minutes.

    Everybody is told, it counts against a quota, and another person has to review it before glass can be
    broken again: guard challenge review ID.
    """
    with desk(file) as services:
        found = challenge_of(services, id)
        evidence: dict[str, Json] = {
            "as": name,
            "code": code,
            "view_digest": shown(services, found, name),
            "note": reason,
            "ticket": ticket,
        }
        proven = anyio.run(partial(services.ceremony().prove, id, factor.KIND, evidence))
    if as_json:
        said = {"id": proven.id, "state": proven.state.value, "expires": options.moment(proven.expires)}
        click.echo(json.dumps(said, indent=1))
    options.note(
        f"glass is broken; the call runs once when the agent asks again, before {options.moment(proven.expires)}"
    )
    options.note(f"another person has to review it: guard challenge review {id}")


@click.command()
@click.argument("id", required=False, default="")
@click.option("--as", "name", default="", help="Who you are.")
@click.option("--code", default="", help="The six digits your authenticator app shows now.")
@click.option("--verdict", default="", help="What you found, in words.")
@options.config
@options.as_json
def review(*, id: str, name: str, code: str, verdict: str, file: Path, as_json: bool) -> None:
    """Review the emergency of challenge ID as another person than the one who broke the glass.

    Without ID, list those that wait for a review.
    """
    with desk(file) as services:
        store, now = services.store, services.clock.now()
        if id:
            if not (name and code and verdict):
                raise click.UsageError("a review needs --as, --code and --verdict")
            factor.review(
                approvers=store.approvers,
                agents=store.agents,
                emergencies=store.emergencies,
                codes=services.codes,
                ledger=services.ledger,
                challenge=id,
                by=name,
                code=code,
                verdict=verdict,
                now=now,
            )
        waiting = [one for one in store.emergencies.since(now) if not one.reviewed]
    if id:
        options.note("reviewed")
        if not as_json:
            return
    options.show(
        (
            {
                "challenge": one.challenge,
                "subject": one.subject,
                "at": options.moment(one.at),
                "ticket": one.ticket,
                "reason": one.reason,
            }
            for one in waiting
        ),
        columns=("challenge", "subject", "at", "ticket", "reason"),
        as_json=as_json,
    )


@click.command()
@click.option("--principal", default="", help="Only those of one agent.")
@options.config
@options.as_json
def stats(principal: str, file: Path, as_json: bool) -> None:
    """Say how often people are asked, how long they take, and how many approvals came too soon to have been read.

    Computed from the ledger as it is; run it on a ledger that verifies.
    """
    with desk(file) as services:
        reader = Reader(services.config.state)
    found = measure(reader.read(), principal=principal).json()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        click.echo(f"{name:<28}{'-' if value is None else value}")
