"""Waiting for a challenge to change: no change is missed, nobody is woken for nothing, and an outage ends no poller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from guard.model import Challenge, Demand, State
from guard.stepup import waiting as polling
from guard.stepup.waiting import Waiting, Watch
from tests import nouns
from tests.world_store import WorldStore

pytestmark = pytest.mark.anyio
ONE = nouns.challenge(Demand.CONSENT)
OTHER = nouns.challenge(Demand.CONSENT, random="Z" * 22, digest="f" * 64)


class Watched(WorldStore):
    """A connection that tells how often it was looked at; `meanwhile` happens once, before the next look."""

    def __init__(self, other: WorldStore) -> None:
        super().__init__(other._data)
        self.looks = self.asked = 0
        self.meanwhile: Callable[[], None] | None = None

    def changed(self) -> int:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        self.looks += 1
        return super().changed()

    def states(self, ids: Sequence[str]) -> Mapping[str, tuple[State, int]]:
        self.asked += 1
        return super().states(ids)


class Room:
    """Another process's store, and a poller of this one."""

    def __init__(self) -> None:
        self.there = WorldStore()
        self.here = Watched(self.there)
        self.waiting = Waiting(self.here)
        for challenge in (ONE, OTHER):
            self.there.open_or_join(challenge)

    def close(self, challenge: Challenge) -> None:
        closed = replace(challenge, state=State.CANCELLED, version=1, arguments="")
        assert self.there.swap(challenge, closed, durable=False)

    @asynccontextmanager
    async def polled(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            await group.start(self.waiting.run)
            with anyio.fail_after(20):
                yield
            group.cancel_scope.cancel()

    async def looked(self, times: int = 3) -> None:
        """Return after so many further looks: the last but one of them was compared to the end."""
        until = self.here.looks + times
        while self.here.looks < until:
            await anyio.lowlevel.checkpoint()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setattr(polling, "POLL", 0)
    return Room()


async def waited(room: Room, challenge: Challenge, heard: list[str]) -> None:
    with room.waiting.watch(challenge.id) as watch:
        await watch.wait(challenge)
        heard.append(challenge.id)


async def test_a_change_wakes_who_waits_for_it_and_nobody_else(room: Room) -> None:
    heard = list[str]()
    async with room.polled(), anyio.create_task_group() as group:
        for challenge in (ONE, OTHER):
            group.start_soon(waited, room, challenge, heard)
        await room.looked()
        room.close(ONE)
        await room.looked(6)
        assert heard == [ONE.id]
        group.cancel_scope.cancel()


async def test_states_are_asked_for_only_when_the_store_moved(room: Room) -> None:
    async with room.polled():
        with room.waiting.watch(ONE.id):
            await room.looked()
            before = room.here.asked
            await room.looked(5)
            assert room.here.asked == before
            room.close(OTHER)
            await room.looked(5)
            assert room.here.asked == before + 1


async def test_a_poller_for_whom_nobody_waits_goes_on(room: Room) -> None:
    async with room.polled():
        for _ in range(9):
            await anyio.lowlevel.checkpoint()
        with room.waiting.watch(ONE.id) as watch:
            room.close(ONE)
            await watch.wait(ONE)


async def test_an_outage_wakes_everybody_and_is_over_when_the_store_is_back(room: Room) -> None:
    async with room.polled():
        with room.waiting.watch(ONE.id) as watch:
            await room.looked()
            await watch.wait(ONE)  # who was looked for before their first wait looks once more
            room.here.away = True
            assert await watch.wait(ONE) is None
            room.here.away = False
            await room.looked()
            room.close(ONE)
            await watch.wait(ONE)


async def test_a_waiter_is_handed_what_this_process_made_of_it_once() -> None:
    waiting = Waiting(WorldStore())
    made = replace(ONE, state=State.CANCELLED)
    with waiting.watch(ONE.id) as watch, waiting.watch(OTHER.id) as other:
        waiting.wake(ONE.id, made)
        assert await watch.wait(ONE) is made
        waiting.wake(ONE.id)
        assert await watch.wait(ONE) is None
        assert not other.event.is_set()
    waiting.wake(ONE.id)  # nobody waits any more


async def test_what_this_process_made_of_it_is_no_news_of_what_another_did_later(room: Room) -> None:
    async with room.polled():
        with room.waiting.watch(ONE.id) as watch:
            room.waiting.wake(ONE.id, ONE)
            assert await watch.wait(ONE) is ONE
            room.close(ONE)
            assert await watch.wait(ONE) is None


async def test_a_waiter_that_comes_while_the_store_is_looked_at_misses_no_change(room: Room) -> None:
    arrived = list[Watch]()

    def come() -> None:
        arrived.append(places.enter_context(room.waiting.watch(OTHER.id)))

    def meanwhile() -> None:
        anyio.from_thread.run_sync(come)
        room.close(OTHER)

    with ExitStack() as places:
        places.enter_context(room.waiting.watch(ONE.id))
        async with room.polled():
            await room.looked()
            room.here.meanwhile = meanwhile
            while not arrived:
                await anyio.lowlevel.checkpoint()
            await arrived[0].wait(OTHER)
