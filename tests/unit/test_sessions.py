"""Whose a legacy session is, when a tool server hands one id out twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from guard.clock import SystemClock
from guard.proxy.sessions import SessionOwners
from guard.store.seal import Keyring
from guard.store.sql import SqlStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = SqlStore.open(tmp_path, Keyring.open(tmp_path))
    yield opened
    opened.close()


class Together:
    """The sessions of a store; the first two who ask ask at the same time."""

    def __init__(self, store: SqlStore) -> None:
        self._sessions, self._both, self._left = store.sessions, threading.Barrier(2), 2
        self.bind, self.drop = store.sessions.bind, store.sessions.drop

    def owner(self, server: str, session: str) -> str | None:
        found = self._sessions.owner(server, session)
        if self._left:
            self._left -= 1
            self._both.wait(30)
        return found


async def test_a_session_that_two_agents_are_given_at_once_belongs_to_one_of_them(store: SqlStore) -> None:
    owners, bound = SessionOwners(Together(store), SystemClock()), dict[str, bool]()

    async def bind(subject: str) -> None:
        bound[subject] = await owners.bind("web", "s1", subject)

    async with anyio.create_task_group() as group:
        for subject in ("a", "b"):
            group.start_soon(bind, subject)
    assert sorted(bound.values()) == [False, True]
    assert {subject for subject in bound if await owners.owned("web", "s1", subject)} == {
        subject for subject, own in bound.items() if own
    }
