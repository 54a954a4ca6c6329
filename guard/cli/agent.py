"""`guard agent`: who may call through the guard."""

from __future__ import annotations

import getpass
import re
from collections.abc import Sequence
from pathlib import Path

import click

from guard.app import desk
from guard.cli import options
from guard.config import Config
from guard.errors import NotFoundError
from guard.identity.lifecycle import Lifecycle
from guard.model import Json
from guard.ports import Agent, Credential
from guard.proxy.habits import FORGET, Habit, recall
from guard.proxy.ladder import manner

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Span(click.ParamType[float]):
    """A length of time such as 90, 60s, 5m, 1h or 2d."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of the text."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smhd]?)", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is not a time such as 60s, 5m, 1h or 2d", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class Claim(click.ParamType[tuple[str, str]]):
    """Something that holds for an agent, such as posture=managed."""

    name = "name=text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Name and text."""
        name, equals, text = str(value).partition("=")
        if not name or not equals or not text:
            self.fail(f"{value!r} is not NAME=TEXT, such as posture=managed", param, ctx)
        return name, text


@click.group()
def agent() -> None:
    """Enrol agents, exchange their keys, retire them."""


@agent.command()
@click.argument("name")
@click.option("--owner", default=None, help="Who answers for it and may not approve its calls (default: you).")
@click.option("--group", "groups", multiple=True, help="Group it belongs to, for policies to ask about; repeatable.")
@click.option("--claim", "claims", type=Claim(), multiple=True, help="NAME=TEXT for policies to ask about; repeatable.")
@options.config
@options.as_json
def add(
    name: str,
    *,
    owner: str | None,
    groups: tuple[str, ...],
    claims: tuple[tuple[str, str], ...],
    file: Path,
    as_json: bool,
) -> None:
    """Enrol agent NAME and print its key, once, alone on one line."""
    with desk(file) as services:
        key = Lifecycle(services.store, services.ledger, services.clock).add_agent(
            name, owner=_login() if owner is None else owner, groups=groups, claims=dict(claims)
        )
    options.only(key, {"name": name, "key": key}, as_json=as_json)
    options.note(f"this is the only time the key of {name} is shown; send it as `Authorization: Bearer KEY`")


@agent.command()
@click.argument("name")
@click.option("--group", "groups", multiple=True, help="Group it joins; repeatable.")
@click.option("--no-group", "left", multiple=True, help="Group it leaves; repeatable.")
@click.option("--claim", "claims", type=Claim(), multiple=True, help="NAME=TEXT to add or replace; repeatable.")
@click.option("--no-claim", "dropped", multiple=True, help="Name of a claim to drop; repeatable.")
@options.config
def describe(
    name: str,
    *,
    groups: tuple[str, ...],
    left: tuple[str, ...],
    claims: tuple[tuple[str, str], ...],
    dropped: tuple[str, ...],
    file: Path,
) -> None:
    """Change what policies may ask about agent NAME: its groups and claims. Counts from its next call on."""
    with desk(file) as services:
        lifecycle = Lifecycle(services.store, services.ledger, services.clock)
        known = lifecycle.live_agent(name)
        kept = {key: value for key, value in known.claims if key not in dropped}
        lifecycle.describe_agent(name, groups=(known.groups | {*groups}) - {*left}, claims=kept | dict(claims))


@agent.command()
@click.argument("name")
@click.option("--overlap", type=Span(), default="60s", show_default=True, help="How long older keys still work.")
@click.option(
    "--forget", is_flag=True, help="Somebody else had them: forget what they taught the server's other agents."
)
@options.config
@options.as_json
def rotate(name: str, overlap: float, forget: bool, file: Path, as_json: bool) -> None:
    """Print a new key for agent NAME; its older keys end after the overlap.

    A new key starts without a history. What its agent's older keys did stays normal among all agents of a tool server,
    which a key without history is held against, unless you --forget it (then also say --overlap 0s).
    """
    with desk(file) as services:
        lifecycle = Lifecycle(services.store, services.ledger, services.clock)
        key = lifecycle.rotate_agent(name, overlap=overlap, forgetting=forget)
    options.only(key, {"name": name, "key": key}, as_json=as_json)
    options.note(f"older keys of {name} end in {overlap:g} s")


