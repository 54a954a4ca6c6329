"""`guard drift`: what is normal for an agent, and how calls score against it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from guard.cli import options
from guard.config import Config, load
from guard.drift.activity import Activity
from guard.drift.behaviour import Assessment, Behaviour
from guard.drift.effect import effect
from guard.drift.observation import Observation
from guard.drift.profiles import Profiles, peers_of
from guard.drift.values import Hasher, values
from guard.model import Band


@click.group()
def drift() -> None:
    """What is normal for an agent, and what is not."""


_FILE = click.Path(path_type=Path, dir_okay=False)


@drift.command()
@click.option("--history", type=_FILE, required=True, help="JSON lines of executed, unchallenged calls, oldest first.")
@click.option("--sessions", type=_FILE, required=True, help="JSON lines of calls to score; a session's lines together.")
@click.option("--out", type=_FILE, required=True, help="Where the scores go, one JSON object a call.")
@options.config
def score(history: Path, sessions: Path, out: Path, file: Path) -> None:
    """Score recorded calls, each before its own result is known.

    Learns HISTORY, then scores each session of SESSIONS on its own. A line holds session, server, identity, seq, turn,
    tool, arguments, result_text, result_size and result_error; a session of the history counts as a day.
    """
    replay = Replay(load(file))
    for number, calls in enumerate(_sessions(history)):
        replay.learn(calls, number)
    known = set[str]()
    with out.open("w", encoding="utf-8") as lines:
        for calls in _sessions(sessions):
            for line in replay.score(calls):
                lines.write(json.dumps(line) + "\n")
            if (identity := calls[0]["identity"]) not in known:
                known.add(identity)
                lines.write(json.dumps({"identity": identity, "profile_bytes": replay.size(identity)}) + "\n")


class Replay:
    """Learns and scores recorded sessions, with a session for a day."""

    def __init__(self, config: Config) -> None:
        """Score under the budget of this configuration."""
        self._profiles, self._hasher = Profiles(), Hasher(b"")
        self._behaviour = Behaviour(self._profiles, b"", budget=config.drift.budget)
        self._days: dict[str, int] = {}

    def learn(self, calls: list[dict[str, Any]], number: int) -> None:
        """Learn one executed session; calls that score alarming teach nothing."""
        del number
        identity, server = calls[0]["identity"], calls[0]["server"]
        day = self._days[identity] = self._days.get(identity, -1) + 1
        activity = Activity()
        for call, found, _ in self._judged(calls, activity):
            del call
            self._behaviour.teach(identity, server, found, now=0.0, day=day)

    def score(self, calls: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """One line for each call of a session."""
        for call, found, took in self._judged(calls, Activity()):
            yield {
                "session": call["session"],
                "seq": call["seq"],
                "score": found.score,
                "decision": "allow" if found.band is Band.CALM else "challenge",
                "us": round(took * 1e6, 2),
                "factors": [
                    {"name": one.name, "value": one.value, "evidence": one.evidence} for one in found.factors
                ],
            }

    def size(self, identity: str) -> int:
        """Bytes of an identity's snapshot."""
        return len(self._profiles.dump(identity))

    def _judged(
        self, calls: list[dict[str, Any]], activity: Activity
    ) -> Iterator[tuple[dict[str, Any], Assessment, float]]:
        for call in calls:
            identity, server, tool = call["identity"], call["server"], call["tool"]
            for key in (identity, peers_of(server)):
                if key not in self._profiles:
                    self._profiles.load(key, None)
            start = time.perf_counter()
            seen = Observation(f"{server}/{tool}", values(call["arguments"] or {}, self._hasher), effect(tool))
            found = self._behaviour.judge(identity, server, seen, activity)
            took = time.perf_counter() - start
            yield call, found, took
            activity.called(seen)
            activity.showed(call["result_text"] or "")


def _sessions(file: Path) -> Iterator[list[dict[str, Any]]]:
    with file.open(encoding="utf-8") as lines:
        for _, calls in groupby(map(json.loads, lines), key=lambda call: call["session"]):
            yield list(calls)
