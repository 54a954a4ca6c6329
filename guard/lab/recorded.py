"""Recorded sessions replayed through the drift signals: history is learned, then every call is scored before it runs.

A line of a recording is a JSON object with `session`, `server`, `identity`, `tool`, `arguments` and `result_text`; a
session's lines stand together. Recordings have no clock, so a session of the history counts as a day.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from guard.drift.activity import Activity
from guard.drift.behaviour import Assessment, Behaviour
from guard.drift.effect import effect
from guard.drift.observation import Observation
from guard.drift.profiles import Profiles, peers_of
from guard.drift.values import Hasher, values
from guard.model import Band, Json


class Replay:
    """Learns and scores recorded sessions."""

    def __init__(self, budget: float) -> None:
        """Start with no history; `budget` is the share of normal calls that may be challenged."""
        self._profiles, self._hasher = Profiles(), Hasher(b"")
        self._behaviour = Behaviour(self._profiles, b"", budget=budget)
        self._days: dict[str, int] = {}

    def learn(self, calls: list[dict[str, Any]]) -> None:
        """Learn one session that was executed and unchallenged."""
        identity, server = calls[0]["identity"], calls[0]["server"]
        day = self._days[identity] = self._days.get(identity, -1) + 1
        activity = Activity()
        for _, found, _ in self._judged(calls, activity):
            self._behaviour.teach(identity, server, found, now=0.0, day=day)

    def score(self, calls: list[dict[str, Any]]) -> Iterator[dict[str, Json]]:
        """One line for each call of a session."""
        for call, found, took in self._judged(calls, Activity()):
            yield {
                "session": call["session"],
                "seq": call["seq"],
                "score": found.score,
                "decision": "allow" if found.band is Band.CALM else "challenge",
                "us": round(took * 1e6, 2),
                "factors": [{"name": one.name, "value": one.value, "evidence": one.evidence} for one in found.factors],
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


def sessions(file: Path) -> Iterator[list[dict[str, Any]]]:
    """The sessions of a recording.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is no JSON.
    """
    with file.open(encoding="utf-8") as lines:
        for _, calls in groupby(map(json.loads, lines), key=lambda call: call["session"]):
            yield list(calls)
