"""The story of one message, told once: read, classify, assess, decide, record, step up, forward, conclude.

Both fronts call `Pipeline.handle`. Whatever goes wrong on the way to a forward ends in a refusal with a
reason; the one catch-all of the package stands here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias, assert_never

import anyio
import anyio.to_thread
import structlog

from guard import faults
from guard.config import Config
from guard.decide import Settings, decide
from guard.drift.assess import Assessor
from guard.errors import GuardError, UnavailableError, UpstreamError
from guard.model import (
    Call,
    Challenge,
    Decision,
    Deny,
    Grant,
    Json,
    Permit,
    Principal,
    ProofClass,
    Sensitivity,
    Source,
    State,
)
from guard.policy.classify import PolicySet, classify
from guard.ports import Clock, Identifier
from guard.proxy import legs
from guard.proxy.catalogue import Catalogue
from guard.proxy.continuations import Continuation, Continuations
from guard.proxy.exchange import Arrival, Ending, Exchange, Outcome
from guard.proxy.journal import Journal, Judged, reasons_json
from guard.proxy.ladder import Leg, Said
from guard.proxy.memory import Memory
from guard.proxy.pausing import READABLE, Held, Pausing
from guard.proxy.scale import Scale
from guard.proxy.volumes import Volumes
from guard.proxy.withholding import Asked, Withholding
from guard.quorum import AHEAD
from guard.reasons import Code, Reason
from guard.requirement import counterfactual
from guard.stepup.ceremony import Ceremony
from guard.wire.canonical import call_digest, canonical
from guard.wire.message import Message, Request, Response
from guard.wire.methods import resumes, target

log = structlog.get_logger()

_LAST_STATE: Final = {
    Ending.OK: State.COMPLETED,
    Ending.TOOL_ERROR: State.COMPLETED,
    Ending.UPSTREAM_ERROR: State.FAILED,
    Ending.UNKNOWN: State.UNKNOWN,
}
_NOTHING: Final = frozenset[ProofClass]()
_SPENT: Final = frozenset({State.CONSUMED, *_LAST_STATE.values()})

_Place: TypeAlias = tuple[str, str, bool]

_BY_POLICY: Final = frozenset({Code.SAME_UID, Code.NOT_ALLOWED})
"""Reasons of refusals that an owner's settings demand; where calls are only watched, they go through."""


