"""Telling people, beside the calls and never in their way.

Each long-lived process looks every second for what nobody was told yet, claims it in the store and hands it to the
channels; what one process leaves undone another takes on later. A channel has its own bounded queue and its own
worker, so a slow one delays neither a call nor another channel. That nobody could be told opens nothing: the
challenge waits, and runs out of time, as it would have.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import anyio
import structlog
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from guard.errors import ChannelError, LedgerUnavailableError, UnavailableError
from guard.model import Challenge, Json, State
from guard.notices import Notice, Stage
from guard.notify.words import notice
from guard.ports import Clock, Ledger, Notifier, Store
from guard.stepup import records
from guard.stepup.escalation import asked

LOOK: Final = 1.0
"""Seconds between two looks at what people are to be told."""
THOROUGH: Final = 5
"""Every so many looks go through everything that waits, for what other processes left and what is half over."""
ATTEMPTS: Final = 4
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 8.0
MINUTE: Final = 60.0
QUEUE: Final = 256
"""Notices one channel may be behind."""
LONGEST_IN_QUEUE: Final = 30.0
"""Seconds after which a notice is given up that waits behind others, before anybody else may take it on."""
_AT_ONCE: Final = 64

log = structlog.get_logger(__name__)


def back_off(attempt: int) -> float:
    """Seconds to wait after so many failed attempts, from 1."""
    return float(min(FIRST_WAIT * 2 ** min(attempt - 1, 16), LONGEST_WAIT))


@dataclass(frozen=True, slots=True)
class Route:
    """One channel: what delivers, the groups it reaches (empty: everybody), seconds an attempt may take."""

    notifier: Notifier
    groups: frozenset[str]
    timeout: float

    def reaches(self, one: Notice) -> bool:
        """Whether this channel is told: by its groups, and always when glass was broken."""
        return one.stage is Stage.BREAK_GLASS or not self.groups or not self.groups.isdisjoint(one.groups)


@dataclass(frozen=True, slots=True)
class _Job:
    challenge: Challenge
    notice: Notice


class Budget:
    """How many notices each agent caused within the last minute, so that one's flood does not bury the others'."""

    def __init__(self, per_minute: int) -> None:
        """So many are let through."""
        self._most = per_minute
        self._taken: dict[str, deque[float]] = {}
        self._said: set[str] = set()

    def spent(self, now: float) -> frozenset[str]:
        """The agents that have to wait at `now` (monotonic seconds)."""
        for principal, times in tuple(self._taken.items()):
            while times and times[0] <= now - MINUTE:
                times.popleft()
            if not times:
                del self._taken[principal]
        full = frozenset(principal for principal, times in self._taken.items() if len(times) >= self._most)
        self._said &= full
        return full

    def take(self, principal: str, now: float) -> bool:
        """Let one through; False when the agent has had its share."""
        if principal in self.spent(now):
            return False
        self._taken.setdefault(principal, deque()).append(now)
        return True

    def new(self, principal: str) -> bool:
        """Whether this is the first time since it had its share that somebody asks; True once."""
        fresh = principal not in self._said
        self._said.add(principal)
        return fresh


class Dispatcher:
    """Tells people about challenges, for one process."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        store: Store,
        ledger: Ledger,
        clock: Clock,
        *,
        public_url: str,
        escalate: Mapping[str, str],
        after: float,
        per_minute: int = 10,
    ) -> None:
        """Take the channels by name; `escalate` names the next group by the first one, `after` is in seconds.

        `per_minute` challenges of one agent are told by this process; the others wait for their turn.
        """
        self._budget = Budget(per_minute)
        self._routes, self._store, self._ledger, self._clock = dict(routes), store, ledger, clock
        self._public_url, self._escalate, self._after = public_url, dict(escalate), after
        self._queues: dict[str, MemoryObjectSendStream[_Job]] = {}
        self._open = Counter[tuple[str, Stage]]()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Look and tell until cancelled; at once back when there is nobody to tell and nothing to escalate."""
        if not self._routes and not self._escalate:
            task_status.started()
            return
        with ExitStack() as streams:
            await self._run(streams, task_status)

    async def _run(self, streams: ExitStack, task_status: TaskStatus[None]) -> None:
        async with anyio.create_task_group() as group:
            for name, route in self._routes.items():
                send, receive = anyio.create_memory_object_stream[_Job](QUEUE)
                self._queues[name] = streams.enter_context(send)
                streams.enter_context(receive)
                group.start_soon(self._work, name, route, receive)
            task_status.started()
            looks = 0
            while True:
                await self._look(everything=looks % THOROUGH == 0)
                looks += 1
                await anyio.sleep(LOOK)

    # ------------------------------------------------------------------ what is to be told

    async def _look(self, *, everything: bool) -> None:
        """Hand on what nobody was told yet: what is new, or `everything`. What fails now waits for a later look."""
        stages = [Stage.BREAK_GLASS, Stage.OPENED] if self._routes else []
        since = 0.0 if everything else self._clock.now() - self._after - THOROUGH * LOOK
        try:
            for stage in [*stages, *([Stage.ESCALATED] if self._escalate and everything else [])]:
                await self._tell(stage, since if stage is Stage.OPENED else 0.0)
        except UnavailableError as error:
            log.warning("notices.unavailable", detail=error.detail)

    async def _tell(self, stage: Stage, since: float) -> None:
        now, notices = self._clock.now(), self._store.notices
        spent = self._budget.spent(self._clock.mono()) if stage is not Stage.BREAK_GLASS else frozenset[str]()
        found = await anyio.to_thread.run_sync(
            lambda: notices.due(stage, now, after=self._after, limit=_AT_ONCE, without=spent, since=since)
        )
        for challenge in found:
            principal = challenge.principal.subject
            if stage is not Stage.BREAK_GLASS and not self._budget.take(principal, self._clock.mono()):
                if self._budget.new(principal):
                    self._ledger.append("challenge.flooded", {"principal": principal, "limit": "notices_per_minute"})
                continue
            if await anyio.to_thread.run_sync(notices.claim, challenge.id, stage, now):
                await self._hand_on(challenge, stage, now)

    async def _hand_on(self, challenge: Challenge, stage: Stage, now: float) -> None:
        """Put one notice into the queue of every channel that reaches somebody it is for."""
        groups = asked(challenge, self._escalate, now)
        if stage is Stage.ESCALATED:
            groups = groups[len(challenge.requirement.groups) :]
            if groups:
                self._ledger.append("challenge.escalated", records.identity(challenge) | {"approver_group": groups[0]})
        told = notice(challenge, stage, groups=groups, public_url=self._public_url, now=now)
        names = [name for name, route in self._routes.items() if route.reaches(told)] if groups else []
        key = challenge.id, stage
        self._open[key] += len(names)
        for name in names:
            try:
                self._queues[name].send_nowait(_Job(challenge, told))
            except anyio.WouldBlock:
                self._failed(name, _Job(challenge, told), ChannelError("too many notices wait for it already"), 0)
                self._open[key] -= 1
        await self._close_when_done(key)

    async def _close_when_done(self, key: tuple[str, Stage]) -> None:
        if self._open[key] <= 0:
            del self._open[key]
            await anyio.to_thread.run_sync(self._store.notices.told, *key, self._clock.now())

    # ------------------------------------------------------------------ one channel

    async def _work(self, name: str, route: Route, jobs: MemoryObjectReceiveStream[_Job]) -> None:
        async for job in jobs:
            if self._clock.now() - job.notice.at > LONGEST_IN_QUEUE:
                self._failed(name, job, ChannelError("it waited too long behind others"), 0)
            else:
                await self._deliver(name, route, job)
            key = job.challenge.id, job.notice.stage
            self._open[key] -= 1
            try:
                await self._close_when_done(key)
            except UnavailableError as error:  # told again once the claim has run out
                log.warning("notices.unavailable", detail=error.detail)

    async def _deliver(self, name: str, route: Route, job: _Job) -> None:
        """Try until it is delivered, cannot be, is decided meanwhile, or was tried often enough; record which."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with anyio.fail_after(route.timeout):
                    await route.notifier.notify(job.notice)
            except (ChannelError, TimeoutError) as error:
                failure = error if isinstance(error, ChannelError) else ChannelError("it took too long")
            else:
                self._record("challenge.notified", name, job, {"attempts": attempt})
                return
            if failure.lasting or attempt == ATTEMPTS or not await self._still_wanted(job):
                self._failed(name, job, failure, attempt)
                return
            await anyio.sleep(back_off(attempt))

    async def _still_wanted(self, job: _Job) -> bool:
        """Whether telling is worth another attempt: somebody can still decide, or it is an emergency."""
        if job.notice.stage is Stage.BREAK_GLASS:
            return True
        try:
            states = await anyio.to_thread.run_sync(self._store.challenges.states, [job.challenge.id])
        except UnavailableError:
            return True
        state, _ = states.get(job.challenge.id, (State.CANCELLED, 0))
        return state is State.PENDING

    def _failed(self, name: str, job: _Job, error: ChannelError, attempts: int) -> None:
        log.warning("notice.failed", channel=name, challenge=job.challenge.id, error=error.public, detail=error.detail)
        reasons: list[Json] = [{"code": error.reason.value, "by": name, "evidence": error.public}]
        self._record("notice.failed", name, job, {"attempts": attempts, "reasons": reasons})

    def _record(self, event: str, channel: str, job: _Job, more: Mapping[str, Json]) -> None:
        fields: dict[str, Json] = {"channel": channel, "stage": job.notice.stage.value, **more}
        try:
            self._ledger.append(event, records.identity(job.challenge) | fields)
        except LedgerUnavailableError as error:  # it has happened; that it is not on record changes nothing
            log.error("notice.unrecorded", channel=channel, detail=error.detail)  # noqa: TRY400
