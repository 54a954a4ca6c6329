"""Carries out the pause ladder: looks for a proof in the call, holds it, asks its client, and answers it.

`guard.proxy.ladder` chooses, `guard.proxy.pause` has the words. Whatever happens here, a call only ever ends paused or
refused; running it is the pipeline's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Self

import anyio
import anyio.to_thread

from guard.config import Config
from guard.errors import ChallengeClosedError, GuardError, ProofError
from guard.model import Call, Challenge, Deny, Json, State
from guard.ports import Challenges, Clock, Seal
from guard.proxy import legs
from guard.proxy.asking import PREFIX
from guard.proxy.catalogue import Catalogue
from guard.proxy.exchange import Arrival, Exchange
from guard.proxy.habits import Habits
from guard.proxy.ladder import (
    ASK_SECONDS,
    LEG_SECONDS,
    QUESTION,
    Leg,
    Rung,
    Said,
    Step,
    choose,
    declared,
    manner,
    said,
)
from guard.proxy.pause import challenge_object, difference, link_text, paused_text, refused_text, url_of
from guard.reasons import Code, Reason
from guard.stepup.ceremony import Ceremony
from guard.wire import reply
from guard.wire.message import Request

PROOF_KIND: Final = "call_signature"
"""The factor that verifies the `Guard-Proof` header."""
READABLE: Final = 64 * 1024
"""Characters of canonical arguments that an approver may be asked to read."""

_DECLINED: Final = "declined at the client"
_OPEN_LINKS: Final = 10_000
_CLOSED_CODE: Final = {
    State.DENIED: Code.DENIED,
    State.EXPIRED: Code.EXPIRED,
    State.CANCELLED: Code.CANCELLED,
    State.SATISFIED: Code.STALE,
    State.STALE: Code.STALE,
    State.REVOKED: Code.REVOKED,
}


@dataclass(frozen=True, slots=True)
class Held:
    """How a call came out of its hold: its challenge, and the rung it is answered by if that is still pending."""

    challenge: Challenge
    rung: Rung
    note: str = ""

    @classmethod
    def over(cls, challenge: Challenge) -> Self:
        """One that is not held any longer."""
        return cls(challenge, Rung.FLOOR)


class Pausing:
    """The ladder of one process."""

    def __init__(
        self,
        *,
        config: Config,
        ceremony: Ceremony,
        challenges: Challenges,
        catalogue: Catalogue,
        habits: Habits,
        seal: Seal,
        clock: Clock,
    ) -> None:
        """Take every collaborator."""
        self._config, self._ceremony, self._challenges = config, ceremony, challenges
        self._catalogue, self._seal, self._clock = catalogue, seal, clock
        self.habits = habits
        self._stopping = anyio.Event()
        self._links: dict[str, bool] = {}

    def stop(self) -> None:
        """Let go of every call that is held."""
        self._stopping.set()

    def resume(self, arrival: Arrival, call: Call, exchange: Exchange) -> Leg | None:
        """The round a call comes back from; what was meant for the guard is then left out when it is forwarded.

        Raises:
            WireError: it brings a state of the guard that is not this call's.
        """
        leg = legs.resume(self._seal, call, arrival.message, now=self._clock.now())
        if leg is not None and isinstance(arrival.message, Request):
            exact = self._config.servers[arrival.server].big_integers == "exact"
            exchange.rewrite(legs.without(arrival.message, exact_integers=exact))
        return leg

    async def hear(self, leg: Leg, subject: str) -> None:
        """Note whether the client answered what it was asked in the round before."""
        if leg.asked and self._links.pop(leg.challenge, False):
            await (self.habits.dropped if leg.said is Said.NOTHING else self.habits.answered)(subject)

    # ------------------------------------------------------------------ hold

    async def hold(self, challenge: Challenge, arrival: Arrival, exchange: Exchange, leg: Leg | None) -> Held:
        """Wait for proofs as long as this agent waits; the caller leaving or a shutdown ends the wait."""
        if challenge.state is not State.PENDING or not isinstance(arrival.message, Request):
            return Held(challenge, Rung.FLOOR)
        challenge, note = await self._take_proof(challenge, arrival)
        step = await self._choose(challenge, arrival, arrival.message, leg)
        began = self._clock.mono()
        challenge = await self._settle(challenge, exchange, step.hold)
        if step.rung is Rung.ASK and challenge.state is State.PENDING and not self._over(exchange):
            challenge = await self._ask(challenge, exchange)
        if exchange.gone and self._clock.mono() - began > self._config.proxy.hold:
            await self.habits.left(arrival.principal.subject, self._clock.mono() - began)
        return Held(challenge, step.rung, note)

    def _over(self, exchange: Exchange) -> bool:
        return exchange.gone or self._stopping.is_set()

    async def _take_proof(self, challenge: Challenge, arrival: Arrival) -> tuple[Challenge, str]:
        """Count the proof that came with the call; one that does not count is recorded and said."""
        if not arrival.proof:
            return challenge, ""
        try:
            return await self._ceremony.prove(challenge.id, PROOF_KIND, {"proof": arrival.proof}), ""
        except (ProofError, ChallengeClosedError) as error:
            now = await self._ceremony.settle(challenge.id, until=self._clock.mono())
            return now, f"the proof in Guard-Proof does not count: {error.public}"

    async def _choose(self, challenge: Challenge, arrival: Arrival, request: Request, leg: Leg | None) -> Step:
        subject = arrival.principal.subject
        if leg is None and self._links.pop(challenge.id, False):
            await self.habits.dropped(subject)  # the same call begins anew: nobody heard of the question
        habit = await self.habits.of(subject)
        how = manner(
            self._config.profile(subject),
            default=self._config.proxy.hold,
            waited=habit.waited,
            dropped=habit.dropped,
        )
        return choose(request, arrival.era, declared(request, arrival.era, arrival.capabilities), how, leg)

    async def _settle(self, challenge: Challenge, exchange: Exchange, seconds: float) -> Challenge:
        """Wait for the challenge to end, the caller to leave, a shutdown, or so many seconds."""
        if challenge.state is not State.PENDING or seconds <= 0 or self._over(exchange):
            return challenge
        failed: GuardError | None = None
        async with anyio.create_task_group() as group:

            async def let_go(wait: Callable[[], Awaitable[object]]) -> None:
                await wait()
                group.cancel_scope.cancel()

            group.start_soon(let_go, exchange.wait_gone)
            group.start_soon(let_go, self._stopping.wait)
            try:
                challenge = await self._ceremony.settle(challenge.id, until=self._clock.mono() + seconds)
            except GuardError as error:  # a task group would wrap it, and nobody would learn what is away
                failed = error
            group.cancel_scope.cancel()
        if failed is not None:
            raise failed
        return challenge

    # ------------------------------------------------------------------ ask

    async def _ask(self, challenge: Challenge, exchange: Exchange) -> Challenge:
        """Ask the client of the legacy era to open the challenge's page, and wait on if a person is there."""
        heard: list[Said] = []
        failed: GuardError | None = None
        question = PREFIX + self._clock.token("q")
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                heard.append(
                    said(await exchange.ask(question, self._link(challenge) | {"elicitationId": challenge.id}))
                )
                group.cancel_scope.cancel()

            group.start_soon(listen)
            try:
                challenge = await self._settle(challenge, exchange, ASK_SECONDS)
            except GuardError as error:
                failed = error
            group.cancel_scope.cancel()
        if failed is not None:
            raise failed
        subject = challenge.principal.subject
        if exchange.gone or challenge.state is not State.PENDING:
            return challenge
        match heard[0] if heard else Said.NOTHING:
            case Said.NOTHING if not self._stopping.is_set():
                await self.habits.dropped(subject)
            case Said.OPENED:
                await self.habits.answered(subject)
                return await self._settle(challenge, exchange, LEG_SECONDS)
            case Said.REFUSED:
                await self.habits.answered(subject)
                return await self.decline(challenge.id, subject)
            case _:
                pass
        return challenge

    async def decline(self, challenge_id: str, subject: str) -> Challenge:
        """Close a challenge because the person at the client does not want the call."""
        return await self._ceremony.decline(challenge_id, by=f"client of {subject}", because=_DECLINED)

    def _link(self, challenge: Challenge) -> dict[str, Json]:
        """The question whether the client opens the challenge's page."""
        url = self._config.console.public_url
        return {"mode": "url", "message": link_text(challenge), "url": url_of(challenge, url)}

    # ------------------------------------------------------------------ answer

    async def answer(self, held: Held, call: Call, arrival: Arrival, exchange: Exchange, leg: Leg | None) -> None:
        """Answer a call that may not run now: by its rung while its challenge is pending, else refused for good."""
        challenge, message = held.challenge, arrival.message
        if challenge.state is not State.PENDING or not isinstance(message, Request):
            code = _CLOSED_CODE.get(challenge.state, Code.SPENT)
            reason = Reason(code, challenge.ended_by, challenge.ended_because)
            await self.refuse(arrival, exchange, Deny(reasons=(reason,), challenge=challenge.id))
            return
        if held.rung in {Rung.LINK, Rung.LEG} and not self._stopping.is_set():
            await exchange.answer(self._next_leg(held, call, message, leg))
            return
        url = self._config.console.public_url
        notes = [note for note in (held.note, await self._difference(challenge)) if note]
        body = reply.paused(
            message.id,
            arrival.era,
            text=paused_text(challenge, url, self._clock.now(), notes=notes),
            challenge=challenge_object(challenge, url),
            method=message.method,
            failed=not self._plain(arrival, message),
        )
        await exchange.answer(body)

    def _next_leg(self, held: Held, call: Call, message: Request, leg: Leg | None) -> bytes:
        """Send the client round once more, the first time with the page to open."""
        challenge, asks = held.challenge, held.rung is Rung.LINK
        if asks:
            self._links[challenge.id] = True
            while len(self._links) > _OPEN_LINKS:
                del self._links[next(iter(self._links))]
        following = Leg(challenge=challenge.id, round=(leg.round if leg else 0) + 1, asked=asks)
        state = legs.issue(self._seal, call, following, expires=challenge.expires)
        return reply.input_required(
            message.id, state=state, questions={QUESTION: self._link(challenge)} if asks else None
        )

    async def _difference(self, challenge: Challenge) -> str:
        """How the call differs from the one of the same agent and tool that was approved last, or else waits."""
        still_open = frozenset({State.PENDING, State.SATISFIED})
        subject = challenge.principal.subject
        found = await anyio.to_thread.run_sync(lambda: self._challenges.find(states=still_open, principal=subject))
        others = [
            one
            for one in found
            if (one.server, one.kind, one.name) == (challenge.server, challenge.kind, challenge.name)
            and one.digest != challenge.digest
            and one.timely(self._clock.now())
        ]
        return difference(
            challenge, max(others, key=lambda one: (one.state is State.SATISFIED, one.opened), default=None)
        )

    async def refuse(self, arrival: Arrival, exchange: Exchange, deny: Deny) -> None:
        """Answer a request with a refusal; a notification or response has nobody who waits for one."""
        message = arrival.message
        if exchange.gone:
            return
        if not isinstance(message, Request):
            await exchange.answer(b"", status=202)
            return
        failed = not self._plain(arrival, message)
        text = refused_text(deny)
        await exchange.answer(reply.refused(message.id, arrival.era, text=text, method=message.method, failed=failed))

    def _plain(self, arrival: Arrival, message: Request) -> bool:
        """Whether this agent reads pauses as plain results, and this tool's results have no schema to break."""
        name = message.params.get("name")
        return (
            self._config.profile(arrival.principal.subject).success_text
            and message.method == "tools/call"
            and isinstance(name, str)
            and self._catalogue.unstructured(arrival.server, name)
        )
