"""Legacy `Mcp-Session-Id`s and the principal each belongs to, remembered in front of the store."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from anyio import to_thread

from guard.ports import Clock, Sessions

REMEMBERED: Final = 10_000
"""Owners kept in memory; the least recently used goes first and is read again when needed."""


class SessionOwners:
    """Who owns which session. Only owners that exist are remembered, so a new binding is seen at once."""

    def __init__(self, store: Sessions, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def owned(self, server: str, session: str, subject: str) -> bool:
        """Whether this session of the server exists and is the subject's.

        Raises:
            StoreUnavailableError: the store cannot say.
        """
        key = (server, session)
        owner = self._known.get(key)
        if owner is None:
            owner = await to_thread.run_sync(self._store.owner, server, session)
            if owner is None:
                return False
            self._remember(key, owner)
        else:
            self._known.move_to_end(key)
        return owner == subject

    async def bind(self, server: str, session: str, subject: str) -> bool:
        """Give a new session to the subject; False when it already is somebody else's.

        Raises:
            StoreUnavailableError: the store cannot remember it.
        """
        owner = await to_thread.run_sync(self._store.owner, server, session)
        if owner is None:
            await to_thread.run_sync(self._store.bind, server, session, subject, self._clock.now())
            owner = await to_thread.run_sync(self._store.owner, server, session)  # another may have been first
        if owner != subject:
            return False
        self._remember((server, session), subject)
        return True

    async def drop(self, server: str, session: str) -> None:
        """Forget a session that has ended.

        Raises:
            StoreUnavailableError: the store cannot forget it.
        """
        self._known.pop((server, session), None)
        await to_thread.run_sync(self._store.drop, server, session)

    def _remember(self, key: tuple[str, str], owner: str) -> None:
        self._known[key] = owner
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
