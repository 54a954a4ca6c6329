"""Grants in the store: what a challenge grants at this moment, and spending it. Everything here blocks.

Each method is one visit to a worker thread: a held call waits for every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from guard.errors import ChallengeClosedError, ProofError
from guard.model import Challenge, Grant, State
from guard.ports import Challenges, Clock, FactorVerifier
from guard.stepup.beforehand import Offers
from guard.stepup.machine import Consumed, Effect, step


class Grants:
    """The grants of every challenge, for the ceremony."""

    def __init__(
        self, challenges: Challenges, verifiers: Mapping[str, FactorVerifier], offers: Offers, clock: Clock
    ) -> None:
        """Ask every one of `verifiers` whether a proof still stands, and `offers` what is spent with it."""
        self._challenges, self._offers, self._clock = challenges, offers, clock
        self._verifiers = tuple(verifiers.values())

    def newest(self, digest: str, holder: Callable[[], None]) -> tuple[Challenge | None, Grant | None]:
        """The newest challenge for a call digest, and what it grants now to one whom `holder` lets pass."""
        newest = self._challenges.by_digest(digest)
        if newest is None or newest.state is not State.SATISFIED:  # one that ended has no arguments left to look at
            return newest, None
        grant = self.standing(newest).grant
        if grant is not None:
            holder()
        return newest, grant

    def standing(self, challenge: Challenge) -> Challenge:
        """The challenge without the proofs of those who could not give them any more."""
        proofs = tuple(one for one in challenge.proofs if all(by.stands(challenge, one) for by in self._verifiers))
        return replace(challenge, proofs=proofs)

    def spend(self, grant: Grant) -> tuple[Challenge | None, Sequence[Effect]]:
        """Look at everything once more and spend the grant; the challenge as it was read, and no effects: not spent.

        Raises:
            IllegalTransitionError: what was proven does not satisfy the challenge.
        """
        read = self._challenges.get(grant.challenge)
        if read is None or read.state is not State.SATISFIED or not read.timely(self._clock.now()):
            return read, ()
        if self.standing(read).grant != grant:
            return read, ()
        try:
            spent, effects = step(read, Consumed(), self._clock.now())
            won = self._challenges.swap(read, spent, durable=True, spends=self._offers.spends(grant))
        except (ChallengeClosedError, ProofError):
            return read, ()
        return read, effects if won else ()
