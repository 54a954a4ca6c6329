"""Approved or limited calls whose tool server asked for more input, and which therefore come back once more.

A tool server that needs input answers with a `requestState` of its own, and the client repeats the call with it. Such a
repetition continues what was approved; it is not a new call, and no limit counts it twice. It is recognised by the hash
of a state that this very call was answered with, runs once, and is judged anew: what was approved must still be enough.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import anyio

from guard.model import Call, Grant
from guard.ports import Clock
from guard.wire.canonical import digest

REMEMBERED: Final = 1024
"""States that are kept; the oldest goes first, and its call has to be approved again."""
_PATIENCE: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A call that was forwarded on this grant, or needed none, and is expected back."""

    call_id: str
    credential: str
    digest: str
    grant: Grant | None
    expires: float

    @property
    def still(self) -> Grant | None:
        """Its grant while it is under way, for another look at whether that is enough."""
        return self.grant and replace(self.grant, expires=self.expires)


class Continuations:
    """Which states of tool servers continue which call. In memory: after a restart such a call is paused again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: OrderedDict[str, Continuation] = OrderedDict()
        self._running: dict[str, list[anyio.Event]] = {}

    @contextmanager
    def running(self, call: Call) -> Iterator[None]:
        """Say that this call is at its tool server: its state may reach the client before it is remembered."""
        over = anyio.Event()
        self._running.setdefault(call.digest, []).append(over)
        try:
            yield
        finally:
            over.set()
            self._running[call.digest].remove(over)
            if not self._running[call.digest]:
                del self._running[call.digest]

    def remember(self, state: str, call: Call, grant: Grant | None, *, expires: float) -> None:
        """The tool server answered this call, which ran on this grant if it needed one, with `state`."""
        self._known[_key(call, state)] = Continuation(
            call_id=call.id, credential=call.principal.credential, digest=call.digest, grant=grant, expires=expires
        )
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    async def take(self, state: str, call: Call) -> Continuation | None:
        """What `state` continues, once; None when it was not given to this very call of this principal."""
        with anyio.move_on_after(_PATIENCE):
            for over in tuple(self._running.get(call.digest, ())):
                await over.wait()
        found = self._known.pop(_key(call, state), None)
        if found is None or found.digest != call.digest or found.credential != call.principal.credential:
            return None
        return found if self._clock.now() < found.expires else None


def _key(call: Call, state: str) -> str:
    """The digest of the call covers principal, server, tool and arguments."""
    return digest(f"{call.digest}\n{digest(state.encode('utf-8', 'surrogatepass'))}")
