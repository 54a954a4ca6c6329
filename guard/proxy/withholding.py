"""Withholds a result that is more than an agent may have, until somebody consents; then the same call gets it.

The call ran, once. Its result is kept sealed in the store, and a challenge of its own asks for it: its digest covers
the run and the bytes, so that no consent to a call releases a result, and none to a result runs a call. While it is
kept, the same call again never goes to the tool server. Delivered, refused or out of time it is erased; that it was
there is remembered until the same call was told, so that nothing runs twice unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar, assert_never

import anyio
import anyio.to_thread
import structlog

from guard.config import Config
from guard.decide import Settings, decide_result
from guard.drift.assess import Assessor
from guard.errors import GuardError, UnavailableError
from guard.model import (
    Band,
    Call,
    Challenge,
    Decision,
    Deny,
    Doubt,
    Finding,
    Grant,
    Json,
    Limit,
    Measure,
    Permit,
    Principal,
    ProofClass,
    Sensitivity,
    State,
)
from guard.ports import Challenges, Clock
from guard.proxy.exchange import KEPT_LIMIT, Arrival, Exchange, Outcome
from guard.proxy.journal import Journal, Judged, reasons_json
from guard.proxy.ladder import Leg, Said
from guard.proxy.pausing import READABLE, Pausing
from guard.proxy.scale import Scale
from guard.proxy.shown import LIMIT
from guard.proxy.spans import exchanged, taken
from guard.proxy.volumes import Volumes
from guard.quorum import AHEAD
from guard.reasons import Code, Reason
from guard.results import KIND, Kept, Results
from guard.stepup.ceremony import Ceremony
from guard.wire.canonical import canonical, digest
from guard.wire.message import Request

log = structlog.get_logger()

EACH: Final = 8
"""Withheld results that are kept for one agent."""
ALL_BYTES: Final = 64 * 1024 * 1024
"""Bytes of withheld results that are kept altogether."""
LINGER: Final = 3600.0
"""Seconds for which the same call is still told that it ran, after its result was due to be erased."""
SWEEP: Final = 5.0
"""Seconds between two looks for what is to be erased."""
_OVER: Final = {
    State.DENIED: Code.DENIED,
    State.CANCELLED: Code.CANCELLED,
    State.REVOKED: Code.REVOKED,
    State.EXPIRED: Code.EXPIRED,
    State.CONSUMED: Code.SPENT,
    State.COMPLETED: Code.SPENT,
    State.FAILED: Code.SPENT,
    State.UNKNOWN: Code.SPENT,
}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call whose result is asked for, and its caller. `judge` says what tags and signals say about it now."""

    judged: Judged
    arrival: Arrival
    exchange: Exchange
    judge: Callable[[Call], Judged]
    leg: Leg | None = None

    @property
    def call(self) -> Call:
        """The call itself: the run, or a later one that is the same."""
        return self.judged.call


