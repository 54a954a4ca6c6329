"""The interactive side of a step-up: opens, waits, takes proofs, spends grants. The async shell of the machine.

What opens the way is recorded before it happens: a challenge, a proof. What only closes is done first and
recorded by the one process that did it: a refusal holds even when the ledger is away, and no two records
claim one end. A consumption lies between two records: the caller's intent, on disk before `consume`, and
`grant.consumed`, written by the one winner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, TypeVar

import anyio
from anyio.abc import TaskStatus

from guard import faults
from guard.errors import (
    ChallengeClosedError,
    ChallengeError,
    IllegalTransitionError,
    NotFoundError,
    ProofError,
    ProofInvalidError,
    ProofWrongApproverError,
    UnavailableError,
)
from guard.intents import Beforehand
from guard.model import Challenge, Grant, Json, Proof, ProofClass, State
from guard.people import Precedent
from guard.ports import Clock, FactorVerifier, Ledger, ListVerifier, Store
from guard.quorum import AHEAD
from guard.reasons import Code
from guard.requirement import broken, satisfied
from guard.stepup import records
from guard.stepup.beforehand import Giver, Offers
from guard.stepup.grants import Grants
from guard.stepup.intent import Manifest
from guard.stepup.limits import Bounds, Limits
from guard.stepup.machine import (
    CLOSED,
    Cancelled,
    Concluded,
    Denied,
    Effect,
    Event,
    Expired,
    Proven,
    Record,
    Revoked,
    Staled,
    Wake,
    changed_terms,
    step,
)
from guard.stepup.visible import bounded, visible
from guard.stepup.waiting import Waiting

_T = TypeVar("_T")

ATTEMPTS: Final = 16
"""How often one change is tried again because another process changed the same challenge in between."""

SWEEP: Final = 5.0
"""Seconds between two looks for challenges whose time is up although nobody asks for them."""

TOGETHER: Final = 20
"""Challenges one list may hold."""

_DURABLE: Final = frozenset({State.CONSUMED, State.DENIED, State.REVOKED})


class Ceremony:
    """Everything that happens to challenges, for every process that shares the store."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        clock: Clock,
        *,
        verifiers: Mapping[str, FactorVerifier],
        cool_down: float,
        beforehand: Mapping[str, Beforehand] = MappingProxyType({}),
        giver: Giver | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
        remember: float = 0,
        redact: Callable[[str], str] = bounded,
    ) -> None:
        """Take the ports; `verifiers` by kind of evidence, `cool_down` in seconds.

        `beforehand` are those of the kinds whose evidence may lie ready when a challenge opens, and `giver` keeps what
        people allow beyond the call they approve; `remember` is how many seconds the last approved call of a tool is
        kept, sealed, to compare the next one with.
        """
        self._store, self._challenges, self._ledger, self._clock = store, store.challenges, ledger, clock
        self._verifiers, self._cool_down, self._redact = dict(verifiers), cool_down, redact
        self._limits, self._remember = Limits(store, ledger, clock, bounds), remember
        self._offers = Offers(beforehand, verifiers, clock, giver)
        self._grants = Grants(store.challenges, verifiers, self._offers, clock)
        self._waiting = Waiting(store)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Wake waiters for changes of other processes, and expire what nobody asks for; ends by cancellation.

        Start it once per process. Without it, waiters notice only this process's changes and their deadline.
        """
        async with anyio.create_task_group() as group:
            await group.start(self._waiting.run)
            task_status.started()
            while True:
                await self._sweep()
                await anyio.sleep(SWEEP)

    async def _sweep(self) -> None:
        """Expire what is due. What fails now waits for the next sweep; every use checks the time by itself."""
        with suppress(UnavailableError, ChallengeError):
            still_open, now = frozenset({State.PENDING, State.SATISFIED}), self._clock.now()
            for challenge in await self._blocking(lambda: self._challenges.find(states=still_open, due=now)):
                await self._current(challenge)

    # ------------------------------------------------------------------ the caller's side

    async def open(self, challenge: Challenge, *, counterfactual: Sequence[str] = (), call_id: str = "") -> Challenge:
        """Open this challenge, or join the one that is open for the same call on the same terms.

        An open one on other terms becomes STALE, one whose time is up EXPIRED, and a new one opens. One that was denied
        less than `cool_down` ago is returned as it is: the same call stays refused. Consent that was given beforehand
        counts at once.

        Raises:
            StoreUnavailableError, LedgerUnavailableError: nothing was opened, or nobody knows of it.
            ChallengeError: others kept changing the challenge of this call, or no more may be asked now (`Limits`).
        """
        for _ in range(ATTEMPTS):
            newest = await self._blocking(lambda: self._challenges.by_digest(challenge.digest))
            if newest is not None and newest.state.open:
                newest = await self._current(newest)
                if not newest.state.open:
                    continue
                if changed := changed_terms(newest, challenge) or await self._fallen(newest):
                    await self._apply(newest, Staled(f"{changed} changed since this was opened"))
                else:
                    self._ledger.append("challenge.joined", records.identity(newest) | {"call_id": call_id})
                    return await self._look_beforehand(newest)
                continue
            now = self._clock.now()
            if newest is not None and newest.state is State.DENIED and now < newest.decided + self._cool_down:
                return newest
            async with self._limits.place(challenge):
                opened = await self._insert(challenge, counterfactual, call_id)
            if opened.id == challenge.id:
                return await self._look_beforehand(opened)
        raise ChallengeError("this call's challenge keeps changing", reason=Code.STALE)

    async def _look_beforehand(self, challenge: Challenge) -> Challenge:
        """Count the consent that somebody gave in advance; where there is some that gives none, record why."""
        if challenge.state is not State.PENDING:
            return challenge
        for kind, found in await self._blocking(lambda: self._offers.look(challenge)):
            if isinstance(found, ProofError):
                self._rejected(challenge, kind, "", found)
                continue
            with suppress(ProofError, ChallengeClosedError):  # the same call, on another connection, was first
                return await self._count(challenge, kind, found)
            return await self._get(challenge.id)
        return challenge

    async def _insert(self, challenge: Challenge, counterfactual: Sequence[str], call_id: str) -> Challenge:
        """Record, then insert; the record of one that another process forestalled is closed again."""
        fields = records.opened(challenge, counterfactual) | {"call_id": call_id}
        self._ledger.append("challenge.opened", fields)
        opened = await self._blocking(lambda: self._challenges.open_or_join(challenge))
        if opened.id == challenge.id:
            faults.point("challenge.opened")
        else:
            because = f"{opened.id} was opened for the same call a moment earlier"
            self._ledger.append("challenge.cancelled", records.identity(challenge) | {"because": because})
        return opened

    async def settle(self, challenge_id: str, *, until: float) -> Challenge:
        """Wait until the challenge is no longer PENDING or `until` (monotonic seconds of the clock) has come.

        Notices changes of this process at once and those of others within 200 ms. A challenge whose time is up
        while waiting becomes EXPIRED. What this process made of it is returned unread: it may have changed since.

        Raises:
            NotFoundError: there is no such challenge.
            StoreUnavailableError: its state cannot be read.
        """
        news: Challenge | None = None
        with self._waiting.watch(challenge_id) as watch:
            while True:
                challenge = await self._current(news or await self._get(challenge_id))
                left = min(until - self._clock.mono(), challenge.expires - self._clock.now())
                if challenge.state is not State.PENDING or until <= self._clock.mono():
                    return challenge
                news = None
                with anyio.move_on_after(max(left, 0)):
                    news = await watch.wait(challenge)

    async def grants(self, digest: str, *, holder: Callable[[], None] = lambda: None) -> tuple[Grant, ...]:
        """The unspent grants for this call digest; whether one covers the call now is for `decide` to say.

        Proofs of somebody who was removed, or from a factor that was revoked since, are no longer among them. `holder`
        may block, is asked where there is a grant, and raises when whoever makes the call may not have it.
        """
        newest, grant = await self._blocking(lambda: self._grants.newest(digest, holder))
        if newest is None or grant is None or not (await self._current(newest)).state.open:
            return ()
        return (grant,)

    async def _fallen(self, challenge: Challenge) -> str:
        """What undid the grant of a challenge, in words; empty when it still holds, or there is none yet."""
        grant = (await self._upheld(challenge)).grant
        if grant is None or satisfied(grant.requirement, grant.proofs, self._clock.now()):
            return ""
        return "who may prove it"

    async def consume(self, grant: Grant, *, call_id: str = "") -> bool:
        """Spend the grant: one durable compare-and-swap with exactly one winner, over all processes.

        False when it is spent, ended, expired or no longer what `decide` looked at; then nothing may be forwarded. The
        intent to spend it must be on disk before.

        Raises:
            StoreUnavailableError: whether it was spent is not known; nothing may be forwarded.
            LedgerUnavailableError: it was spent and that could not be recorded; nothing may be forwarded.
        """
        read, effects = await self._blocking(lambda: self._grants.spend(grant))
        if not effects:
            if read is not None:
                await self._current(read)  # its time may be up, which is then recorded
            return False
        self._record(effects, call_id=call_id)
        self._wake(effects)
        faults.point("grant.consumed")
        return True

    async def outgrow(self, digest: str) -> None:
        """End the open challenge of a call that is about to run without it, so that its consent serves no other call.

        Raises:
            StoreUnavailableError, LedgerUnavailableError: it may still be open; nothing may be forwarded.
        """
        newest = await self._blocking(lambda: self._challenges.by_digest(digest))
        if newest is not None and newest.state.open:
            with suppress(ChallengeClosedError):
                await self._apply(newest, Staled("its call came to need nothing"))

    async def conclude(self, challenge_id: str, outcome: State) -> Challenge:
        """Bring a consumed challenge to COMPLETED, FAILED or UNKNOWN; the caller recorded the outcome.

        Raises:
            IllegalTransitionError: the grant was not consumed, or that is no outcome.
        """
        return await self._apply(await self._get(challenge_id), Concluded(outcome))

    # ------------------------------------------------------------------ the provers' side

    async def prove(
        self, challenge_id: str, kind: str, evidence: Mapping[str, Json], *, known: Challenge | None = None
    ) -> Challenge:
        """Verify evidence of this kind, record it, and count it; the challenge after it.

        `known` is that challenge as the caller just read it, and saves reading it again.

        Raises:
            NotFoundError: there is no such challenge.
            ChallengeClosedError: it ended, or needs nothing more; the evidence was not looked at, or came too late.
            ProofError: the evidence does not count. The attempt is recorded.
            UnavailableError: the factor, the store or the ledger is away.
        """
        challenge = await self._pending(challenge_id, known)
        proof, wished = await self._verify(challenge, kind, evidence)
        proven = await self._count(challenge, kind, proof)
        if wished is not None:
            await self._blocking(lambda: self._offers.give(wished, challenge, proof))
        return proven

    async def _count(self, challenge: Challenge, kind: str, proof: Proof) -> Challenge:
        """Record a verified proof once, then add it, whoever else changes the challenge meanwhile."""
        recorded = False
        with anyio.CancelScope(shield=True):  # the factor has been used; a caller who leaves does not undo that
            for _ in range(ATTEMPTS):
                try:
                    proven, effects = step(await self._upheld(challenge), Proven(proof), self._clock.now())
                except (ProofError, ChallengeClosedError) as error:
                    self._rejected(challenge, kind, proof.subject, error)
                    raise
                if not recorded:
                    self._record(effects)
                    recorded = True
                if await self._swap(challenge, proven):
                    faults.point("proof.accepted")
                    self._wake(effects, proven)
                    await self._keep(proven)
                    return proven
                challenge = await self._get(challenge.id)
        raise ChallengeError("the challenge keeps changing; try again", reason=Code.STALE)

    async def _keep(self, approved: Challenge) -> None:
        """Keep what a person approved, so that the next approver of this tool sees what differs."""
        seen = any(one.proof_class is ProofClass.CONSENT and one.kind not in AHEAD for one in approved.proofs)
        if not self._remember or approved.state is not State.SATISFIED or not seen or broken(approved.proofs):
            return
        precedent = Precedent.of(approved, self._remember)
        with suppress(UnavailableError):  # it is kept for show; the vote counts without it
            await self._blocking(lambda: self._store.people.precedents.put(precedent))

    async def prove_list(
        self, ids: Sequence[str], kind: str, evidence: Mapping[str, Json]
    ) -> Sequence[Challenge | ChallengeError | ProofError]:
        """Verify one piece of evidence for a list of challenges, all or none; then count each, in order.

        What comes back for each is the challenge after it, or why it ended in between; the others count all the same.

        Raises:
            NotFoundError, ChallengeClosedError, ProofError, UnavailableError: as `prove`, for any of them; none counts.
        """
        verifier = self._verifiers.get(kind)
        if not 1 < len(ids) <= TOGETHER or len(set(ids)) != len(ids) or not isinstance(verifier, ListVerifier):
            raise ProofInvalidError(f"a list is 2 to {TOGETHER} different challenges, approved by a person's code")
        challenges = [await self._pending(one) for one in ids]
        claimed = evidence.get("as")
        try:
            proofs = await self._blocking(lambda: verifier.verify_list(challenges, evidence, self._clock.now()))
        except ProofError as error:
            for challenge in challenges:
                self._rejected(challenge, kind, claimed if isinstance(claimed, str) else "", error)
            raise
        self._ledger.append("list.proven", records.listed(challenges, proofs))
        return [
            await self._count_one(challenge, kind, proof) for challenge, proof in zip(challenges, proofs, strict=True)
        ]

    async def _count_one(
        self, challenge: Challenge, kind: str, proof: Proof
    ) -> Challenge | ChallengeError | ProofError:
        try:
            return await self._count(challenge, kind, proof)
        except (ChallengeError, ProofError) as error:
            return error

    async def refuse(self, challenge_id: str, *, by: str, because: str) -> Challenge:
        """Deny a PENDING challenge on the word of a person whom a channel vouches for; a refusal needs no more.

        Raises:
            NotFoundError, ChallengeClosedError: there is nothing to refuse.
        """
        return await self._apply(await self._pending(challenge_id), Denied(by, self._redact(because)))

    async def _upheld(self, challenge: Challenge) -> Challenge:
        """As `Grants.standing`, in a worker thread where there is something to look at."""
        return await self._blocking(lambda: self._grants.standing(challenge)) if challenge.proofs else challenge

    async def deny(self, challenge_id: str, kind: str, evidence: Mapping[str, Json], because: str) -> Challenge:
        """Refuse the call for good, in words the agent may see; takes the same evidence as an approval.

        Raises:
            NotFoundError, ChallengeClosedError, ProofError, UnavailableError: as `prove`.
        """
        challenge = await self._pending(challenge_id)
        proof, _ = await self._verify(challenge, kind, evidence)
        if proof.proof_class is not ProofClass.CONSENT:
            error = ProofWrongApproverError("only a person decides about a call; this is a workload's proof")
            self._rejected(challenge, kind, proof.subject, error)
            raise error
        return await self._apply(challenge, Denied(proof.subject, self._redact(because)))

    async def decline(self, challenge_id: str, *, by: str, because: str) -> Challenge:
        """Take a call back on the word of the client that made it: denied, or its unspent grant revoked.

        The one refusal that needs no proof: whoever may make a call may take it back. The challenge as it is when it
        ended already.

        Raises:
            NotFoundError: there is no such challenge.
        """
        for _ in range(ATTEMPTS):
            challenge = await self._current(await self._get(challenge_id))
            if not challenge.state.open:
                return challenge
            event = Denied(by, self._redact(because)) if challenge.state is State.PENDING else Revoked(by)
            with suppress(ChallengeClosedError, IllegalTransitionError):
                return await self._apply(challenge, event)
        raise ChallengeError("the challenge keeps changing; try again", reason=Code.STALE)

    async def cancel(self, challenge_id: str, *, by: str, because: str) -> Challenge:
        """Close a PENDING challenge undecided: no refusal, so the agent may ask again at once.

        Raises:
            NotFoundError, ChallengeClosedError: there is nothing to cancel.
        """
        return await self._apply(await self._pending(challenge_id), Cancelled(by, self._redact(because)))

    async def revoke(self, grant_id: str, *, by: str) -> Challenge:
        """Withdraw an unspent grant (`g_…`).

        Raises:
            NotFoundError: there is no unspent grant of this id.
            ChallengeClosedError: it was spent or ended in the meantime.
        """
        nothing = NotFoundError(f"there is no unspent grant {visible(grant_id)}")
        try:
            challenge = await self._current(await self._get("c" + grant_id[1:]))
        except NotFoundError:
            raise nothing from None
        if challenge.grant is None or challenge.grant.id != grant_id:
            raise nothing
        return await self._apply(challenge, Revoked(by))

    async def _verify(
        self, challenge: Challenge, kind: str, evidence: Mapping[str, Json]
    ) -> tuple[Proof, Manifest | None]:
        """The proof, and what its giver allows beyond this call; whether they may is looked at first."""
        claimed = evidence.get("as")
        try:
            verifier = self._verifiers.get(kind)
            if verifier is None:
                raise ProofInvalidError("there is no factor of this kind here")

            def work() -> tuple[Proof, Manifest | None]:
                wished = self._offers.prepare(challenge, kind, evidence)
                return verifier.verify(challenge, evidence, self._clock.now()), wished

            return await self._blocking(work)
        except ProofError as error:
            self._rejected(challenge, kind, claimed if isinstance(claimed, str) else "", error)
            raise

    def _rejected(self, challenge: Challenge, kind: str, claimed: str, error: ProofError | ChallengeError) -> None:
        fields = records.identity(challenge) | {
            "proof": {"kind": self._redact(kind), "subject": self._redact(claimed)},
            "reasons": [{"code": error.reason.value, "by": "", "evidence": error.public}],
        }
        self._ledger.append("proof.rejected", fields)

    # ------------------------------------------------------------------ changes

    async def _get(self, challenge_id: str) -> Challenge:
        challenge = await self._blocking(lambda: self._challenges.get(challenge_id))
        if challenge is None:
            raise NotFoundError(f"there is no challenge {visible(challenge_id[:64])}")
        return challenge

    async def _pending(self, challenge_id: str, known: Challenge | None = None) -> Challenge:
        """The challenge if proofs may still come, before a code is spent on one that ended."""
        challenge = await self._current(known or await self._get(challenge_id))
        if challenge.state is State.SATISFIED:
            raise ChallengeClosedError("everything required was proven already")
        if challenge.state is not State.PENDING:
            raise ChallengeClosedError(reason=CLOSED[challenge.state])
        return challenge

    async def _current(self, challenge: Challenge) -> Challenge:
        """The challenge, EXPIRED first if it is open and its time is up."""
        if not challenge.state.open or challenge.timely(self._clock.now()):
            return challenge
        try:
            return await self._apply(challenge, Expired())
        except ChallengeClosedError:
            return await self._get(challenge.id)

    async def _apply(self, challenge: Challenge, event: Event) -> Challenge:
        """Carry out a change that only closes, whoever else changes the challenge meanwhile; then record it."""
        with anyio.CancelScope(shield=True):
            for _ in range(ATTEMPTS):
                changed, effects = step(challenge, event, self._clock.now())
                if await self._swap(challenge, changed):
                    self._wake(effects, changed)
                    self._record(effects)
                    return changed
                challenge = await self._get(challenge.id)
        raise ChallengeError("the challenge keeps changing; try again", reason=Code.STALE)

    async def _swap(self, old: Challenge, new: Challenge, spends: Mapping[str, int] = MappingProxyType({})) -> bool:
        """One compare-and-swap; on disk before it returns where power loss must not undo it."""
        durable = new.state in _DURABLE
        return await self._blocking(lambda: self._challenges.swap(old, new, durable=durable, spends=spends))

    def _record(self, effects: Sequence[Effect], **more: Json) -> None:
        for effect in effects:
            if isinstance(effect, Record):
                self._ledger.append(effect.event, {**effect.fields, **more})

    def _wake(self, effects: Sequence[Effect], news: Challenge | None = None) -> None:
        for effect in effects:
            if isinstance(effect, Wake):
                self._waiting.wake(effect.challenge, news)

    @staticmethod
    async def _blocking(work: Callable[[], _T]) -> _T:
        """Run a blocking call of the store or a factor in a worker thread, to its end even when cancelled."""
        return await anyio.to_thread.run_sync(work)
