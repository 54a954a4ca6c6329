"""What is learnt about an agent's client by watching it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.proxy.habits import FORGET, Habit, Habits, recall
from guard.proxy.ladder import DROPPED, HOLD_LIMIT
from guard.proxy.pause import difference
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.wire.canonical import canonical
from tests.nouns import NOW, challenge
from tests.world_store import WorldClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = SqlStore.open(tmp_path, Keyring.open(tmp_path))
    yield opened
    opened.close()


def watching(store: SqlStore, now: float = NOW) -> Habits:
    return Habits(store.baselines, WorldClock(now, lambda: 0.0))


async def test_the_longest_wait_is_kept_over_a_restart_and_bounded(store: SqlStore) -> None:
    habits = watching(store)
    for seconds in (40.0, 12.0, 40.5):
        await habits.waited("robot", seconds)
    assert (await watching(store).of("robot")).waited == 40.0
    await habits.waited("robot", 4000.0)
    assert recall(store.baselines, "robot").waited == HOLD_LIMIT
    assert (await habits.of("other")) == Habit()


async def test_leaving_a_held_call_shortens_what_was_learnt(store: SqlStore) -> None:
    habits = watching(store)
    await habits.waited("robot", 40.0)
    await habits.left("robot", 30.0)
    assert (await habits.of("robot")).waited == 15.0


async def test_unanswered_questions_are_counted_until_one_is_answered_or_a_day_passed(store: SqlStore) -> None:
    habits = watching(store)
    for _ in range(5):
        await habits.dropped("robot")
    assert (await watching(store).of("robot")).dropped == DROPPED
    assert (await watching(store, NOW + FORGET + 1).of("robot")).dropped == 0
    await habits.answered("robot")
    assert (await watching(store).of("robot")).dropped == 0


async def test_a_snapshot_that_cannot_be_read_counts_as_nothing_learnt(store: SqlStore) -> None:
    store.baselines.put("habit:robot", '{"waited": "for ever"}')
    assert await watching(store).of("robot") == Habit()


arguments = st.dictionaries(
    st.sampled_from(["who", "amount", "note", "flag"]), st.sampled_from([1, True, "x", None, [1]])
)


@given(new=arguments, old=arguments)
def test_a_changed_call_is_told_names_of_its_own_arguments_only(new: dict[str, object], old: dict[str, object]) -> None:
    said = difference(
        challenge(arguments=canonical(new), digest="a" * 64),  # type: ignore[arg-type]
        challenge(arguments=canonical(old), digest="b" * 64),  # type: ignore[arg-type]
    )
    for name in ("who", "amount", "note", "flag"):
        changed = name in new and (name not in old or canonical(new[name]) != canonical(old[name]))  # type: ignore[arg-type]
        assert (f'"{name}"' in said) is changed
    assert bool(said) is (canonical(new) != canonical(old))  # type: ignore[arg-type]
    assert difference(challenge(), None) == ""
