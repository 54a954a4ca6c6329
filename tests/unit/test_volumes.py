"""Counting calls: never too few, never forgotten by a restart, never without bound."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import StoreUnavailableError
from guard.model import Classification, Demand, Limit, Sensitivity
from guard.proxy.volumes import PARTS, Volumes
from guard.reasons import Code

HOUR = Limit(name="v.yaml#tools.t.limits[0]", most=3, seconds=3600, demands=frozenset({Demand.STEP_UP}))
TAGS = Classification(sensitivity=Sensitivity.PUBLIC, owner="team", limits=(HOUR,))


@dataclass
class Hand:
    at: float = 1_795_000_000.0

    def now(self) -> float:
        return self.at

    def mono(self) -> float:
        return self.at

    def token(self, prefix: str) -> str:
        return prefix


@dataclass
class Shelf:
    """Snapshots by key; `away` while the store is."""

    kept: dict[str, str] = field(default_factory=dict)
    away: bool = False
    asked_in_vain: threading.Event = field(default_factory=threading.Event)
    stored: threading.Event = field(default_factory=threading.Event)

    def get(self, key: str) -> str | None:
        if self.away:
            self.asked_in_vain.set()
            raise StoreUnavailableError
        return self.kept.get(key)

    def put(self, key: str, snapshot: str) -> None:
        if self.away:
            self.asked_in_vain.set()
            raise StoreUnavailableError
        self.kept[key] = snapshot
        self.stored.set()


@dataclass
class Busy(Shelf):
    """Lets something happen once, after it was read and before it is written."""

    meanwhile: Callable[[], None] | None = None

    def put(self, key: str, snapshot: str) -> None:
        happens, self.meanwhile = self.meanwhile, None
        if happens:
            happens()
        super().put(key, snapshot)


def _snapshot(clock: Hand, calls: int, limit: Limit = HOUR) -> str:
    return json.dumps({limit.name: [limit.seconds, {int(clock.at * PARTS / limit.seconds): calls}]})


def over(volumes: Volumes, subject: str = "robot", tags: Classification = TAGS) -> bool:
    found = volumes.judged(subject, tags)
    assert (found is tags) is (Code.OVER_LIMIT not in [reason.code for reason in found.reasons])
    return found is not tags


def counted(clock: Hand, times: int, shelf: Shelf | None = None) -> Volumes:
    volumes = Volumes(shelf or Shelf(), clock)
    for _ in range(times):
        volumes.count("robot", (HOUR,))
    return volumes


def test_the_limit_counts_for_each_agent_and_ends_with_its_window() -> None:
    clock = Hand()
    volumes = counted(clock, 3)
    assert over(volumes)
    assert volumes.judged("robot", TAGS).demands == {Demand.STEP_UP}
    assert not over(volumes, "other")
    clock.at += HOUR.seconds * (1 + 2 / PARTS)
    assert not over(volumes)


def test_a_batch_passes_only_where_all_of_it_fits() -> None:
    volumes, batch = counted(Hand(), 1), replace(TAGS, limits=(HOUR, HOUR))
    assert not over(volumes, tags=batch)
    volumes.count("robot", (HOUR,))
    assert over(volumes, tags=batch)
    assert not over(volumes)
    assert over(volumes, "other", replace(TAGS, limits=(HOUR,) * 4))
    reasons = volumes.judged("robot", batch).reasons
    assert [reason.code for reason in reasons] == [Code.OVER_LIMIT]


@given(st.lists(st.floats(0, 3599), min_size=3, max_size=8), st.floats(0, 7200))
def test_calls_within_the_window_are_never_counted_as_fewer(moments: list[float], start: float) -> None:
    clock = Hand(1_795_000_000.0 + start)
    begin, volumes = clock.at, Volumes(Shelf(), Hand())
    volumes._clock = clock
    for moment in sorted(moments):
        clock.at = begin + moment
        volumes.count("robot", (HOUR,))
    clock.at = begin + 3599.9
    assert over(volumes)


def test_a_clock_that_is_set_back_frees_nobody() -> None:
    clock = Hand()
    volumes = counted(clock, 3)
    clock.at -= 86_400
    assert over(volumes)


def test_an_inner_call_counts_once_more() -> None:
    volumes = Volumes(Shelf(), Hand())
    volumes.count("robot", (HOUR, HOUR, HOUR))
    assert over(volumes)


def test_an_owner_who_changes_the_window_forgives_nothing() -> None:
    volumes = counted(Hand(), 3)
    longer = Classification(
        sensitivity=Sensitivity.PUBLIC,
        limits=(Limit(name=HOUR.name, most=3, seconds=7200, demands=HOUR.demands),),
    )
    assert over(volumes, tags=longer)


def test_what_an_owner_wants_beyond_a_limit_joins_what_is_wanted_anyway() -> None:
    limit = Limit(name="x", most=0, seconds=60, demands=frozenset({Demand.TWO_PEOPLE}), reason="in my words")
    tags = Classification(sensitivity=Sensitivity.PUBLIC, demands=frozenset({Demand.POSSESSION}), limits=(limit,))
    found = Volumes(Shelf(), Hand()).judged("robot", tags)
    assert found.demands == {Demand.POSSESSION, Demand.TWO_PEOPLE}
    assert found.reasons[-1].evidence == "in my words"


@pytest.mark.anyio
async def test_a_restart_forgets_nothing_that_was_stored() -> None:
    shelf, clock = Shelf(), Hand()
    before = counted(clock, 3, shelf)
    before.save()
    after = Volumes(shelf, clock)
    await after.recall("robot")
    assert over(after)
    clock.at += 2 * HOUR.seconds
    assert not over(after)
    after.count("robot", ())
    after._dirty.add("robot")
    after.save()
    assert shelf.kept == {"volume:robot": "{}"}


@pytest.mark.anyio
async def test_what_could_not_be_stored_is_stored_when_the_store_is_back() -> None:
    shelf = Shelf(away=True)
    volumes = counted(Hand(), 3, shelf)
    async with anyio.create_task_group() as group:
        group.start_soon(volumes.run)
        with anyio.fail_after(20):
            await anyio.to_thread.run_sync(shelf.asked_in_vain.wait, 20)
            shelf.away = False
            await anyio.to_thread.run_sync(shelf.stored.wait, 20)
        group.cancel_scope.cancel()
    assert shelf.kept


@pytest.mark.anyio
async def test_without_knowing_what_was_counted_nobody_is_judged() -> None:
    with pytest.raises(StoreUnavailableError):
        await Volumes(Shelf(away=True), Hand()).recall("robot")


@pytest.mark.anyio
async def test_two_processes_add_to_what_is_stored_and_learn_of_each_other() -> None:
    shelf, clock = Shelf(), Hand()
    one, two = counted(clock, 2, shelf), counted(clock, 1, shelf)
    one.save()
    assert not over(two)
    two.save()
    assert over(two)
    after = Volumes(shelf, clock)
    await after.recall("robot")
    assert over(after)
    again = counted(clock, 0, shelf)
    await again.recall("robot")
    again.count("robot", ())
    again._dirty.add("robot")
    again.save()
    assert shelf.kept == {"volume:robot": _snapshot(clock, 3)}


@pytest.mark.anyio
async def test_what_was_counted_while_it_was_stored_is_stored_once_and_next() -> None:
    clock = Hand()
    shelf = Busy()
    volumes = counted(clock, 1, shelf)
    shelf.meanwhile = lambda: volumes.count("robot", (HOUR,))
    volumes.save()
    assert shelf.kept == {"volume:robot": _snapshot(clock, 1)}
    assert not over(volumes)
    volumes.save()
    assert shelf.kept == {"volume:robot": _snapshot(clock, 2)}
    volumes.count("robot", (HOUR,))
    assert over(volumes)


def test_what_another_process_wrote_over_still_counts_here() -> None:
    shelf, clock = Shelf(), Hand()
    volumes = counted(clock, 2, shelf)
    volumes.save()
    shelf.kept.clear()
    volumes.count("robot", (HOUR,))
    volumes.save()
    assert over(volumes)


def test_a_store_that_is_away_makes_nothing_count_twice() -> None:
    shelf, clock = Shelf(away=True), Hand()
    volumes = counted(clock, 1, shelf)
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            volumes.save()
    volumes.count("robot", (HOUR,))
    shelf.away = False
    volumes.save()
    volumes.save()
    assert shelf.kept == {"volume:robot": _snapshot(clock, 2)}
    assert not over(volumes)


def test_a_window_that_changed_between_counting_and_storing_adds_up() -> None:
    shelf, clock = Shelf(), Hand()
    counted(clock, 1, shelf).save()
    volumes = counted(clock, 1, shelf)
    longer = replace(HOUR, seconds=7200)
    volumes.count("robot", (longer,))
    volumes.save()
    assert shelf.kept == {"volume:robot": _snapshot(clock, 3, longer)}
    assert over(volumes, tags=replace(TAGS, limits=(longer,)))


@pytest.mark.anyio
async def test_ending_while_it_stores_loses_nothing() -> None:
    shelf, clock = Shelf(), Hand()
    volumes = counted(clock, 1, shelf)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await volumes._keep("robot")
    volumes.save()
    assert shelf.kept == {"volume:robot": _snapshot(clock, 1)}
