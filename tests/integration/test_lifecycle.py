"""How a guard ends, and what becomes of callers who leave before it has decided."""

from __future__ import annotations

from collections.abc import Callable
from http.client import IncompleteRead

import pytest

from guard.identity.lifecycle import Lifecycle
from guard.proxy import child, children, listener, stdio
from tests.agents import Agent
from tests.guards import PATIENCE, PROMPT, Guard
from tests.world import World, all_gone, until

CALL = ("wipe", {"disk": 1})
PROMISED = 2.0
"""Seconds in which a guard ends."""


def ends_in_time(start: Callable[[], Guard]) -> bool:
    """Whether a guard ends within `PROMISED`; one of three is enough, for a busy machine only ever lengthens an end."""
    for _ in range(3):
        code, seconds = start().terminate()
        assert code == 0
        if seconds < PROMISED:
            return True
    return False


def test_what_a_guard_that_ends_waits_for_adds_up_to_less_than_two_seconds() -> None:
    for front in (children, stdio):
        for_calls = front._GRACE_ANSWERS + front._GRACE_HANDLERS
        assert for_calls + child._GRACE_INPUT_ENDED + child._GRACE_TERMINATED < 2.0
    assert listener.GRACE < 2.0


def test_an_idle_guard_ends_within_two_seconds_of_sigterm(world: World, front: str) -> None:
    def idle() -> Guard:
        guard = world.start(front)
        guard.call("note", {})
        return guard

    assert ends_in_time(idle)


def test_a_guard_that_holds_a_call_ends_within_two_seconds_of_sigterm(patient: World, front: str) -> None:
    def holding() -> Guard:
        guard = patient.start(front)
        guard.ask(*CALL)
        patient.wait_for("challenge.opened")
        return guard

    assert ends_in_time(holding)


def test_a_guard_with_an_open_event_stream_ends_at_once_on_sigterm(world: World) -> None:
    guard = world.serve()
    with guard.event_stream():
        code, seconds = guard.terminate()
    assert (code, seconds < PROMPT) == (0, True), seconds


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


def test_a_guard_whose_console_is_waited_on_ends_at_once_on_sigterm(world: World) -> None:
    guard = world.serve()
    with guard.wait_on_console():
        code, seconds = guard.terminate()
    assert (code, seconds < PROMPT) == (0, True), seconds


def test_a_call_under_way_when_the_guard_ends_is_on_record_as_unknown(world: World, front: str) -> None:
    guard = world.start(front)
    guard.ask("mute", {})
    until(lambda: world.runs("mute", {}), "the tool server has it")
    code, seconds = guard.terminate()
    assert (code, seconds < PROMPT) == (0, True), seconds
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
    started = guard.children()
    assert started
    guard.terminate()
    until(lambda: all_gone(started), "its tool server and keeper are gone")


def test_the_end_of_its_input_ends_a_guard_that_holds_a_call_at_once(patient: World) -> None:
    guard = patient.run()
    guard.ask(*CALL)
    patient.wait_for("challenge.opened")
    guard.end_input()
    assert guard.process.wait(PROMPT) == 0
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
