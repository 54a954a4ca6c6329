"""Several guards on one state: one grant is one run, and a call of unknown end stays one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from guard.model import State
from tests.guards import Guard
from tests.world import World, until

ROUNDS = 6
GATED = """\
server: {server}
owner: journal-team
tools:
  "*": {sensitivity: sensitive, require: step_up}
"""


@pytest.fixture(params=["http", "stdio"])
def pair(request: pytest.FixtureRequest, world: World) -> tuple[World, Guard, Guard]:
    """Two guards of the same kind on one state, both ready."""
    first = world.start(request.param)
    second = world.replica() if request.param == "http" else world.run()
    for guard in (first, second):
        assert guard.call("note", {}).ran
    return world, first, second


def test_two_guards_that_race_for_one_grant_run_the_call_once(pair: tuple[World, Guard, Guard]) -> None:
    world, *guards = pair
    for number in range(ROUNDS):
        call = ("wipe", {"disk": number})
        challenge = guards[0].call(*call).challenge
        assert guards[1].call(*call).challenge == challenge
        world.approve(challenge)
        racing = [guard.ask(*call) for guard in guards for _ in range(3)]
        assert sum(one.answer().ran for one in racing) == 1
        assert world.runs(*call) == 1
    world.check()


def test_an_approval_wakes_the_calls_two_guards_hold_and_one_of_them_runs(tmp_path: Path) -> None:
    with World(tmp_path, hold=50) as world:
        held = [world.run().ask("wipe", {"disk": 1}) for _ in range(2)]
        world.wait_for("challenge.joined")
        world.approve(world.pending().id)
        until(lambda: any(one.future.done() and one.answer().ran for one in held), "one of them runs")
        assert world.runs("wipe", {"disk": 1}) == 1
        world.check()


def test_a_grant_spent_without_a_known_end_is_no_run_of_the_other_guards_call(tmp_path: Path) -> None:
    with World(tmp_path, hold=50) as world:
        world.write_policy("desk", GATED)
        spender, waiting = world.run(), world.run()
        late = waiting.ask("exit", {})
        world.wait_for("challenge.opened")
        spent = spender.ask("exit", {})
        world.wait_for("challenge.joined")
        world.settle()
        waiting.process.send_signal(signal.SIGSTOP)
        world.approve(world.pending().id)
        spent.future.result(10)
        until(lambda: world.challenges(State.UNKNOWN), "nobody knows whether it ran")
        waiting.process.send_signal(signal.SIGCONT)
        assert not late.answer().ran
        assert world.runs("exit", {}) == 1
        world.check()


def test_a_guard_that_starts_leaves_the_running_calls_of_another_alone(world: World) -> None:
    world.write_policy("desk", GATED)
    busy = world.run()
    world.approve(busy.call("mute", {}).challenge)
    busy.ask("mute", {})
    until(lambda: world.runs("mute", {}) == 1, "it runs")
    assert world.run().call("note", {"n": 1}).challenge
    assert world.records("call.unknown") == []
    assert [one.state for one in world.challenges(State.CONSUMED)] == [State.CONSUMED]
