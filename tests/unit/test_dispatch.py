"""People are told once, by whichever process; a channel that fails delays nothing and opens nothing."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import ChannelError
from guard.model import Challenge, Demand, Proof, ProofClass, Quorum, State
from guard.notices import Notice, Stage
from guard.notify import dispatch
from guard.notify.dispatch import ATTEMPTS, LONGEST_IN_QUEUE, Budget, Dispatcher, Route, back_off
from guard.ports import Emergency
from guard.stepup.escalation import asked, half_time
from guard.store.notices import LEASE
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from tests import nouns
from tests.world_store import WorldClock, WorldLedger

pytestmark = pytest.mark.anyio


@dataclass
class Ear:
    """A channel that remembers, and fails as long as it is told to."""

    heard: list[Notice] = field(default_factory=list)
    attempts: int = 0
    failing: int = 0
    lasting: bool = False
    deaf: bool = False

    async def notify(self, notice: Notice) -> None:
        self.attempts += 1
        if self.deaf:
            await anyio.sleep_forever()
        if self.attempts <= self.failing:
            raise ChannelError("out of order", lasting=self.lasting)
        self.heard.append(notice)


class Town:
    """A store, and processes that tell people what is in it."""

    def __init__(self, folder: Path) -> None:
        self.store = SqlStore.open(folder, Keyring.open(folder))
        self.ledger, self.clock = WorldLedger(), WorldClock(nouns.NOW + 5, anyio.current_time)

    def open(self, number: int = 0, *demands: Demand, **changes: object) -> Challenge:
        random = f"{number:022d}"
        made = nouns.challenge(*demands, random=random, digest=f"{number:064x}", **changes)
        return self.store.challenges.open_or_join(made)

    @asynccontextmanager
    async def telling(self, *, processes: int = 1, patience: float = 5.0, **ears: Ear) -> AsyncIterator[None]:
        """Run dispatchers with a channel for each ear; an ear called `oncall` reaches that group only."""
        routes = {
            name: Route(ear, frozenset({name}) if name in {"oncall", "managers"} else frozenset(), patience)
            for name, ear in ears.items()
        }
        async with anyio.create_task_group() as group:
            for _ in range(processes):
                dispatcher = Dispatcher(
                    routes,
                    self.store,
                    self.ledger,
                    self.clock,
                    public_url="http://localhost:7001",
                    escalate={"approvers": "managers"},
                    after=1.0,
                )
                await group.start(dispatcher.run)
            yield
            group.cancel_scope.cancel()

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(10):
            while not condition():  # noqa: ASYNC110 - in this process or in the store
                await anyio.sleep(0.01)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    made.store.close()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "LOOK", 0.02)
    monkeypatch.setattr(dispatch, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(dispatch, "LONGEST_WAIT", 0.02)


async def test_two_processes_tell_people_once_and_record_it(town: Town) -> None:
    ear = Ear()
    challenge = town.open()
    async with town.telling(processes=2, screen=ear):
        await town.until(lambda: "challenge.notified" in town.ledger.events)
        town.open(1)
        await town.until(lambda: town.ledger.events.count("challenge.notified") == 2)
    assert len(ear.heard) == 2
    first = next(fields for event, fields in town.ledger.records if event == "challenge.notified")
    assert (first["challenge_id"], first["channel"], first["stage"]) == (challenge.id, "screen", "opened")


async def test_a_group_is_told_through_its_own_channels_only(town: Town) -> None:
    ours, others, everybody = Ear(), Ear(), Ear()
    wanted = replace(nouns.challenge().requirement, approvers="oncall")
    town.open(0, requirement=wanted)
    async with town.telling(oncall=ours, managers=others, screen=everybody):
        await town.until(lambda: ours.heard and everybody.heard)
    assert others.attempts == 0


async def test_what_a_machine_must_answer_and_what_is_a_moment_old_is_nobodys_news(town: Town) -> None:
    ear = Ear()
    town.open(0, Demand.POSSESSION)
    town.open(1, opened=town.clock.wall - 0.5)
    third = town.open(2)
    async with town.telling(screen=ear):
        await town.until(lambda: ear.heard)
        await anyio.sleep(0.1)
    assert [one.challenge for one in ear.heard] == [third.id]


async def test_a_channel_that_recovers_is_tried_again_and_one_that_does_not_is_on_record(town: Town) -> None:
    shaky, dead, wrong = Ear(failing=2), Ear(failing=99), Ear(failing=99, lasting=True)
    challenge = town.open()
    async with town.telling(shaky=shaky, dead=dead, wrong=wrong):
        await town.until(lambda: town.ledger.events.count("notice.failed") == 2 and shaky.heard)
    assert (dead.attempts, wrong.attempts, shaky.attempts) == (ATTEMPTS, 1, 3)
    failed = [fields for event, fields in town.ledger.records if event == "notice.failed"]
    assert {fields["channel"] for fields in failed} == {"dead", "wrong"}
    assert town.store.challenges.get(challenge.id) == challenge, "that nobody was told changes nothing"


async def test_a_channel_that_hangs_holds_up_no_other_and_is_given_up(town: Town) -> None:
    deaf, ear = Ear(deaf=True), Ear()
    town.open()
    async with town.telling(patience=0.05, deaf=deaf, screen=ear):
        await town.until(lambda: ear.heard)
        await town.until(lambda: "notice.failed" in town.ledger.events)
    assert "it took too long" in str(town.ledger.last("notice.failed"))


async def test_nobody_is_pestered_about_what_was_decided_meanwhile(town: Town) -> None:
    challenge = town.open()
    denied = replace(challenge, state=State.DENIED, arguments="", version=1)

    class Meanwhile(Ear):
        async def notify(self, notice: Notice) -> None:
            if not self.attempts:
                assert town.store.challenges.swap(challenge, denied, durable=False)
            await super().notify(notice)

    dead = Meanwhile(failing=99)
    async with town.telling(screen=dead):
        await town.until(lambda: "notice.failed" in town.ledger.events)
    assert dead.attempts == 1


async def test_a_full_queue_drops_the_notice_and_says_so(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "QUEUE", 1)
    for number in range(4):
        town.open(number)
    async with town.telling(deaf=Ear(deaf=True)):
        await town.until(lambda: town.ledger.events.count("notice.failed") >= 2)
    assert "too many notices" in str(town.ledger.last("notice.failed"))


async def test_one_agents_flood_neither_reaches_people_nor_hides_another_agents_call(town: Town) -> None:
    ear = Ear()
    for number in range(100):
        town.open(number)
    last = town.open(100, principal=replace(nouns.PRINCIPAL, subject="other"))
    async with town.telling(screen=ear):
        await town.until(lambda: any(one.challenge == last.id for one in ear.heard) and len(ear.heard) >= 11)
        await anyio.sleep(0.1)
    assert len(ear.heard) == 11
    assert town.ledger.events.count("challenge.flooded") == 1
    assert town.ledger.last("challenge.flooded")["principal"] == "deployer"


async def test_after_half_the_time_the_next_group_is_told_and_it_is_recorded(town: Town) -> None:
    managers, oncall = Ear(), Ear()
    challenge = town.open()
    town.clock.wall = half_time(challenge) - 1
    async with town.telling(managers=managers, screen=oncall):
        await town.until(lambda: oncall.heard)
        await anyio.sleep(0.1)
        assert managers.attempts == 0
        town.clock.wall = half_time(challenge)
        await town.until(lambda: managers.heard)
    assert managers.heard[0].stage is Stage.ESCALATED
    assert town.ledger.last("challenge.escalated")["approver_group"] == "managers"
    assert town.ledger.events.count("challenge.escalated") == 1


async def test_broken_glass_is_told_to_everybody(town: Town) -> None:
    managers, oncall = Ear(), Ear()
    proof = Proof(
        proof_class=ProofClass.EMERGENCY,
        kind="break_glass",
        factor="f",
        subject="ann",
        at=nouns.NOW,
        note="INC-1: fire",
    )
    challenge = town.open()
    broken = replace(challenge, proofs=(proof,), state=State.SATISFIED, decided=nouns.NOW, version=1)
    assert town.store.challenges.swap(challenge, broken, durable=False)
    emergency = Emergency(challenge=challenge.id, subject="ann", at=nouns.NOW, reason="fire", ticket="INC-1")
    assert town.store.emergencies.add(emergency)
    async with town.telling(managers=managers, oncall=oncall):
        await town.until(lambda: managers.heard and oncall.heard)
    assert managers.heard[0].words == "ann: INC-1: fire"


async def test_what_a_dead_process_left_untold_another_tells_when_the_claim_has_run_out(town: Town) -> None:
    challenge = town.open()
    assert town.store.notices.claim(challenge.id, Stage.OPENED, town.clock.wall)
    ear = Ear()
    async with town.telling(screen=ear):
        await anyio.sleep(0.1)
        assert not ear.heard
        town.clock.wall += LEASE + 1
        await town.until(lambda: ear.heard)


def test_all_attempts_of_a_channel_end_before_another_process_may_take_over() -> None:
    longest = 20.0  # the most a channel's timeout can be set to
    assert LONGEST_IN_QUEUE + ATTEMPTS * longest + sum(back_off(attempt) for attempt in range(1, ATTEMPTS)) < LEASE


# ------------------------------------------------------------------ pure


@given(st.integers(1, 10_000))
def test_waits_between_attempts_grow_and_end(attempt: int) -> None:
    assert 0 < back_off(attempt) <= back_off(attempt + 1) <= dispatch.LONGEST_WAIT


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100)), max_size=60), st.integers(1, 5))
def test_no_agent_has_more_than_its_share_in_any_minute(asks: list[tuple[str, float]], most: int) -> None:
    budget, taken = Budget(most), list[tuple[str, float]]()
    now = 0.0
    for agent, later in asks:
        now += later
        if budget.take(agent, now):
            taken.append((agent, now))
        else:
            assert sum(1 for one, at in taken if one == agent and at > now - 60) >= most
    for agent, at in taken:
        assert sum(1 for one, when in taken if one == agent and at - 60 < when <= at) <= most


moments = st.floats(-1e6, 1e6) | st.just(math.nan)


def test_every_group_the_policy_asks_is_asked_from_the_start_and_a_further_one_after_half_time() -> None:
    quorums = frozenset({Quorum(proof_class=ProofClass.CONSENT, group="security")})
    wanted = replace(nouns.challenge().requirement, approvers="oncall", quorums=quorums)
    challenge = nouns.challenge(requirement=wanted)
    late, named = half_time(challenge), ("oncall", "security")
    assert asked(challenge, {"oncall": "leads"}, late - 1) == named
    assert asked(challenge, {"oncall": "leads"}, late) == (*named, "leads")
    assert asked(challenge, {"oncall": "security", "security": "leads"}, late) == named


async def test_escalation_tells_only_the_group_that_was_not_asked_before(town: Town) -> None:
    quorums = frozenset({Quorum(proof_class=ProofClass.CONSENT, group="security")})
    challenge = town.open(requirement=replace(nouns.challenge().requirement, quorums=quorums))
    ear = Ear()
    async with town.telling(screen=ear):
        await town.until(lambda: ear.heard)
        town.clock.wall = half_time(challenge)
        await town.until(lambda: len(ear.heard) > 1)
    assert [(one.stage, one.groups) for one in ear.heard] == [
        (Stage.OPENED, ("approvers", "security")),
        (Stage.ESCALATED, ("managers",)),
    ]


@given(moments, st.dictionaries(st.sampled_from("ab"), st.sampled_from("abc")))
def test_escalation_only_ever_adds_one_group_and_never_before_half_time(late: float, escalate: dict[str, str]) -> None:
    wanted = replace(nouns.challenge().requirement, approvers="a")
    challenge = nouns.challenge(requirement=wanted)
    groups = asked(challenge, escalate, nouns.NOW + late)
    assert groups[0] == "a"
    assert len(groups) <= 2
    if len(groups) == 2:
        assert nouns.NOW + late >= half_time(challenge)
        assert groups[1] == escalate["a"] != "a"
