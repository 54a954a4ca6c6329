"""Mixed load through real guards for a while, and judges of what must hold: `python tools/soak --minutes 15`.

Agents of both eras call tool servers over HTTP and as child processes through `guard serve`, and one through
`guard run`; people approve and deny; callers leave, cancel, dawdle and send what is no request; the tool
servers crash. The load comes in laps, with a rest after each in which the guard's memory and descriptors are
read. Progress goes to stderr, the tables (or one JSON object) to stdout. Exit code 1 when a judge objects.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import psutil
from judges import Rest, Trial, Verdict, verdicts
from load import STORIES, Actor, Book, act, dawdled, listed, piped
from speech import UnansweredError
from stage import AGENTS, IDLE, PIPED, Stage

LAP: Final = 30.0
LAPS_AT_LEAST: Final = 3
SETTLE: Final = IDLE + 1.5
CRASHES: Final = 4
"""How often the tool server over HTTP is killed in a lap."""
BAR: Final = 30
DAWDLE: Final = 23.0
"""Seconds the guard may take to lose its patience with a request that does not arrive."""
THINK: Final = (0.0, 0.12)


class Soak:
    """One run: workers, the one who kills the tool server, and the rests."""

    def __init__(self, stage: Stage, *, seconds: float, workers: int, seed: int) -> None:
        """Run on this stage for about so many seconds."""
        self.stage, self.book, self.seconds, self.workers = stage, Book(), seconds, workers
        self.trial = Trial(stage, self.book)
        self._random = random.Random(seed)
        self._until = 0.0

    async def run(self) -> None:
        """Load and rest in turns, then end everything."""
        await self.stage.open()
        try:
            laps = max(LAPS_AT_LEAST, round(self.seconds / LAP))
            length = max(1.0, self.seconds / laps - SETTLE)
            actors = [self._actor(AGENTS[n % len(AGENTS)]) for n in range(self.workers)]
            for actor in actors:  # so that every tool is known before a call of it is approved
                for server in ("web", "desk"):
                    await act(actor, partial(listed, server=server))
            began = time.monotonic()
            for lap in range(laps):
                await self._lap(actors, length, lap)
                self._progress(lap + 1, laps, began)
            for actor in actors:
                actor.speaker.close()
        finally:
            self.trial.exit_code, self.trial.stopped_in = await self.stage.close()

    async def _lap(self, actors: list[Actor], length: float, lap: int) -> None:
        self._until = time.monotonic() + length
        async with asyncio.TaskGroup() as group:
            for actor in actors:
                group.create_task(self._work(actor))
            for name in PIPED:
                group.create_task(self._pipe(name, kill=name == PIPED[lap % len(PIPED)]))
            group.create_task(self._crash())
        await asyncio.sleep(SETTLE)
        process = self.stage.guard()
        with process.oneshot():
            rss = process.memory_info().rss / 2**20
        children = [one for one in process.children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
        self.trial.rests.append(
            Rest(time.time(), round(rss, 1), process.num_fds(), process.num_threads(), len(children))
        )

    async def _work(self, actor: Actor) -> None:
        stories, weights = zip(*STORIES, strict=True)
        while time.monotonic() < self._until:
            story = actor.random.choices(stories, weights)[0]
            if story is dawdled and self._until - time.monotonic() < DAWDLE:
                continue
            await act(actor, story)
            await asyncio.sleep(actor.random.uniform(*THINK))

    async def _pipe(self, name: str, *, kill: bool) -> None:
        """An agent on stdio for one lap; its guard is killed or its input ends."""
        actor, pipe = self._actor(name), await self.stage.run(name)
        actor.story = "piped"
        try:
            while time.monotonic() < self._until:
                await piped(actor, pipe)
                await asyncio.sleep(actor.random.uniform(*THINK))
        except UnansweredError as error:
            self.book.unanswered.append(f"piped: {error}")
        code = await pipe.end(kill=kill)
        if not kill and code != 0:
            self.book.fault("piped", f"guard run ended with {code}")

    async def _crash(self) -> None:
        """Kill the tool server over HTTP now and then, and leave it running."""
        every = (self._until - time.monotonic()) / CRASHES
        while (pause := self._random.uniform(0.5, 1.5) * every) < self._until - time.monotonic():
            await asyncio.sleep(pause)
            await self.stage.crash_upstream()

    def _actor(self, name: str) -> Actor:
        return Actor(name, self.stage, self.book, self.stage.speaker(name), random.Random(self._random.random()))

    def _progress(self, lap: int, laps: int, began: float) -> None:
        """One line on stderr, over the one before on a terminal."""
        done = lap * BAR // laps
        rest = self.trial.rests[-1]
        bad = len(self.book.unanswered) + sum(n for (_, o), n in self.book.outcomes.items() if o == "WRONG")
        line = (
            f"[{'#' * done}{'.' * (BAR - done)}] {time.monotonic() - began:5.0f} s, {self.book.requests} requests, "
            f"{rest.rss_mb:.1f} MB, {rest.files} descriptors, {bad} objections"
        )
        sys.stderr.write(f"\r{line}" if sys.stderr.isatty() else f"{line}\n")
        sys.stderr.flush()


def show(trial: Trial, judged: list[Verdict]) -> None:
    """Print the tables."""
    print("| story | outcomes |\n|---|---|")
    stories: dict[str, Counter[str]] = {}
    for (story, outcome), count in trial.book.outcomes.items():
        stories.setdefault(story, Counter())[outcome] += count
    for story, outcomes in sorted(stories.items()):
        print(f"| {story} | {', '.join(f'{outcome} {count}' for outcome, count in outcomes.most_common())} |")
    print(f"\nThe tool server over HTTP was killed {trial.stage.upstream_kills} times.\n")
    print("| judge | found | holds |\n|---|---|---|")
    for one in judged:
        print(f"| {one.name} | {one.said} | {'yes' if one.holds else '**no**'} |")
    for one in judged:
        if not one.holds:
            print(f"\n{one.name}: no. {one.said}", *one.evidence, sep="\n  ")


def report(trial: Trial, judged: list[Verdict]) -> str:
    """Everything as one JSON object."""
    outcomes: dict[str, dict[str, int]] = {}
    for (story, outcome), count in trial.book.outcomes.items():
        outcomes.setdefault(story, {})[outcome] = count
    return json.dumps(
        {
            "holds": all(one.holds for one in judged),
            "requests": trial.book.requests,
            "upstream_kills": trial.stage.upstream_kills,
            "outcomes": outcomes,
            "rests": [asdict(one) for one in trial.rests],
            "judges": [asdict(one) for one in judged],
        }
    )


def main() -> int:
    """Run, judge, print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=15.0)
    arguments.add_argument("--workers", type=int, default=10, help="agents that call at the same time")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    arguments.add_argument("--keep", action="store_true", help="keep the folder, and say where it is")
    given = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="guard-soak-"))
    stage = Stage(folder)
    soak = Soak(stage, seconds=given.minutes * 60, workers=given.workers, seed=given.seed)
    try:
        asyncio.run(soak.run())
        judged = verdicts(soak.trial)
    finally:
        stage.kill_everything()
        if given.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        print(report(soak.trial, judged))
    else:
        show(soak.trial, judged)
    return 0 if all(one.holds for one in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
