"""What was learnt in steps too small to notice, and what is forgotten with a key."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from guard.clock import SystemClock
from guard.drift.activity import Activity
from guard.drift.behaviour import Behaviour, plain
from guard.drift.profile import DAY, Lesson, Profile
from guard.drift.profiles import Profiles, peers_of
from guard.drift.reference import AGAIN, BINS, Reference
from guard.drift.snapshot import dump, load
from guard.identity.lifecycle import Lifecycle
from guard.model import Call, Classification, Json, Sensitivity
from guard.proxy.memory import Memory
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from tests import nouns
from tests.world_store import WorldLedger

pytestmark = pytest.mark.anyio
KEY = nouns.PRINCIPAL.credential
TAGS = Classification(sensitivity=Sensitivity.SENSITIVE)
WORK = {"desk/search": 50.0, "desk/read": 30.0, "desk/send": 10.0}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = SqlStore.open(tmp_path, Keyring.open(tmp_path))
    yield made
    made.close()


class Year:
    """Days of work of one agent, learnt and stored as a guard does."""

    def __init__(self, store: SqlStore) -> None:
        self.store, self.day, self.told = store, 0, list[Mapping[str, Json]]()
        self.random = random.Random(7)
        self.restart()

    def restart(self) -> None:
        def report(event: str, fields: Mapping[str, Json]) -> None:
            assert event == "profile.diverged"
            self.told.append(fields)

        self.profiles = Profiles()
        self.memory = Memory(self.profiles, self.store.baselines, report=report)

    def works(self, days: int, *, export: float = 0.0, score: float = 0.5) -> None:
        """`export` is the share of calls that this tool grows to, `score` what the average call scores at the end."""
        anyio.run(self.memory.recall, nouns.PRINCIPAL, "desk")
        for past in range(days):
            self.day += 1
            grown = (past + 1) / days
            mix = WORK | {"desk/export": export * grown * 90.0 / (1.001 - export * grown)}
            for tool in self.random.choices([*mix], [*mix.values()], k=20):
                nats = self.random.expovariate(1.0) * (0.5 + (score - 0.5) * grown)
                lesson = Lesson(tool=tool, before="^", values=(), now=self.day * DAY, day=self.day, score=nats)
                learnt, known = self.profiles.both(KEY)
                learnt.learn(lesson, known)
                known.learn(lesson, known)
            if past % 5 == 0:
                self.memory.save()
        self.memory.save()


def test_a_year_of_the_same_work_differs_from_nothing(store: SqlStore) -> None:
    year = Year(store)
    year.works(250)
    assert year.told == []


def test_a_tool_that_grew_a_little_every_day_is_told_and_not_every_day(store: SqlStore) -> None:
    year = Year(store)
    year.works(120)
    year.works(90, export=0.5)
    year.restart()
    year.works(20, export=0.5)
    assert year.told[0]["agent"] == "deployer"
    assert year.told[0]["credential"] == KEY
    assert "desk/export" in str(year.told[0]["evidence"])
    assert 1 <= len(year.told) <= 1 + 110 // AGAIN


def test_scores_that_rose_a_little_every_day_are_told(store: SqlStore) -> None:
    year = Year(store)
    year.works(120)
    year.works(90, score=2.0)
    assert "threshold" in str(year.told[0]["evidence"])


def test_a_young_profile_has_no_year_to_differ_from(store: SqlStore) -> None:
    year = Year(store)
    year.works(10)
    year.works(40, export=0.9)
    assert year.told == []


class Team:
    """Two agents of one server, one of whose keys was in a thief's hands."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.lifecycle = Lifecycle(store, WorldLedger(), SystemClock())
        self.profiles = Profiles()
        self.behaviour = Behaviour(self.profiles, b"k" * 32)
        self.memory = Memory(self.profiles, store.baselines)
        for name in ("robot", "stolen"):
            self.lifecycle.add_agent(name, owner="oli")

    def key(self, name: str) -> str:
        return self.store.agents.credentials(name)[0].thumbprint

    async def call(self, name: str, to: str) -> Call:
        principal = replace(nouns.PRINCIPAL, subject=name, credential=self.key(name))
        await self.memory.recall(principal, "payments")
        return nouns.call("refund", {"to": to}, principal=principal, random=f"{len(self.profiles.dirty):022d}")

    async def learns(self, name: str, to: str) -> None:
        call = await self.call(name, to)
        self.behaviour.assess(call, TAGS)
        self.behaviour.learn(call, frozenset(), b"")

    async def score(self, name: str, to: str) -> float:
        """What a call scores in a guard that was started just now."""
        self.memory.save()
        self.profiles = Profiles()
        self.behaviour = Behaviour(self.profiles, b"k" * 32)
        self.memory = Memory(self.profiles, self.store.baselines)
        call = await self.call(name, to)
        seen = self.behaviour.observe(call.server, call.name, call.arguments, TAGS)
        activity = Activity(plain)
        return self.behaviour.judge(call.principal.credential, call.server, seen, activity).score

    async def works(self) -> Team:
        for _ in range(30):
            await self.learns("robot", "acme")
            await self.learns("stolen", "thief")
        self.memory.save()
        return self


