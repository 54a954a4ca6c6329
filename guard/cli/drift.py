"""`guard drift`: what is normal for an agent, and how calls score against it."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from guard.app import Desk, desk
from guard.audit.export import Reader
from guard.cli import options
from guard.config import load
from guard.drift.calibrate import Thresholds, thresholds
from guard.drift.profile import Profile
from guard.drift.profiles import peers_of
from guard.drift.snapshot import dump
from guard.drift.snapshot import load as read
from guard.errors import ConfigError, NotFoundError
from guard.lab.rebuilt import EVENTS, rebuilt
from guard.lab.traces import Replay, sessions
from guard.model import Json

_FILE = click.Path(path_type=Path, dir_okay=False)
_TOP = 10


@click.group()
def drift() -> None:
    """What is normal for an agent, and what is not."""


@drift.command()
@click.argument("agent")
@options.as_json
@options.config
def show(agent: str, as_json: bool, file: Path) -> None:
    """Print what is normal for AGENT, its threshold, and what was unusual lately."""
    with desk(file) as services:
        found = [
            _summary(thumbprint, profile, services.config.drift.budget, _limits(services, profile))
            for thumbprint, profile in _profiles(services, agent)
        ]
        lately = list(_lately(services, agent))
    if as_json:
        click.echo(json.dumps({"agent": agent, "keys": found, "lately": lately}))
        return
    for one in found:
        for heading, value in one.items():
            click.echo(f"{heading:<11}{', '.join(map(str, value)) if isinstance(value, list) else value}")
    for line in lately:
        click.echo(f"{'unusual':<11}{line}")


@drift.command()
@options.as_json
@options.config
def calibrate(as_json: bool, file: Path) -> None:
    """Print for every agent which threshold holds, and how many of its normal calls are above it.

    The stated share is [drift] budget. An agent with too few calls has no threshold of its own and is held
    against all agents of the tool server.
    """
    rows: list[dict[str, Json]] = []
    with desk(file) as services:
        budget = services.config.drift.budget
        for agent in services.store.agents.all():
            for _, profile in _profiles(services, agent.name):
                limits = _limits(services, profile)
                rows.append(
                    {
                        "agent": agent.name,
                        "stated": f"{budget:.1%}",
                        "achieved": f"{limits.achieved:.1%}" if limits else "-",
                        "unusual": f"{limits.unusual:.2f}" if limits else "-",
                        "alarming": f"{limits.alarming:.2f}" if limits else "-",
                        "calls": len(profile.scores),
                    }
                )
    options.show(rows, columns=["agent", "stated", "achieved", "unusual", "alarming", "calls"], as_json=as_json)


@drift.command()
@click.option("--history", type=_FILE, required=True, help="JSON lines of executed, unchallenged calls, oldest first.")
@click.option("--sessions", "test", type=_FILE, required=True, help="JSON lines of calls to score, by session.")
@click.option("--out", type=_FILE, required=True, help="Where the scores go, one JSON object a call.")
@options.config
def score(history: Path, test: Path, out: Path, file: Path) -> None:
    """Score recorded calls, each before its own result is known.

    Learns the history, then scores each session on its own. A line holds session, server, identity, seq, tool,
    arguments and result_text; a session of the history counts as a day.
    """
    replay, known = Replay(load(file)), set[str]()
    try:
        for calls in sessions(history):
            replay.learn(calls)
        gc.freeze()  # what was learnt stays, and the collector would walk through it while calls are timed
        with out.open("w", encoding="utf-8") as lines:
            for calls in sessions(test):
                for line in replay.score(calls):
                    lines.write(json.dumps(line) + "\n")
                if (identity := calls[0]["identity"]) not in known:
                    known.add(identity)
                    lines.write(json.dumps({"identity": identity, "profile_bytes": replay.size(identity)}) + "\n")
    except (OSError, ValueError) as error:
        message = f"not a recording of calls: {error}"
        raise ConfigError(message) from error


@drift.command()
@click.argument("agent")
@options.as_json
@options.config
def rebuild(agent: str, as_json: bool, file: Path) -> None:
    """Learn the profile of AGENT's keys anew from the ledger, where the store has none.

    Brings back networks, hours, client software, volume, rates, and tools in their order, from calls that ran
    unchallenged. The ledger has no argument in clear, so their values are learnt anew by later calls.
    """
    with desk(file) as services:
        credentials = services.store.agents.credentials(agent)
        if not credentials:
            message = f"there is no agent {agent} with a key"
            raise NotFoundError(message)
        lost = [one.thumbprint for one in credentials if services.store.baselines.get(one.thumbprint) is None]
        found = rebuilt(Reader(services.config.state).read(holding=EVENTS), lost) if lost else {}
        for key, (profile, _) in found.items():
            services.store.baselines.put(key, dump(profile))
    rows: list[dict[str, Json]] = [{"key": key, "calls": number} for key, (_, number) in found.items()]
    options.show(rows, columns=["key", "calls"], as_json=as_json)
    if not rows:
        options.note(f"every key of {agent} has a profile")


def _profiles(services: Desk, agent: str) -> Iterator[tuple[str, Profile]]:
    """The profile of each key of an agent that was used.

    Raises:
        NotFoundError: there is no such agent.
    """
    credentials = services.store.agents.credentials(agent)
    if not credentials:
        message = f"there is no agent {agent} with a key"
        raise NotFoundError(message)
    for one in credentials:
        if (snapshot := services.store.baselines.get(one.thumbprint)) is not None:
            yield one.thumbprint, read(snapshot)


def _limits(services: Desk, profile: Profile) -> Thresholds | None:
    """The thresholds of a profile beside those of the tool server it uses most."""
    budget, uses = services.config.drift.budget, Counter[str]()
    for tool, seen in profile.tools.items():
        uses[tool.partition("/")[0]] += round(seen.count)
    others = [services.store.baselines.get(peers_of(server)) for server, _ in uses.most_common(1)]
    peers = [thresholds(read(one).scores, budget) for one in others if one is not None]
    return thresholds(profile.scores, budget, *peers)


def _summary(thumbprint: str, profile: Profile, budget: float, limits: Thresholds | None) -> dict[str, Json]:
    tools = sorted(profile.tools.items(), key=lambda item: -item[1].count)[:_TOP]
    waiting = sum(not seen.trusted for seen in profile.everywhere.values())
    return {
        "key": thumbprint,
        "calls": round(profile.calls, 1),
        "tools": [f"{name} {seen.count:.0f}" for name, seen in tools],
        "networks": list(profile.networks),
        "clients": list(profile.clients),
        "today": f"{profile.today.calls:.0f} calls, {profile.today.bytes:.0f} bytes of results",
        "values": f"{len(profile.everywhere) - waiting} known, {waiting} in quarantine",
        "budget": f"{budget:.1%} stated, {limits.achieved:.1%} achieved" if limits else f"{budget:.1%} stated",
        "threshold": f"{limits.unusual:.2f} unusual, {limits.alarming:.2f} alarming" if limits else "none yet",
        "year": profile.reference.differs(profile.counts, limits) or "nothing of note",
        "scores": [round(one, 2) for one in profile.scores[-_TOP:]],
    }


def _lately(services: Desk, agent: str) -> Iterator[str]:
    """The last calls of an agent that were unusual, with their factors."""
    found = []
    for entry in Reader(services.config.state).read():
        findings = entry.fields.get("findings")
        if entry.event == "decision.made" and entry.text("principal") == agent and isinstance(findings, list):
            names = [f"{one['code']} {one.get('nats', 0):g}" for one in findings if isinstance(one, dict)]
            found.append(f"{entry.time[:19]} {entry.text('tool')}: {', '.join(names)}")
    yield from found[-_TOP:]
