"""Recorded sessions replayed through the drift signals: history is learned, then every call is scored before it runs.

A line of a recording is a JSON object with `session`, `seq`, `server`, `identity`, `tool`, `arguments` and
`result_text`; a session's lines stand together. Recordings have no clock, so a session of the history counts as a day.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from guard.config import Config
from guard.drift.activity import Activity
from guard.drift.behaviour import Assessment, Behaviour, plain
from guard.drift.escalation import EscalationSignal
from guard.drift.profile import DAY
from guard.drift.profiles import Profiles, peers_of
from guard.model import Band, Call, Classification, Finding, Json, Principal, Source
from guard.policy.classify import PolicySet, classify
from guard.policy.directory import PolicyDirectory
from guard.requirement import required

_FIELDS: Final = ("session", "seq", "server", "identity", "tool", "arguments", "result_text")


class Replay:
    """Learns and scores recorded sessions under the policies of a configuration; servers without one have no tags."""

    def __init__(self, config: Config) -> None:
        """Start with no history.

        Raises:
            PolicyError: a policy file has a mistake.
        """
        self._profiles = Profiles()
        self._behaviour = Behaviour(self._profiles, b"", budget=config.drift.budget)
        self._policies = PolicyDirectory(config.policies).load() if config.policies.is_dir() else PolicySet()
        self._irreversible = config.irreversible
        self._escalation = EscalationSignal(self._profiles, config.irreversible)
        self._asked = 0
        self._days: dict[str, int] = {}

    def learn(self, calls: list[dict[str, Any]]) -> None:
        """Learn one session that was executed and unchallenged."""
        identity, server = calls[0]["identity"], calls[0]["server"]
        day = self._next_day(identity)
        for one in self._judged(calls, day, lesson=True):
            self._behaviour.teach(identity, server, one.found, now=0.0, day=day)

    def score(self, calls: list[dict[str, Any]]) -> Iterator[dict[str, Json]]:
        """One line for each call of a session; `requirement` where the server's owner tagged its tools."""
        for one in self._judged(calls, self._next_day(calls[0]["identity"]), lesson=False):
            line: dict[str, Json] = {
                "session": one.line["session"],
                "seq": one.line["seq"],
                "score": round(one.found.score, 6),
                "decision": "allow" if one.found.band is Band.CALM else "challenge",
                "us": round(one.took * 1e6, 2),
                "factors": [
                    {"name": f.name, "value": round(f.value, 6), "evidence": f.evidence} for f in one.found.factors
                ],
            }
            if one.tags is not None:
                findings = self._behaviour.findings(one.found) + one.kinds
                line["requirement"] = required(one.tags, findings, irreversible=self._irreversible)[0].label
            yield line

    def size(self, identity: str) -> int:
        """Bytes of an identity's snapshot."""
        return len(self._profiles.dump(identity))

    def _next_day(self, identity: str) -> int:
        day = self._days[identity] = self._days.get(identity, -1) + 1
        return day

    def _judged(self, calls: list[dict[str, Any]], day: int, *, lesson: bool) -> Iterator[_Judged]:
        """Judge the calls of a session one after the other; each result is seen only after its call was judged."""
        activity = Activity(plain)
        for line in calls:
            identity, server = line["identity"], line["server"]
            self._asked += 1
            call = _call(line, str(self._asked), day)
            for key in (identity, peers_of(server)):
                if key not in self._profiles:
                    self._profiles.load(key, None)
            tags = classify(self._policies, call, now=0.0) if server in self._policies.policies else None
            start = time.thread_time()
            kinds = self._escalation.assess(call, tags) if tags is not None else ()
            seen = self._behaviour.observed(call, tags)
            found = self._behaviour.judge(identity, server, seen, activity, lesson=lesson)
            took = time.thread_time() - start
            yield _Judged(line, tags, found, took, kinds)
            self._escalation.learn(call, frozenset(), challenged=not lesson)
            activity.called(seen, *found.doubt)
            activity.showed((line["result_text"] or "").encode("utf-8", "surrogatepass"))


class _Judged(NamedTuple):
    """A line of a recording, its tags (None: nobody tagged the server), its assessment, and the seconds it took.

    `kinds` are findings about what it does for the first time.
    """

    line: dict[str, Any]
    tags: Classification | None
    found: Assessment
    took: float
    kinds: tuple[Finding, ...]


def _call(line: dict[str, Any], number: str, day: int) -> Call:
    """The call of a line as the proxy would have read it."""
    identity, server, name, arguments = line["identity"], line["server"], line["tool"], line["arguments"] or {}
    text = json.dumps(arguments, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return Call(
        id=number,
        principal=Principal(subject=identity, credential=identity),
        source=Source(transport="http"),
        server=server,
        method="tools/call",
        kind="tool",
        name=name,
        arguments=arguments,
        canonical=text,
        definition="",
        digest="",
        received=day * DAY,
    )


def sessions(file: Path) -> Iterator[list[dict[str, Any]]]:
    """The sessions of a recording.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is no call; it names the file and the line.
    """
    with file.open(encoding="utf-8") as lines:
        calls = (_line(text, f"{file}:{number}") for number, text in enumerate(lines, 1))
        for _, session in groupby(calls, key=lambda call: call["session"]):
            yield list(session)


def _line(text: str, place: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from error
    if not isinstance(line, dict) or any(name not in line for name in _FIELDS):
        raise ValueError(f"{place}: expected an object with {', '.join(_FIELDS)}")
    return line