async def test_a_new_key_starts_without_profile_threshold_or_pace(store: SqlStore) -> None:
    team = await Team(store).works()
    old = team.key("stolen")
    team.lifecycle.rotate_agent("stolen")
    assert team.key("stolen") != old
    await team.call("stolen", "thief")
    fresh = team.profiles[team.key("stolen")]
    assert (fresh.calls, fresh.scores, fresh.tools, fresh.slots, fresh.networks) == (0.0, [], {}, {}, ())
    assert team.behaviour._threshold(fresh, Profile()) is None


async def test_a_key_that_was_rotated_by_routine_keeps_what_its_peers_know(store: SqlStore) -> None:
    team = await Team(store).works()
    team.lifecycle.rotate_agent("stolen")
    assert await team.score("stolen", "thief") < await team.score("stolen", "nobody")


@pytest.mark.parametrize("forget", ["rotate", "revoke"])
async def test_what_a_stolen_key_taught_is_new_again_for_everybody_and_the_others_teach_on(
    store: SqlStore, forget: str
) -> None:
    team = await Team(store).works()
    if forget == "revoke":
        team.lifecycle.revoke_agent("stolen")
        team.lifecycle.add_agent("stolen-2", owner="oli")
    else:
        team.lifecycle.rotate_agent("stolen", forgetting=True)
    newcomer = "stolen-2" if forget == "revoke" else "stolen"
    assert await team.score(newcomer, "thief") == pytest.approx(await team.score(newcomer, "nobody"))
    assert await team.score(newcomer, "acme") < await team.score(newcomer, "nobody")
    peers = load(store.baselines.get(peers_of("payments")) or "")
    assert peers.calls == pytest.approx(30)
    assert peers.scores


async def test_what_was_forgotten_does_not_come_back_when_another_key_is(store: SqlStore) -> None:
    team = await Team(store).works()
    team.lifecycle.rotate_agent("stolen", forgetting=True)
    team.lifecycle.rotate_agent("robot", forgetting=True)
    assert load(store.baselines.get(peers_of("payments")) or "").calls == 0.0


async def test_a_guard_that_runs_meanwhile_takes_over_what_was_forgotten(store: SqlStore) -> None:
    team = await Team(store).works()
    team.lifecycle.rotate_agent("stolen", forgetting=True)
    await team.learns("robot", "acme")
    team.memory.save()
    assert team.profiles[peers_of("payments")].calls == pytest.approx(31)


def test_what_two_processes_learnt_adds_up_and_survives_a_snapshot() -> None:
    one, other = Reference(), Reference()
    for day in range(1, 100):
        one.fold({"a": 2.0}, [0.1, 9.9], day * DAY)
        other.fold({"b": 1.0}, [float("nan")], day * DAY)
    one.add(other)
    assert one.tools["a"] == pytest.approx(2 * one.tools["b"])
    assert one.scores[BINS - 1] == pytest.approx(2 * one.scores[0])
    profiles = Profiles()
    profiles.load(KEY, None)
    profiles[KEY].reference = one
    again = load(dump(profiles[KEY])).reference
    assert again.tools == pytest.approx(one.tools, abs=0.01)
    assert (again.begun, again.at) == (one.begun, one.at)
    assert again.scores == pytest.approx(one.scores, abs=0.01)


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -1e12])
def test_a_clock_that_jumps_wipes_out_no_year(now: float) -> None:
    reference = Reference()
    for day in range(1, 100):
        reference.fold({"a": 2.0}, [0.1], day * DAY)
    before = dict(reference.tools)
    reference.fold({}, [], now)
    assert reference.tools == before


def test_many_tools_stay_within_bounds() -> None:
    reference = Reference()
    for number in range(5000):
        reference.fold({f"t{number}": 1.0}, [], DAY)
    assert len(reference.tools) <= 160