class Withholding:
    """The withheld results of every process that shares the store."""

    def __init__(
        self,
        *,
        config: Config,
        results: Results,
        challenges: Challenges,
        recheck: Callable[[Principal], None],
        volumes: Volumes,
        assessor: Assessor,
        ceremony: Ceremony,
        pausing: Pausing,
        journal: Journal,
        clock: Clock,
    ) -> None:
        """Take every collaborator; `recheck` raises when a principal's credential no longer counts."""
        self._results, self._challenges, self._recheck = results, challenges, recheck
        self._volumes, self._assessor, self._ceremony, self._pausing = volumes, assessor, ceremony, pausing
        self._journal, self._clock = journal, clock
        self._settings = Settings(irreversible=config.irreversible, expires=config.approval.expires)
        self._watched, self._cool_down = config.watched, config.approval.cool_down
        self._known: frozenset[str] = frozenset()
        self._own: set[str] = set()  # what this process keeps, whatever it has learnt of the others
        self._releasing: set[str] = set()

    # ------------------------------------------------------------------ before a call

    def require_measurable(self, judged: Judged, arrival: Arrival) -> None:
        """Refuse a call whose result would come later, as that of a task, and past every limit on it.

        Raises:
            GuardError: it is such a call.
        """
        limits = judged.classification.limits
        if not limits:
            return
        limited = any(limit.measure is not Measure.CALLS for limit in limits)
        if limited and isinstance(arrival.message, Request) and "task" in arrival.message.params:
            raise GuardError("results of this call are limited, so it cannot be a task", reason=Code.RESULT_LIMIT)

    def scale(self, judged: Judged, grant: Grant | None) -> Scale | None:
        """What measures the result of this call; None where nothing about it could be too much.

        The owner's limits always count. What is usual counts for sensitive calls of agents that are known well enough,
        unless a person consented to this very call.
        """
        call, tags = judged.call, judged.classification
        if not tags.limits and tags.sensitivity < Sensitivity.SENSITIVE:
            return None
        limited = any(limit.measure is not Measure.CALLS for limit in tags.limits)
        usual = tags.sensitivity >= Sensitivity.SENSITIVE and call.kind != "protocol" and not _seen(grant)
        usual = usual and self._assessor.knows_size(call)
        if not limited and not usual:
            return None
        return Scale(judged, self._volumes, self._assessor if usual else None)

    async def find(self, call: Call) -> Kept | None:
        """The result that is kept for this very call of this agent; waits only where one is.

        Raises:
            StoreUnavailableError: nobody can tell.
        """
        if call.digest not in self._known and call.digest not in self._own:
            return None
        found = await _blocking(lambda: self._results.oldest(call.digest))
        if found is None:
            self._own.discard(call.digest)
        return found

    def refresh(self) -> None:
        """Learn which results other processes keep. Blocks.

        Raises:
            StoreUnavailableError: what is known stays.
        """
        self._known = self._results.digests()

    # ------------------------------------------------------------------ after a call

    async def withhold(self, outcome: Outcome, scale: Scale, asked: Asked) -> None:
        """Keep the result of a call that just ran, and ask for it. Whatever fails, the caller learns that it ran."""
        try:
            kept = await self._keep(asked.call, outcome, scale)
        except UnavailableError as error:
            log.error("result.lost", call_id=asked.call.id, detail=error.detail)  # noqa: TRY400
            kept = Reason(error.reason)
        if isinstance(kept, Reason):
            await self._refuse(asked, Deny(reasons=(Reason(Code.RESULT_GONE), kept)))
            return
        try:
            demand = self._decide(kept, asked.judged, ())
            if isinstance(demand, Challenge):  # a proof that came with the call was for the call
                await self._ask(kept, demand, replace(asked, arrival=replace(asked.arrival, proof="")))
            elif isinstance(demand, Deny):
                await self._refuse(asked, Deny(reasons=(Reason(Code.RESULT_WITHHELD), *demand.reasons)))
        except GuardError as error:
            reasons = Reason(Code.RESULT_WITHHELD), Reason(error.reason, evidence=self._journal.said(error.public))
            await self._refuse(asked, Deny(reasons=reasons))

    def watch(self, call: Call, outcome: Outcome, scale: Scale) -> None:
        """Record a result that would have been withheld, were the call not only watched."""
        scale.watch(outcome)
        if scale.heavy:
            try:
                self._journal.result("result.withheld", self._described(call, scale, b""), watched=True)
            except UnavailableError as error:  # it was delivered already
                log.error("result.unrecorded", call_id=call.id, detail=error.detail)  # noqa: TRY400

    async def _keep(self, call: Call, outcome: Outcome, scale: Scale) -> Kept | Reason:
        """What is kept now, or why it cannot be."""
        answer = outcome.body
        kept = self._described(call, scale, answer)
        self._journal.result("result.withheld", kept)
        why = "" if _is_response(answer) else f"it has more than {KEPT_LIMIT} bytes, or is no answer"
        if not why and not await _blocking(lambda: self._results.keep(kept, answer, each=EACH, most=ALL_BYTES)):
            why = "no more results can be kept for this agent, or for all"
        if why:
            self._journal.result("result.dropped", kept, because=why)
            return Reason(Code.RESULT_LIMIT, evidence=why)
        self._own.add(call.digest)
        return kept

    def _described(self, call: Call, scale: Scale, answer: bytes) -> Kept:
        """What is known of a result of this size, from now on."""
        now, finding = self._clock.now(), scale.findings[0] if scale.findings else None
        return Kept(
            digest=_digest(call, answer),
            call_digest=call.digest,
            call_id=call.id,
            principal=call.principal.subject,
            server=call.server,
            name=call.name,
            size=scale.size,
            rows=-1 if scale.rows is None else scale.rows,
            limits=tuple(limit.name for limit in scale.over),
            band=finding.band if finding else 0,
            evidence=finding.reason.evidence if finding else "",
            at=now,
            expires=now + self._settings.expires,
        )

    # ------------------------------------------------------------------ the same call again

    async def again(self, kept: Kept, asked: Asked) -> None:
        """Answer a call whose result of an earlier run is kept: with that, or with what it waits for. Nothing runs.

        Raises:
            GuardError: nothing was answered; the result is still kept.
        """
        judged, leg, subject = asked.judged, asked.leg, asked.call.principal.subject
        if leg is not None:
            await self._pausing.hear(leg, subject)
            if leg.said is Said.REFUSED:
                await self._pausing.decline(leg.challenge, subject)
        decision = self._decide(kept, judged, await self._ceremony.grants(kept.digest))
        self._journal.decided(judged, decision, result_of=kept.call_id)
        if await self._told_gone(kept, asked):
            return
        match decision:
            case Challenge() if asked.call.server in self._watched:
                await self._deliver(kept, asked, None)
            case Permit(grant=grant):
                await self._deliver(kept, asked, grant)
            case Challenge():
                await self._ask(kept, decision, asked)
            case Deny():
                self._conclude(kept, asked, "refused", "")
                await self._refuse(asked, decision)
            case _:
                assert_never(decision)

    async def _deliver(self, kept: Kept, asked: Asked, grant: Grant | None) -> None:
        """Release, or say that the same call on another connection was first."""
        if not await self._release(kept, asked, grant):
            self._conclude(kept, asked, Code.SPENT, "")
            await self._refuse(asked, Deny(reasons=(Reason(Code.RESULT_GONE), Reason(Code.SPENT))))

    async def _ask(self, kept: Kept, demand: Challenge, asked: Asked) -> None:
        """Open or join the challenge, hold, and answer by the ladder."""
        call, exchange = asked.call, asked.exchange
        demand = replace(demand, expires=min(demand.expires, kept.expires))
        challenge = await self._ceremony.open(demand, call_id=kept.call_id)
        held = await self._pausing.hold(challenge, asked.arrival, exchange, asked.leg)
        if exchange.gone:
            self._conclude(kept, asked, Code.CALLER_LEFT, challenge.id)
            return
        if held.challenge.state is State.SATISFIED:
            now = replace(asked, judged=asked.judge(call))  # tags may have changed while it was held
            decision = self._decide(kept, now.judged, await self._ceremony.grants(kept.digest))
            if isinstance(decision, Permit) and await self._release(kept, now, decision.grant):
                return
            held = replace(held, challenge=await self._ceremony.settle(challenge.id, until=self._clock.mono()))
        if await self._told_gone(kept, asked):
            return
        self._conclude(kept, asked, held.challenge.state, challenge.id)
        await self._pausing.answer(held, call, asked.arrival, exchange, asked.leg)

    def _decide(self, kept: Kept, judged: Judged, grants: tuple[Grant, ...]) -> Decision:
        """What is required for this result by the tags in force now."""
        call, tags = judged.call, judged.classification
        over = [limit for limit in dict.fromkeys(tags.limits) if limit.name in kept.limits]
        findings = _findings(kept)
        reasons = [Reason(Code.RESULT_LIMIT, tags.owner, _said(kept, limit)) for limit in over]
        reasons += [finding.reason for finding in findings]
        about = replace(call, id=self._clock.token("k"), kind=KIND, digest=kept.digest, canonical=_shown(call))
        return decide_result(
            about,
            tags,
            findings,
            grants,
            self._clock.now(),
            over=over,
            reasons=reasons or [Reason(Code.RESULT_LIMIT, tags.owner, _amount(kept))],
            settings=self._settings,
        )

    # ------------------------------------------------------------------ ends

    async def _release(self, kept: Kept, asked: Asked, grant: Grant | None) -> bool:
        """Spend the grant and deliver; False when it was spent or erased already, or nobody is there to take it."""
        call, exchange, message = asked.call, asked.exchange, asked.arrival.message
        if exchange.gone or kept.digest in self._releasing or not isinstance(message, Request):
            return False
        self._releasing.add(kept.digest)
        try:
            await anyio.to_thread.run_sync(self._recheck, call.principal)
            answer = await _blocking(lambda: self._results.answer(kept.digest))
            if answer is None or (grant is not None and not await self._ceremony.consume(grant, call_id=call.id)):
                return False
            await self._journal.released(kept, call, grant)
            limits = asked.judged.classification.limits
            self._volumes.deliver(call.principal.subject, limits, kept.size, max(kept.rows, 0))
            await exchange.answer(exchanged(answer, (("id",), json.dumps(message.id).encode())))
            with anyio.CancelScope(shield=True):
                if asked.exchange.gone:
                    # Perhaps before it was written; then the same call shall not run again unnoticed.
                    await self._drop(kept, Reason(Code.CALLER_LEFT))
                else:
                    await self._forget(kept)
                if grant is not None:
                    await self._ceremony.conclude(grant.challenge, State.COMPLETED)
        finally:
            self._releasing.discard(kept.digest)
        self._conclude(kept, asked, "released", grant.challenge if grant else "")
        proven = frozenset(one.proof_class for one in grant.proofs) if grant else frozenset[ProofClass]()
        try:
            self._assessor.learn(call, proven, answer, cut=len(answer) > LIMIT, size=kept.size, challenged=True)
        except KeyError:  # its profile made room for others while the result waited
            log.warning("call.unlearnt", call_id=call.id)
        return True

    async def _told_gone(self, kept: Kept, asked: Asked) -> bool:
        """Tell a caller that what it waits for will not be delivered; False while it may be.

        Once, but each time while a refusal is fresh.
        """
        newest = await _blocking(lambda: self._challenges.by_digest(kept.digest))
        code = _OVER.get(newest.state) if newest is not None else None
        if code is None and self._clock.now() >= kept.expires:
            code = Code.EXPIRED
        if code is None:
            return False
        ended = Reason(code, newest.ended_by, newest.ended_because) if newest is not None else Reason(code)
        await self._drop(kept, ended)
        fresh = newest is not None and self._clock.now() < newest.decided + self._cool_down
        if not (fresh and code is Code.DENIED):  # this caller is told; the same call again is a new one
            await self._forget(kept)
        self._conclude(kept, asked, Code.RESULT_GONE, newest.id if newest is not None else "")
        await self._refuse(asked, Deny(reasons=(Reason(Code.RESULT_GONE), ended)))
        return True

    def _conclude(self, kept: Kept, asked: Asked, outcome: str, challenge_id: str) -> None:
        """Say how a later call ended; that of the run itself is on record."""
        if asked.call.id != kept.call_id:
            fields: dict[str, Json] = {"result_of": kept.call_id}
            if challenge_id:
                fields["challenge_id"] = challenge_id
            self._journal.concluded(asked.call, outcome, None, **fields)

    async def _refuse(self, asked: Asked, deny: Deny) -> None:
        await self._pausing.refuse(asked.arrival, asked.exchange, deny)

    async def _drop(self, kept: Kept, ended: Reason) -> None:
        """Erase what will never be delivered; whoever does it records it."""
        if await _blocking(lambda: self._results.erase(kept.digest)):
            self._journal.result("result.dropped", kept, reasons=reasons_json([ended]))

    async def _forget(self, kept: Kept) -> None:
        """Let the same call run anew."""
        await _blocking(lambda: self._results.drop(kept.digest))

    async def run(self) -> None:
        """Erase what is refused or out of time although nobody asks for it; runs until cancelled."""
        while True:
            try:
                await self.sweep()
            except UnavailableError as error:
                log.warning("result.unswept", detail=error.detail)
            await anyio.sleep(SWEEP)

    async def sweep(self) -> None:
        """Erase what is refused or out of time, and forget what nobody came back for.

        Raises:
            UnavailableError: store or ledger is away; call again.
        """
        now = self._clock.now()
        for kept in await _blocking(lambda: self._results.due(now)):
            newest = await _blocking(partial(self._challenges.by_digest, kept.digest))
            code = _OVER.get(newest.state, Code.EXPIRED) if newest is not None else Code.EXPIRED
            await self._drop(kept, Reason(code, newest.ended_by if newest is not None else ""))
        await _blocking(lambda: self._results.bury(now - LINGER))


