"""How much may be asked of people: places for open challenges, and the wait of an agent that is often refused.

A person who is asked too often stops reading. So what one agent may have open is bounded, and what may wait for one
person; and an agent whose calls keep being refused or left unanswered waits longer each time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio.to_thread

from guard.errors import ChallengeError
from guard.model import Challenge, ProofClass, State
from guard.ports import Clock, Ledger, Store
from guard.quorum import AHEAD
from guard.reasons import Code
from guard.requirement import asks_people, satisfied

LONGEST: Final = 3600.0
"""Seconds an agent waits at most."""

_REMEMBERED: Final = 32
_MOST_REMEMBERED: Final = 2048
"""Challenges of an agent that are looked at, at most, for the last yes."""
_REFUSED: Final = 64
"""Denied ones and expired ones that are looked at, each, at least, to see whether an agent has to wait at all."""

_UNANSWERED: Final = frozenset({State.DENIED, State.EXPIRED})
_NEITHER: Final = frozenset({State.CANCELLED, State.STALE, State.REVOKED})
_MINUTE: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Open challenges of one agent, challenges that wait for one person, and when an agent begins to wait.

    `back_off` is its first wait in seconds, after `back_off_after` challenges in a row without a yes.
    """

    pending: int = 256
    per_approver: int = 256
    back_off_after: int = 10
    back_off: float = 60.0


# ------------------------------------------------------------------ how long, how many: pure


def refused_in_a_row(decided: Iterable[Challenge]) -> tuple[int, float]:
    """How many of an agent's challenges ended without a yes since the last one that had it, and when the last ended."""
    count, last = 0, 0.0
    for one in sorted(decided, key=lambda challenge: challenge.decided, reverse=True):
        yes = _said(one)
        if yes:
            break
        if yes is False:
            count, last = count + 1, max(last, one.decided)
    return count, last


def _said(one: Challenge) -> bool | None:
    """Whether people said yes, or no or nothing (False).

    None where it says nothing about them: what was closed because something else changed, and what a machine could
    answer, or answered alone, or somebody ahead of the call.
    """
    if one.state in _NEITHER or not asks_people(one.requirement):
        return None
    if one.state in _UNANSWERED and not satisfied(one.requirement, one.proofs, one.decided):
        return False
    looked = [
        proof for proof in one.proofs if proof.proof_class is not ProofClass.POSSESSION and proof.kind not in AHEAD
    ]
    return True if looked or not one.proofs else None


def wait_after(count: int, bounds: Bounds) -> float:
    """Seconds an agent waits after so many challenges in a row without a yes; each further one doubles it."""
    beyond = count - bounds.back_off_after
    if beyond < 0 or bounds.back_off <= 0:
        return 0.0
    return min(bounds.back_off * 2.0 ** min(beyond, 32), LONGEST)


def least_busy(waiting: Mapping[str, int], people: Iterable[Collection[str]], group: str) -> int:
    """How many challenges wait for the least busy person of a group.

    `waiting` counts by group, `people` are the groups of each person. A group of nobody counts as one person.
    """
    loads = [sum(waiting.get(one, 0) for one in groups) for groups in people if group in groups]
    return min(loads, default=waiting.get(group, 0))


def duration(seconds: float) -> str:
    """A wait in words, rounded up."""
    minutes, rest = divmod(max(1, int(-(-seconds // 1))), _MINUTE)
    return f"{minutes} min {rest} s" if minutes and rest else f"{minutes} min" if minutes else f"{rest} s"


# ------------------------------------------------------------------ asking the store


class Limits:
    """The bounds, as the store knows how far they are used up."""

    def __init__(self, store: Store, ledger: Ledger, clock: Clock, bounds: Bounds) -> None:
        """Take the ports."""
        self._store, self._ledger, self._clock, self._bounds = store, ledger, clock, bounds
        self._opening, self._told = Counter[str](), dict[str, float]()

    @asynccontextmanager
    async def place(self, challenge: Challenge) -> AsyncIterator[None]:
        """Hold one of the places for open challenges while this one opens.

        Raises:
            ChallengeError: there is none for this agent (TOO_MANY_PENDING) or for the people it would ask
                (APPROVERS_BUSY), or the agent has to wait (BACKING_OFF).
        """
        principal = challenge.principal.subject
        self._opening[principal] += 1
        try:
            try:
                await anyio.to_thread.run_sync(self._check, challenge, self._opening[principal])
            except ChallengeError as error:
                self._tell(principal, error.reason)
                raise
            yield
        finally:
            self._opening[principal] -= 1
            if not self._opening[principal]:
                del self._opening[principal]

    def _tell(self, principal: str, reason: Code) -> None:
        """Record once a minute that an agent asks for more than it may."""
        now = self._clock.mono()
        if reason is Code.BACKING_OFF or now < self._told.get(principal, -math.inf) + _MINUTE:
            return
        self._told = {known: at for known, at in self._told.items() if at > now - _MINUTE} | {principal: now}
        self._ledger.append("challenge.flooded", {"principal": principal, "limit": reason.value})

    def _check(self, challenge: Challenge, opening: int) -> None:
        principal, now, challenges = challenge.principal.subject, self._clock.now(), self._store.challenges
        if challenges.count_open(principal, now) + opening > self._bounds.pending:
            raise ChallengeError(reason=Code.TOO_MANY_PENDING)
        if not asks_people(challenge.requirement):
            return
        self._check_wait(self._decided(principal, now), now)
        waiting, group = challenges.waiting(now), challenge.requirement.approvers
        if waiting and least_busy(waiting, self._people(), group) >= self._bounds.per_approver:
            raise ChallengeError(reason=Code.APPROVERS_BUSY)

    def _decided(self, principal: str, now: float) -> Sequence[Challenge]:
        """The newest ended challenges of an agent, as far back as the last yes; none where it need not wait anyway."""
        found, least = self._store.challenges.decided, self._bounds.back_off_after
        unanswered = [found(principal, max(_REFUSED, least), state=state) for state in sorted(_UNANSWERED)]
        refused = [one.decided for several in unanswered for one in several if _said(one) is False]
        if len(refused) < least or max(refused) + LONGEST <= now:
            return ()
        limit = _REMEMBERED
        while True:
            decided = found(principal, limit)
            if len(decided) < limit or limit >= _MOST_REMEMBERED or any(map(_said, decided)):
                return decided
            limit *= 4

    def _check_wait(self, decided: Sequence[Challenge], now: float) -> None:
        count, last = refused_in_a_row(decided)
        left = last + wait_after(count, self._bounds) - now
        if left > 0:
            message = f"{count} in a row; it may ask again in {duration(left)}"
            raise ChallengeError(message, reason=Code.BACKING_OFF)

    def _people(self) -> list[frozenset[str]]:
        return [person.groups for person in self._store.approvers.all() if not person.removed]