@agent.command()
@click.argument("name")
@options.config
def revoke(name: str, file: Path) -> None:
    """Revoke agent NAME with all its keys and factors, at once and for good; what it taught is forgotten."""
    with desk(file) as services:
        Lifecycle(services.store, services.ledger, services.clock).revoke_agent(name)
    options.note(f"{name} is revoked")


@agent.command("ls")
@options.config
@options.as_json
def list_(file: Path, as_json: bool) -> None:
    """List the agents."""
    with desk(file) as services:
        now = services.clock.now()
        rows = [
            _described(one, services.store.agents.credentials(one.name), now) for one in services.store.agents.all()
        ]
    options.show(rows, columns=("name", "state", "owner", "groups", "keys", "created"), as_json=as_json)


@agent.command()
@click.argument("name")
@options.config
@options.as_json
def show(name: str, file: Path, as_json: bool) -> None:
    """Show the keys (by thumbprint) and factors of agent NAME, and how it is paused."""
    with desk(file) as services:
        found = services.store.agents.get(name)
        if found is None:
            raise NotFoundError(f"there is no agent {name}")
        now = services.clock.now()
        credentials = services.store.agents.credentials(name)
        factors = services.store.factors.of(name)
        habit = recall(services.store.baselines, name)
    rows: list[dict[str, Json]] = [
        {"what": "agent", "id": name, "state": _described(found, credentials, now)["state"], "expires": ""}
    ]
    rows += [
        {"what": "key", "id": one.thumbprint, "state": _state(one, now), "expires": options.moment(one.expires)}
        for one in credentials
    ]
    rows += [
        {
            "what": one.kind,
            "id": one.id,
            "state": "revoked" if one.revoked else "locked" if one.locked else "live",
            "expires": "",
        }
        for one in factors
    ]
    rows += [{"what": "group", "id": one, "state": "", "expires": ""} for one in sorted(found.groups)]
    rows += [{"what": "claim", "id": key, "state": value, "expires": ""} for key, value in found.claims]
    rows.append(_pausing(services.config, name, habit, now))
    options.show(rows, columns=("what", "id", "state", "expires"), as_json=as_json)


def _pausing(config: Config, name: str, habit: Habit, now: float) -> dict[str, Json]:
    """How the agent is paused: by its settings, and by what was learnt from watching it."""
    profile = config.profile(name)
    how = manner(profile, default=config.proxy.hold, waited=habit.waited)
    told = [f"held {how.hold:g} s" + (" (learnt)" if profile.learn and how.hold == habit.waited else "")]
    told.append(f"seen to wait {habit.waited:g} s")
    if habit.dropped and now - habit.dropped_at < FORGET:
        told.append(f"{habit.dropped} questions unanswered")
    told += [
        f"{setting} = {str(value).lower()}"
        for setting, value in (("legs", profile.legs), ("elicitation", profile.elicitation))
        if value is not None
    ]
    if profile.success_text:
        told.append("success_text = true")
    return {"what": "pause", "id": name, "state": ", ".join(told), "expires": ""}


def _described(one: Agent, credentials: Sequence[Credential], now: float) -> dict[str, Json]:
    live = [c for c in credentials if _state(c, now) == "live"]
    return {
        "name": one.name,
        "state": "revoked" if one.revoked else "live",
        "owner": one.owner,
        "groups": ", ".join(sorted(one.groups)),
        "keys": len(live),
        "created": options.moment(one.created),
    }


def _state(credential: Credential, now: float) -> str:
    if credential.revoked:
        return "revoked"
    return "expired" if credential.expires and credential.expires <= now else "live"


def _login() -> str:
    """Who is at the keyboard; nobody where the system has no name for them."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