class Pipeline:
    """The enforcement point between the two fronts and the decision core."""

    def __init__(
        self,
        *,
        config: Config,
        policies: Callable[[], PolicySet],
        identifier: Identifier,
        catalogue: Catalogue,
        memory: Memory,
        volumes: Volumes,
        assessor: Assessor,
        ceremony: Ceremony,
        pausing: Pausing,
        withholding: Withholding,
        journal: Journal,
        clock: Clock,
    ) -> None:
        """Take every collaborator; `policies` returns the set in force now."""
        self._config, self._policies, self._identifier = config, policies, identifier
        self._catalogue, self._memory, self._volumes, self._assessor = catalogue, memory, volumes, assessor
        self._ceremony, self._pausing, self._continuations = ceremony, pausing, Continuations(clock)
        self._journal, self._clock, self._withholding = journal, clock, withholding
        self._settings = Settings(irreversible=config.irreversible, expires=config.approval.expires)
        self._same_uid = frozenset(name for name, one in config.servers.items() if one.command)
        self._watched = config.watched
        self._in_flight: dict[_Place, int] = {}
        self._places = config.proxy.max_in_flight
        self._ended: set[str] = set()
        self._stopping = anyio.Event()

    async def handle(self, arrival: Arrival, exchange: Exchange) -> None:
        """Carry one message through the steps; never raises but on cancellation."""
        judged: Judged | None = None
        try:
            place = self._take_place(arrival)
            try:
                faults.point("call.received")
                await self._memory.recall(arrival.principal, arrival.server)
                await self._volumes.recall(arrival.principal.subject)
                call = self._read(arrival)  # 1 read
                kept = await self._withholding.find(call)
                earlier = await self._earlier(call, arrival.message)
                # Nothing may wait from here to a permitted call's count.
                judged = self._judge(call, limits=earlier is None)  # 2 classify, 3 assess
                leg = self._pausing.resume(arrival, judged.call, exchange)
                if kept is not None:  # it ran already, and its result waits
                    await self._withholding.again(kept, self._asked(judged, arrival, exchange, leg))
                    return
                self._withholding.require_measurable(judged, arrival)
                decision = self._decide(judged, ())  # 4 decide
                self._journal.decided(judged, decision)  # 5 record
                match decision:
                    case Permit():
                        self._count(judged, earlier)
                        await self._forward(judged, arrival, exchange)  # 7 forward, 8 conclude
                    case Challenge() | Deny() if self._watches(judged.call, decision):
                        self._count(judged, earlier)
                        await self._forward(judged, arrival, exchange, watched=True)  # on the record that says so
                    case Challenge() if leg is None and resumes(arrival.message):
                        await self._continue(judged, earlier, arrival, exchange)  # 7 and 8
                    case Challenge():
                        await self._step_up(judged, decision, arrival, exchange, leg)  # 6 step up, then 7 and 8
                    case Deny():
                        await self._pausing.refuse(arrival, exchange, decision)
                    case _:
                        assert_never(decision)
            finally:
                self._leave_place(place)
        except GuardError as error:
            await self._fail(arrival, exchange, judged, error)
        except Exception as error:
            log.exception("pipeline.failed", server=arrival.server)
            sent, name = judged is not None and judged.call.id in self._ended, type(error).__name__
            failure = UpstreamError(sent=True, detail=name) if sent else GuardError(detail=name)
            await self._fail(arrival, exchange, judged, failure)
        finally:
            if judged is not None:
                self._ended.discard(judged.call.id)
                self._assessor.ended(judged.call)

    def _asked(self, judged: Judged, arrival: Arrival, exchange: Exchange, leg: Leg | None = None) -> Asked:
        return Asked(judged=judged, arrival=arrival, exchange=exchange, judge=self._judge, leg=leg)

    def refused(self, *, server: str, source: Source, principal: Principal | None, error: Exception) -> None:
        """Record a message that never became an `Arrival`."""
        self._journal.rejected(server=server, source=source, principal=principal, error=error)

    def stop(self) -> None:
        """Take no more calls and let go of those that are held."""
        self._stopping.set()
        self._pausing.stop()

    # ------------------------------------------------------------------ 1 read

    def _take_place(self, arrival: Arrival) -> _Place:
        """Take one of the principal's places at a server; there are only so many, and a hung server has its own.

        So have cancellations and answers: an agent that waits for every one of its calls can still end them.
        """
        asks, places = isinstance(arrival.message, Request), self._in_flight
        place = (arrival.principal.subject, arrival.server, asks)
        if self._stopping.is_set():
            raise GuardError(reason=Code.STOPPING)
        taken = places.get(place, 0)
        if taken >= self._places:
            raise GuardError(reason=Code.OVERLOADED)
        places[place] = taken + 1
        return place

    def _leave_place(self, place: _Place) -> None:
        places = self._in_flight
        if places[place] > 1:
            places[place] -= 1
        else:
            del places[place]

    def _read(self, arrival: Arrival) -> Call:
        """Turn a decoded message into a Call with the digests that bind everything after it."""
        message, aim = arrival.message, target(arrival.message)
        text = definition = digest = ""
        if aim.kind != "protocol":
            text = canonical(aim.arguments)
            definition = self._definition(arrival.server, aim.kind, aim.name)
            digest = call_digest(
                principal=arrival.principal.subject,
                server=arrival.server,
                kind=aim.kind,
                name=aim.name,
                definition=definition,
                canonical_arguments=text,
            )
        return Call(
            id=self._clock.token("k"),
            principal=arrival.principal,
            source=arrival.source,
            server=arrival.server,
            method="" if isinstance(message, Response) else message.method,
            kind=aim.kind,
            name=aim.name,
            arguments=aim.arguments,
            canonical=text,
            definition=definition,
            digest=digest,
            received=self._clock.now(),
        )

    def _definition(self, server: str, kind: str, name: str) -> str:
        return self._catalogue.definition(server, name) if kind == "tool" else ""

    # ------------------------------------------------------------------ 2 classify, 3 assess, 4 decide

    async def _earlier(self, call: Call, message: Message) -> Continuation | None:
        """The call that this one goes on with, because its tool server asked for more input; once."""
        state = message.params.get("requestState") if isinstance(message, Request) else None
        if not isinstance(state, str) or state.startswith(legs.PREFIX):
            return None
        return await self._continuations.take(state, call)

    def _judge(self, call: Call, *, limits: bool = True) -> Judged:
        """What the owner's tags and the signals say about the call at this moment; `limits` count only new calls."""
        tool = call.kind == "tool"
        changed = tool and self._catalogue.changed(call.server, call.name)
        classification = classify(
            self._policies(),
            call,
            now=self._clock.now(),
            definition_changed=changed,
            change=self._catalogue.change(call.server, call.name) if changed else "",
            hint_destructive=tool and self._catalogue.destructive(call.server, call.name),
        )
        if limits and classification.limits:
            classification = self._volumes.judged(call.principal.subject, classification)
        return Judged(call=call, classification=classification, findings=self._assessor.assess(call, classification))

    def _decide(self, judged: Judged, grants: Sequence[Grant]) -> Decision:
        tags, call = judged.classification, judged.call
        if (
            self._config.proxy.refuse_same_uid
            and (call.source.transport == "stdio" or call.server in self._same_uid)
            and tags.sensitivity is Sensitivity.CRITICAL
        ):
            return Deny(reasons=(Reason(Code.SAME_UID), *tags.reasons))
        return decide(call, tags, judged.findings, grants, self._clock.now(), settings=self._settings)

    def _watches(self, call: Call, decision: Challenge | Deny) -> bool:
        """Whether this decision is only watched. What the guard cannot read or understand is refused all the same."""
        by_policy = isinstance(decision, Challenge) or decision.code in _BY_POLICY
        return by_policy and call.server in self._watched

    # ------------------------------------------------------------------ 6 step up

    async def _step_up(
        self, judged: Judged, demand: Challenge, arrival: Arrival, exchange: Exchange, leg: Leg | None
    ) -> None:
        """Spend the grant of an earlier approval, or open or join the challenge, hold it, and answer by the ladder."""
        _refuse_unreadable(judged.call)
        if leg is not None:
            await self._pausing.hear(leg, judged.call.principal.subject)
        if leg is not None and leg.said is Said.REFUSED:
            held = Held.over(await self._pausing.decline(leg.challenge, judged.call.principal.subject))
        else:
            if await self._spend_grant(judged, arrival, exchange):
                return
            challenge = await self._challenge(judged, demand, leg)
            held = await self._pausing.hold(challenge, arrival, exchange, leg)
            if exchange.gone:
                self._journal.concluded(judged.call, Code.CALLER_LEFT, challenge_id=challenge.id)
                return
            await self._memory.recall(judged.call.principal, judged.call.server)
            judged = self._judge(judged.call)  # tags and definitions may have changed while it was held
            if held.challenge.state is State.SATISFIED and await self._spend_grant(judged, arrival, exchange):
                return
            held = replace(held, challenge=await self._ceremony.settle(held.challenge.id, until=self._clock.mono()))
        state = held.challenge.state
        outcome = state if state not in _SPENT else Code.SPENT  # this call itself never ran
        self._journal.concluded(judged.call, outcome, challenge_id=held.challenge.id)
        await self._pausing.answer(held, judged.call, arrival, exchange, leg)

    async def _challenge(self, judged: Judged, demand: Challenge, leg: Leg | None) -> Challenge:
        """The challenge this call waits for; one that ended while the client carried its state is not opened anew."""
        if leg is not None:
            known = await self._ceremony.settle(leg.challenge, until=self._clock.mono())
            if not known.state.open:
                return known
        why = counterfactual(judged.classification, judged.findings, self._config.irreversible)
        return await self._ceremony.open(demand, counterfactual=why, call_id=judged.call.id)

    async def _continue(
        self, judged: Judged, earlier: Continuation | None, arrival: Arrival, exchange: Exchange
    ) -> None:
        """Let an approved call go on whose tool server asked for more input, if it is still approved.

        Raises:
            GuardError: it brings answers or a state that no tool server asked for in an approved call (UNSOLICITED).
        """
        _refuse_unreadable(judged.call)
        grant = earlier.still if earlier is not None else None
        if earlier is None or grant is None or not isinstance(self._decide(judged, [grant]), Permit):
            raise GuardError(
                "a call that needs a step-up may not carry inputResponses or requestState; repeat it without",
                reason=Code.UNSOLICITED,
            )
        await anyio.to_thread.run_sync(self._identifier.recheck, judged.call.principal)
        await self._journal.intend(judged, grant, continues=earlier.call_id)
        await self._forward(judged, arrival, exchange, grant, spent=True)

    # ------------------------------------------------------------------ 7 forward, 8 conclude

    async def _spend_grant(self, judged: Judged, arrival: Arrival, exchange: Exchange) -> bool:
        """Forward on a grant that covers this call now; False when there is none or somebody else spent it."""
        call = judged.call
        holder = partial(self._identifier.recheck, call.principal)
        grants = await self._ceremony.grants(call.digest, holder=holder)
        decision = self._decide(judged, grants)
        if isinstance(decision, Permit) and decision.grant is None:  # what it needed proof for is gone
            await anyio.to_thread.run_sync(holder)
            await self._ceremony.outgrow(call.digest)
            judged = self._judge(call)  # others may be counted by now; from here to its own count nothing waits
            decision = self._decide(judged, grants)
        if self._definition(call.server, call.kind, call.name) != call.definition or not isinstance(decision, Permit):
            return False
        if exchange.gone:
            return False
        if decision.grant is None:
            self._journal.decided(judged, decision)
            self._count(judged)
            await self._forward(judged, arrival, exchange)
            return True
        await self._journal.intend(judged, decision.grant)
        if not await self._consume(call, decision.grant):
            return False
        self._count(judged)
        await self._forward(judged, arrival, exchange, decision.grant)
        return True

    def _count(self, judged: Judged, earlier: Continuation | None = None) -> None:
        """Count a call that goes on and is no part of an earlier one.

        Nothing waits between this and the judgement of a call without a grant.
        """
        if judged.classification.limits and earlier is None:
            self._volumes.count(judged.call.principal.subject, judged.classification.limits)

    async def _consume(self, call: Call, grant: Grant) -> bool:
        """One compare-and-swap; the intent that is on disk gets its outcome also when this was not the winner."""
        try:
            won = await self._ceremony.consume(grant, call_id=call.id)
        except UnavailableError:
            self._ended.add(call.id)
            self._journal.concluded(call, "refused", grant)
            raise
        if not won:
            self._journal.concluded(call, "refused", grant)
        return won

    async def _forward(
        self,
        judged: Judged,
        arrival: Arrival,
        exchange: Exchange,
        grant: Grant | None = None,
        *,
        spent: bool = False,
        watched: bool = False,
    ) -> None:
        """Send the inspected bytes once, relay the answer, record how it ended, learn what it may teach.

        `spent`: the grant's challenge came to its last state when the call was forwarded for the first time;
        `watched`: it would not have been permitted, and is no example of what is usual.
        """
        call, outcome, reasons = judged.call, Outcome(ending=Ending.UNKNOWN), tuple[Reason, ...]()
        began, scale = self._clock.mono(), self._withholding.scale(judged, grant)
        try:
            outcome = await self._relay(judged, exchange, grant, None if call.server in self._watched else scale)
        except UpstreamError as error:
            outcome = Outcome(ending=Ending.UNKNOWN if error.sent else Ending.UPSTREAM_ERROR)
            reasons = (Reason(error.reason, evidence=self._journal.said(error.public)),)
            raise
        finally:
            self._record_end(call, outcome, reasons, grant)
            if grant is not None and not spent:
                await self._close(grant, outcome)
        if outcome.withheld and scale is not None:
            await self._withholding.withhold(outcome, scale, self._asked(judged, arrival, exchange))
            return
        if scale is not None and call.server in self._watched:
            self._withholding.watch(call, outcome, scale)
        if outcome.ending in {Ending.OK, Ending.TOOL_ERROR}:
            await self._learn(call, grant, outcome, watched=watched)
        waited = self._clock.mono() - began
        if waited > 1 and call.kind == "tool" and outcome.ending is Ending.OK and not exchange.gone:
            await self._pausing.habits.waited(call.principal.subject, waited)

    async def _relay(self, judged: Judged, exchange: Exchange, grant: Grant | None, scale: Scale | None) -> Outcome:
        """Forward unless the caller left at the last moment; remember a call that comes back and is no new one then."""
        if exchange.gone:
            raise UpstreamError(Code.CALLER_LEFT.meaning, sent=False, reason=Code.CALLER_LEFT)
        faults.point("call.forwarded")
        if grant is None and not judged.classification.limits:
            outcome = await exchange.forward(scale)
        else:
            with self._continuations.running(judged.call):
                outcome = await exchange.forward(scale)
                if outcome.state:
                    until = self._clock.now() + self._config.approval.expires
                    self._continuations.remember(outcome.state, judged.call, grant, expires=until)
        faults.point("call.answered")
        return outcome

    def _record_end(self, call: Call, outcome: Outcome, reasons: tuple[Reason, ...], grant: Grant | None) -> None:
        """Record the outcome of a forward; the challenge comes to its last state after it."""
        self._ended.add(call.id)
        extra: dict[str, Json] = {"reasons": reasons_json(reasons)} if reasons else {}
        if outcome.withheld:
            extra["withheld"] = True
        self._journal.concluded(
            call, outcome.ending, grant, result_bytes=outcome.result_bytes, status=outcome.status, **extra
        )
        faults.point("call.concluded")

    async def _close(self, grant: Grant, outcome: Outcome) -> None:
        """Bring the challenge to its last state. The outcome is on record, so that this fails changes nothing."""
        try:
            with anyio.CancelScope(shield=True):
                await self._ceremony.conclude(grant.challenge, _LAST_STATE[outcome.ending])
        except GuardError as error:
            log.error("challenge.unconcluded", challenge=grant.challenge, detail=error.detail)  # noqa: TRY400

    async def _learn(self, call: Call, grant: Grant | None, outcome: Outcome, *, watched: bool) -> None:
        """Fold an executed call into the profile, which may have made room for others meanwhile, and have it stored.

        Who gave consent ahead looked at no call, so that vouches for none.
        """
        proven = frozenset(one.proof_class for one in grant.proofs if one.kind not in AHEAD) if grant else _NOTHING
        try:
            await self._memory.recall(call.principal, call.server)
        except UnavailableError as error:
            log.warning("call.unlearnt", call_id=call.id, detail=error.detail)
            return
        changed = self._assessor.learn(
            call,
            proven,
            outcome.body,
            cut=outcome.cut,
            size=outcome.result_bytes,
            challenged=watched or grant is not None,
        )
        if changed:
            self._memory.learnt()

    # ------------------------------------------------------------------ refusals

    async def _fail(self, arrival: Arrival, exchange: Exchange, judged: Judged | None, error: GuardError) -> None:
        """Turn an error into a recorded refusal."""
        if error.detail:
            log.warning("call.failed", reason=str(error.reason), detail=error.detail, server=arrival.server)
        if judged is None:
            self.refused(server=arrival.server, source=arrival.source, principal=arrival.principal, error=error)
        elif judged.call.id not in self._ended:  # else its outcome is on record already, and stays the only one
            said = reasons_json([Reason(error.reason, evidence=self._journal.said(error.public))])
            self._journal.concluded(judged.call, "refused", reasons=said)
        evidence = "" if error.public == error.reason.meaning else error.public
        await self._pausing.refuse(arrival, exchange, Deny(reasons=(Reason(error.reason, evidence=evidence),)))


def _refuse_unreadable(call: Call) -> None:
    """Nobody can judge what is too long to read, and laying it out for them takes the time of others."""
    if len(call.canonical) > READABLE:
        message = f"a call that needs a step-up may have at most {READABLE} characters of arguments"
        raise GuardError(message, reason=Code.TOO_LARGE)
