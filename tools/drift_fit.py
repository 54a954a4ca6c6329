"""Fit `guard/drift/weights.json` on the open recordings, and say how well that does on tasks it was not fitted on.

`drift_fit.py [--write]`. The measures of every call do not depend on the weights, so they are taken once. Half of
the tasks are drawn ten times; weights are moved one by one, up or down, as long as the recall of injected calls at 1 to
6 % of benign ones grows; what is far from the start (the file's `prior`) costs. The other half of the tasks is what is
reported. The geometric mean of the ten fits is written: a weight that only some halves want stays near where it began.
"""

import json
import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from drift_bench import DATA, scorer

from guard.drift.activity import Activity
from guard.drift.behaviour import Behaviour, plain
from guard.drift.observation import Observation
from guard.drift.profiles import Profiles, peers_of
from guard.drift.scene import Scene
from guard.drift.score import LEVELS, Base, Weights

FILE = Path(__file__).resolve().parent.parent / "guard" / "drift" / "weights.json"
SHARE = {"recurring": 1.0, "new": 1.0, "peer": 0.3, "poison:10": 0.5}
BUDGETS = (0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06)
SHOWN = (0.01, 0.02, 0.05)
HALVES = 10
STEPS = (2.0, 1.6, 1.3, 1.2, 1.15)
NEAR = 0.1
"""What the mean square of the logarithms of all changes costs, in recall."""
HEAVIEST = 2.0


class Line(NamedTuple):
    """One call: its task, its level, its capped measures, and whether it is injected."""

    task: tuple[str, str]
    can: int
    values: list[float]
    injected: bool


class Desk:
    """Agents that learn sessions, and measure those of a test."""

    def __init__(self, names: list[str], caps: dict[str, float]) -> None:
        self.profiles, self.days = Profiles(), Counter[str]()
        self.behaviour = Behaviour(self.profiles, b"")
        self.names = names
        self.plain = Weights("plain", {name: (1.0, cap) for name, cap in caps.items()}, (1.0,) * len(LEVELS))

    def learn(self, rows: list[dict[str, Any]]) -> None:
        """Learn a session as executed and unchallenged; it counts as a day."""
        own, server = rows[0]["identity"], rows[0]["suite"]
        for row, seen, activity in self.walk(rows):
            found = self.behaviour.judge(own, server, seen, activity)
            self.behaviour.teach(own, row["suite"], found, now=0.0, day=self.days[own])
        self.days[own] += 1

    def measure(self, rows: list[dict[str, Any]], *, bad: bool) -> Iterator[Line]:
        """The benign calls of a benign session, the injected ones of a bad one."""
        own, peers = self.profiles[rows[0]["identity"]], self.profiles[peers_of(rows[0]["suite"])]
        for row, seen, activity in self.walk(rows):
            if not bad or row["label"] == "injected":
                got = {name: value for name, value, *_ in Base(Scene(seen, own, peers), self.plain).score(activity)[1]}
                values = [got.get(name, 0.0) for name in self.names]
                yield Line((row["suite"], row["user_task"]), seen.can, values, bad)

    def walk(self, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Observation, Activity]]:
        """Each call of a session before it ran."""
        activity = Activity(plain)
        for row in rows:
            seen = self.behaviour.observe(row["suite"], row["tool"], row["arguments"] or {}, None)
            yield row, seen, activity
            activity.called(seen)
            activity.showed((row["result_text"] or "").encode("utf-8", "surrogatepass"))


def recorded(protocol: str, names: list[str], caps: dict[str, float]) -> list[Line]:
    """Every benign or injected call of a protocol, measured before it ran."""
    score, lines = scorer(), list[Line]()
    for history, benign, attacks in score.folds(protocol, *score.load(DATA)):
        desk = Desk(names, caps)
        test = benign + [one for one in attacks if score.injected(one)]
        for rows in history + test:
            for key in (rows[0]["identity"], peers_of(rows[0]["suite"])):
                if key not in desk.profiles:
                    desk.profiles.load(key, None)
        for rows in history:
            desk.learn(rows)
        for rows in test:
            lines += desk.measure(rows, bad=score.injected(rows))
    return lines