async def _blocking(work: Callable[[], _T]) -> _T:
    return await anyio.to_thread.run_sync(work)


def _digest(call: Call, answer: bytes) -> str:
    """What is proven for a result is bound to: the call, its run, and the bytes that came back."""
    answered = hashlib.sha256(answer).hexdigest()
    return digest(canonical({"typ": "guard.result", "v": 1, "call": call.digest, "run": call.id, "answer": answered}))


def _seen(grant: Grant | None) -> bool:
    """Whether a person looked at this very call and wants it."""
    consents = grant.proofs if grant is not None else ()
    return any(one.proof_class is ProofClass.CONSENT and one.kind not in AHEAD for one in consents)


def _is_response(answer: bytes) -> bool:
    """Whether it can be given to a later request, under that one's id."""
    try:
        return bool(answer) and bool(taken(answer, "id"))
    except (ValueError, RecursionError):
        return False


def _shown(call: Call) -> str:
    """The arguments as the approver sees them; the call ran, so what is too long to read is only named."""
    if len(call.canonical) <= READABLE:
        return call.canonical
    return canonical({"characters": len(call.canonical), "sha256": digest(call.canonical)})


def _findings(kept: Kept) -> tuple[Finding, ...]:
    if not kept.band:
        return ()
    reason = Reason(Code.MUCH_DATA, by="volume", evidence=kept.evidence)
    return (Finding(signal="volume", cause=Doubt.INTENT, band=Band(kept.band), reason=reason),)


def _amount(kept: Kept) -> str:
    counted = "" if kept.rows < 0 else f" and {kept.rows} rows"
    return f"{kept.size} bytes{counted}"


def _said(kept: Kept, limit: Limit) -> str:
    words = f": {limit.reason}" if limit.reason else ""
    return f"{_amount(kept)}, of {limit.most} {limit.measure} in {limit.seconds:g} s ({limit.name}){words}"
