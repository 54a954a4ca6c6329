"""State that cannot be written: guarded calls are refused, nothing runs, and all is well once the disk is."""

from __future__ import annotations

import pytest

from guard.model import State
from guard.reasons import Code
from tests.guards import PROMPT
from tests.world import World, until

CALL = ("wipe", {"disk": 1})
AWAY = {
    "ledger.append:enospc": Code.AUDIT_UNAVAILABLE,
    "ledger.append:error": Code.AUDIT_UNAVAILABLE,
    "ledger.fsync:error": Code.AUDIT_UNAVAILABLE,
    "store.write:error": Code.AUDIT_UNAVAILABLE,  # the ledger's head cannot be stored either
    "store.read:error": Code.STORE_UNAVAILABLE,
}


@pytest.mark.parametrize("fault", AWAY)
def test_an_approved_call_is_refused_while_state_is_away_and_runs_once_afterwards(
    world: World, front: str, fault: str
) -> None:
    guard = world.start(front, fault=fault)
    world.approve(guard.call(*CALL).challenge)
    world.arm()
    refused = guard.call(*CALL)
    assert (refused.ran, refused.challenge) == (False, "")
    assert AWAY[fault].meaning in refused.text
    assert world.ran() == []
    world.disarm()
    until(lambda: guard.call(*CALL).ran, "it recovers without a restart")
    assert world.runs(*CALL) == 1
    world.check()


@pytest.mark.parametrize("fault", ["ledger.append:enospc", "store.write:error"])
def test_no_challenge_is_opened_that_nobody_could_find_or_audit(world: World, front: str, fault: str) -> None:
    guard = world.start(front, fault=fault)
    guard.call("note", {})
    world.arm()
    assert not guard.call(*CALL).challenge
    assert world.challenges() == []
    world.disarm()
    until(lambda: guard.call(*CALL).challenge, "it recovers without a restart")
    assert len(world.challenges(State.PENDING)) == 1


def test_an_ordinary_call_is_refused_while_the_ledger_is_full(world: World, front: str) -> None:
    guard = world.start(front, fault="ledger.append:enospc")
    guard.call("note", {})
    world.arm()
    refused = guard.call("note", {"n": 1})
    assert Code.AUDIT_UNAVAILABLE.meaning in refused.text
    assert world.runs("note", {"n": 1}) == 0


def test_a_grant_that_could_not_be_spent_is_still_good_after_a_restart(world: World, front: str) -> None:
    guard = world.start(front, fault="store.write:error")
    world.approve(guard.call(*CALL).challenge)
    world.arm()
    guard.call(*CALL)
    guard.kill()
    world.disarm()
    assert world.start(front).call(*CALL).ran
    assert world.runs(*CALL) == 1
    world.check()


def test_a_guard_whose_disk_stays_full_still_ends_on_sigterm(world: World, front: str) -> None:
    guard = world.start(front, fault="ledger.append:enospc")
    guard.call("note", {})
    world.arm()
    guard.call("note", {})
    _, seconds = guard.terminate()
    assert seconds < PROMPT