def recalls(lines: Sequence[Line], weights: Sequence[float], budgets: Sequence[float]) -> list[float]:
    """Share of the injected calls above the score that each share of the benign ones exceeds.

    `weights` are those of the measures, then those of the levels.
    """
    can, each = weights[-len(LEVELS) :], weights[: -len(LEVELS)]
    scores: tuple[list[float], list[float]] = ([], [])
    for line in lines:
        scores[line.injected].append(can[line.can] * sum(map(float.__mul__, each, line.values)))
    benign = sorted(scores[0])
    limits = [benign[math.ceil((len(benign) - 1) * (1 - budget))] for budget in budgets]
    return [sum(one > limit for one in scores[1]) / max(len(scores[1]), 1) for limit in limits]


def fit(data: dict[str, list[Line]], start: list[float]) -> list[float]:
    """The weights that find most, not far from the start; those of reading and hurting stay as they are."""

    def worth(weights: list[float]) -> float:
        found = sum(SHARE[name] * statistics.mean(recalls(lines, weights, BUDGETS)) for name, lines in data.items())
        return found - NEAR * statistics.mean(math.log(a / b) ** 2 for a, b in zip(weights, start, strict=True))

    levels = len(start) - len(LEVELS)
    movable = [at for at in range(len(start)) if at not in {levels, levels + 2}]
    best, weights = worth(start), start
    for turn, step in enumerate(STEPS):
        for at in random.Random(turn).sample(movable, len(movable)):
            for factor in (step, 1 / step):
                tried = [*weights]
                tried[at] *= factor
                order = tried[levels:]
                if order == sorted(order) and order[-1] <= HEAVIEST and (found := worth(tried)) > best:
                    best, weights = found, tried
    return weights


def halves(tasks: list[tuple[str, str]]) -> list[set[tuple[str, str]]]:
    """Ten draws of half of the tasks."""
    return [set(random.Random(seed).sample(tasks, len(tasks) // 2)) for seed in range(HALVES)]


def part(data: dict[str, list[Line]], wanted: Callable[[Line], bool]) -> dict[str, list[Line]]:
    """The lines that are wanted."""
    return {name: [line for line in lines if wanted(line)] for name, lines in data.items()}


def table(title: str, found: dict[str, list[list[float]]]) -> None:
    """Print the mean recall of each protocol."""
    for name, rows in found.items():
        means = " / ".join(f"{100 * statistics.mean(column):.0f}" for column in zip(*rows, strict=True))
        sys.stdout.write(f"| {title} | {name} | {means} |\n")


def weights_of(data: dict[str, Any], names: list[str]) -> list[float]:
    """The weights of the measures, then those of the levels."""
    return [float(data["weight"][name]) for name in names] + [float(data["can"][level]) for level in LEVELS]


def main() -> int:
    """Fit, report, and write when asked to."""
    shipped: dict[str, Any] = json.loads(FILE.read_text())
    names = list(shipped["weight"])
    start, now = (weights_of(one, names) for one in (shipped["prior"], shipped))
    data = {name: recorded(name, names, shipped["cap"]) for name in SHARE}
    fits, held_out = list[list[float]](), {name: list[list[float]]() for name in SHARE}
    for half in halves(sorted({line.task for line in data["recurring"]})):
        fits.append(fit(part(data, lambda line, half=half: line.task in half), start))
        for name, lines in part(data, lambda line, half=half: line.task not in half).items():
            held_out[name].append(recalls(lines, fits[-1], SHOWN))
    weights = [round(math.exp(statistics.mean(map(math.log, column))), 3) for column in zip(*fits, strict=True)]
    sys.stdout.write("| weights | protocol | recall of injected calls @1 / 2 / 5 % of benign calls |\n|---|---|---|\n")
    table("set by hand", {name: [recalls(lines, start, SHOWN)] for name, lines in data.items()})
    table("as shipped", {name: [recalls(lines, now, SHOWN)] for name, lines in data.items()})
    table("fitted on half of the tasks, on the other half", held_out)
    table("mean of the fits, on all tasks", {name: [recalls(lines, weights, SHOWN)] for name, lines in data.items()})
    if "--write" in sys.argv[1:]:
        shipped["version"] = f"open-{datetime.now(UTC):%Y-%m-%d}"
        shipped["weight"] = dict(zip(names, weights, strict=False))
        shipped["can"] = dict(zip(LEVELS, weights[-len(LEVELS) :], strict=True))
        FILE.write_text(json.dumps(shipped, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
