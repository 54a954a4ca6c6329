"""How a guard ends, and what becomes of callers who leave before it has decided."""

from __future__ import annotations

from http.client import IncompleteRead

import pytest

from guard.identity.lifecycle import Lifecycle
from tests.agents import Agent
from tests.guards import PATIENCE
from tests.world import World, all_gone, until

CALL = ("wipe", {"disk": 1})
LIMIT = 2.0
"""Seconds a guard may take to end."""


def test_an_idle_guard_ends_within_two_seconds_of_sigterm(world: World, front: str) -> None:
    guard = world.start(front)
    guard.call("note", {})
    code, seconds = guard.terminate()
    assert (code, seconds < LIMIT) == (0, True), seconds


def test_a_guard_that_holds_a_call_ends_within_two_seconds_of_sigterm(patient: World, front: str) -> None:
    guard = patient.start(front)
    guard.ask(*CALL)
    patient.wait_for("challenge.opened")
    code, seconds = guard.terminate()
    assert (code, seconds < LIMIT) == (0, True), seconds


def test_a_guard_with_an_open_event_stream_ends_within_two_seconds_of_sigterm(world: World) -> None:
    guard = world.serve()
    with guard.event_stream():
        code, seconds = guard.terminate()
    assert (code, seconds < LIMIT) == (0, True), seconds


def test_an_agent_whose_key_ran_out_while_it_was_idle_calls_nothing_more(world: World) -> None:
    guard = world.run()
    assert guard.call("note", {"n": 1}).ran
    with world.desk() as services:
        Lifecycle(services.store, services.ledger, services.clock).rotate_agent("robot", overlap=1.0)
    assert guard.process.wait(PATIENCE) is not None


def test_the_event_stream_of_a_revoked_agent_ends(world: World) -> None:
    guard = world.serve()
    with Agent(guard, world.key).hello().listen() as stream:
        assert stream.readline() == b": open\n"
        world.revoke_agent("robot")
        with pytest.raises((ConnectionError, IncompleteRead)):  # and not that nothing came for long
            stream.read()


def test_a_guard_whose_console_is_waited_on_ends_within_two_seconds_of_sigterm(world: World) -> None:
    guard = world.serve()
    with guard.wait_on_console():
        code, seconds = guard.terminate()
    assert (code, seconds < LIMIT) == (0, True), seconds


def test_a_call_under_way_when_the_guard_ends_is_on_record_as_unknown(world: World, front: str) -> None:
    guard = world.start(front)
    guard.ask("mute", {})
    until(lambda: world.runs("mute", {}), "the tool server has it")
    code, seconds = guard.terminate()
    assert (code, seconds < LIMIT) == (0, True), seconds
    assert [record["outcome"] for record in world.records("call.concluded")] == ["unknown"]
    world.check()


def test_a_guard_seals_its_ledger_when_it_ends(patient: World, front: str) -> None:
    guard = patient.start(front)
    guard.ask(*CALL)
    patient.wait_for("challenge.opened")
    guard.terminate()
    assert patient.last_events() == {"ledger.sealed"}
    patient.check()


def test_a_held_call_is_answered_and_not_run_when_the_guard_ends(patient: World, front: str) -> None:
    guard = patient.start(front)
    held = guard.ask(*CALL)
    patient.wait_for("challenge.opened")
    guard.terminate()
    assert held.answer().challenge == patient.pending().id
    assert patient.ran() == []


def test_no_tool_server_outlives_the_end_of_its_guard(world: World) -> None:
    guard = world.run()
    guard.call("note", {})
    children = guard.children()
    assert children
    guard.terminate()
    assert all_gone(children)


def test_the_end_of_its_input_ends_a_guard_that_holds_a_call_within_two_seconds(patient: World) -> None:
    guard = patient.run()
    guard.ask(*CALL)
    patient.wait_for("challenge.opened")
    guard.end_input()
    assert guard.process.wait(LIMIT) == 0
    assert patient.ran() == []


def leave(world: World, front: str) -> str:
    """Have a call held and its caller leave; the challenge."""
    guard = world.start(front)
    held = guard.ask(*CALL)
    world.wait_for("challenge.opened")
    held.leave()
    until(lambda: [one for one in world.records("call.concluded") if one["outcome"] == "caller_left"], "it left")
    return world.pending().id


def test_an_approval_that_comes_after_the_caller_left_runs_nothing(patient: World, front: str) -> None:
    patient.approve(leave(patient, front))
    [guard] = patient.guards
    assert guard.call("note", {}).ran  # it had the time to do something about the approval
    assert patient.runs(*CALL) == 0
    patient.check()


def test_the_retry_of_a_caller_who_left_runs_once(patient: World, front: str) -> None:
    patient.approve(leave(patient, front))
    [guard] = patient.guards
    assert guard.call(*CALL).ran
    assert guard.ask(*CALL).leave  # a further one is held again
    until(lambda: len(patient.records("challenge.opened")) == 2, "it needs a new approval")
    assert patient.runs(*CALL) == 1
    patient.check()


def test_a_call_that_was_held_runs_once_as_soon_as_it_is_approved(patient: World, front: str) -> None:
    guard = patient.start(front)
    held = guard.ask(*CALL)
    patient.wait_for("challenge.opened")
    patient.approve(patient.pending().id)
    assert held.answer().ran
    assert patient.runs(*CALL) == 1
    patient.check()


def test_pending_challenges_are_still_there_after_a_restart(world: World, front: str) -> None:
    guard = world.start(front)
    before = guard.call(*CALL).challenge
    guard.terminate()
    assert world.start(front).call(*CALL).challenge == before


def test_an_approval_outlives_the_restart_of_the_guard(world: World, front: str) -> None:
    guard = world.start(front)
    world.approve(guard.call(*CALL).challenge)
    guard.terminate()
    assert world.start(front).call(*CALL).ran
    assert world.runs(*CALL) == 1
    world.check()
