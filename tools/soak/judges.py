"""What must hold after the load, each judged from outside the guard's own word where there is another witness."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from load import Book
from stage import GUARD, Stage

from guard.audit.export import Reader
from guard.wire.canonical import call_digest, canonical

GROWTH_MB: Final = 8.0
"""Megabytes the resident memory at rest may grow from the second to the last third of a run."""
GROWTH_FILES: Final = 8
"""Open descriptors at rest may differ by so many: connections that are kept, and the store's own."""
MOST_SHOWN: Final = 5
ENOUGH: Final = 3


@dataclass(frozen=True)
class Rest:
    """What a guard at rest holds: after a lap nobody calls, and idle children are gone."""

    at: float
    rss_mb: float
    files: int
    threads: int
    children: int


@dataclass(frozen=True)
class Verdict:
    """One judge's word."""

    name: str
    holds: bool
    said: str
    evidence: tuple[str, ...] = ()


@dataclass
class Trial:
    """All there is to be judged."""

    stage: Stage
    book: Book
    rests: list[Rest] = field(default_factory=list)
    exit_code: int | None = None
    stopped_in: float = 0.0


def verdicts(trial: Trial) -> list[Verdict]:
    """Every judge's word, in order."""
    return [
        _answered(trial.book),
        _right(trial.book),
        _shared(trial),
        _memory(trial.rests),
        _files(trial.rests),
        _children(trial.rests),
        _orphans(trial),
        _once(trial),
        _recorded(trial),
        _verified(trial.stage),
    ]


def _answered(book: Book) -> Verdict:
    said = f"{book.requests} requests, {len(book.unanswered)} without an answer or an end"
    return Verdict("every request ends", not book.unanswered, said, tuple(book.unanswered[:MOST_SHOWN]))


def _right(book: Book) -> Verdict:
    wrong = sum(count for (_, outcome), count in book.outcomes.items() if outcome == "WRONG")
    return Verdict("every end is a right one", not wrong, f"{wrong} wrong", tuple(book.wrong[: 2 * MOST_SHOWN]))


def _shared(trial: Trial) -> Verdict:
    """Equal calls have one challenge; where one took another's place, the ledger says that more was required."""
    staled = {
        entry.text("challenge_id")
        for entry in Reader(trial.stage.state).read(holding=frozenset((b'"challenge.staled"',)))
    }
    wrong = [one for one in trial.book.replaced if one not in staled]
    said = f"{len(trial.book.replaced)} replaced, {len(wrong)} for no reason on record"
    return Verdict("equal calls share a challenge", not wrong, said, tuple(wrong[:MOST_SHOWN]))


def _memory(rests: list[Rest]) -> Verdict:
    """Compare thirds, because caches fill at first, and one sample says little."""
    if len(rests) < ENOUGH:
        return Verdict("memory is flat", holds=False, said="too few rests to judge")
    third = max(1, len(rests) // 3)
    before = median(one.rss_mb for one in rests[third : 2 * third])
    after = median(one.rss_mb for one in rests[-third:])
    said = f"{before:.1f} MB to {after:.1f} MB, at most {GROWTH_MB:g} MB more allowed"
    return Verdict("memory is flat", after - before <= GROWTH_MB, said, (" ".join(f"{r.rss_mb:.1f}" for r in rests),))


def _files(rests: list[Rest]) -> Verdict:
    counts = [one.files for one in rests]
    said = f"{counts[0]} to {counts[-1]} at rest" if counts else "never at rest"
    holds = bool(counts) and counts[-1] - counts[0] <= GROWTH_FILES
    return Verdict("descriptors are flat", holds, said, (" ".join(map(str, counts)),))


def _children(rests: list[Rest]) -> Verdict:
    left = [one.children for one in rests]
    return Verdict("idle children are stopped", not any(left), f"{sum(left)} left at rest")


def _orphans(trial: Trial) -> Verdict:
    orphans = trial.stage.orphans()
    stopped = trial.exit_code == 0 and trial.stopped_in <= ENOUGH
    said = f"{len(orphans)} left; guard serve ended with {trial.exit_code} in {trial.stopped_in:.1f} s"
    return Verdict("no process outlives its guard", stopped and not orphans, said, tuple(orphans[:MOST_SHOWN]))


def _journal(stage: Stage) -> list[tuple[str, dict[str, object]]]:
    lines = [json.loads(line) for line in stage.journal.read_text().splitlines()]
    return [(line["tool"], line["arguments"]) for line in lines if "tool" in line]


def _once(trial: Trial) -> Verdict:
    runs = Counter(str(arguments["tag"]) for _, arguments in _journal(trial.stage))
    twice = [tag for tag, count in runs.items() if count > 1]
    unwanted = [tag for tag in trial.book.never if runs[tag]]
    lost = [tag for tag in trial.book.ran if not runs[tag]]
    said = f"{len(runs)} calls ran; {len(twice)} twice, {len(unwanted)} unapproved, {len(lost)} answered but not run"
    evidence = tuple(
        f"{kind}: {tags[:MOST_SHOWN]}" for kind, tags in (("twice", twice), ("unapproved", unwanted)) if tags
    )
    return Verdict("what ran, ran once and rightly", not (twice or unwanted or lost), said, evidence)


def _recorded(trial: Trial) -> Verdict:
    """Each run needs a permit without a challenge, or an intent, of its own."""
    lets: Counter[str] = Counter()
    definitions = {""}
    for entry in Reader(trial.stage.state).read(holding=frozenset((b'"decision.made"', b'"call.forwarded"'))):
        if entry.event == "call.forwarded" or (entry.text("decision") == "permit" and not entry.text("grant_id")):
            lets[entry.text("args_digest")] += 1
            definitions.add(entry.text("tool_def_hash"))
    missing = []
    runs = _journal(trial.stage)
    for tool, arguments in runs:
        agent, server = trial.book.calls[str(arguments["tag"])]
        digests = {
            call_digest(
                principal=agent, server=server, kind="tool", name=tool, definition=one,
                canonical_arguments=canonical(arguments),  # type: ignore[arg-type]  # read from JSON
            )
            for one in definitions
        }  # fmt: skip
        found = next((one for one in digests if lets[one]), None)
        if found is None:
            missing.append(f"{tool} {arguments} by {agent} at {server}")
        else:
            lets[found] -= 1
    said = f"{len(runs)} runs, {len(missing)} without a record"
    return Verdict("what ran is in the ledger", not missing, said, tuple(missing[:MOST_SHOWN]))


def _verified(stage: Stage) -> Verdict:
    done = subprocess.run(
        [GUARD, "audit", "verify", "--config", str(stage.file)], capture_output=True, text=True, check=False
    )
    lines = tuple((done.stdout + done.stderr).strip().splitlines())
    records = sum(1 for _ in Reader(stage.state).read())
    said = f"guard audit verify ended with {done.returncode}; {records} records"
    return Verdict("the ledger verifies", done.returncode == 0, said, lines[-MOST_SHOWN:])
