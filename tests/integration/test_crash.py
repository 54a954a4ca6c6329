"""A guard that is killed at any step: the call ran at most once, is on record, and can be asked for again.

Each crash is played once; every test looks at it from another side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from guard.audit.recovery import recover
from guard.model import State
from tests.guards import Answer
from tests.world import World, all_gone, until

CALL = ("wipe", {"disk": 1})


@dataclass(frozen=True)
class Crash:
    """A fault, and what the approved call came to: runs before the restart, runs in the end, the challenge's state."""

    fault: str
    at_death: int
    in_the_end: int
    state: State

    def __str__(self) -> str:
        return self.fault


CRASHES = [
    *(
        Crash(fault, 0, 1, State.COMPLETED)  # the grant was not spent: the retry spends it
        for fault in (
            "call.received:kill",
            "decision.made:kill",
            "intent.recorded:kill",
            "ledger.append:kill@1",
            "ledger.append:kill@2",
            "ledger.fsync:kill@1",
            "store.write:kill@1",
            "store.write:kill@2",
        )
    ),
    *(
        Crash(fault, 0, 0, State.UNKNOWN)  # spent, and nobody can say whether it ran: never repeated
        for fault in ("grant.consumed:kill", "ledger.append:kill@3", "call.forwarded:kill")
    ),
    *(Crash(fault, 1, 1, State.UNKNOWN) for fault in ("call.answered:kill", "ledger.append:kill@4")),
    Crash("call.concluded:kill", 1, 1, State.COMPLETED),  # its end is on record
]


@dataclass(frozen=True)
class Aftermath:
    """What is left after the crash, the restart and the retry."""

    world: World
    crash: Crash
    challenge: str
    ran_at_death: int
    retry: Answer


@pytest.fixture(
    scope="module",
    params=[(front, crash) for front in ("http", "stdio") for crash in CRASHES],
    ids=lambda both: f"{both[0]}-{both[1]}",
)
def aftermath(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    """A paused call is approved; the guard is killed while the agent asks again; restart; the agent asks again."""
    front, crash = request.param
    with World(tmp_path_factory.mktemp("crash")) as world:
        guard = world.start(front, fault=crash.fault)
        challenge = guard.call(*CALL).challenge
        world.approve(challenge)
        world.arm()
        guard.ask(*CALL)
        assert guard.died()
        ran = world.runs(*CALL)
        world.disarm()
        retry = world.start(front).call(*CALL)
        yield Aftermath(world, crash, challenge, ran, retry)


def test_the_call_ran_before_the_crash_only_if_its_grant_was_spent_first(aftermath: Aftermath) -> None:
    assert aftermath.ran_at_death == aftermath.crash.at_death


def test_the_retry_after_the_restart_never_runs_the_call_a_second_time(aftermath: Aftermath) -> None:
    assert aftermath.world.runs(*CALL) == aftermath.crash.in_the_end


def test_the_retry_either_runs_or_waits_for_a_new_approval(aftermath: Aftermath) -> None:
    runs_now = aftermath.crash.in_the_end > aftermath.crash.at_death
    assert (aftermath.retry.ran, aftermath.retry.challenge not in {"", aftermath.challenge}) == (runs_now, not runs_now)


def test_the_ledger_verifies_after_the_crash(aftermath: Aftermath) -> None:
    report = aftermath.world.verify()
    assert report.ok, report.text()


def test_nothing_ran_without_a_record_of_it_on_disk(aftermath: Aftermath) -> None:
    assert aftermath.world.unrecorded() == []


def test_the_challenge_ends_as_what_is_known_of_its_call(aftermath: Aftermath) -> None:
    states = {one.id: one.state for one in aftermath.world.challenges()}
    assert states[aftermath.challenge] is aftermath.crash.state


def test_a_call_is_reported_as_unknown_exactly_when_nobody_knows_its_end(aftermath: Aftermath) -> None:
    reported = [record["challenge_id"] for record in aftermath.world.records("call.unknown")]
    assert reported == ([aftermath.challenge] if aftermath.crash.state is State.UNKNOWN else [])


def test_a_call_that_lost_the_race_for_a_grant_is_not_taken_for_the_one_that_was_cut_off(world: World) -> None:
    challenge = world.run().call(*CALL).challenge
    world.approve(challenge)
    world.forged = True
    with world.desk() as services:
        found = services.store.challenges.get(challenge)
        assert found is not None
        assert found.grant is not None
        names = {"challenge_id": challenge, "grant_id": found.grant.id}
        for call in ("k_cut", "k_lost"):
            services.ledger.append("call.forwarded", {"call_id": call, "phase": "intent", **names})
        services.ledger.append("call.concluded", {"call_id": "k_lost", "outcome": "refused", **names})
        spent = replace(found, state=State.CONSUMED, version=found.version + 1)
        assert services.store.challenges.swap(found, spent, durable=False)
        recover(world.state, services.store.challenges, services.ledger, own_lane=services.ledger.lane)
    assert [record["call_id"] for record in world.records("call.unknown")] == ["k_cut"]


def test_a_challenge_outlives_the_kill_of_the_guard_that_opened_it(world: World, front: str) -> None:
    guard = world.start(front, fault="challenge.opened:kill")
    world.arm()
    guard.ask(*CALL)
    assert guard.died()
    [pending] = world.challenges(State.PENDING)
    world.disarm()
    again = world.start(front)
    assert again.call(*CALL).challenge == pending.id
    world.approve(pending.id)
    assert again.call(*CALL).ran
    assert world.runs(*CALL) == 1
    world.check()


def test_an_approval_counts_although_the_guard_was_killed_as_it_took_it(world: World, front: str) -> None:
    guard = world.start(front, fault="proof.accepted:kill")
    challenge = guard.call(*CALL).challenge
    world.arm()
    assert not world.approve(challenge, via=guard)
    assert guard.died()
    world.disarm()
    assert world.start(front).call(*CALL).ran
    assert world.runs(*CALL) == 1
    world.check()


def test_a_kill_while_an_ordinary_call_is_carried_out_leaves_a_record_of_it(world: World, front: str) -> None:
    guard = world.start(front, fault="call.answered:kill")
    world.arm()
    guard.ask("note", {"n": 1})
    assert guard.died()
    assert world.runs("note", {"n": 1}) == 1
    world.check()


def test_the_verify_command_accepts_what_a_crash_left(world: World) -> None:
    guard = world.run(fault="ledger.append:kill@2")
    guard.call("note", {})
    world.arm()
    guard.ask("note", {})
    assert guard.died()
    done = world.cli("audit", "verify")
    assert done.returncode == 0, done.stdout


def test_the_tool_server_of_a_killed_guard_does_not_outlive_it(world: World) -> None:
    guard = world.run()
    assert guard.call("note", {}).ran
    children = guard.children()
    assert children
    guard.kill()
    until(lambda: all_gone(children), "its tool server and keeper are gone")
